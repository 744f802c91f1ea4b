"""The full width's softmax as the teacher of every narrower one's (knowledge distillation, arXiv 1503.02531).

A vector's softmax is here over its negatives and all of its positives at once.

Shapes: ``P`` (vector, positive) pairs, ``V`` vectors; ``L`` widths.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recsys.model.losses.passes import Pairs
from recsys.model.losses.samples import Logits, Samples, segment_logsumexp


def distillation(
    logits: Sequence[Logits], expected: Sequence[Float[Tensor, " vectors"]], samples: Samples
) -> Float[Tensor, " widths"]:
    """Return the mean cross-entropy of each width's softmax to that of the last, which gets no gradient from it.

    The mean is over pairs, like the losses': a vector counts as often as it has positives.

    Args:
        logits: by width, narrowest first, of the same negatives.
        expected: by width but the last, the sum over each vector's negatives of the teacher's share times the logit.
        samples: the vector of each pair.

    Returns:
        ``(widths,)``, the last one 0: the teacher learns from the positives alone.
    """
    *narrower, teacher = logits
    row_P = samples.row_P
    share_P = (teacher.positive_P - log_total(teacher, row_P)[row_P]).detach().exp()
    losses = []
    for student, expected_V in zip(narrower, expected, strict=True):
        of_negatives_V = log_total(student, row_P) - expected_V
        cross_entropy_V = of_negatives_V.index_add(0, row_P, share_P * student.positive_P, alpha=-1)
        losses.append(cross_entropy_V[row_P].sum() / samples.pairs.mean)
    return torch.stack([*losses, teacher.positive_P.new_zeros(())])


def student_pairs(
    positive_LP: Float[Tensor, "widths pairs"],
    samples: Samples,
    weight_L: Float[Tensor, " widths"],
    *,
    num_vectors: int,
) -> Pairs:
    """Return how each student's cross-entropy depends on its negatives: by the log of its denominator.

    Args:
        positive_LP: logits of the positives.
        samples: the vector of each pair.
        weight_L: what each width's cross-entropy is multiplied with; the last one's is 0 anyway.
        num_vectors: of the step.
    """
    row_P = samples.row_P
    together = [segment_logsumexp(positive_P, row_P, num_segments=num_vectors) for positive_P in positive_LP.detach()]
    is_student_L = torch.arange(len(weight_L), device=weight_L.device) < len(weight_L) - 1
    return Pairs.alike(samples, torch.stack(together)[:, row_P], weight_L * is_student_L)


def log_total(logits: Logits, row_P: Int[Tensor, " pairs"]) -> Float[Tensor, " vectors"]:
    """Return the log of each vector's denominator: its negatives and all of its positives."""
    negatives_V = logits.log_negatives_V
    return torch.logaddexp(negatives_V, segment_logsumexp(logits.positive_P, row_P, num_segments=len(negatives_V)))
