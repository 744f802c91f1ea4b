"""What an epoch's steps show beside their losses: waits for data, norms of blocks, collisions of negatives."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor

from recsys.model.losses.samples import Samples, accidental_hits
from recsys.train.process import Process
from recsys.widths import WidthLadder

_T = TypeVar("_T")


class StepWatch:
    """Counts the time that an epoch waits for data, since it began or was resumed, and looks at one of its steps."""

    def __init__(self) -> None:
        self._started, self._waited_s = time.perf_counter(), 0.0
        self._seen: tuple[Tensor, Tensor, float] | None = None

    def waits(self, batches: Iterable[_T]) -> Iterator[_T]:
        """Yield the batches, and count the time that each is waited for."""
        iterator = iter(batches)
        while True:
            before = time.perf_counter()
            batch = next(iterator, None)
            self._waited_s += time.perf_counter() - before
            if batch is None:
                return
            yield batch

    @property
    def wait_share(self) -> float:
        """Share of the time so far that was spent waiting for data."""
        return self._waited_s / max(time.perf_counter() - self._started, 1e-9)

    @torch.no_grad()
    def see(self, user_VU: Tensor, item_SD: Tensor, samples: Samples) -> None:
        """Look at a step's vectors and negatives."""
        _, hit_H = accidental_hits(samples)
        num_pairs = len(samples.user_V) * int(samples.count_N.sum())
        collisions = int(samples.count_N[hit_H].sum()) / max(1, num_pairs)
        self._seen = user_VU.square().mean(dim=0), item_SD.square().mean(dim=0), collisions

    def figures(self, widths: WidthLadder, process: Process) -> dict[str, Any]:
        """Return what was seen, as means over processes; every process must call.

        Returns:
            ``data_wait_share`` of the time; ``collision_rate``, the share of a vector's negatives that are its own
            positives; ``block_norm`` by side and by the width that the block ends at, the root of the mean square of
            unnormalised vectors' blocks.
        """
        waited = self.wait_share
        assert self._seen is not None, "no step was looked at"
        user_U, item_D, collisions = self._seen
        blocks = [slice(start, stop) for start, stop in itertools.pairwise((0, *widths))]
        # With a head per width, a user's full width is the last of the vectors side by side.
        square_BL = [
            torch.stack([of_D[block].sum() for block in blocks]) for of_D in (user_U[widths.query_blocks[-1]], item_D)
        ]
        first = torch.tensor([waited, collisions], device=item_D.device)
        wait_share, collision_rate, *squares = process.mean(torch.cat([first, *square_BL]))
        norms = [square**0.5 for square in squares]
        names = list(map(str, widths))
        return {
            "data_wait_share": wait_share,
            "collision_rate": collision_rate,
            "block_norm": {
                "user": dict(zip(names, norms[: len(names)], strict=True)),
                "item": dict(zip(names, norms[len(names) :], strict=True)),
            },
        }
