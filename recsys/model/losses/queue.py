"""Negatives of earlier batches, with the vectors they had then (cross-batch negatives, CBNS, arXiv 2110.15154).

Item vectors change slowly, so those of the last batches still are good negatives, and cost no encoding; what they
cannot do is learn. They were drawn from the same distribution as the current batch's, so together they are a larger
draw from it: an item that is expected e times among one batch's n draws is so e * (n + m) / n times among these and m
older ones.

Shapes: ``item_SD`` (samples, full width), ``N`` negatives, ``Q`` places of the queue.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from recsys.model.losses.negatives import MASKED
from recsys.model.losses.samples import Samples


class NegativeQueue(nn.Module):
    """A ring of negatives; places that are not filled yet count nothing.

    Where processes share steps, each has the same queue: negatives are those of the whole step.

    Args:
        size: distinct negatives of batches that it holds.
        full: width of the vectors.
    """

    vector_QD: Float[Tensor, "size full"]
    item_Q: Int[Tensor, " size"]
    count_Q: Int[Tensor, " size"]
    log_weight_Q: Float[Tensor, " size"]
    next: Int[Tensor, ""]

    def __init__(self, size: int, full: int) -> None:
        super().__init__()
        buffers = {
            "vector_QD": torch.zeros(size, full),
            "item_Q": torch.full((size,), -1),
            "count_Q": torch.zeros(size, dtype=torch.int64),
            "log_weight_Q": torch.full((size,), MASKED),
            "next": torch.tensor(0),
        }
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer)

    def join(
        self, item_SD: Float[Tensor, "samples full"], samples: Samples
    ) -> tuple[Float[Tensor, "joined full"], Samples]:
        """Return a batch's item vectors and samples with the queue's behind them."""
        num_now, num_before = samples.count_N.sum(), self.count_Q.sum()
        log_weight_N = torch.cat([samples.log_weight_N, self.log_weight_Q])
        place_Q = torch.arange(len(self.item_Q), device=item_SD.device) + len(item_SD)
        joined = replace(
            samples,
            negative_N=torch.cat([samples.negative_N, place_Q]),
            count_N=torch.cat([samples.count_N, self.count_Q]),
            log_weight_N=log_weight_N - ((num_now + num_before) / num_now).log(),
            item_S=torch.cat([samples.item_S, self.item_Q]),
        )
        return torch.cat([item_SD, self.vector_QD]), joined

    @torch.no_grad()
    def push(self, item_SD: Float[Tensor, "samples full"], samples: Samples) -> None:
        """Put a batch's negatives in the places of the oldest.

        They come in random order, since a batch that does not fit, or is half replaced, must leave a fair part of
        itself: as many of each item as of any other.
        """
        size = len(self.item_Q)
        chosen = torch.randperm(len(samples.negative_N), device=item_SD.device)[:size]
        place = (self.next + torch.arange(len(chosen), device=item_SD.device)) % size
        negative = samples.negative_N[chosen]
        self.vector_QD[place] = item_SD[negative]
        self.item_Q[place] = samples.item_S[negative]
        self.count_Q[place] = samples.count_N[chosen]
        self.log_weight_Q[place] = samples.log_weight_N[chosen]
        self.next.add_(len(chosen)).remainder_(size)
