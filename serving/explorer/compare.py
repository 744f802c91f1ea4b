"""An answer beside the truth: which items were kept, lost and gained, and how large the overlap is. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Mark = Literal["kept", "lost", "gained"]


@dataclass(frozen=True, kw_only=True)
class Marked:
    """An item of one list, as seen from the other.

    Args:
        item_id: the item.
        mark: kept stands in both lists; lost only in the truth; gained only in the answer.
        place: in its own list, from 1.
        other_place: in the other list, from 1; None where it is not there.
    """

    item_id: str
    mark: Mark
    place: int
    other_place: int | None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Both lists with their marks, in their own order.

    Args:
        answer: kept and gained items.
        truth: kept and lost items.
    """

    answer: tuple[Marked, ...]
    truth: tuple[Marked, ...]

    @property
    def num_kept(self) -> int:
        """Items in both lists."""
        return sum(item.mark == "kept" for item in self.truth)

    @property
    def overlap(self) -> float | None:
        """The share of the truth that the answer holds; None where the truth is empty, so that nothing can be lost."""
        return self.num_kept / len(self.truth) if self.truth else None


def compare(answer: Sequence[str], truth: Sequence[str]) -> Comparison:
    """Mark the items of an answer and of the truth, each best first and without repeats."""
    return Comparison(answer=_marked(answer, truth, alone="gained"), truth=_marked(truth, answer, alone="lost"))


def _marked(items: Sequence[str], others: Sequence[str], *, alone: Mark) -> tuple[Marked, ...]:
    place_of = {item_id: place for place, item_id in enumerate(others, start=1)}
    return tuple(
        Marked(
            item_id=item_id,
            mark="kept" if item_id in place_of else alone,
            place=place,
            other_place=place_of.get(item_id),
        )
        for place, item_id in enumerate(items, start=1)
    )
