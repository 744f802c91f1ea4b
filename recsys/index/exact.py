"""Exact search by inner product: what every index, every width and every baseline is compared with.

All scores are computed, a chunk of queries at a time, so that memory stays bounded whatever the number of queries.

Ties are ranked by row, lowest first, both inside the answer and at its end: of the items that share the k-th score, the
lowest rows are kept. ``torch.topk`` promises neither, so one score more than asked for is taken, and only queries
whose scores do tie are put right. What ties is a *computed* score: identical vectors nearly always get
identical scores, but BLAS may add in another order in another place of the matrix, and it may round differently for
another number of queries. So: the same scores give the same answer always, the same vectors up to the last bit.

Shapes: ``Q`` queries, ``B`` queries of one chunk, ``N`` items, ``D`` dimensions, ``k`` the answer's length.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from recsys.errors import ConfigError, DataError, WidthError
from recsys.index.store import pages
from recsys.ragged import Ragged

NOTHING = -1
"""The row of a place in an answer for which no item was left; its score is minus infinity."""

# One chunk of scores: on a CPU about what the caches hold, elsewhere enough to keep the device busy.
_CHUNK_BYTES_CPU = 16 * 2**20
_CHUNK_BYTES_DEVICE = 512 * 2**20
_FEW = 16
"""Queries of a chunk at least, even if their scores exceed that, since each chunk reads all items. By hand, 128 queries
among a million items of 256 dimensions take 17 s by fours, as many as the caches hold, and 8 by sixteens."""


def exact_top_k(
    query_QD: Float[Tensor, "queries dim"] | Float[np.ndarray, "queries dim"],
    item_ND: Float[Tensor, "items dim"] | Float[np.ndarray, "items dim"],
    *,
    k: int,
    masked: Ragged | None = None,
) -> tuple[Float[np.ndarray, "queries k"], Int64[np.ndarray, "queries k"]]:
    """Return the ``k`` items of largest inner product with each query, best first.

    Runs on the device of ``item_ND``, in float32 (float64 if the items are). Ties go to the lower row.

    Args:
        query_QD: finite query vectors.
        item_ND: finite item vectors.
        k: length of each answer, at least 1; it may exceed the number of items.
        masked: per query, item rows that may not be returned.

    Returns:
        scores and int64 item rows; where fewer than ``k`` items remain, minus infinity and `NOTHING` at the end.

    Raises:
        WidthError: the vectors are not two matrices of one width, or hold NaN or infinity.
        DataError: ``masked`` has another number of lists than there are queries, or a row that is not an item.
        ConfigError: ``k`` is less than 1.
    """
    item_ND = _tensor(item_ND)
    item_ND = item_ND.to(torch.promote_types(item_ND.dtype, torch.float32))
    query_QD = _tensor(query_QD).to(item_ND)
    _check(query_QD, item_ND, k=k, masked=masked)
    num_queries, num_items = len(query_QD), len(item_ND)
    score_Qk = np.empty((num_queries, k), dtype=np.float64 if item_ND.dtype == torch.float64 else np.float32)
    row_Qk = np.empty((num_queries, k), dtype=np.int64)
    chunk_bytes = _CHUNK_BYTES_CPU if item_ND.device.type == "cpu" else _CHUNK_BYTES_DEVICE
    in_caches = chunk_bytes // max(1, num_items * item_ND.element_size())
    step = max(1, min(num_queries, max(_FEW, in_caches)))
    # One buffer for every chunk: fresh pages for each would cost more than the product itself.
    buffer_BN = item_ND.new_empty((step, num_items))
    for start in range(0, num_queries, step):
        stop = min(start + step, num_queries)
        score_BN = torch.mm(query_QD[start:stop], item_ND.T, out=buffer_BN[: stop - start])
        if masked is not None:
            mask_(score_BN, masked.take(np.arange(start, stop)))
        score_Bk, row_Bk = select_top_k(score_BN, k)
        score_Qk[start:stop], row_Qk[start:stop] = score_Bk.cpu().numpy(), row_Bk.cpu().numpy()
    return score_Qk, row_Qk


def mask_(score_BN: Float[Tensor, "batch items"], masked: Ragged) -> None:
    """Set the scores of each query's masked item rows to minus infinity, in place."""
    place = masked.row_of_values() * score_BN.shape[1] + masked.values
    score_BN.view(-1)[torch.from_numpy(place).to(score_BN.device)] = -torch.inf


