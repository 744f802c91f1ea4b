"""Rows of all processes in each of them, with gradients that find their way back.

Negatives are shared: an item is encoded by one process and met by the vectors of all. What each of them wants of it is
added up where it was encoded.

Shapes: ``own_RC`` this process's rows, ``all_AC`` those of all.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor
from torch.autograd.function import once_differentiable

from recsys.data.parts import Parts


def gather_rows(own_RC: Shaped[Tensor, "own ..."], parts: Parts) -> Shaped[Tensor, "all ..."]:
    """Return all processes' rows in order of rank; the gradient is the sum of what every process has for them.

    All processes must call, and go backward, in the same order.

    Args:
        own_RC: this process's rows.
        parts: how many rows each process has.
    """
    assert len(own_RC) == parts.counts[parts.rank], f"rows: got {len(own_RC)}, expected {parts}"
    if len(parts.counts) == 1:
        return own_RC
    result: Tensor = _Gather.apply(own_RC, parts)  # type: ignore[no-untyped-call]
    return result


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own_RC: Tensor, parts: Parts) -> Tensor:
        ctx.parts = parts
        # Collectives move as much from every process: shorter parts are filled up.
        shape = (max(parts.counts), *own_RC.shape[1:])
        filled_RC = own_RC.new_zeros(shape)
        filled_RC[: len(own_RC)] = own_RC
        received = [own_RC.new_empty(shape) for _ in parts.counts]
        dist.all_gather(received, filled_RC)
        return torch.cat([rows[:count] for rows, count in zip(received, parts.counts, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_AC: Tensor) -> tuple[Tensor, None]:
        parts = ctx.parts
        shape = (max(parts.counts), *gradient_AC.shape[1:])
        sent = [gradient_AC.new_zeros(shape) for _ in parts.counts]
        for filled, rows in zip(sent, torch.split(gradient_AC, list(parts.counts)), strict=True):
            filled[: len(rows)] = rows
        summed_RC = gradient_AC.new_empty(shape)
        dist.reduce_scatter(summed_RC, sent)
        return summed_RC[: parts.counts[parts.rank]], None
