"""The dense part of a tower: pooled embeddings in, one Matryoshka vector out.

Plain torch, shared by training and serving. Shapes: ``pooled_BC`` is ``(batch, inputs x embedding_dim)``, ``vector_BD``
is ``(batch, full width)``.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recsys.config import ModelConfig
from recsys.widths import WidthLadder


class MatryoshkaHead(nn.Module):
    """One projection to the full width whose prefixes are all embeddings: the tied head, MRL-E of arXiv 2205.13147.

    A prefix of the output depends only on the first rows of the projection, so every narrower width comes for free.
    Vectors leave it unnormalised; whoever cuts a prefix normalises it (`recsys.widths.truncate`).
    """

    def __init__(self, in_features: int, widths: WidthLadder) -> None:
        super().__init__()
        self.projection = nn.Linear(in_features, widths.full)

    def forward(self, hidden_BH: Float[Tensor, "batch hidden"]) -> Float[Tensor, "batch full"]:
        """Return ``(batch, full width)`` vectors."""
        vector_BD: Tensor = self.projection(hidden_BH)
        return vector_BD


class Tower(nn.Module):
    """A small network beside a straight path, then the head: what is linear in the tables need not be learned twice.

    Args:
        num_inputs: pooled embeddings that are concatenated.
        config: the model's settings.
    """

    def __init__(self, num_inputs: int, config: ModelConfig) -> None:
        super().__init__()
        size = num_inputs * config.embedding_dim
        layers: list[nn.Module] = []
        width = size
        for hidden in config.hidden:
            layers += [nn.Linear(width, hidden), nn.GELU(), nn.Dropout(config.dropout)]
            width = hidden
        self.deep = nn.Sequential(*layers)
        self.head = MatryoshkaHead(size + width if layers else size, WidthLadder(config.widths))

    def forward(self, pooled_BC: Float[Tensor, "batch inputs"]) -> Float[Tensor, "batch full"]:
        """Return unnormalised full-width vectors."""
        hidden_BH = torch.cat([pooled_BC, self.deep(pooled_BC)], dim=-1) if len(self.deep) else pooled_BC
        vector_BD: Tensor = self.head(hidden_BH)
        return vector_BD
