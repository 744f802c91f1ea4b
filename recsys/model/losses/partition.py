"""The sum over a softmax's negatives, and averages under that softmax, a few vectors at a time.

Of all a loss computes, what touches every (vector, negative) pair takes nearly all the time, and on a CPU that is
not the product but each further pass over its result. So there are as few as can be: a query and the items at a width
come in already scaled, their weights enter with the product, and what remains is one exponential, in place. Rows are
taken a tile at a time, which keeps the tile in the processor's cache and the memory bounded whatever the number of
negatives, a whole catalogue included; what the backward pass needs of a tile is kept where that is little, and else
computed again (checkpointing, arXiv 1604.06174).

Shapes: ``query_Vw`` (vectors, width), ``item_Nw`` (negatives, width), ``logit_TN`` (vectors of a tile, negatives),
``H`` accidental hits, ``C`` columns of anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from recsys.model.losses.hard_negatives import is_hardest

MASKED = -1e30
"""Logit of what does not count. Finite, unlike -inf, so that a softmax of nothing else has a gradient too (zero)."""

_TILE = 1 << 20
"""Logits of a tile: 4 MiB, about what a core's cache holds."""

_KEPT = 1 << 24
"""Logits of one width that are kept for the backward pass; where there are more, they are computed twice."""


@dataclass(frozen=True)
class Negatives:
    """What every width's softmax has in common: its negatives, by their weights, and which of them do not count.

    Args:
        log_weight_N: ``(negatives,)`` added to every logit.
        hit_row_H: ``(hits,)`` non-decreasing; with the next, the (vector, negative) pairs that do not count.
        hit_negative_H: ``(hits,)``.
        num_hardest: only so many negatives, those with the highest scores, count for each vector; None means all.
    """

    log_weight_N: Float[Tensor, " negatives"]
    hit_row_H: Int[Tensor, " hits"]
    hit_negative_H: Int[Tensor, " hits"]
    num_hardest: int | None = None

    def tiles(self, query_Vw: Tensor, item_Nw: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yield vectors, as a slice, and their logits, in a matrix of the caller's own."""
        for tile in _tiles(len(query_Vw), len(item_Nw)):
            bounds = self.hit_row_H.new_tensor([tile.start, tile.stop])
            hits = slice(*torch.searchsorted(self.hit_row_H, bounds).tolist())
            own = self.hit_row_H[hits] - tile.start, self.hit_negative_H[hits]
            yield tile, self._logits(query_Vw[tile], item_Nw, own)

    def _logits(self, query_Tw: Tensor, item_Nw: Tensor, hits: tuple[Tensor, Tensor]) -> Tensor:
        logit_TN = torch.addmm(self.log_weight_N, query_Tw, item_Nw.T)
        logit_TN[hits] = MASKED
        if self.num_hardest is not None:
            logit_TN.masked_fill_(~is_hardest(logit_TN - self.log_weight_N, self.num_hardest), MASKED)
        return logit_TN


def log_sum(
    query_Vw: Float[Tensor, "vectors width"],
    item_Nw: Float[Tensor, "negatives width"],
    negatives: Negatives,
) -> Float[Tensor, " vectors"]:
    """Return the log-sum-exp of each vector's negatives; about `MASKED` where none counts.

    Args:
        query_Vw: ``(vectors, width)``, scaled so that its products with items are logits.
        item_Nw: ``(negatives, width)``.
        negatives: their weights.
    """
    result: Tensor = _LogSum.apply(query_Vw, item_Nw, negatives)  # type: ignore[no-untyped-call]
    return result


def average(
    query_Vw: Float[Tensor, "vectors width"],
    item_Nw: Float[Tensor, "negatives width"],
    negatives: Negatives,
    log_total_V: Float[Tensor, " vectors"],
    value_NC: Float[Tensor, "negatives columns"],
) -> Float[Tensor, "vectors columns"]:
    """Return the sum of values over each vector's negatives, each times its share in the vector's softmax.

    Only values have a gradient: shares are a teacher's.

    Args:
        query_Vw: ``(vectors, width)``, as for `log_sum`.
        item_Nw: ``(negatives, width)``.
        negatives: their weights.
        log_total_V: ``(vectors,)`` log of the softmax's denominator.
        value_NC: ``(negatives, columns)``.
    """
    arguments = (
        query_Vw.detach(),
        item_Nw.detach(),
        negatives,
        log_total_V.detach(),
        value_NC,
    )
    result: Tensor = _Average.apply(*arguments)  # type: ignore[no-untyped-call]
    return result


class _LogSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query_Vw: Tensor, item_Nw: Tensor, negatives: Negatives) -> Tensor:
        log_sum_V = query_Vw.new_empty(len(query_Vw))
        kept = []
        for tile, logit_TN in negatives.tiles(query_Vw, item_Nw):
            most_T1 = logit_TN.amax(dim=1, keepdim=True)
            term_TN = logit_TN.sub_(most_T1).exp_()
            total_T1 = term_TN.sum(dim=1, keepdim=True)
            log_sum_V[tile] = (most_T1 + total_T1.log())[:, 0]
            if len(query_Vw) * len(item_Nw) <= _KEPT:
                kept += [term_TN, total_T1]
        ctx.negatives = negatives
        ctx.save_for_backward(query_Vw, item_Nw, log_sum_V, *kept)
        return log_sum_V

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_V: Tensor) -> tuple[Tensor | None, ...]:
        query_Vw, item_Nw, log_sum_V, *kept = ctx.saved_tensors
        query_gradient_Vw, item_gradient_Nw = (
            torch.empty_like(query_Vw),
            torch.zeros_like(item_Nw),
        )
        for number, (tile, share_TN) in enumerate(_shares(ctx.negatives, query_Vw, item_Nw, log_sum_V, kept[::2])):
            # What scales the shares' rows is cheaper on the narrow side of a product.
            scale_T1 = gradient_V[tile, None] / kept[2 * number + 1] if kept else gradient_V[tile, None]
            query_gradient_Vw[tile] = (share_TN @ item_Nw) * scale_T1
            item_gradient_Nw.addmm_(share_TN.T, query_Vw[tile] * scale_T1)
        return query_gradient_Vw, item_gradient_Nw, None


