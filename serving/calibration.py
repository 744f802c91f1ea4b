"""Expected overlaps that follow what live calls get.

A bundle publishes each rung's mean overlap over a sample of training users. Those who ask may differ from them, so a
few answers are searched again exactly (`serving.shadow`), and the published figure is moved towards what they show by
shrinkage: of n measured answers with a mean error e against the published figure p, the corrected figure is

    p + e * n / (n + PUBLISHED_WEIGHT)

which is the mean of the measured answers and of `PUBLISHED_WEIGHT` more that were just as published: the posterior
mean of a normal prior (Efron and Morris, "Stein's estimation rule and its competitors", 1973), with a fixed weight in
place of one estimated from all rungs. A few answers hardly move it, thousands replace it. The mean forgets: past
`MEMORY` answers each new one weighs 1 / `MEMORY`, so figures follow users who change.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace

from recsys.index.rungs import Ladder

PUBLISHED_WEIGHT = 200.0
"""Live answers that a published figure weighs as much as."""
MEMORY = 5000.0
"""Live answers that are remembered; older ones fade."""


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Live answers at one rung and k: how many count, and their mean overlap less the published one."""

    count: float = 0.0
    mean_error: float = 0.0

    def add(self, error: float, *, memory: float = MEMORY) -> Tally:
        """Return the tally with one more answer, whose overlap less the published one is ``error``."""
        count = min(self.count + 1.0, memory)
        return Tally(count=count, mean_error=self.mean_error + (error - self.mean_error) / count)


def corrected(published: float, tally: Tally, *, weight: float = PUBLISHED_WEIGHT) -> float:
    """Return a published overlap moved towards what live answers showed; always between the two.

    Args:
        published: the published overlap, a share.
        tally: the live answers.
        weight: live answers that the published figure weighs as much as, above 0.
    """
    moved = published + tally.mean_error * tally.count / (tally.count + weight)
    return min(max(moved, 0.0), 1.0)


class Calibration:
    """A bundle's ladder with corrected overlaps. Safe for concurrent use: each correction makes another ladder.

    Only expected overlaps change. Latency and width still rise along the steps, so a larger budget still never gets a
    narrower width or a smaller expected overlap.

    Args:
        published: the ladder as the bundle has it.
    """

    def __init__(self, published: Ladder) -> None:
        self.published = published
        self._ladder = published
        self._published = {rung.name: rung for rung in published.rungs}
        self._tallies: dict[tuple[str, int], Tally] = {}
        self._recording = threading.Lock()

    @property
    def ladder(self) -> Ladder:
        """The ladder as it is expected to do now."""
        return self._ladder

    def record(self, rung: str, *, k: int, overlap: float) -> float:
        """Take in the overlap of one answer; return by how much the rung's expected overlap is corrected now.

        Args:
            rung: the name of the rung that answered.
            k: items asked for.
            overlap: the share of the exact answer that was returned.
        """
        published = self._published[rung]
        measured_k = published.measured_k(k)
        with self._recording:
            tally = self._tallies.get((rung, measured_k), Tally())
            self._tallies[rung, measured_k] = tally = tally.add(overlap - published.overlap[measured_k])
            now = corrected(published.overlap[measured_k], tally)
            rungs = [
                replace(one, overlap={**one.overlap, measured_k: now}) if one.name == rung else one
                for one in self._ladder.rungs
            ]
            self._ladder = replace(self._ladder, rungs=tuple(rungs))
        return now - published.overlap[measured_k]
