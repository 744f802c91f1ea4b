"""Initial rows of tables: the same ones however tables are spread over processes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributed._shard.sharded_tensor import ShardedTensor

from recsys.model.layout import ITEM_TABLE
from recsys.train.pretrained import Pretrained

_BLOCK = 4096
"""Rows that one generator draws: a shard that begins within a block draws the rest of it in vain."""


@torch.no_grad()
def initialise_tables(weights: Mapping[str, Any], *, seed: int, pretrained: Pretrained | None = None) -> None:
    """Fill tables, in place, with vectors of length 1 or about that, and with those that there are.

    Args:
        weights: each table's weights, by name, spread over processes or whole.
        seed: fixes every row of every table.
        pretrained: vectors of items.
    """
    for number, (table, weight) in enumerate(weights.items()):
        for rows_RE, start in _own_rows(weight):
            _fill(rows_RE, [seed, number], start)
            if pretrained is not None and table == ITEM_TABLE:
                pretrained.fill(rows_RE, start)


def _own_rows(weight: Any) -> list[tuple[Tensor, int]]:
    """Return what this process holds of a table, each with its first row."""
    if isinstance(weight, ShardedTensor):
        return [(shard.tensor, shard.metadata.shard_offsets[0]) for shard in weight.local_shards()]
    return [(weight, 0)]


def _fill(rows_RE: Tensor, key: list[int], start: int) -> None:
    num_rows, dim = rows_RE.shape
    for block in range(start // _BLOCK, -(-(start + num_rows) // _BLOCK)):
        drawn = np.random.default_rng([*key, block]).standard_normal((_BLOCK, dim), dtype=np.float32)
        first, stop = max(start, block * _BLOCK), min(start + num_rows, (block + 1) * _BLOCK)
        own = torch.from_numpy(drawn[first - block * _BLOCK : stop - block * _BLOCK])
        rows_RE[first - start : stop - start].copy_(own / math.sqrt(dim))
