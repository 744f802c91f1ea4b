"""Recommendations in this very process, from a published bundle: no server, no network, no budget of time.

The same towers, indexes and rungs answer as in serving; what a server adds is its clock, its limits and its queue.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recsys.bundle import Bundle, open_current
from recsys.current import CURRENT
from recsys.errors import RequestError
from recsys.ids import UNKNOWN
from recsys.index.filtered import search_filtered
from recsys.index.item_set import ItemSet
from recsys.index.rungs import Rung
from recsys.model.elapsed import UNKNOWN_TIME
from recsys.ragged import Ragged
from recsys.widths import as_queries


@dataclass(frozen=True, kw_only=True)
class Item:
    """One recommended item: its id, its score (see `recsys.widths`), and its title where the catalogue has any."""

    id: str
    score: float
    title: str | None


@dataclass(frozen=True, kw_only=True)
class Recommendations:
    """Items, best first, and how they were found.

    Args:
        items: the items.
        rung: how was searched.
        expected_overlap: the rung's measured overlap with the exact full-width answer; 1 where all allowed items were
            scored.
        cold: nothing was known of the user's past.
        num_unknown: items of the given history that the bundle does not know; they are ignored.
    """

    items: tuple[Item, ...]
    rung: Rung
    expected_overlap: float
    cold: bool = False
    num_unknown: int = 0

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)

    @property
    def ids(self) -> list[str]:
        """The items' ids."""
        return [item.id for item in self.items]


