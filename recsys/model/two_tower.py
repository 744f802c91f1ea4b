"""The model as it is trained: TorchRec tables, and a tower on each side.

One lookup per step serves both towers. Its rows ("samples") are the batch's pairs, followed by further negative items
whose user bags are empty, so that histories and items are pooled from the one shared item table in a single sharded
call.

Shapes: ``user_BU`` (batch, query size), ``item_SD`` (samples, full width).
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
        features: every input's bags; stride is the number of samples.
        num_pairs: the first so many samples are (user, positive item) pairs, the others only items.
    """

    features: KeyedJaggedTensor
    num_pairs: int

    def to(self, device: torch.device) -> Batch:
        """Move to a device."""
        return Batch(self.features.to(device), self.num_pairs)


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
        self.user_tower = Tower(len(layout.user_inputs), layout.config, side="user")
        self.item_tower = Tower(len(layout.item_inputs), layout.config, side="item")

    def forward(self, batch: Batch) -> tuple[Float[Tensor, "batch query"], Float[Tensor, "samples full"]]:
        """Return unnormalised user vectors of the pairs, and item vectors of all samples."""
        pooled = self.tables(batch.features).to_dict()
        user_BC = torch.cat([pooled[source.name][: batch.num_pairs] for source in self.layout.user_inputs], dim=-1)
        item_SC = torch.cat([pooled[source.name] for source in self.layout.item_inputs], dim=-1)
        return self.user_tower(user_BC), self.item_tower(item_SC)


def make_batch(layout: Layout, user_bags: Mapping[str, Ragged], item_bags: Mapping[str, Ragged]) -> Batch:
    """Join the bags of B users and of S >= B items into one KeyedJaggedTensor of stride S.

    Keys come in the order of the layout's tables, so that the sharded lookup need not permute them.
    """
    num_pairs = len(next(iter(user_bags.values())))
    num_samples = len(next(iter(item_bags.values())))
    padding = np.zeros(num_samples - num_pairs, dtype=np.int64)
    keys = [source.name for source in _by_table(layout)]
    values, lengths = [], []
    for key in keys:
        bag = user_bags[key] if key in user_bags else item_bags[key]
        values.append(bag.values)
        lengths.append(bag.lengths if key in item_bags else np.concatenate([bag.lengths, padding]))
    features = KeyedJaggedTensor(
        keys=keys,
        values=torch.from_numpy(np.concatenate(values)),
        lengths=torch.from_numpy(np.concatenate(lengths)),
        stride=num_samples,
    )
    return Batch(features, num_pairs)


def _by_table(layout: Layout) -> list[Input]:
    inputs = (*layout.user_inputs, *layout.item_inputs)
    return [source for table in layout.tables for source in inputs if source.table == table]
