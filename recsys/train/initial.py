"""Initial rows of tables: the same ones however tables are spread over processes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributed._shard.sharded_tensor import ShardedTensor

_BLOCK = 4096
"""Rows that one generator draws: a shard that begins within a block draws the rest of it in vain."""


@torch.no_grad()
def initialise_tables(weights: Mapping[str, Any], *, seed: int) -> None:
    """Fill tables, in place, with vectors of length 1 or about that.

    Args:
        weights: each table's weights, by name, spread over processes or whole.
        seed: fixes every row of every table.
    """
    for number, weight in enumerate(weights.values()):
        if isinstance(weight, ShardedTensor):
            for shard in weight.local_shards():
                _fill(shard.tensor, [seed, number], shard.metadata.shard_offsets[0])
        else:
            _fill(weight, [seed, number], 0)


def _fill(rows_RE: Tensor, key: list[int], start: int) -> None:
    num_rows, dim = rows_RE.shape
    for block in range(start // _BLOCK, -(-(start + num_rows) // _BLOCK)):
        drawn = np.random.default_rng([*key, block]).standard_normal((_BLOCK, dim), dtype=np.float32)
        first, stop = max(start, block * _BLOCK), min(start + num_rows, (block + 1) * _BLOCK)
        own = torch.from_numpy(drawn[first - block * _BLOCK : stop - block * _BLOCK])
        rows_RE[first - start : stop - start].copy_(own / math.sqrt(dim))
