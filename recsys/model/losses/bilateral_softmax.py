"""Bilateral softmax loss: a log of a mean of exponentials on the positives' side too (BSL, arXiv 2312.12882).

For a user with positives ``P``, negatives ``N``, scores ``f`` and temperatures ``t1`` and ``t2``, the paper's loss is

    -t1 * log(mean over i in P of exp(f_i / t1)) + t2 * log(mean over j in N of exp(f_j / t2))

Positives that score low, noise perhaps, weigh less than in a plain mean, the more so the lower ``t1``. Here ``P`` is
the batch's positives of the same user and everything is divided by ``t2``, which is the width's temperature: the scale
stays that of the sampled softmax, of which this is the variant without the positive in the denominator where every user
of the batch is another one with one positive. (There ``t1`` has no effect: one positive has nothing to be weighed
against.) As in the authors' own code the negatives' side may weigh more than the positives', which is what most of the
gain over the softmax comes from in their logs (1.1 to 1.2 on Yelp2018 and Gowalla).

Shapes: ``P`` (vector, positive) pairs, ``V`` vectors, ``G`` users; ``L`` widths.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from recsys.model.losses.gather import gather_rows
from recsys.model.losses.negatives import MASKED
from recsys.model.losses.passes import Pairs
from recsys.model.losses.samples import Logits, Samples, segment_logsumexp


def bilateral_softmax(
    logits: Sequence[Logits], samples: Samples, *, positive_ratio: float, negative_weight: float
) -> Float[Tensor, " widths"]:
    """Return each width's mean loss over the pairs.

    Args:
        logits: by width.
        samples: the vector of each pair, and the user of each vector.
        positive_ratio: ``t1 / t2``.
        negative_weight: what the negatives' side is multiplied with.
    """
    # A user's positives may be other processes' too.
    user_A = gather_rows(samples.user_V[samples.row_P], samples.pairs)
    positive_AL = gather_rows(torch.stack([one.positive_P for one in logits], dim=1), samples.pairs)
    users, group_A, count_G = torch.unique(user_A, return_inverse=True, return_counts=True)
    losses = []
    for one, positive_A in zip(logits, positive_AL.unbind(dim=1), strict=True):
        together_G = segment_logsumexp(positive_A / positive_ratio, group_A, num_segments=len(users))
        positive_P = (positive_ratio * (together_G - count_G.to(together_G.dtype).log()))[group_A[samples.pairs.own]]
        negative_P = one.log_negatives_V[samples.row_P]
        # A vector whose every negative is its positive again has nothing to push away.
        loss_P = torch.where(negative_P > MASKED / 2, negative_weight * negative_P - positive_P, 0)
        losses.append(loss_P.sum() / samples.pairs.mean)
    return torch.stack(losses)


def negative_pairs(
    positive_LP: Float[Tensor, "widths pairs"], samples: Samples, weight_L: Float[Tensor, " widths"]
) -> Pairs:
    """Return how the loss depends on the negatives: by the log of their own sum, whatever the positives.

    Args:
        positive_LP: logits of the positives.
        samples: the vector of each pair.
        weight_L: what the negatives' side of each width is multiplied with.
    """
    return Pairs.alike(samples, torch.full_like(positive_LP, MASKED), weight_L)
