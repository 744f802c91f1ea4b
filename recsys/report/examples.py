"""A few users' answers at every width, and what a narrower one kept, lost and gained against the full width."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from recsys.data.dataset import Dataset, Queries
from recsys.evaluate.verb import Evaluation

_LATEST = 8
"""Items of a history that are shown."""
_TARGETS = 12
"""Held-out items that are shown: of some logs there are hundreds."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """An item as people see it.

    Args:
        title: its title, or its id where it has none.
        is_target: whether it is one of the user's held-out items.
    """

    title: str
    is_target: bool


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A width's answer beside the full width's, each list in order of rank.

    Args:
        width: the width.
        kept: items of both.
        lost: the full width's that this one lacks.
        gained: this one's that the full width lacks.
    """

    width: int
    kept: list[Item]
    lost: list[Item]
    gained: list[Item]


@dataclass(frozen=True, kw_only=True)
class Example:
    """One user.

    Args:
        user_id: who.
        num_history: length of the history.
        latest: the last of it, newest first.
        num_targets: how many items were held out.
        targets: some of them, those that the full width found first.
        full: the answer at full width, best first.
        narrower: by width, narrowest first.
    """

    user_id: str
    num_history: int
    latest: list[Item]
    num_targets: int
    targets: list[Item]
    full: list[Item]
    narrower: list[Answer]


def examples_of(evaluation: Evaluation, *, num_users: int, k: int, seed: int) -> list[Example]:
    """Return a seeded draw of the evaluated users, in the dataset's order.

    Args:
        evaluation: whose rankings are shown, cut at ``k``.
        num_users: how many; all where there are fewer.
        k: length of the answers.
        seed: fixes the draw.
    """
    places = np.random.default_rng(seed).permutation(len(evaluation.queries))[:num_users]
    return [_example(evaluation, int(place), k=k) for place in np.sort(places)]


def _example(evaluation: Evaluation, place: int, *, k: int) -> Example:
    queries, dataset = evaluation.queries, evaluation.dataset
    row_of = {width: ranked_QK[place][:k] for width, ranked_QK in evaluation.ranked.items()}
    show = _Titles(dataset, queries, place)
    history, full_K = queries.history[place], row_of[evaluation.towers.widths.full]
    targets = sorted(queries.target[place].tolist(), key=lambda row: row not in full_K)
    return Example(
        user_id=dataset.user_frame["id"][int(queries.user[place])],
        num_history=len(history),
        latest=show(history[::-1][:_LATEST]),
        num_targets=len(targets),
        targets=show(targets[:_TARGETS]),
        full=show(full_K),
        narrower=_compared(row_of, show),
    )


def _compared(row_of: Mapping[int, Int64[np.ndarray, " k"]], show: _Titles) -> list[Answer]:
    *narrower, full = row_of
    return [
        Answer(
            width=width,
            kept=show(row for row in row_of[full] if row in row_of[width]),
            lost=show(row for row in row_of[full] if row not in row_of[width]),
            gained=show(row for row in row_of[width] if row not in row_of[full]),
        )
        for width in narrower
    ]


class _Titles:
    """Shows item rows of one query; a place without an item (negative) is left out."""

    def __init__(self, dataset: Dataset, queries: Queries, place: int) -> None:
        self._titles = dataset.titles or dataset.item_frame["id"].to_list()
        self._targets = set(queries.target[place].tolist())

    def __call__(self, rows: Iterable[int]) -> list[Item]:
        return [Item(title=self._titles[row], is_target=row in self._targets) for row in rows if row >= 0]
