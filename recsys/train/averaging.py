"""The mean of the weights that a run's last epochs ended with: it ranks better than any of them while rates stay high.

A rate that stays as it is keeps weights moving about a valley's floor; their mean lies lower, and where the valley is
wide. Source: Izmailov et al., *Averaging Weights Leads to Wider Optima and Better Generalization* (UAI 2018,
arXiv 1803.05407), who take the plain mean from some epoch on. Here older weights fade instead, so that there is a mean
to validate after every epoch and no epoch to choose.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed._shard.sharded_tensor import Shard, ShardedTensor
from torch.distributed.tensor import DTensor


class WeightAverage:
    """A running mean of weights, spread over processes as they are.

    Args:
        weights: what is averaged, by name.
        window: how many times are averaged, about.

    Attributes:
        tensors: the means by name, of the weights' kinds, sizes and types; anything before the first `add`.
    """

    def __init__(self, weights: Mapping[str, Any], *, window: int) -> None:
        self._window = window
        self.tensors = {name: _copy(weight) for name, weight in weights.items()}

    @torch.no_grad()
    def add(self, weights: Mapping[str, Any], *, num_before: int) -> None:
        """Take the weights as they are now into the means, in place.

        Args:
            weights: what is averaged.
            num_before: how many times weights were taken in before; until those fill the window, all count the same.
        """
        share = 1 / min(num_before + 1, self._window)
        for name, weight in weights.items():
            for mean, now in zip(_own(self.tensors[name]), _own(weight), strict=True):
                mean.lerp_(now, share)


def _copy(weight: Any) -> Any:
    if isinstance(weight, ShardedTensor):
        shards = [Shard(shard.tensor.detach().clone(), shard.metadata) for shard in weight.local_shards()]
        return ShardedTensor._init_from_local_shards_and_global_metadata(
            shards, weight.metadata(), process_group=weight._process_group
        )
    return weight.detach().clone()


def _own(weight: Any) -> Iterator[Tensor]:
    """Yield what this process holds of a tensor."""
    if isinstance(weight, ShardedTensor):
        yield from (shard.tensor for shard in weight.local_shards())
    elif isinstance(weight, DTensor):
        yield weight.to_local()
    else:
        yield weight
