"""Steps that overlap: what the next ones read is on its way while one is worked on.

TorchRec's `TrainPipelineSparseDist` copies a batch to the device two steps ahead, on a stream of its own, and sends a
batch's ids to the processes that hold their rows one step ahead. A step's own arithmetic, and so what is learned, stays
as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor, nn
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.distributed.types import ShardedModule

from recsys.train.inputs import Inputs
from recsys.train.sharding import Sharded

Forward = Callable[[Inputs], tuple[Tensor, list[float]]]
"""From a batch on the device, the loss to learn from and what the step returns."""


class Pipeline(Protocol):
    """What this module uses of TorchRec's pipelines."""

    def progress(self, dataloader_iter: Iterator[Inputs]) -> list[float]:
        """Take a step: give an iterator over one pass's batches, the same at each call, once for each of them."""


def pipelined(sharded: Sharded, device: torch.device, forward: Forward) -> Pipeline:
    """Return what takes steps: forward, backward, and the dense optimizer's.

    Args:
        sharded: what learns. Outside of the pipeline's steps, it looks up nothing any more.
        device: of the steps.
        forward: calls ``sharded.encode`` once.
    """
    model: nn.Module = sharded.model
    if not any(isinstance(module, ShardedModule) for module in model.modules()):
        # Nothing is to be sent: in a box, the replicas' wrapper is a layer like any other, which is not followed.
        model = nn.Sequential(model)
    pipeline: Pipeline = TrainPipelineSparseDist(model, sharded.dense_optimizer, device, custom_model_fwd=forward)
    return pipeline
