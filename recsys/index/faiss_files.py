"""FAISS's files: written and mapped, and what was read compared with what was expected.

FAISS files carry no checksum and a damaged one can corrupt memory, so callers compare checksums first. Here the
sizes that a file may claim are bounded by the file's own length, and by what FAISS computes of it on reading.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from recsys.errors import ArtifactError
from recsys.widths import WidthLadder, truncate

_LIMITS = threading.Lock()
_COMPUTED_BYTES = 64 * 2**20
"""A product quantiser's table of cells and codes, which no file holds, counts against the limit too: 32 cells of 128
coordinates make a table larger than a small catalogue's file. It is 32 MiB for 4,096 cells of 256 coordinates."""


def write_index(index: Any, path: Path) -> None:
    """Write an index."""
    faiss.write_index(index, str(path))


def read_index(path: Path) -> Any:
    """Open an index, with its vectors mapped where FAISS can; raise `ArtifactError` where it is none."""
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file, expected a FAISS index")
    try:
        with _limits(path.stat().st_size):
            return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise ArtifactError(f"{path}: not a FAISS index: {str(error).splitlines()[0]}") from error


@contextmanager
def _limits(size_bytes: int) -> Iterator[None]:
    """Refuse counts larger than the file, and arrays much larger than it; FAISS keeps these limits per process."""
    with _LIMITS:
        loops, vector_bytes = faiss.get_deserialization_loop_limit(), faiss.get_deserialization_vector_byte_limit()
        faiss.set_deserialization_loop_limit(size_bytes)
        faiss.set_deserialization_vector_byte_limit(size_bytes + _COMPUTED_BYTES)
        try:
            yield
        finally:
            faiss.set_deserialization_loop_limit(loops)
            faiss.set_deserialization_vector_byte_limit(vector_bytes)


def check_index(
    path: Path, index: Any, *, kind: Any, width: int, num_items: int, **others: tuple[object, object]
) -> None:
    """Raise `ArtifactError`, naming the file, unless an index is of a kind, trained, of inner products and this shape.

    Args:
        path: the file it was read from.
        index: what was read.
        kind: the FAISS class it must be.
        width: its dimension.
        num_items: its number of vectors.
        others: by name, what else was got and expected.
    """
    if not isinstance(index, kind):
        raise ArtifactError(f"{path}: got a {type(index).__name__}, expected a {kind.__name__}")
    if index.metric_type != faiss.METRIC_INNER_PRODUCT or not index.is_trained:
        raise ArtifactError(f"{path}: metric: got {index.metric_type}, expected a trained index of inner products")
    for name, (got, wanted) in {"width": (index.d, width), "items": (index.ntotal, num_items), **others}.items():
        if got != wanted:
            raise ArtifactError(f"{path}: {name}: got {got}, expected {wanted}")


def check_vectors_of(path: Path, index: Any, width: int, store_ND: np.ndarray, widths: WidthLadder) -> None:
    """Raise `ArtifactError` unless an index holds these vectors: a few rows tell catalogues apart."""
    rows = np.unique(np.linspace(0, len(store_ND) - 1, num=8, dtype=np.int64))
    got_Rw = np.stack([index.reconstruct(int(row)) for row in rows])
    if not np.allclose(got_Rw, truncate(store_ND[rows], width, widths), atol=1e-6):
        raise ArtifactError(f"{path}: its vectors are not the item vectors cut to {width} with norm {widths.norm}")
