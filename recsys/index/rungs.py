"""Rungs and the ladder: what can be served, what it costs, and how close it comes to the exact full-width answer."""

from __future__ import annotations

import bisect
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from recsys.errors import ArtifactError, ConfigError
from recsys.index.specs import RungSpec, brief

NOTICEABLE = 1.1
"""A rung counts as slower than another from this ratio of their p99 latencies on; less is the noise of measuring."""


@dataclass(frozen=True, kw_only=True)
class Rung(RungSpec):
    """A rung as measured when the bundle was published, one query at a time on one thread.

    Args:
        overlap: by k, the mean share of the exact full-width top-k that is returned.
        latency_p50_ms: median search time, rerank included, at the largest measured k.
        latency_p99_ms: 99th percentile of the same.
        size_bytes: index, plus the store that candidates are scored from where they are.
        on_ladder: whether requests climb over it (see `climbable`); others are for requests that name a width or an
            overlap.
        on_frontier: whether no other rung is at least as good in every respect; of a width that is on no frontier, one
            rung is kept for requests that name it.
        intervals: 95% intervals by the figure's name, such as ``overlap@100``, ``latency_p50_ms``, ``latency_p99_ms``.

    Raises:
        ConfigError: an overlap is not a share, or a latency not a positive number.
    """

    overlap: dict[int, float]
    latency_p50_ms: float
    latency_p99_ms: float
    size_bytes: int
    on_ladder: bool = True
    on_frontier: bool = True
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.overlap or not all(k > 0 and 0 <= share <= 1 for k, share in self.overlap.items()):
            raise ConfigError(f"overlap: got {self.overlap}, expected a share between 0 and 1 for at least one k")
        if not 0 < self.latency_p50_ms <= self.latency_p99_ms < math.inf:
            got = f"p50 {self.latency_p50_ms}, p99 {self.latency_p99_ms}"
            raise ConfigError(f"latency: got {got}, expected positive milliseconds, p50 at most p99")

    @property
    def mean_overlap(self) -> float:
        """Overlap averaged over the measured k: 1 only for a rung that is exact at every one of them."""
        return math.fsum(self.overlap.values()) / len(self.overlap)

    def overlap_at(self, k: int) -> float:
        """Return the overlap at the smallest measured k that is at least ``k`` (the largest measured k past that)."""
        return self.overlap[self.measured_k(k)]

    def measured_k(self, k: int) -> int:
        """Return the measured k whose overlap stands for ``k``."""
        known = self._measured_ks
        return known[min(bisect.bisect_left(known, k), len(known) - 1)]

    @property
    def largest_k(self) -> int:
        """The largest measured k, at which latencies were measured."""
        return self._measured_ks[-1]

    @cached_property
    def _measured_ks(self) -> list[int]:
        return sorted(self.overlap)


