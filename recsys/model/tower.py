"""The dense part of a tower: pooled embeddings in, Matryoshka vectors out.

Plain torch, shared by training and serving. Shapes: ``pooled_BC`` is ``(batch, inputs x embedding_dim)``, ``vector_BO``
is ``(batch, full width)`` for items and ``(batch, query size)`` for users.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recsys.config import ModelConfig
from recsys.data.parts import Parts
from recsys.data.schema import Side
from recsys.model.dropout import RowDropout


class MatryoshkaHead(nn.Module):
    """From the last hidden layer to vectors of every width, in one projection (arXiv 2205.13147).

    There, one representation has a classifier for each of its prefixes: one of its own (MRL), or the first columns of
    one that all share (MRL-E). Here the representation is the item's vector, which must serve every width from one
    stored copy, and users are the classifiers. So an item always comes as one vector of full width, of which every
    prefix depends on the first rows of the projection alone. A user comes in the same way with ``tied`` heads (MRL-E),
    and with ``per_width`` heads (MRL) as one vector per width, narrowest first, from rows that no other width uses.

    Vectors leave it unnormalised; `recsys.widths` says what they are at a width.

    Args:
        in_features: size of the last hidden layer.
        out_features: the full width for items, `WidthLadder.query_size` for users.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.projection = nn.Linear(in_features, out_features)
        # Turned, but neither stretched nor shifted: a shift that all vectors share would hide what tells them apart.
        nn.init.orthogonal_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)

    def forward(self, hidden_BH: Float[Tensor, "batch hidden"]) -> Float[Tensor, "batch out"]:
        """Return ``(batch, out_features)`` vectors."""
        vector_BO: Tensor = self.projection(hidden_BH)
        return vector_BO


class Tower(nn.Module):
    """A small network beside a straight path, then the head: what is linear in the tables need not be learned twice.

    Args:
        num_inputs: pooled embeddings that are concatenated.
        config: the model's settings.
        side: whose tower it is, which says what the head gives.
    """

    def __init__(self, num_inputs: int, config: ModelConfig, *, side: Side) -> None:
        super().__init__()
        size = num_inputs * config.embedding_dim
        layers: list[nn.Module] = []
        width = size
        for hidden in config.hidden:
            layers += [nn.Linear(width, hidden), nn.GELU(), RowDropout(config.dropout)]
            width = hidden
        own = config.item_input_dropout if side == "item" else None
        self.input_dropout = RowDropout(config.input_dropout if own is None else own)
        self.deep = nn.Sequential(*layers)
        widths = config.ladder
        out_features = widths.query_size if side == "user" else widths.full
        self.head: nn.Module = nn.Identity()
        if config.projection:
            self.head = MatryoshkaHead(size + width if layers else size, out_features)

    def forward(
        self, pooled_BC: Float[Tensor, "batch inputs"], rows: Parts | None = None
    ) -> Float[Tensor, "batch out"]:
        """Return unnormalised vectors: of full width for items, of the query size for users.

        Args:
            pooled_BC: ``(batch, inputs x embedding_dim)``.
            rows: which of a training step's rows these are; None for all of them.
        """
        pooled_BC = self.input_dropout(pooled_BC, rows)
        deep_BH = pooled_BC
        for layer in self.deep:
            deep_BH = layer(deep_BH, rows) if isinstance(layer, RowDropout) else layer(deep_BH)
        hidden_BH = torch.cat([pooled_BC, deep_BH], dim=-1) if len(self.deep) else pooled_BC
        vector_BO: Tensor = self.head(hidden_BH)
        return vector_BO
