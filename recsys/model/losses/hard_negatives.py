"""The negatives that are hardest under each prefix (level-specific hard negatives, arXiv 2406.07432).

What is near at one width need not be near at another, so every width has a choice of its own. Hard is what is near,
however often it was drawn: weights correct for that afterwards, as they do without a choice.

Shapes: ``T`` vectors, ``N`` negatives, ``K`` of them.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def is_hardest(nearness_TN: Float[Tensor, "vectors negatives"], num: int) -> Bool[Tensor, "vectors negatives"]:
    """Mark the ``num`` negatives nearest to each vector; all, if there are fewer.

    Args:
        nearness_TN: ``(vectors, negatives)`` logits without weights.
        num: negatives per vector.
    """
    nearest_TK = nearness_TN.topk(min(num, nearness_TN.shape[1]), dim=1, sorted=False).indices
    return torch.zeros_like(nearness_TN, dtype=torch.bool).scatter_(1, nearest_TK, True)
