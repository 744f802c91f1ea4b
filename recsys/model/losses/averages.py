"""Averages over a vector's negatives under the full width's softmax: what a teacher expects of narrower widths.

Rows are taken a tile at a time, which bounds the memory whatever the number of negatives; the backward pass computes
shares again (checkpointing, arXiv 1604.06174).

Shapes: ``query_VD`` (vectors, full width), ``item_ND`` (negatives, full width), ``T`` vectors of a tile, ``C`` columns
of anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from recsys.model.losses.negatives import MASKED, Negatives

_TILE = 1 << 20
"""Logits of a tile: 4 MiB, about what a core's cache holds."""


def average(
    query_VD: Float[Tensor, "vectors full"],
    item_ND: Float[Tensor, "negatives full"],
    negatives: Negatives,
    log_total_V: Float[Tensor, " vectors"],
    value_NC: Float[Tensor, "negatives columns"],
) -> Float[Tensor, "vectors columns"]:
    """Return the sum of values over each vector's negatives, each times its share in the vector's softmax.

    Only values have a gradient: shares are a teacher's.

    Args:
        query_VD: ``(vectors, full)``, scaled so that its products with items are logits.
        item_ND: ``(negatives, full)``.
        negatives: their weights.
        log_total_V: ``(vectors,)`` log of the softmax's denominator.
        value_NC: ``(negatives, columns)``.
    """
    arguments = query_VD.detach(), item_ND.detach(), negatives, log_total_V.detach(), value_NC
    result: Tensor = _Average.apply(*arguments)  # type: ignore[no-untyped-call]
    return result


class _Average(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query_VD: Tensor, item_ND: Tensor, negatives: Negatives, log_total_V: Tensor, value_NC: Tensor
    ) -> Tensor:
        average_VC = query_VD.new_empty(len(query_VD), value_NC.shape[1])
        for tile, share_TN in _shares(query_VD, item_ND, negatives, log_total_V):
            average_VC[tile] = share_TN @ value_NC
        ctx.negatives = negatives
        ctx.save_for_backward(query_VD, item_ND, log_total_V)
        return average_VC

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_VC: Tensor) -> tuple[Tensor | None, ...]:
        query_VD, item_ND, log_total_V = ctx.saved_tensors
        value_gradient_NC = gradient_VC.new_zeros(len(item_ND), gradient_VC.shape[1])
        for tile, share_TN in _shares(query_VD, item_ND, ctx.negatives, log_total_V):
            value_gradient_NC.addmm_(share_TN.T, gradient_VC[tile])
        return None, None, None, None, value_gradient_NC


def _shares(
    query_VD: Tensor, item_ND: Tensor, negatives: Negatives, log_total_V: Tensor
) -> Iterator[tuple[slice, Tensor]]:
    """Yield vectors, as a slice, and their shares in a softmax of this denominator."""
    rows = max(1, _TILE // max(1, len(item_ND)))
    for start in range(0, len(query_VD), rows):
        tile = slice(start, min(start + rows, len(query_VD)))
        logit_TN = torch.addmm(negatives.log_weight_N, query_VD[tile], item_ND.T)
        logit_TN[negatives.hits(tile)] = MASKED
        yield tile, logit_TN.sub_(log_total_V[tile, None]).exp_()