class Step(NamedTuple):
    """A rung: its place in the ladder, and its overlap at some k."""

    place: int
    rung: Rung
    overlap: float


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """All measured rungs of one bundle, cheapest first, and how they were measured."""

    rungs: tuple[Rung, ...]
    measured: dict[str, Any]

    @property
    def steps(self) -> tuple[Rung, ...]:
        """The rungs that requests climb: p99 latency and mean overlap rise along them, and width never falls."""
        return tuple(rung for rung in self.rungs if rung.on_ladder)

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """The widths that were measured, narrowest first."""
        return tuple(sorted({rung.width for rung in self.rungs}))

    def at(self, k: int) -> tuple[Step, ...]:
        """Return all rungs with what they find at k."""
        return self._at(k)[0]

    def climb(self, k: int) -> tuple[Step, ...]:
        """Return the steps that find more at k than all before them: the mean overlap rises along all, one may not."""
        return self._at(k)[1]

    def _at(self, k: int) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
        if k not in self._found_at:
            steps = tuple(Step(place, rung, rung.overlap_at(k)) for place, rung in enumerate(self.rungs))
            rising: list[Step] = []
            for step in steps:
                if step.rung.on_ladder and (not rising or step.overlap > rising[-1].overlap):
                    rising.append(step)
            self._found_at[k] = steps, tuple(rising)
        return self._found_at[k]

    @cached_property
    def _alike(self) -> dict[str, list[Rung]]:
        """By name of a rung, those that differ from it in nothing but ``nprobe``."""
        alike: dict[tuple[Any, ...], list[Rung]] = {}
        for rung in self.rungs:
            alike.setdefault(_but_for_cells(rung), []).append(rung)
        return {rung.name: some for some in alike.values() for rung in some}

    @cached_property
    def _found_at(self) -> dict[int, tuple[tuple[Step, ...], tuple[Step, ...]]]:
        return {}

    def overlap_when_cut(self, rung: Rung, *, share: float, k: int) -> float:
        """Return the overlap at ``k`` to expect of an ivf rung that scanned only the nearest share of its cells.

        That is what was measured for the rung that differs in nothing but ``nprobe`` and scans the most cells among
        those that scan no more, or the share of the rung's own overlap where that is more. Both are low estimates: the
        nearer a cell, the more of the best items it holds on average, so overlap grows ever more slowly with cells.
        """
        searched = [other.overlap_at(k) for other in self._alike[rung.name] if other.nprobe <= share * rung.nprobe]
        return min(rung.overlap_at(k), max([share * rung.overlap_at(k), *searched]))

    def best_of_width(self, width: int, *, k: int) -> Rung:
        """Return the rung of a measured width with the best overlap at k, the cheapest of several equally good ones."""
        return best_at([rung for rung in self.rungs if rung.width == width], k=k)

    def best_step(self, *, k: int) -> Rung:
        """Return the step with the best overlap at k."""
        return best_at(self.steps, k=k)

    def cheapest_reaching(self, min_overlap: float, *, k: int) -> Rung | None:
        """Return the fastest rung whose overlap at k is at least ``min_overlap``; None where no rung's is."""
        reaching = [rung for rung in self.rungs if rung.overlap_at(k) >= min_overlap]
        return min(reaching, key=lambda rung: rung.latency_p99_ms, default=None)

    def closest(self, *, k: int) -> Rung:
        """Return the rung with the best overlap at k of all."""
        return best_at(self.rungs, k=k)

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; fields that say nothing (an effort of another engine, say) are left out."""
        return {"measured": self.measured, "rungs": [{"name": rung.name, **brief(rung)} for rung in self.rungs]}

    def save(self, path: Path) -> None:
        """Write `to_json`."""
        path.write_text(json.dumps(self.to_json(), indent=2) + "\n")

    @classmethod
    def load(cls, path: Path) -> Ladder:
        """Read what `save` wrote; `ArtifactError` where the file is not that."""
        try:
            content = json.loads(path.read_text())
            rungs = []
            for entry in content["rungs"]:
                fields = {key: value for key, value in entry.items() if key != "name"}
                fields["overlap"] = {int(k): float(share) for k, share in fields["overlap"].items()}
                fields["intervals"] = {name: (low, high) for name, (low, high) in fields["intervals"].items()}
                rungs.append(Rung(**fields))
            return cls(rungs=tuple(rungs), measured=content["measured"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(f"{path}: not a ladder: {error!r}") from error


def best_at(rungs: Iterable[Rung], *, k: int) -> Rung:
    """Return the rung with the best overlap at k, the fastest of several equally good ones."""
    return max(rungs, key=lambda rung: (rung.overlap_at(k), -rung.latency_p99_ms))


def climbable(rungs: Sequence[Rung]) -> list[bool]:
    """Say which rungs form the best ladder: p99 latency rises noticeably, mean overlap rises, width never falls.

    A budget that grows must never get a narrower width, yet a narrow scan with a deep rerank can cost more and find
    more than a wider scan without one. Of all chains that keep the promise and end at a rung of the greatest overlap
    there is, so that a patient request gets the best answer, this takes the one that loses least on the way: the
    greatest area under mean overlap over log latency, found by dynamic programming over the rungs sorted by latency.

    Returns:
        one bool per rung, in the order given; at least one is true unless there are no rungs.
    """
    if not rungs:
        return []
    order = sorted(range(len(rungs)), key=lambda i: (rungs[i].latency_p99_ms, -rungs[i].width))
    height = [rung.mean_overlap for rung in rungs]
    greatest = max(height)
    # Past the slowest rung every ladder stays at the greatest overlap, so how far to count makes no difference.
    horizon = math.log(rungs[order[-1]].latency_p99_ms)
    area: dict[int, float] = {}
    following: dict[int, int | None] = {}
    for place in reversed(range(len(order))):
        this, start = order[place], math.log(rungs[order[place]].latency_p99_ms)
        ends = height[this] == greatest
        area[this], following[this] = (greatest * (horizon - start) if ends else -math.inf), None
        for later in order[place + 1 :]:
            if _climbs(rungs[this], rungs[later]):
                total = height[this] * (math.log(rungs[later].latency_p99_ms) - start) + area[later]
                if total > area[this]:
                    area[this], following[this] = total, later
    step: int | None = max(order, key=lambda i: area[i])
    chosen = set()
    while step is not None:
        chosen.add(step)
        step = following[step]
    return [i in chosen for i in range(len(rungs))]


def _but_for_cells(rung: Rung) -> tuple[Any, ...]:
    """Return how a rung searches, but for the number of cells."""
    return tuple(getattr(rung, each.name) for each in fields(RungSpec) if each.name != "nprobe")


def _climbs(lower: Rung, higher: Rung) -> bool:
    """Whether a ladder may go from one rung to the other."""
    slower = higher.latency_p99_ms >= NOTICEABLE * lower.latency_p99_ms
    return slower and higher.mean_overlap > lower.mean_overlap and higher.width >= lower.width
