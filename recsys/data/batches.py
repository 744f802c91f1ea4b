"""Training examples straight from the event columns: no row per example is ever stored.

Events are sorted by user and time, so what a user did before an event, and what the event's row is to predict, are two
ranges of the item column. Four kinds of rows come of that:

* The log has an order: one row per event, the item that was chosen, after everything the same user did before.
* The tower reads no history: rows of the same user would be alike, so there is one, with all the user's items as its
  positives. What a loss computes per row, it then computes once per user instead of once per event.
* The tower reads a sequence: one row per window of a user's events (`recsys.data.windows`). It makes a vector at every
  position, whose positive is the event after it.
* The log has no order: one row per user again, whose items every epoch splits at random into a history and positives.

Rows of single events may be drawn by how recent they are, anew in every epoch: old ones then seldom take part.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from recsys.data.dataset import Dataset
from recsys.data.negatives import Negatives
from recsys.data.parts import Parts
from recsys.data.windows import batches_of_like_length, cut_windows
from recsys.errors import TrainingError
from recsys.ragged import Ragged, gather_ranges


@dataclass(frozen=True)
class Examples:
    """A process's part of a batch: B lists that the user tower reads, P positives for the vectors it makes of them.

    Args:
        user: ``(B,)`` int64 user rows, one per list.
        history: B lists of item rows, oldest first: what the user did before the list's positives.
        row: ``(P,)`` int64, non-decreasing: the vector that each positive belongs to.
        batch_item: ``(A,)`` int64 item rows, the positives of the whole batch.
        negative: ``(drawn,)`` int64 item rows to tell the positives from, as often as each was drawn: the same ones in
            all processes.
        lists: which of the batch's lists these are.
        vectors: which of its vectors.
        positives: which of its positives.
        time: per list, when the history's items were, in the dataset's unit; None where the log does not say.
    """

    user: np.ndarray
    history: Ragged
    row: np.ndarray
    batch_item: np.ndarray
    negative: np.ndarray
    lists: Parts
    vectors: Parts
    positives: Parts
    time: Ragged | None = None

    @property
    def item(self) -> np.ndarray:
        """``(P,)`` int64 item rows, this part's positives."""
        return self.batch_item[self.positives.own]


@dataclass(frozen=True)
class _Rows:
    """Per row, the user and two ranges of the item column: the history and the positives."""

    user: np.ndarray
    start: np.ndarray
    end: np.ndarray
    first: np.ndarray
    stop: np.ndarray

    def __len__(self) -> int:
        return len(self.user)


