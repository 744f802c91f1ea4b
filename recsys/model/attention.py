"""Attention pooling of histories: each head learns what to look for and how far back.

A learned query per head scores every item of a history; a bias per head and distance from its end says how much recent
items count. With one query for all users the key projection folds into the query: an item's score is one product.

Shapes: ``item_TE`` (items of all lists, embedding_dim), ``token_BLE`` (batch, longest list + 1, embedding_dim), ``H``
heads, ``weight_BLH``.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from recsys.config import ModelConfig
from recsys.model.padding import pad


class AttentionPooling(nn.Module):
    """A learned start token and a history's items, weighted by a softmax per head.

    An empty history is the start token alone, so it has a vector of its own.

    Args:
        config: ``embedding_dim``, ``sequence_length`` and ``num_heads`` of it.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim, num_heads = config.embedding_dim, config.num_heads
        self.start_E = nn.Parameter(torch.randn(dim) / math.sqrt(dim))
        self.query_EH = nn.Parameter(torch.randn(dim, num_heads))
        self.recency_bias = nn.Parameter(torch.zeros(config.sequence_length + 1, num_heads))
        self.value_HEe = nn.Parameter(torch.randn(num_heads, dim, dim // num_heads) / math.sqrt(dim))

    def forward(
        self, item_TE: Float[Tensor, "items dim"], length_B: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch dim"]:
        """Return one vector per list.

        Args:
            item_TE: ``(items, dim)`` embeddings of all lists' items, oldest first, one list after another.
            length_B: ``(batch,)`` items of each list, at most ``sequence_length``.
        """
        token_BLE, _ = pad(item_TE, length_B, self.start_E)
        position_L = torch.arange(token_BLE.shape[1], device=token_BLE.device)
        from_end_BL = length_B[:, None] - position_L[None, :]
        score_BLH = token_BLE @ self.query_EH + self.recency_bias[from_end_BL.clamp_min(0)]
        weight_BLH = score_BLH.masked_fill(from_end_BL[..., None] < 0, -torch.inf).softmax(dim=1)
        pooled_BHE = weight_BLH.mT @ token_BLE
        value_BHe: Tensor = torch.einsum("bhe,hef->bhf", pooled_BHE, self.value_HEe)
        return value_BHe.flatten(1)
