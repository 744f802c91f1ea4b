"""The full width's softmax as the teacher of every narrower one's (knowledge distillation, arXiv 1503.02531).

Shapes: ``logit_BS`` (batch, samples).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def distillation(logits: Sequence[Float[Tensor, "batch samples"]]) -> Float[Tensor, " widths"]:
    """Return the mean cross-entropy of each width's softmax to that of the last, which gets no gradient from it.

    Args:
        logits: by width, narrowest first; -inf, in the same places at all, for samples that do not count.

    Returns:
        ``(widths,)``, the last one 0: the teacher learns from the positives alone.
    """
    teacher_BS = logits[-1].detach().softmax(dim=1)
    # A sample without probability adds nothing, but 0 * -inf would be NaN.
    left_out_BS = torch.isneginf(logits[-1].detach())
    cross_entropies = [
        -(teacher_BS * logit_BS.log_softmax(dim=1).masked_fill(left_out_BS, 0)).sum(dim=1).mean()
        for logit_BS in logits[:-1]
    ]
    return torch.stack([*cross_entropies, teacher_BS.new_zeros(())])