class TrainingEvents:
    """The training split in memory, and seeded epochs over it.

    Args:
        dataset: a prepared dataset.
        longest: items of history to give at most; 0 for a tower that reads none.
        by_position: whether the tower makes a vector at every position of a history, the start included.
        max_events_per_user: make positives only of each user's latest events (of so many at most, where the log has
            no order); None means of all.
        include_validation: learn from the validation split too.
        half_life: days after which an event is half as likely to be a row of an epoch; None means that all are. Only
            where rows are of single events, of a dataset with times.
        seed: of everything random here; epochs and steps derive theirs from it.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        longest: int,
        by_position: bool = False,
        max_events_per_user: int | None = None,
        include_validation: bool = False,
        half_life: float | None = None,
        seed: int,
    ) -> None:
        assert dataset.ordered or not by_position, "by_position: got a dataset without an order"
        by_event = dataset.ordered and longest > 0 and not by_position
        assert half_life is None or (by_event and dataset.has_times), "half_life: got rows of many events"
        events = dataset.events(*(("train", "validation") if include_validation else ("train",)))
        self._user, self._item = events.user, events.item
        self._time = events.time if dataset.ordered and dataset.has_times else None
        self._longest, self._by_position, self._seed = longest, by_position, seed
        self._is_split = not dataset.ordered and longest > 0
        self.num_items = len(dataset.items)
        self._rows, share = self._make_rows(len(dataset.users), max_events_per_user, by_event=by_event)
        self._weight_R: np.ndarray | None = None
        if half_life is not None:
            age_E = (events.time.max() - events.time) / dataset.ticks_per_day
            share = share * 0.5 ** (age_E / half_life)
            share *= np.floor(share.sum()) / share.sum()
            self._weight_R = share[self._rows.first]
        self._num_rows = len(self._rows) if self._weight_R is None else round(self._weight_R.sum())
        total = np.bincount(self._item, weights=share, minlength=self.num_items)
        self.item_rate: Float[np.ndarray, " items"] = total / max(1, self._num_rows)
        """How often each item is expected among one row's positives; the sum is the mean number of positives."""

    def _make_rows(self, num_users: int, most: int | None, *, by_event: bool) -> tuple[_Rows, np.ndarray]:
        """Return the rows, with the most positives that each may have, and each event's chance to be a positive."""
        per_user = np.bincount(self._user, minlength=num_users)
        stop = np.cumsum(per_user)
        first = stop - per_user
        split = first if most is None else np.maximum(first, stop - most)
        is_latest = np.arange(len(self._user)) >= split[self._user]
        if self._by_position:
            user, place, end = cut_windows(split, stop, length=self._longest)
            # What is predicted is what is read, one event later.
            return _Rows(user, np.maximum(first[user], place - 1), end - 1, place, end), is_latest
        if by_event:
            place, user = np.flatnonzero(is_latest), self._user[is_latest]
            return _Rows(user, np.maximum(first[user], place - self._longest), place, place, place + 1), is_latest
        user = np.flatnonzero(per_user)
        # Histories are empty, or drawn anew in every epoch.
        rows = _Rows(user, first[user], first[user], split[user], stop[user])
        if not self._is_split:
            return rows, is_latest
        # Of n items, 1 to m are positives, all numbers alike: each item is one with chance (m + 1) / 2n.
        chance = (stop - split + 1) / (2 * np.maximum(per_user, 1))
        return rows, chance[self._user]

    def __len__(self) -> int:
        """Rows in one epoch."""
        return self._num_rows

    def steps_per_epoch(self, *, batch_size: int) -> int:
        """Full batches in an epoch; the remainder is left to other epochs' shuffles.

        Raises:
            TrainingError: there are fewer rows than one batch.
        """
        steps = len(self) // batch_size
        if steps == 0:
            raise TrainingError(f"batch_size: got {batch_size}, expected at most {len(self)}, all training rows")
        return steps

    def epoch(
        self,
        epoch: int,
        *,
        batch_size: int,
        negatives: Negatives,
        rank: int = 0,
        world_size: int = 1,
        skip: int = 0,
    ) -> Iterator[Examples]:
        """Yield one rank's part of each batch of an epoch, the same ones for the same seed and epoch whenever asked.

        Batches are the same for any number of processes: what differs is who does which part of them.

        Args:
            epoch: number of the pass, from 0.
            batch_size: rows per batch; windows on average, of which short ones make larger batches.
            negatives: draws each batch's negatives.
            rank: which of the ``world_size`` processes this is.
            world_size: number of processes; together they see every row at most once.
            skip: leave out the first so many batches (to go on from a checkpoint).

        Raises:
            TrainingError: a batch has fewer rows than there are processes.
        """
        shuffle = np.random.default_rng([self._seed, epoch])
        item, rows = self._split(shuffle) if self._is_split else (self._item, self._drawn(shuffle))
        batches = self._batches(rows, shuffle, batch_size=batch_size)
        if (fewest := min(map(len, batches))) < world_size:
            raise TrainingError(
                f"batch_size: got {batch_size}, with which a batch of long windows has {fewest} for {world_size} "
                "processes, expected at least one for each: raise it"
            )
        for step, row in enumerate(batches[skip:], skip):
            random = np.random.default_rng([self._seed, epoch, step])
            yield self._part(item, rows, row, negatives, random, rank=rank, world_size=world_size)

    def _part(
        self,
        item: np.ndarray,
        rows: _Rows,
        row: np.ndarray,
        negatives: Negatives,
        random: np.random.Generator,
        *,
        rank: int,
        world_size: int,
    ) -> Examples:
        """Return one rank's part of the batch of these rows. Of the others' rows it takes the positives alone."""
        lists = Parts.even(len(row), rank=rank, world_size=world_size)
        positives = gather_ranges(item, rows.first[row], rows.stop[row])
        own = row[lists.own]
        start, end = rows.start[own], rows.end[own]
        history, own_positives = gather_ranges(item, start, end), positives.take(np.arange(len(row))[lists.own])
        num_vectors = rows.end[row] - rows.start[row] + 1 if self._by_position else np.ones_like(row)
        return Examples(
            user=rows.user[own],
            history=history,
            row=_last_positions(history, own_positives) if self._by_position else own_positives.row_of_values(),
            batch_item=positives.values,
            negative=negatives.draw(random, positives.values),
            lists=lists,
            vectors=lists.of_lengths(num_vectors),
            positives=lists.of_lengths(positives.lengths),
            time=None if self._time is None else gather_ranges(self._time, start, end),
        )

    def _drawn(self, random: np.random.Generator) -> _Rows:
        """Return the rows of an epoch: all, or some drawn by weight, none twice."""
        if self._weight_R is None:
            return self._rows
        # Systematic sampling (Madow, 1949): a comb of equal distances over rows as long as their weights, so that
        # each is drawn with exactly the chance that logQ is told of.
        chosen = np.searchsorted(np.cumsum(self._weight_R), random.random() + np.arange(self._num_rows), side="right")
        rows = self._rows
        return _Rows(rows.user[chosen], rows.start[chosen], rows.end[chosen], rows.first[chosen], rows.stop[chosen])

    def _batches(self, rows: _Rows, random: np.random.Generator, *, batch_size: int) -> list[np.ndarray]:
        """Return the places of each batch's rows."""
        num_batches = self.steps_per_epoch(batch_size=batch_size)
        if not self._by_position:
            return np.split(random.permutation(len(rows))[: num_batches * batch_size], num_batches)
        # Windows are padded to the longest of a batch; what batches have alike is the number of their positives.
        batches = batches_of_like_length(rows.stop - rows.first, num_batches=num_batches, random=random)
        return [batches[place] for place in random.permutation(num_batches)]

    def _split(self, random: np.random.Generator) -> tuple[np.ndarray, _Rows]:
        """Return the items in a new random order within each user, and rows with a new number of positives.

        All numbers of positives are alike, so histories of every length are seen: the empty one of a new user, and
        those nearly as long as the whole one that the tower reads once it is trained.
        """
        item = self._item[np.lexsort((random.random(len(self._item)), self._user))]
        rows = self._rows
        first = rows.stop - random.integers(1, rows.stop - rows.first, endpoint=True)
        return item, _Rows(rows.user, np.maximum(rows.start, first - self._longest), first, first, rows.stop)


def _last_positions(history: Ragged, positives: Ragged) -> np.ndarray:
    """Return the position that each positive comes after, the last one of a list for its last positive.

    A list has one position more than items: its start. Only lists that begin with a user's first event have a positive
    for it; where the start stands for all that was left out, nothing is predicted from it.
    """
    stop = np.cumsum(history.lengths + 1)
    return gather_ranges(np.arange(stop[-1]), stop - positives.lengths, stop).values
