"""What vectors must be before a search may see them: FAISS checks little, and finds nothing for a query of NaN.

Shapes: ``query_BU`` (batch, query size), ``vector_ND`` (items, full width).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from recsys.errors import WidthError
from recsys.index.kernels import first_not_unit, scale_prefixes
from recsys.widths import WidthLadder, query_at

_UNIT_TOLERANCE = 1e-3


def check_shape(vector_ND: np.ndarray, widths: WidthLadder) -> None:
    """Raise `WidthError` unless these are float32, C-contiguous, of full width and at least one."""
    if vector_ND.ndim != 2 or vector_ND.shape[1] != widths.full or not len(vector_ND):
        raise WidthError(f"vectors: got shape {vector_ND.shape}, expected (n, {widths.full}) with n at least 1")
    if vector_ND.dtype != np.float32 or not vector_ND.flags.c_contiguous:
        layout = "" if vector_ND.flags.c_contiguous else ", not C-contiguous"
        raise WidthError(f"vectors: got {vector_ND.dtype}{layout}, expected C-contiguous float32")


def check_queries(query_BU: np.ndarray, widths: WidthLadder) -> None:
    """Raise `WidthError` unless these are finite float32 queries whose vectors all have unit length."""
    if query_BU.ndim != 2 or query_BU.shape[1] != widths.query_size or query_BU.dtype != np.float32:
        raise WidthError(
            f"query: got shape {query_BU.shape} of {query_BU.dtype}, expected (batch, {widths.query_size}) of float32"
        )
    _refuse_non_unit(query_BU, widths.query_blocks, "query")


def check_unit(vector_BD: np.ndarray, what: str) -> None:
    """Raise `WidthError`, naming ``what`` and the first row at fault, unless all rows are finite and of L2 norm 1."""
    _refuse_non_unit(vector_BD, [slice(0, vector_BD.shape[1])], what)


def checked_query_at(query_BU: np.ndarray, width: int, widths: WidthLadder) -> np.ndarray:
    """Do what `query_at` does, contiguously, without repeating its checks for unit vectors that passed them."""
    if widths.head == "per_width":
        return np.ascontiguousarray(query_BU[:, widths.query_blocks[widths.index(width)]])
    if width == widths.full or widths.norm == "full":
        return np.ascontiguousarray(query_BU[:, :width])
    unit_Bw = np.empty((len(query_BU), width), dtype=np.float32)
    if not scale_prefixes(np.ascontiguousarray(query_BU), unit_Bw):
        query_at(query_BU, width, widths)
        raise AssertionError("a prefix of zeros was not refused")
    return unit_Bw


def _refuse_non_unit(vector_BD: np.ndarray, blocks: Iterable[slice], what: str) -> None:
    vector_BD = np.ascontiguousarray(vector_BD)
    for block in blocks:
        row = first_not_unit(vector_BD, block.start, block.stop, _UNIT_TOLERANCE)
        if row >= 0:
            norm = np.linalg.norm(vector_BD[row, block].astype(np.float64))
            raise WidthError(f"{what}: row {row}: got L2 norm {norm:g}, expected 1")
