"""Bilateral softmax loss: a log of a mean of exponentials on the positives' side too (BSL, arXiv 2312.12882).

For a user with positives ``P``, negatives ``N``, scores ``f`` and temperatures ``t1`` and ``t2``, the paper's loss is

    -t1 * log(mean over i in P of exp(f_i / t1)) + t2 * log(mean over j in N of exp(f_j / t2))

Positives that score low, noise perhaps, weigh less than in a plain mean, the more so the lower ``t1``. Here ``P`` is
the batch's positives of the same user and everything is divided by ``t2``, which is the width's temperature: the scale
stays that of the sampled softmax, of which this is the variant without the positive in the denominator where every user
of the batch is another one. (There ``t1`` has no effect: one positive has nothing to be weighed against.)

Shapes: ``logit_BS`` (batch, samples); the first B samples are the positives of the B users, in order; ``L`` widths.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor


def bilateral_softmax(
    logits: Sequence[Float[Tensor, "batch samples"]], user_B: Int[Tensor, " batch"], *, positive_ratio: float
) -> Float[Tensor, " widths"]:
    """Return each width's mean loss.

    Args:
        logits: by width; with `recsys.model.losses.sampled_softmax.sampling_shift` added.
        user_B: ``(batch,)`` user rows, to find the positives of the same user.
        positive_ratio: ``t1 / t2``.
    """
    same_BB = user_B[:, None] == user_B[None, :]
    log_num_B = same_BB.sum(dim=1, dtype=logits[0].dtype).log()
    losses = []
    for logit_BS in logits:
        scaled_BB = (logit_BS.diagonal() / positive_ratio).expand(len(user_B), -1).masked_fill(~same_BB, -torch.inf)
        positive_B = positive_ratio * (scaled_BB.logsumexp(dim=1) - log_num_B)
        negative_BS = logit_BS.diagonal_scatter(torch.full_like(positive_B, -torch.inf))
        # A user whose every sample is the positive again has no negatives, and nothing to push away.
        has_negative_B = negative_BS.detach().amax(dim=1) > -math.inf
        negative_B = negative_BS.masked_fill(~has_negative_B[:, None], 0).logsumexp(dim=1)
        losses.append(torch.where(has_negative_B, negative_B - positive_B, 0).mean())
    return torch.stack(losses)
