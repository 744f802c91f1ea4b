"""Softmax over the positive and a few samples that stand for the catalogue; over the whole catalogue, if they are it.

The denominator is the positive's own and what the vector's negatives add up to, which is computed once for all of the
vector's positives. With every item as a negative, expected once, that is the full softmax.

Shapes: ``P`` (vector, positive) pairs, ``V`` vectors; ``L`` widths.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from recsys.model.losses.samples import Logits, Samples


def sampled_softmax(logits: Sequence[Logits], samples: Samples) -> Float[Tensor, " widths"]:
    """Return each width's mean cross-entropy to the positives.

    Args:
        logits: by width.
        samples: the vector of each pair.
    """
    row_P = samples.row_P
    losses = [torch.logaddexp(one.positive_P, one.log_negatives_V[row_P]) - one.positive_P for one in logits]
    return torch.stack([loss_P.sum() / samples.pairs.mean for loss_P in losses])
