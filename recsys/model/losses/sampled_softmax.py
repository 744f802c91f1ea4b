"""Softmax over the positive and a few samples that stand for the catalogue.

The denominator is the positive's own and what the vector's negatives add up to, which is computed once for all of the
vector's positives.

Shapes: ``P`` (vector, positive) pairs, ``V`` vectors, ``N`` negatives, ``H`` accidental hits; ``L`` widths.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recsys.model.losses.samples import MASKED, Logits, Samples


def sampled_softmax(logits: Sequence[Logits], row_P: Int[Tensor, " pairs"]) -> Float[Tensor, " widths"]:
    """Return each width's mean cross-entropy to the positives.

    Args:
        logits: by width; with `sampling_shift` added.
        row_P: ``(pairs,)`` the vector of each pair.
    """
    return torch.stack([cross_entropy(one.positive_P, one.log_negatives, row_P) for one in logits])


def cross_entropy(
    positive_P: Float[Tensor, " pairs"], negatives_V: Float[Tensor, " vectors"], row_P: Int[Tensor, " pairs"]
) -> Float[Tensor, ""]:
    """Return the mean cross-entropy to the positives, from logits and the negatives' log-sum-exp."""
    return (torch.logaddexp(positive_P, negatives_V[row_P]) - positive_P).mean()


def sampling_shift(samples: Samples) -> Float[Tensor, "vectors negatives"]:
    """Return what is added to every width's logits of negatives: their log-weights, `MASKED` for accidental hits.

    A negative that is among the vector's positives (another row's positive, or drawn by chance) would be pushed away
    and pulled in at once; masked, it has neither probability nor gradient.
    """
    shift_VN = samples.log_weight_N.repeat(len(samples.user_V), 1)
    item_P, item_N = samples.item_S[samples.positive_P], samples.item_S[samples.negative_N]
    sorted_N, order_N = item_N.sort()
    first_P, stop_P = (torch.searchsorted(sorted_N, item_P, right=right) for right in (False, True))
    # One entry for each pair and negative of the same item: the pair, and which of these negatives it is.
    num_P = stop_P - first_P
    pair_H = torch.arange(len(item_P), device=item_P.device).repeat_interleave(num_P)
    which_H = torch.arange(len(pair_H), device=item_P.device) - (num_P.cumsum(0) - num_P)[pair_H]
    shift_VN[samples.row_P[pair_H], order_N[first_P[pair_H] + which_H]] = MASKED
    return shift_VN
