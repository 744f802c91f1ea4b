"""The sums over negatives of all widths and their gradient on a GPU, by Triton kernels that never write a logit.

As in FlashAttention (arXiv 2205.14135), a program keeps a tile of logits in registers, and what backward needs of them
is computed again from the vectors. Here a tile's products grow block by block: after each block they are the inner
products of one more width, whose exponentials are taken at once. In the gradient, what a block is multiplied with is a
sum over all widths that have it in them, so tiles are taken from the widest width down.

Two kernels (`recsys.model.losses.triton_kernels`) do everything. ``find_sums`` finds log-sum-exps, once over all
negatives. ``find_slopes`` finds the gradient of one side from the other, and is called twice: scales, shifts and
factors of rows and columns are so put that vectors and negatives play the same part. Exponents are of base 2. What does
not count (accidental hits) is a bit per pair, 1/32 of what the logits of one width would take.

Vectors are multiplied as `torch.get_float32_matmul_precision` says: in float32 (``highest``), in TensorFloat32
(``high``) or in bfloat16 (``medium``); halves as they are. Sums are float32 in any case.

Needs Triton, which torch's builds for CUDA bring along. With ``TRITON_INTERPRET=1`` in the environment the kernels run
on a CPU, slowly, which is how they are tested where there is no GPU.

Shapes: as in `recsys.model.losses.partition`; ``O`` rows of one side, vectors or negatives; ``W`` words of bits.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recsys.model.losses.negatives import MASKED, Negatives
from recsys.model.losses.passes import Pairs, Scores, nan_if_any
from recsys.widths import WidthLadder

_LOG2_E = 1 / math.log(2)
_LEAST, _MOST = 16, 64
"""Columns that are multiplied at a time: the least that tensor cores take, and enough to keep them busy."""
_OWN, _OTHER = 64, 32
"""Rows of a tile: of the side whose results a program finds, and of the other."""
_WORD = 32
OPTIONS = {"num_warps": 8}
"""What the compiler is told beside a kernel's arguments."""