def select_top_k(
    score_BN: Float[Tensor, "batch items"], k: int
) -> tuple[Float[Tensor, "batch k"], Int64[Tensor, "batch k"]]:
    """Return each row's ``k`` largest scores and their columns, best first, ties by column.

    An item scored minus infinity is never returned; places left over hold minus infinity and `NOTHING`. No score may
    be NaN.
    """
    num_items = score_BN.shape[1]
    score_Bk, row_Bk = torch.topk(score_BN, min(k + 1, num_items), dim=1)
    ties_Bk = (score_Bk[:, 1:] == score_Bk[:, :-1]) & (score_Bk[:, 1:] > -torch.inf)
    tied_B, score_Bk, row_Bk = ties_Bk.any(dim=1), score_Bk[:, :k].contiguous(), row_Bk[:, :k].contiguous()
    if num_items > k and (cut_B := ties_Bk[:, -1]).any():
        row_Bk[cut_B] = _lowest_columns(score_BN[cut_B], score_Bk[cut_B, -1:], k)
    if tied_B.any():
        row_Tk = row_Bk[tied_B].sort(dim=1).values
        score_Bk[tied_B], place_Tk = score_BN[tied_B].gather(1, row_Tk).sort(dim=1, descending=True, stable=True)
        row_Bk[tied_B] = row_Tk.gather(1, place_Tk)
    row_Bk.masked_fill_(score_Bk == -torch.inf, NOTHING)
    if num_items < k:
        short = (0, k - num_items)
        score_Bk = torch.nn.functional.pad(score_Bk, short, value=-torch.inf)
        row_Bk = torch.nn.functional.pad(row_Bk, short, value=NOTHING)
    return score_Bk, row_Bk


def _lowest_columns(score_TN: Tensor, least_T1: Tensor, k: int) -> Tensor:
    """Return, in column order, the columns above ``least`` and as many of the lowest that equal it as make ``k``."""
    above_TN, equal_TN = score_TN > least_T1, score_TN == least_T1
    still_T1 = k - above_TN.sum(dim=1, keepdim=True)
    chosen_TN = above_TN | (equal_TN & (equal_TN.cumsum(dim=1, dtype=torch.int32) <= still_T1))
    return chosen_TN.nonzero()[:, 1].view(-1, k)


class _Lent:
    """An array that may only be read, as torch takes it, which has no such tensors: nothing here writes into it."""

    def __init__(self, vector_XD: np.ndarray) -> None:
        self.vector_XD = vector_XD
        address, _ = vector_XD.__array_interface__["data"]
        self.__array_interface__ = vector_XD.__array_interface__ | {"data": (address, False)}


def _tensor(vector_XD: Tensor | np.ndarray) -> Tensor:
    if isinstance(vector_XD, np.ndarray) and not vector_XD.flags.writeable:  # a mapped file gives such arrays
        return torch.from_numpy(np.asarray(_Lent(vector_XD)))
    return torch.as_tensor(vector_XD)


def check_vectors(query_QD: Tensor | np.ndarray, item_ND: Tensor | np.ndarray) -> None:
    """Raise `WidthError` unless both are matrices of finite numbers and of one width."""
    if query_QD.ndim != 2 or item_ND.ndim != 2 or query_QD.shape[1] != item_ND.shape[1]:
        got = f"queries {tuple(query_QD.shape)} and items {tuple(item_ND.shape)}"
        raise WidthError(f"vectors: got {got}, expected (queries, dim) and (items, dim) of one width")
    for name, vector_XD in (("query", _tensor(query_QD)), ("item", _tensor(item_ND))):
        for page in pages(len(vector_XD)):
            finite_P = torch.isfinite(vector_XD[page]).all(dim=1)
            if not finite_P.all():
                row = page.start + int((~finite_P).nonzero()[0])
                raise WidthError(f"{name} vectors: row {row}: got NaN or infinity, expected finite numbers")


def _check(query_QD: Tensor, item_ND: Tensor, *, k: int, masked: Ragged | None) -> None:
    if k < 1:
        raise ConfigError(f"k: got {k}, expected at least 1")
    check_vectors(query_QD, item_ND)
    if masked is None:
        return
    if len(masked) != len(query_QD):
        raise DataError(f"masked: got {len(masked)} lists, expected one per query ({len(query_QD)})")
    if masked.values.size and not 0 <= masked.values.min() <= masked.values.max() < len(item_ND):
        got = f"rows from {masked.values.min()} to {masked.values.max()}"
        raise DataError(f"masked: got {got}, expected item rows from 0 to {len(item_ND) - 1}")
