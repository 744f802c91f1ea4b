"""Softmax over the positive and a few samples that stand for the catalogue.

The samples are corrected by the log of how often each is expected among them (logQ); as arXiv 2507.09331 points out,
the positive is not a sample, so it is neither corrected nor counted among the negatives.

Shapes: ``logit_BS`` (batch, samples); the first B samples are the positives of the B users, in order; ``L`` widths.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


def sampled_softmax(logits: Sequence[Float[Tensor, "batch samples"]]) -> Float[Tensor, " widths"]:
    """Return each width's mean cross-entropy to the positives.

    Args:
        logits: by width; with `sampling_shift` added.
    """
    positive_B = torch.arange(len(logits[0]), device=logits[0].device)
    return torch.stack([nn.functional.cross_entropy(logit_BS, positive_B) for logit_BS in logits])


def sampling_shift(
    item_S: Int[Tensor, " samples"], log_expected_S: Float[Tensor, " samples"], *, batch: int
) -> Float[Tensor, "batch samples"]:
    """Return what is added to every width's logits: -logQ for negatives, -inf for accidental hits, 0 for the positive.

    A negative that is the user's positive item again (another example's positive, or drawn by chance) would be
    pushed away and pulled in at once; with -inf it has neither probability nor gradient.
    """
    hit_BS: Bool[Tensor, "batch samples"] = item_S[:batch, None] == item_S[None, :]
    shift_BS = torch.where(hit_BS, -torch.inf, -log_expected_S[None, :])
    shift_BS.fill_diagonal_(0.0)
    return shift_BS
