"""The model as it is trained: TorchRec tables, and a tower on each side.

One lookup per step serves both towers: side by side, the lists of users and the distinct items of the batch. The
shorter side is filled up with empty bags, so that histories and items are pooled from the one shared item table in a
single sharded call.

Shapes: ``user_VD`` (user vectors, full width), ``item_SD`` (samples, full width).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor, PoolingType

from recsys.model.layout import Input, Layout
from recsys.model.tower import Tower
from recsys.ragged import Ragged


@dataclass(frozen=True)
class Batch:
    """What one step looks up.

    Args:
        features: every input's bags; stride is the larger of the two numbers.
        num_lists: the first so many bags of user inputs are of users.
        num_samples: the first so many bags of item inputs are of items.
    """

    features: KeyedJaggedTensor
    num_lists: int
    num_samples: int

    def to(self, device: torch.device) -> Batch:
        """Move to a device."""
        return Batch(self.features.to(device), self.num_lists, self.num_samples)


class TwoTower(nn.Module):
    """Embedding tables with mean pooling and two `Tower` modules over them.

    Args:
        layout: tables and inputs.
        device: of the tables; ``meta`` when a sharding planner will place them.
    """

    def __init__(self, layout: Layout, *, device: torch.device) -> None:
        super().__init__()
        self.layout = layout
        inputs = {source.name: source for source in (*layout.user_inputs, *layout.item_inputs)}
        dim = layout.config.embedding_dim
        self.tables = EmbeddingBagCollection(
            device=device,
            tables=[
                EmbeddingBagConfig(
                    name=table,
                    embedding_dim=dim,
                    num_embeddings=rows,
                    feature_names=[source.name for source in inputs.values() if source.table == table],
                    pooling=PoolingType.MEAN,
                    init_fn=partial(nn.init.normal_, std=1 / math.sqrt(dim)),
                )
                for table, rows in layout.tables.items()
            ],
        )
        self.user_tower = Tower(len(layout.user_inputs), layout.config)
        self.item_tower = Tower(len(layout.item_inputs), layout.config)

    def forward(self, batch: Batch) -> tuple[Float[Tensor, "vectors full"], Float[Tensor, "samples full"]]:
        """Return unnormalised vectors of users, one per list, and of items."""
        pooled = self.tables(batch.features).to_dict()
        user_VC = torch.cat([pooled[source.name][: batch.num_lists] for source in self.layout.user_inputs], dim=-1)
        item_SC = torch.cat([pooled[source.name][: batch.num_samples] for source in self.layout.item_inputs], dim=-1)
        return self.user_tower(user_VC), self.item_tower(item_SC)


def make_batch(layout: Layout, user_bags: Mapping[str, Ragged], item_bags: Mapping[str, Ragged]) -> Batch:
    """Join the bags of B users and of S items into one KeyedJaggedTensor, whose stride is the larger of the two.

    Keys come in the order of the layout's tables, so that the sharded lookup need not permute them.
    """
    num_lists, num_samples = (len(next(iter(bags.values()))) for bags in (user_bags, item_bags))
    stride = max(num_lists, num_samples)
    bags = {**user_bags, **item_bags}
    keys = [source.name for source in _by_table(layout)]
    lengths = np.zeros((len(keys), stride), dtype=np.int64)
    for length, key in zip(lengths, keys, strict=True):
        length[: len(bags[key])] = bags[key].lengths
    features = KeyedJaggedTensor(
        keys=keys,
        values=torch.from_numpy(np.concatenate([bags[key].values for key in keys])),
        lengths=torch.from_numpy(lengths.reshape(-1)),
        stride=stride,
    )
    return Batch(features, num_lists, num_samples)


def _by_table(layout: Layout) -> list[Input]:
    inputs = (*layout.user_inputs, *layout.item_inputs)
    return [source for table in layout.tables for source in inputs if source.table == table]
