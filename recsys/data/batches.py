"""Training examples straight from the event columns: no row per example is ever stored.

Each training event is one example: the item that was chosen, and everything the same user did before it. Events are
sorted by user and time, so a history is a range of the item column that ends where the target begins.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from recsys.data.dataset import Dataset
from recsys.data.negatives import Negatives
from recsys.errors import TrainingError
from recsys.ragged import Ragged, gather_ranges


@dataclass(frozen=True)
class Examples:
    """A batch of examples.

    Args:
        user: ``(B,)`` int64 user rows.
        item: ``(B,)`` int64 item rows, the targets.
        history: per example, the user's items before the target, oldest first.
        negative: ``(N,)`` int64 item rows to tell the targets from.
    """

    user: np.ndarray
    item: np.ndarray
    history: Ragged
    negative: np.ndarray


class TrainingEvents:
    """The training split in memory, and seeded epochs over it.

    Where the log has no order (``dataset.ordered`` is false), every epoch draws a new random order of each user's
    events: a history is then a random part of what else the user chose, never the target itself.

    Args:
        dataset: a prepared dataset.
        longest: items of history to give at most.
        max_events_per_user: make examples only of each user's latest events; None means of all.
        seed: of everything random here; epochs and steps derive theirs from it.
    """

    def __init__(self, dataset: Dataset, *, longest: int, max_events_per_user: int | None = None, seed: int) -> None:
        events = dataset.events("train")
        self._user, self._item = events.user, events.item
        self._ordered, self._longest, self._seed = dataset.ordered, longest, seed
        self.num_items = len(dataset.items)
        per_user = np.bincount(self._user, minlength=len(dataset.users))
        stop = np.cumsum(per_user)
        self._first = (stop - per_user)[self._user]
        places = np.arange(len(self._user))
        if max_events_per_user is not None:
            places = places[places >= stop[self._user] - max_events_per_user]
        self._places = places
        self.item_share = np.bincount(self._item[places], minlength=self.num_items) / max(1, len(places))

    def __len__(self) -> int:
        """Examples in one epoch."""
        return len(self._places)

    def steps_per_epoch(self, *, batch_size: int, world_size: int) -> int:
        """Full global batches in an epoch; the remainder is left to other epochs' shuffles.

        Raises:
            TrainingError: there are fewer examples than one global batch.
        """
        steps = len(self) // (batch_size * world_size)
        if steps == 0:
            raise TrainingError(
                f"batch_size: got {batch_size} on {world_size} process(es) for {len(self)} training examples, "
                f"expected at most {len(self) // world_size}"
            )
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
        """Yield one rank's batches of an epoch, the same ones for the same seed and epoch whenever asked.

        Args:
            epoch: number of the pass, from 0.
            batch_size: examples per batch and rank.
            negatives: draws each batch's further negatives.
            rank: which of the ``world_size`` processes this is.
            world_size: number of processes; together they see every example at most once.
            skip: leave out the first so many batches (to go on from a checkpoint).
        """
        item, places = self._item, self._places
        shuffle = np.random.default_rng([self._seed, epoch])
        if not self._ordered:
            item = item[np.lexsort((shuffle.random(len(item)), self._user))]
        order = shuffle.permutation(places)
        for step in range(skip, self.steps_per_epoch(batch_size=batch_size, world_size=world_size)):
            start = (step * world_size + rank) * batch_size
            place = order[start : start + batch_size]
            yield Examples(
                user=self._user[place],
                item=item[place],
                history=gather_ranges(item, np.maximum(self._first[place], place - self._longest), place),
                negative=negatives.draw(np.random.default_rng([self._seed, epoch, step, rank])),
            )
