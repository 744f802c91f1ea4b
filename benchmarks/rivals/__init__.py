"""Other libraries' approximate search behind one small interface, all over the full width.

A rival is a list of builds, each with a list of efforts; a build and an effort together are one way to search, measured
and tuned exactly as rungs are (`recsys.index.halving`). Memory is what the index, its rerank copy included, takes when
it is written to disk: the same measure for all of them, without allocators' slack.

Shapes: ``item_ND`` (items, dim), ``query_1D`` (1, dim), ``rows_K`` (k,).
"""

from __future__ import annotations

import importlib.util
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from recsys.index.space import LadderSpace

Settings = Mapping[str, Any]
Answer = Callable[[np.ndarray, int], np.ndarray]

SHARES = LadderSpace().probe_shares
"""Of cells or leaves that are scanned: the steps that ours has."""
DEPTHS = tuple(multiple or 1 for multiple in LadderSpace().reranks)
"""Candidates that are scored again, as multiples of k; so too, but for no rerank."""
LENGTHS = (1, 1.5, 2, 3, 4, 6, 8, 12)
"""Of the list that a walk through a graph keeps, as multiples of k."""


@dataclass(frozen=True)
class Way:
    """One way to search: a rival's name, the number of its build, and an effort."""

    rival: str
    build: int
    effort: tuple[tuple[str, Any], ...]

    @property
    def name(self) -> str:
        """A name for tables and plots."""
        return f"{self.rival}-b{self.build}-" + "-".join(f"{key}{value}" for key, value in self.effort)


class Index(ABC):
    """What a rival built."""

    @abstractmethod
    def search(self, query_1D: np.ndarray, k: int, **effort: Any) -> np.ndarray:
        """Return the rows of one query's answer on the calling thread alone, best first; -1 where none was found."""

    @abstractmethod
    def save(self, path: Path) -> None:
        """Write everything that a search reads to a file, or a folder, of this path."""

    def size_bytes(self) -> int:
        """Return the bytes that `save` writes."""
        with tempfile.TemporaryDirectory() as folder:
            self.save(Path(folder) / "index")
            return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


class Rival(ABC):
    """A library, or one of its indexes."""

    name: ClassVar[str]
    module: ClassVar[str]
    """What has to be installed."""

    @abstractmethod
    def builds(self, num_items: int, width: int) -> Sequence[Settings]:
        """Return the settings to build with, the most promising first."""

    @abstractmethod
    def efforts(self, num_items: int, k: int) -> Sequence[Settings]:
        """Return the efforts to search with."""

    @abstractmethod
    def build(self, item_ND: np.ndarray, settings: Settings, *, seed: int) -> Index:
        """Index unit vectors for inner products, on all cores."""

    def missing(self) -> str | None:
        """Say why this cannot run here; None if it can."""
        if importlib.util.find_spec(self.module) is None:
            return f"{self.module} is not installed (pip install 'matryoshka-recsys[scale]')"
        return None

    def ways(self, build: int, num_items: int, k: int) -> list[Way]:
        """Return every way to search one build."""
        return [Way(self.name, build, tuple(effort.items())) for effort in self.efforts(num_items, k)]


class SlowRival(Rival):
    """A rival whose builds take so long that they are kept."""

    @abstractmethod
    def load(self, path: Path, *, width: int) -> Index:
        """Read what `Index.save` wrote."""


class RivalSearch:
    """Answers one query at a time in any way, for `recsys.index.halving.Bench`."""

    def __init__(self, indexes: Mapping[int, Index], query_QD: np.ndarray) -> None:
        self.indexes = indexes
        self.query_QD = np.ascontiguousarray(query_QD, dtype=np.float32)
        self._bytes = {build: index.size_bytes() for build, index in indexes.items()}

    def __call__(self, query: int, spec: Way, k: int) -> np.ndarray:
        """Return one query's rows, best first."""
        return self.indexes[spec.build].search(self.query_QD[query : query + 1], k, **dict(spec.effort))

    def size_bytes(self, way: Way) -> int:
        """Return the memory of a way's index."""
        return self._bytes[way.build]
