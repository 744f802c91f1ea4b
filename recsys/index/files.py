"""Index files: written by FAISS, one per engine and width, and mapped rather than read when they are opened.

FAISS files carry no checksum and a damaged one can corrupt memory, so callers compare checksums first. Here the
sizes that a file may claim are bounded by the file's own length, and what was read is compared with what was expected.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import faiss
import numpy as np

from recsys.errors import ArtifactError
from recsys.index.build import num_cells
from recsys.index.searcher import Searcher
from recsys.index.specs import Engine
from recsys.widths import WidthLadder, truncate

_SUFFIX = ".faiss"
_TYPES: dict[Engine, Any] = {"exact": faiss.IndexFlatIP, "ivf": faiss.IndexIVFFlat}
_LIMITS = threading.Lock()


def write_indexes(searcher: Searcher, folder: Path) -> None:
    """Write every index into an existing folder, as ``exact16.faiss``, ``ivf16.faiss`` and so on; not the store."""
    for (engine, width), index in searcher.indexes.items():
        faiss.write_index(index, str(folder / f"{engine}{width}{_SUFFIX}"))


def load_searcher(folder: Path, store_ND: np.ndarray, *, widths: WidthLadder) -> Searcher:
    """Open the indexes that `write_indexes` wrote for these vectors; their vectors stay on disk until they are read.

    Raises:
        ArtifactError: a file is missing, is not such an index, or does not belong to these vectors; it is named.
    """
    expected = expected_files(len(store_ND), widths)
    for name in sorted(path.name for path in folder.glob(f"*{_SUFFIX}")):
        if name not in expected:
            raise ArtifactError(f"{folder / name}: not an index of {len(store_ND)} items at widths {list(widths)}")
    indexes = {}
    for name, (engine, width) in expected.items():
        index = indexes[engine, width] = _read(folder / name)
        _check(folder / name, index, engine=engine, width=width, store_ND=store_ND, widths=widths)
    return Searcher(store_ND, widths=widths, indexes=indexes)


def expected_files(num_items: int, widths: WidthLadder) -> dict[str, tuple[Engine, int]]:
    """Return the index files of a catalogue, with each one's engine and width."""
    engines: tuple[Engine, ...] = get_args(Engine)
    keys = [(engine, width) for engine in engines for width in widths]
    return {
        f"{engine}{width}{_SUFFIX}": (engine, width)
        for engine, width in keys
        if (num_cells(num_items) if engine == "ivf" else width < widths.full)
    }


def _read(path: Path) -> Any:
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file, expected a FAISS index")
    try:
        with _limits(path.stat().st_size):
            return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise ArtifactError(f"{path}: not a FAISS index: {str(error).splitlines()[0]}") from error


@contextmanager
def _limits(size_bytes: int) -> Iterator[None]:
    """Refuse any array or count in the file that is larger than the file; FAISS keeps these limits per process."""
    with _LIMITS:
        loops, vector_bytes = faiss.get_deserialization_loop_limit(), faiss.get_deserialization_vector_byte_limit()
        faiss.set_deserialization_loop_limit(size_bytes)
        faiss.set_deserialization_vector_byte_limit(size_bytes)
        try:
            yield
        finally:
            faiss.set_deserialization_loop_limit(loops)
            faiss.set_deserialization_vector_byte_limit(vector_bytes)


def _check(path: Path, index: Any, *, engine: Engine, width: int, store_ND: np.ndarray, widths: WidthLadder) -> None:
    if not isinstance(index, _TYPES[engine]):
        raise ArtifactError(f"{path}: got a {type(index).__name__}, expected a {_TYPES[engine].__name__}")
    if index.metric_type != faiss.METRIC_INNER_PRODUCT or not index.is_trained:
        raise ArtifactError(f"{path}: metric: got {index.metric_type}, expected a trained index of inner products")
    for name, got, wanted in (
        ("width", index.d, width),
        ("items", index.ntotal, len(store_ND)),
        ("cells", index.nlist if engine == "ivf" else 0, num_cells(len(store_ND)) if engine == "ivf" else 0),
    ):
        if got != wanted:
            raise ArtifactError(f"{path}: {name}: got {got}, expected {wanted}")
    if engine == "exact":
        # A few rows tell another catalogue's index from this one's, at no cost.
        rows = np.unique(np.linspace(0, len(store_ND) - 1, num=8, dtype=np.int64))
        got_Rw = index.reconstruct_batch(rows)
        if not np.allclose(got_Rw, truncate(store_ND[rows], width, widths), atol=1e-6):
            raise ArtifactError(f"{path}: its vectors are not the item vectors cut to {width} with norm {widths.norm}")