class _Chunks(NamedTuple):
    """How each block's columns are cut, known when a kernel is compiled.

    Args:
        first: by block, how many chunks come before it.
        start: by block, how many columns come before it.
        num: chunks of each block.
        size: columns of each block's chunks.
    """

    first: tuple[int, ...]
    start: tuple[int, ...]
    num: tuple[int, ...]
    size: tuple[int, ...]

    @classmethod
    def of(cls, widths: WidthLadder) -> _Chunks:
        """Cut blocks into chunks as large as may be, the last of a block padded."""
        padded = [-(-(block.stop - block.start) // _LEAST) * _LEAST for block in widths.blocks]
        size = [math.gcd(columns, _MOST) for columns in padded]
        num = [columns // one for columns, one in zip(padded, size, strict=True)]
        first, start = (tuple(itertools.accumulate(counts, initial=0))[:-1] for counts in (num, padded))
        return cls(first, start, tuple(num), tuple(size))

    @property
    def columns(self) -> int:
        """All of them."""
        return self.start[-1] + self.num[-1] * self.size[-1]

    def fill(self, vector_ND: Tensor, widths: WidthLadder) -> Tensor:
        """Return vectors whose blocks are whole chunks: zeros at a block's end change no product."""
        if self.columns == widths.full:
            return vector_ND.contiguous()
        filled_NX = vector_ND.new_zeros(len(vector_ND), self.columns)
        for low, block in zip(self.start, widths.blocks, strict=True):
            filled_NX[:, low : low + block.stop - block.start] = vector_ND[:, block]
        return filled_NX

    def empty(self, vector_NX: Tensor, widths: WidthLadder) -> Tensor:
        """Leave out what `fill` put in."""
        blocks = zip(self.start, widths.blocks, strict=True)
        return torch.cat([vector_NX[:, low : low + block.stop - block.start] for low, block in blocks], dim=1)


def supports(scores: Scores, negatives: Negatives, widths: WidthLadder) -> bool:
    """Say whether the kernels do what is asked: all negatives, tied heads, numbers of at most 32 bits."""
    floats = torch.float32, torch.bfloat16, torch.float16
    return widths.head == "tied" and negatives.num_hardest is None and scores.query_VU.dtype in floats


def log_sums(
    scores: Scores, negatives: Negatives, widths: WidthLadder, pairs: Pairs, *, learns: bool
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return log-sum-exps and, if asked for, the gradient with respect to each part of the scores.

    Args:
        scores: of vectors with negatives, without gradients.
        negatives: their weights, and which do not count.
        widths: the trained widths.
        pairs: what the loss makes of the sums.
        learns: whether gradients are asked for; else they are zeros.
    """
    chunks, multiplied = _Chunks.of(widths), _multiplied(scores.query_VU.dtype)
    query_VD, item_ND = (chunks.fill(one, widths).to(multiplied) for one in (scores.query_VU, scores.item_ND))
    # In base 2; 0 - shift is what is added to a product's logit on either side.
    query_scale_LV, item_scale_LN = (one.float().contiguous() for one in (scores.query_scale_LV, scores.item_scale_LN))
    query_scale_LV = query_scale_LV * _LOG2_E
    item_shift_LN = (negatives.log_weight_N.float() * -_LOG2_E).expand_as(item_scale_LN).contiguous()
    is_hit_VW = _bits(negatives.hit_row_H, negatives.hit_negative_H, len(query_VD), len(item_ND))
    log_sum_LV = torch.empty_like(query_scale_LV)
    settings = compiled_for(widths) | OPTIONS
    for_sums = {name: value for name, value in settings.items() if name != "FIRST"}
    # Only here: whatever else this module does, it does without Triton.
    from recsys.model.losses.triton_kernels import find_sums

    find_sums[_programs(query_VD)](
        query_VD, item_ND, query_scale_LV, item_scale_LN, item_shift_LN, is_hit_VW, log_sum_LV,
        len(query_VD), len(item_ND), is_hit_VW.shape[1], **for_sums,
    )  # fmt: skip
    natural_LV = torch.where(log_sum_LV > MASKED / 2, log_sum_LV / _LOG2_E, MASKED) + nan_if_any(scores)
    if not learns:
        return natural_LV.to(scores.query_VU.dtype), tuple(torch.zeros_like(one) for one in vars(scores).values())
    query = _Side(query_VD, query_scale_LV, log_sum_LV, _follows(natural_LV, pairs) / _LOG2_E, is_hit_VW)
    is_hit_NW = _bits(negatives.hit_negative_H, negatives.hit_row_H, len(item_ND), len(query_VD))
    item = _Side(item_ND, item_scale_LN, item_shift_LN, torch.ones_like(item_scale_LN), is_hit_NW)
    of_query_VD, of_query_scale_LV = _gradient(query, item, settings)
    of_item_ND, of_item_scale_LN = _gradient(item, query, settings)
    gradients = (
        chunks.empty(of_query_VD, widths),
        chunks.empty(of_item_ND, widths),
        # Kernels give gradients with respect to the logs of scales.
        of_query_scale_LV / scores.query_scale_LV,
        of_item_scale_LN / scores.item_scale_LN,
    )
    parts = zip(gradients, vars(scores).values(), strict=True)
    return natural_LV.to(scores.query_VU.dtype), tuple(one.to(part.dtype) for one, part in parts)


def compiled_for(widths: WidthLadder) -> dict[str, Any]:
    """Return what the kernels are compiled for: every argument that is no tensor and no number of rows."""
    chunks = _Chunks.of(widths)
    return {
        "NUM_WIDTHS": len(widths),
        "FIRST": chunks.first,
        "START": chunks.start,
        "NUM": chunks.num,
        "SIZE": chunks.size,
        "COLUMNS": chunks.columns,
        "OWN": _OWN,
        "OTHER": _OTHER,
        "PRECISION": "tf32" if torch.get_float32_matmul_precision() != "highest" else "ieee",
    }


class _Side(NamedTuple):
    """Vectors or negatives: a pair's term at a width is ``factors * 2**(product * scales - shifts)``."""

    vector_OD: Tensor
    scale_LO: Tensor
    shift_LO: Tensor
    factor_LO: Tensor
    is_hit_OW: Tensor


def _gradient(own: _Side, other: _Side, settings: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Return the gradient with respect to one side's vectors, and to the logs of its scales, in float32."""
    num_own, num_other = len(own.vector_OD), len(other.vector_OD)
    gradient_OD = torch.empty_like(own.vector_OD, dtype=torch.float32)
    of_scale_LO = torch.empty_like(own.scale_LO)
    from recsys.model.losses.triton_kernels import find_slopes

    find_slopes[_programs(own.vector_OD)](
        *own, *other[:-1], gradient_OD, of_scale_LO, num_own, num_other, own.is_hit_OW.shape[1], **settings
    )
    return gradient_OD, of_scale_LO


def _programs(vector_OD: Tensor) -> tuple[int]:
    """Return how many programs a kernel takes: one for each tile."""
    return (-(-len(vector_OD) // _OWN),)


def _follows(log_sum_LV: Tensor, pairs: Pairs) -> Tensor:
    """Return the loss's gradient with respect to each log-sum-exp."""
    weight_LP = torch.sigmoid(log_sum_LV[:, pairs.row_P] - pairs.floor_LP) * pairs.weight_LP
    return torch.zeros_like(log_sum_LV).index_add_(1, pairs.row_P, weight_LP.to(log_sum_LV.dtype))


def _multiplied(dtype: torch.dtype) -> torch.dtype:
    if dtype == torch.float32 and torch.get_float32_matmul_precision() == "medium":
        return torch.bfloat16
    return dtype


def _bits(row_H: Tensor, column_H: Tensor, num_rows: int, num_columns: int) -> Tensor:
    """Return ``(rows, words)`` int32 whose bits say which columns are hits."""
    num_words = -(-num_columns // _WORD)
    place_H = torch.unique(row_H * (num_words * _WORD) + column_H)
    word_X = torch.zeros(num_rows * num_words, dtype=torch.int32, device=row_H.device)
    # Different bits of a word add up to their union; the last one is the sign, which sums wrap around into.
    bit_H = torch.bitwise_left_shift(torch.ones_like(place_H), place_H % _WORD).to(torch.int32)
    return word_X.index_add_(0, place_H // _WORD, bit_H).view(num_rows, num_words)
