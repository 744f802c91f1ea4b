"""Softmax over the positive and a few samples that stand for the catalogue.

The denominator is the positive's own and what the vector's negatives add up to, which is computed once for all of the
vector's positives.

Shapes: ``P`` (vector, positive) pairs, ``V`` vectors, ``N`` negatives; ``L`` widths.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
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
    column_S = torch.full_like(samples.item_S, -1)
    column_S[samples.negative_N] = torch.arange(len(samples.negative_N), device=column_S.device)
    column_P = column_S[samples.positive_P]
    hit_P: Bool[Tensor, " pairs"] = column_P >= 0
    shift_VN[samples.row_P[hit_P], column_P[hit_P]] = MASKED
    return shift_VN
