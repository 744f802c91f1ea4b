"""Training examples straight from the files of events: no row per example is ever stored, and no event is held.

Events are sorted by user and time, so what a user did before an event, and what the event's row is to predict, are two
ranges of the item column (`recsys.data.rows`). Four kinds of rows come of that:

* The log has an order: one row per event, the item that was chosen, after everything the same user did before.
* The tower reads no history: rows of the same user would be alike, so there is one, with all the user's items as its
  positives. What a loss computes per row, it then computes once per user instead of once per event. Where that is not
  wanted, since a user's vector then moves once in an epoch, it is one row per event again.
* The tower reads a sequence: one row per window of a user's events (`recsys.data.windows`). It makes a vector at every
  position, whose positive is the event after it.
* The log has no order: one row per user again, whose items every epoch splits at random into a history and positives.

Rows of single events may be drawn by how recent they are, anew in every epoch: old ones then seldom take part.

A batch is worked out when it is its turn, from the number of the epoch and of the step (`recsys.data.shuffle`), and
reads what its own rows hold. So memory grows with users and items (and with windows, which are put in order by their
lengths), not with events.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from recsys.data.dataset import Dataset
from recsys.data.negatives import Negatives
from recsys.data.parts import Parts
from recsys.data.rows import Kind, Ranges, Rows
from recsys.data.shuffle import Shuffle
from recsys.data.systematic import SystematicDraw
from recsys.data.windows import batches_of_like_length
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


_PIECE = 1 << 17
"""About how many positives are counted at a time."""


class TrainingEvents:
    """The training split where it lies, and seeded epochs over it.

    Args:
        dataset: a prepared dataset.
        longest: items of history to give at most; 0 for a tower that reads none.
        by_position: whether the tower makes a vector at every position of a history, the start included.
        single_events: whether rows are of single events for a tower that reads no history too.
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
        single_events: bool = False,
        max_events_per_user: int | None = None,
        include_validation: bool = False,
        half_life: float | None = None,
        seed: int,
    ) -> None:
        assert dataset.ordered or not by_position, "by_position: got a dataset without an order"
        assert longest == 0 or not single_events, "single_events: got a tower that reads histories"
        by_event = single_events or (dataset.ordered and longest > 0 and not by_position)
        assert half_life is None or (by_event and dataset.has_times), "half_life: got rows of many events"
        log = dataset.log(*(("train", "validation") if include_validation else ("train",)))
        self._log, self._longest, self._by_position, self._seed = log, longest, by_position, seed
        self._has_times = dataset.ordered and dataset.has_times
        self._is_split = not dataset.ordered and longest > 0
        self.num_items = dataset.num_items
        kind: Kind = "window" if by_position else "event" if by_event else "user"
        self._rows = Rows(kind, log.lengths, longest=longest, most=max_events_per_user)
        self._draw: SystematicDraw | None = None
        self._num_rows = len(self._rows)
        if half_life is not None:
            newest, ticks = log.latest_time(), half_life * dataset.ticks_per_day

            def by_age(row: np.ndarray) -> np.ndarray:
                of = self._rows.at(row)
                return 0.5 ** ((newest - log.times(of.user, of.first, of.stop).values) / ticks)

            self._weigh, self._draw = by_age, SystematicDraw(by_age, self._num_rows)
            self._num_rows = self._draw.num_drawn
        self.item_rate: Float[np.ndarray, " items"] = self._item_rate()
        """How often each item is expected among one row's positives; the sum is the mean number of positives."""
        log.expect_random_reads()

    def _item_rate(self) -> Float[np.ndarray, " items"]:
        total_N = np.zeros(self.num_items)
        for row, of in self._all_rows():
            # Where items are split at random, any of a user's may be a positive, not the latest alone.
            positives = self._log.items(of.user, of.start if self._is_split else of.first, of.stop)
            chance = np.repeat(self._chance(row, of), positives.lengths)
            total_N += np.bincount(positives.values, weights=chance, minlength=self.num_items)
        rate_N: Float[np.ndarray, " items"] = total_N / max(1, self._num_rows)
        return rate_N

    def _all_rows(self) -> Iterator[tuple[np.ndarray, Ranges]]:
        """Yield all rows, some at a time, and what they are made of."""
        step = max(1, _PIECE * len(self._rows) // max(1, len(self._log)))
        for first in range(0, len(self._rows), step):
            row = np.arange(first, min(len(self._rows), first + step))
            yield row, self._rows.at(row)

    def _chance(self, row: np.ndarray, of: Ranges) -> np.ndarray:
        """Return how likely it is that what may be a positive of each of these rows is one in an epoch."""
        if self._draw is not None:
            return self._weigh(row) * self._draw.scale
        if not self._is_split:
            return np.ones(len(row))
        # Of n items, 1 to m are positives, all numbers alike: each item is one with chance (m + 1) / 2n.
        chance: np.ndarray = (of.stop - of.first + 1) / (2 * of.stop)
        return chance

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
        batches = self._batches(epoch, batch_size=batch_size, world_size=world_size, skip=skip)
        for step, row in enumerate(batches, skip):
            random = np.random.default_rng([self._seed, epoch, step])
            yield self._part(row, negatives, random, rank=rank, world_size=world_size)

    def _batches(self, epoch: int, *, batch_size: int, world_size: int, skip: int) -> Iterator[np.ndarray]:
        """Yield each batch's rows."""
        random = np.random.default_rng([self._seed, epoch])
        if self._by_position:
            yield from self._window_batches(random, batch_size=batch_size, world_size=world_size)[skip:]
            return
        shuffle, offset = Shuffle(len(self), random), random.random()
        for step in range(skip, self.steps_per_epoch(batch_size=batch_size)):
            row = shuffle.at(np.arange(step * batch_size, (step + 1) * batch_size))
            yield row if self._draw is None else self._draw.rows(row, offset=offset)

    def _window_batches(self, random: np.random.Generator, *, batch_size: int, world_size: int) -> list[np.ndarray]:
        num_batches = self.steps_per_epoch(batch_size=batch_size)
        # Windows are padded to the longest of a batch; what batches have alike is the number of their positives.
        lengths = [of.stop - of.first for _, of in self._all_rows()]
        batches = batches_of_like_length(np.concatenate(lengths), num_batches=num_batches, random=random)
        if (fewest := min(map(len, batches))) < world_size:
            raise TrainingError(
                f"batch_size: got {batch_size}, with which a batch of long windows has {fewest} for "
                f"{world_size} processes, expected at least one for each: raise it"
            )
        return [batches[place] for place in random.permutation(num_batches)]

    def _part(
        self, row: np.ndarray, negatives: Negatives, random: np.random.Generator, *, rank: int, world_size: int
    ) -> Examples:
        """Return one rank's part of the batch of these rows. Of the others' rows it takes the positives alone."""
        lists = Parts.even(len(row), rank=rank, world_size=world_size)
        of, own = self._rows.at(row), lists.own
        if self._is_split:
            of, items = self._split(of, random)
            positives = gather_ranges(items.values, items.offsets[:-1] + of.first, items.offsets[1:])
            first = items.offsets[:-1][own]
            history = gather_ranges(items.values, first + of.start[own], first + of.end[own])
        else:
            positives = self._log.items(of.user, of.first, of.stop)
            history = self._log.items(of.user[own], of.start[own], of.end[own])
        own_positives = positives.take(np.arange(len(row))[own])
        num_vectors = of.end - of.start + 1 if self._by_position else np.ones_like(row)
        return Examples(
            user=of.user[own],
            history=history,
            row=_last_positions(history, own_positives) if self._by_position else own_positives.row_of_values(),
            batch_item=positives.values,
            negative=negatives.draw(random, positives.values),
            lists=lists,
            vectors=lists.of_lengths(num_vectors),
            positives=lists.of_lengths(positives.lengths),
            time=self._log.times(of.user[own], of.start[own], of.end[own]) if self._has_times else None,
        )

    def _split(self, of: Ranges, random: np.random.Generator) -> tuple[Ranges, Ragged]:
        """Return users' items in a new random order, and rows with a new number of positives, the last of them.

        All numbers of positives are alike, so histories of every length are seen: the empty one of a new user, and
        those nearly as long as the whole one that the tower reads once it is trained.
        """
        items = self._log.items(of.user)
        order = np.lexsort((random.random(len(items.values)), items.row_of_values()))
        first = of.stop - random.integers(1, of.stop - of.first, endpoint=True)
        start = np.maximum(0, first - self._longest)
        return Ranges(of.user, start, first, first, of.stop), Ragged(items.values[order], items.offsets)


def _last_positions(history: Ragged, positives: Ragged) -> np.ndarray:
    """Return the position that each positive comes after, the last one of a list for its last positive.

    A list has one position more than items: its start. Only lists that begin with a user's first event have a positive
    for it; where the start stands for all that was left out, nothing is predicted from it.
    """
    stop = np.cumsum(history.lengths + 1)
    return gather_ranges(np.arange(stop[-1]), stop - positives.lengths, stop).values
