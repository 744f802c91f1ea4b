"""Tables in checkpoints as blocks of rows, so that writing and reading hold one block more than the tables themselves.

`torch.distributed.checkpoint` copies a tensor that shares its memory with others before it writes it, and reads what
was written as one tensor, whole, before it copies that to its place: with one large table, the table's memory once
more. Blocks are what it knows shards as, so its reader needs no help, and checkpoints of whole shards are still read.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex
from torch.distributed.checkpoint.planner import SavePlan, WriteItem

BLOCK_BYTES = 64 * 2**20
"""Of a block at most, unless a single row is larger."""


class BlockPlanner(DefaultSavePlanner):
    """Plans what `torch.distributed.checkpoint` writes: tensors that are spread over processes in blocks of rows.

    Args:
        block_bytes: of a block at most.
    """

    def __init__(self, block_bytes: int = BLOCK_BYTES) -> None:
        super().__init__()
        self._block_bytes = block_bytes

    def create_local_plan(self) -> SavePlan:
        """Return what this process writes."""
        plan = super().create_local_plan()
        items = [block for item in plan.items for block in self._blocks(item)]
        self.plan: SavePlan = dataclasses.replace(plan, items=items)
        return self.plan

    def resolve_data(self, write_item: WriteItem) -> Any:
        """Return what an item of the plan writes, not copied."""
        value = self.state_dict[write_item.index.fqn]
        if not isinstance(value, ShardedTensor):
            return super().resolve_data(write_item)
        assert write_item.tensor_data is not None
        return _rows(value, write_item.tensor_data.chunk)

    def _blocks(self, item: WriteItem) -> Iterator[WriteItem]:
        data, value = item.tensor_data, self.state_dict[item.index.fqn]
        if data is None or not isinstance(value, ShardedTensor) or not data.chunk.sizes[0]:
            yield item
            return
        (start, *others), (num_rows, *sizes) = data.chunk.offsets, data.chunk.sizes
        row_bytes = math.prod(sizes) * data.properties.dtype.itemsize
        step = max(1, self._block_bytes // max(1, row_bytes))
        for first in range(start, start + num_rows, step):
            offsets = torch.Size([first, *others])
            chunk = ChunkStorageMetadata(offsets, torch.Size([min(step, start + num_rows - first), *sizes]))
            yield dataclasses.replace(
                item,
                index=MetadataIndex(item.index.fqn, offsets),
                tensor_data=dataclasses.replace(data, chunk=chunk),
            )


def _rows(value: ShardedTensor, chunk: ChunkStorageMetadata) -> Tensor:
    """Return the rows of a chunk from the shard of this process that has them."""
    first, num_rows = chunk.offsets[0], chunk.sizes[0]
    for shard in value.local_shards():
        start, *others = shard.metadata.shard_offsets
        if others == list(chunk.offsets[1:]) and start <= first <= start + len(shard.tensor) - num_rows:
            rows: Tensor = shard.tensor.detach().narrow(0, first - start, num_rows)
            return rows
    raise AssertionError(f"rows {first} to {first + num_rows}: got none here")
