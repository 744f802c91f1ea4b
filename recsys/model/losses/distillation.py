"""The full width's softmax as the teacher of every narrower one's (knowledge distillation, arXiv 1503.02531).

A vector's softmax is here over its negatives and all of its positives at once.

Shapes: ``P`` (vector, positive) pairs, ``V`` vectors, ``N`` negatives; ``L`` widths.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recsys.model.losses.samples import Logits, segment_logsumexp


def distillation(logits: Sequence[Logits], row_P: Int[Tensor, " pairs"]) -> Float[Tensor, " widths"]:
    """Return the mean cross-entropy of each width's softmax to that of the last, which gets no gradient from it.

    The mean is over pairs, like the losses': a vector counts as often as it has positives.

    Args:
        logits: by width, narrowest first, of the same negatives.
        row_P: ``(pairs,)`` the vector of each pair.

    Returns:
        ``(widths,)``, the last one 0: the teacher learns from the positives alone.
    """
    teacher = logits[-1]
    total_V = log_total(teacher.positive_P, teacher.log_negatives, row_P).detach()
    share_VN = (teacher.negative_VN.detach() - total_V[:, None]).exp()
    expected = [(share_VN * one.negative_VN).sum(dim=1) for one in logits[:-1]]
    return cross_entropies([one.positive_P for one in logits], [one.log_negatives for one in logits], expected, row_P)


def cross_entropies(
    positives: Sequence[Float[Tensor, " pairs"]],
    negatives: Sequence[Float[Tensor, " vectors"]],
    expected: Sequence[Float[Tensor, " vectors"]],
    row_P: Int[Tensor, " pairs"],
) -> Float[Tensor, " widths"]:
    """Return what `distillation` does, from sums over negatives, however those were computed.

    Args:
        positives: by width, the pairs' logits.
        negatives: by width, the log-sum-exp of each vector's negatives.
        expected: by width but the last, the sum over each vector's negatives of the teacher's share times the logit.
        row_P: ``(pairs,)`` the vector of each pair.
    """
    totals = [log_total(*one, row_P) for one in zip(positives, negatives, strict=True)]
    share_P = (positives[-1] - totals[-1][row_P]).detach().exp()
    losses = [positives[-1].new_zeros(())]
    for positive_P, total_V, expected_V in zip(positives[:-1], totals[:-1], expected, strict=True):
        cross_entropy_V = (total_V - expected_V).index_add(0, row_P, share_P * positive_P, alpha=-1)
        losses.insert(-1, cross_entropy_V[row_P].mean())
    return torch.stack(losses)


def log_total(
    positive_P: Float[Tensor, " pairs"], negatives_V: Float[Tensor, " vectors"], row_P: Int[Tensor, " pairs"]
) -> Float[Tensor, " vectors"]:
    """Return the log of each vector's denominator: its negatives and all of its positives."""
    return torch.logaddexp(negatives_V, segment_logsumexp(positive_P, row_P, num_segments=len(negatives_V)))