class Recommender:
    """Answers from one bundle; safe to share between threads.

    Args:
        bundle: what to answer from.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from recsys.testing import small_bundle  # of simulated data and random towers
    >>> root = Path(tempfile.mkdtemp())
    >>> _ = small_bundle(root)
    >>> recommender = Recommender.load(root)
    >>> recommender.widths
    (4, 8, 16)
    >>> found = recommender.recommend("u7", k=3)
    >>> len(found), found.rung.width, found.expected_overlap
    (3, 16, 1.0)
    >>> recommender.recommend("u7", k=3, width=4).rung.width
    4
    >>> recommender.recommend(history=["i1", "i2", "no such item"], k=3).num_unknown
    1
    >>> recommender.recommend("u7", k=3, width=5)
    Traceback (most recent call last):
    ...
    recsys.errors.RequestError: width: got 5, expected one of (4, 8, 16)
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    @classmethod
    def load(cls, path: Path | str) -> Recommender:
        """Open a bundle, or the one that CURRENT names in a folder of bundles, after checking every file of it.

        Raises:
            ArtifactError: it is missing or damaged.
        """
        path = Path(path)
        return cls(open_current(path) if (path / CURRENT).exists() else Bundle.open(path))

    @property
    def widths(self) -> tuple[int, ...]:
        """The widths that can be asked for, narrowest first."""
        return self.bundle.ladder.widths

    def recommend(
        self,
        user: str | None = None,
        *,
        history: Sequence[str] | None = None,
        k: int = 10,
        width: int | None = None,
        min_overlap: float | None = None,
        rung: str | None = None,
        exclude: Sequence[str] = (),
        exclude_seen: bool | None = None,
    ) -> Recommendations:
        """Find items for a user, given by id or by history.

        Args:
            user: an id; an unknown one gets the answer for an empty history, marked ``cold``.
            history: item ids, oldest first, instead.
            k: items wanted, at least 1; fewer come back only where fewer may be.
            width: search at this width, as well as it can be.
            min_overlap: or at the fastest rung whose measured overlap is at least this.
            rung: or at the rung of this name. Without any of the three: the ladder's best step.
            exclude: item ids that may not come back; unknown ones are ignored.
            exclude_seen: whether items that the user has had are left out; as the dataset's protocol says if None.

        Raises:
            RequestError: the question cannot be answered as asked; it names the argument.
        """
        if (user is None) == (history is None):
            got = "neither" if user is None else "both"
            raise RequestError("user", f"got {got} of user and history, expected one of them")
        chosen = self._choose(k=k, width=width, min_overlap=min_overlap, rung=rung)
        rows = self.bundle.items.rows(list(history or ()))
        row = UNKNOWN if user is None else self.bundle.users.vocabulary.row(user)
        known = rows[rows != UNKNOWN] if row == UNKNOWN else self.bundle.users.history(row)
        seen = known if row == UNKNOWN else self.bundle.users.seen(row)
        allowed = self._allowed(exclude)
        if self.bundle.mask_seen if exclude_seen is None else exclude_seen:
            allowed = allowed.without(seen)
        query_1U = self._encode(row, known)
        num_unknown = len(rows) - len(known) if row == UNKNOWN else 0
        return self._search(query_1U, k=k, rung=chosen, allowed=allowed, cold=not len(known), num_unknown=num_unknown)

    def similar_items(
        self,
        item: str,
        *,
        k: int = 10,
        width: int | None = None,
        min_overlap: float | None = None,
        rung: str | None = None,
    ) -> Recommendations:
        """Find the items nearest to an item; the arguments are those of `recommend`.

        Raises:
            RequestError: the item is unknown, or the question cannot be answered as asked.
        """
        row = self.bundle.items.row(item)
        if row == UNKNOWN:
            raise RequestError("item", f"got {item!r}, expected an item of {self.bundle.version}")
        chosen = self._choose(k=k, width=width, min_overlap=min_overlap, rung=rung)
        query_1U = as_queries(self.bundle.item_vectors[row : row + 1], self.bundle.widths)
        return self._search(query_1U, k=k, rung=chosen, allowed=self._allowed([item]))

    def _choose(self, *, k: int, width: int | None, min_overlap: float | None, rung: str | None) -> Rung:
        ladder = self.bundle.ladder
        given = [name for name, value in (("width", width), ("min_overlap", min_overlap), ("rung", rung)) if value]
        if len(given) > 1:
            raise RequestError(given[1], f"got {' and '.join(given)}, expected at most one of them")
        if k < 1:
            raise RequestError("k", f"got {k}, expected at least 1")
        if width is not None:
            if width not in ladder.widths:
                raise RequestError("width", f"got {width}, expected one of {ladder.widths}")
            return ladder.best_of_width(width, k=k)
        if min_overlap is not None:
            if not 0 < min_overlap <= 1:
                raise RequestError("min_overlap", f"got {min_overlap}, expected a share above 0 and at most 1")
            return ladder.cheapest_reaching(min_overlap, k=k) or ladder.closest(k=k)
        if rung is not None:
            by_name = {one.name: one for one in ladder.rungs}
            if rung not in by_name:
                raise RequestError("rung", f"got {rung!r}, expected one of {list(by_name)}")
            return by_name[rung]
        return ladder.best_step(k=k)

    def _allowed(self, exclude: Sequence[str]) -> ItemSet:
        rows = self.bundle.items.rows(list(exclude))
        return ItemSet.all_but(rows[rows != UNKNOWN], len(self.bundle.items))

    def _encode(self, row: int, history: np.ndarray) -> np.ndarray:
        """Return the query of one user: a known one's row, or `UNKNOWN` and a history."""
        bundle = self.bundle
        if row != UNKNOWN and bundle.user_vectors is not None:
            published_1U: np.ndarray = bundle.user_vectors[[row]]
            return published_1U
        names = [spec.name for spec in bundle.towers.specs if spec.side == "user"]
        known = bundle.users.features(row) if row != UNKNOWN else {}
        features = {name: known.get(name, Ragged.from_lists([()])) for name in names}
        times = None
        if bundle.towers.layout.config.time_bias:
            stored = bundle.users.times(np.array([row])) if row != UNKNOWN else None
            times = stored or Ragged.from_lists([np.full(len(history), UNKNOWN_TIME)])
        query_1U: np.ndarray = bundle.towers.encode_users(
            Ragged.from_lists([history]), features, np.array([row], dtype=np.int64), times
        )
        return query_1U

    def _search(
        self, query_1U: np.ndarray, *, k: int, rung: Rung, allowed: ItemSet, cold: bool = False, num_unknown: int = 0
    ) -> Recommendations:
        result = search_filtered(self.bundle.searcher, query_1U, k=k, rung=rung, allowed=allowed)
        row_K, score_K = result.rows_BK[0], result.scores_BK[0]
        found = row_K != UNKNOWN
        rows, titles = row_K[found].tolist(), self.bundle.titles
        items = tuple(
            Item(id=id_, score=score, title=None if titles is None else titles[row])
            for row, id_, score in zip(rows, self.bundle.items.ids(rows), score_K[found].tolist(), strict=True)
        )
        return Recommendations(
            items=items,
            rung=rung,
            expected_overlap=1.0 if result.num_scored else rung.overlap_at(k),
            cold=cold,
            num_unknown=num_unknown,
        )
