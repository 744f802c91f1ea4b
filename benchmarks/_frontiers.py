"""Who wins where: comparing points on the plane of overlap and speed, each with its bytes and its label recall.

A speed-up is against the exact scan at full width that was timed in the same breath, so that contenders which were
measured at different moments of one machine can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

FLOORS = (0.95, 0.99, 0.999)
"""The overlaps that contenders are compared at."""
_FRONTIER = (0.8, 0.999)
_NEAR = 1.25
"""What another point must be faster by, for one that it beats to be out of the race."""
_SAME_RECALL = 0.995


@dataclass(frozen=True, kw_only=True)
class Point:
    """One way to search, as measured on queries that nothing was tuned on.

    Args:
        who: ``ours`` or the rival's name.
        name: the rung, or the rival's build and effort.
        width: of the scan.
        overlap: share of the exact full-width top 100 found.
        recall: share of the held-out interactions of other users, of many more, found in the top 100.
        p50_ms: median call, one query on one thread.
        p99_ms: 99th percentile.
        flat_p50_ms: the exact scan's median, timed in turns with it.
        bytes_per_item: memory of the index and of what it scores again with.
    """

    who: str
    name: str
    width: int
    overlap: float
    recall: float
    p50_ms: float
    p99_ms: float
    flat_p50_ms: float
    bytes_per_item: float

    @property
    def speedup(self) -> float:
        """How much faster than the exact scan the median call is."""
        return self.flat_p50_ms / self.p50_ms

    def plain(self) -> dict[str, Any]:
        """Return plain figures."""
        return asdict(self) | {"speedup": self.speedup}

    @classmethod
    def load(cls, plain: dict[str, Any]) -> Point:
        """Return what `plain` was made from."""
        return cls(**{field.name: plain[field.name] for field in fields(cls)})


def fastest(points: Sequence[Point], *, overlap: float = 0.0, recall: float = 0.0) -> Point | None:
    """Return the fastest point of at least this overlap and label recall; None if there is none."""
    enough = [point for point in points if point.overlap >= overlap and point.recall >= recall]
    return max(enough, key=lambda point: point.speedup, default=None)


def joint_frontier(points: Sequence[Point]) -> list[Point]:
    """Return the points between the overlaps .8 and .999 that no other beats in both overlap and speed, by overlap."""
    within = [point for point in points if _FRONTIER[0] <= point.overlap <= _FRONTIER[1]]
    return sorted(
        (
            point
            for point in within
            if not any(
                other.overlap >= point.overlap
                and other.speedup >= point.speedup
                and (other.overlap, other.speedup) != (point.overlap, point.speedup)
                for other in within
            )
        ),
        key=lambda point: point.overlap,
    )


def leaders(points: Sequence[Point]) -> list[Point]:
    """Return the points of overlap .8 and more that are on their frontier or near it; more than .999 counts as that.

    Nothing is compared above it, and what is slow there may have taken an hour to build.
    """
    return [
        point
        for point in points
        if point.overlap >= _FRONTIER[0]
        and not any(
            one.overlap >= min(point.overlap, _FRONTIER[1]) and one.speedup > _NEAR * point.speedup for one in points
        )
    ]


def frontier_share(ours: Sequence[Point], rivals: Sequence[Point]) -> float | None:
    """Return the share of the rivals' joint frontier that a point of ours equals or beats; None if that is empty."""
    joint = joint_frontier(rivals)
    met = [any(our.overlap >= it.overlap and our.speedup >= it.speedup for our in ours) for it in joint]
    return sum(met) / len(met) if met else None


def compare(
    ours: Sequence[Point], twin: Sequence[Point], *, in_turns: Sequence[Point], across_ms: Mapping[str, float]
) -> dict[str, Any]:
    """Return the figures that the benchmark is known for; None where one side reaches no such overlap or recall.

    Args:
        ours: the rungs, the exact scan of full width among them.
        twin: all rivals on the vectors of the model without prefixes, an exact scan among them. There the overlap
            would be with another answer, so both sides are held to the same label recall: that of the worse of the two
            exact scans, less half a percent.
        in_turns: the `leaders` of ours and of all rivals on the same vectors, measured again in one run: what is
            compared at an overlap, and along the rivals' frontier.
        across_ms: p50 by name of the `fastest_few` of both sides at that recall, measured again in one run; empty
            without a twin, or where one side does not reach it.
    """
    figures: dict[str, Any] = {}
    our_leaders = [point for point in in_turns if point.who == "ours"]
    their_leaders = [point for point in in_turns if point.who != "ours"]
    for floor in FLOORS:
        key = _key(floor)
        mine, best = fastest(our_leaders, overlap=floor), fastest(their_leaders, overlap=floor)
        figures[f"best_at_{key}"] = mine and mine.plain()
        figures[f"best_rival_at_{key}"] = best and best.plain()
        figures[f"speed_ratio_to_best_rival_at_{key}"] = mine and best and mine.speedup / best.speedup
        figures[f"bytes_ratio_to_best_rival_at_{key}"] = mine and best and mine.bytes_per_item / best.bytes_per_item
    figures |= _against_twin(ours, twin, across_ms)
    certified = [point for point in ours if point.name.startswith("certified")]
    close = [point for point in ours if point.overlap >= 0.99]
    return figures | {
        "frontier_share": frontier_share(our_leaders, their_leaders),
        "certified_speedup": max((point.speedup for point in certified), default=None),
        "certified_overlap": min((point.overlap for point in certified), default=None),
        "recall_lost_at_099": 1 - min(point.recall for point in close) / _exact_recall(close) if close else None,
    }


def level_with_twin(ours: Sequence[Point], twin: Sequence[Point]) -> float:
    """Return the label recall that both sides are held to: that of the worse exact answers, less half a percent."""
    return _SAME_RECALL * min(_exact_recall(ours), _exact_recall(twin))


def fastest_few(points: Sequence[Point], *, recall: float, num: int = 3) -> list[Point]:
    """Return the fastest points of at least this label recall."""
    return sorted((point for point in points if point.recall >= recall), key=lambda point: point.p50_ms)[:num]


def _against_twin(ours: Sequence[Point], twin: Sequence[Point], across_ms: Mapping[str, float]) -> dict[str, Any]:
    if not across_ms:
        return {"speed_ratio_to_best_rival_on_twin": None, "twin_recall_level": None}
    mine, best = (
        min((point for point in points if point.name in across_ms), key=lambda point: across_ms[point.name])
        for points in (ours, twin)
    )
    return {
        "speed_ratio_to_best_rival_on_twin": across_ms[best.name] / across_ms[mine.name],
        "twin_recall_level": level_with_twin(ours, twin),
        "best_at_twin_recall": mine.plain(),
        "best_rival_on_twin": best.plain(),
        "ms_in_turns_with_twin": dict(across_ms),
    }


def _exact_recall(points: Sequence[Point]) -> float:
    return max(points, key=lambda point: (point.overlap, -point.speedup)).recall


def _key(floor: float) -> str:
    return f"{floor:g}".replace(".", "")