class _Average(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query_Vw: Tensor,
        item_Nw: Tensor,
        negatives: Negatives,
        log_total_V: Tensor,
        value_NC: Tensor,
    ) -> Tensor:
        average_VC = query_Vw.new_empty(len(query_Vw), value_NC.shape[1])
        kept = []
        for tile, share_TN in _shares(negatives, query_Vw, item_Nw, log_total_V, []):
            average_VC[tile] = share_TN @ value_NC
            if len(query_Vw) * len(item_Nw) <= _KEPT:
                kept.append(share_TN)
        ctx.negatives = negatives
        ctx.save_for_backward(query_Vw, item_Nw, log_total_V, *kept)
        return average_VC

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_VC: Tensor) -> tuple[Tensor | None, ...]:
        query_Vw, item_Nw, log_total_V, *kept = ctx.saved_tensors
        value_gradient_NC = gradient_VC.new_zeros(len(item_Nw), gradient_VC.shape[1])
        for tile, share_TN in _shares(ctx.negatives, query_Vw, item_Nw, log_total_V, kept):
            value_gradient_NC.addmm_(share_TN.T, gradient_VC[tile])
        return None, None, None, None, value_gradient_NC


def _shares(
    negatives: Negatives,
    query_Vw: Tensor,
    item_Nw: Tensor,
    log_total_V: Tensor,
    kept: Sequence[Tensor],
) -> Iterator[tuple[slice, Tensor]]:
    """Yield vectors, as a slice, and what was kept of them, or their shares in a softmax of this denominator."""
    if kept:
        yield from zip(_tiles(len(query_Vw), len(item_Nw)), kept, strict=True)
        return
    for tile, logit_TN in negatives.tiles(query_Vw, item_Nw):
        yield tile, logit_TN.sub_(log_total_V[tile, None]).exp_()


def _tiles(num_vectors: int, num_negatives: int) -> list[slice]:
    rows = max(1, _TILE // max(1, num_negatives))
    return [slice(start, min(start + rows, num_vectors)) for start in range(0, num_vectors, rows)]
