"""Softmax over the whole catalogue, a chunk of items at a time.

Only one chunk's logits exist at once, in the backward pass too: there each chunk's are computed again (checkpointing,
arXiv 1604.06174), and the log-sum-exps of chunks add up to the catalogue's. Nothing is sampled, so nothing is
corrected; a vector's other positives are left out of its denominator, as the sampled softmax leaves them out. For
catalogues small enough to encode in every step.

Shapes: ``user_VU`` (vectors, query size), ``item_SD`` (items, full width), ``logit_VC`` (vectors, items of a chunk);
``P`` (vector, positive) pairs; ``L`` widths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from recsys.model.losses.blocks import pair_scores_by_width, scores_by_width
from recsys.model.losses.distillation import cross_entropies, log_total
from recsys.model.losses.sampled_softmax import cross_entropy
from recsys.model.losses.samples import MASKED
from recsys.widths import WidthLadder


def full_softmax(
    user_VU: Float[Tensor, "vectors query"],
    item_SD: Float[Tensor, "items full"],
    row_P: Int[Tensor, " pairs"],
    positive_P: Int[Tensor, " pairs"],
    widths: WidthLadder,
    inverse_temperature: Sequence[float | Tensor],
    *,
    distil: bool = False,
    chunk_size: int = 4096,
) -> tuple[Float[Tensor, " widths"], Float[Tensor, " widths"]]:
    """Return each width's mean cross-entropy to the positives, and to the full width's softmax.

    Args:
        user_VU: ``(vectors, query size)`` user vectors, any scale.
        item_SD: ``(items, full)`` item vectors of the whole catalogue, any scale.
        row_P: ``(pairs,)`` the vector of each pair.
        positive_P: ``(pairs,)`` the item of each pair, as a place in ``item_SD``.
        widths: the trained widths.
        inverse_temperature: what scores are multiplied by, one per width.
        distil: whether to compute the second; zeros otherwise.
        chunk_size: items whose logits exist at once.
    """

    def logits(item_CD: Tensor, first: int) -> Iterator[Tensor]:
        here_P = (positive_P >= first) & (positive_P < first + len(item_CD))
        own = row_P[here_P], positive_P[here_P] - first
        for score_VC, inverse in zip(scores_by_width(user_VU, item_CD, widths), inverse_temperature, strict=True):
            logit_VC = score_VC * inverse
            logit_VC[own] = MASKED
            yield logit_VC

    def sums(item_CD: Tensor, first: int) -> Tensor:
        return torch.stack([logit_VC.logsumexp(dim=1) for logit_VC in logits(item_CD, first)])

    def expectations(item_CD: Tensor, first: int, total_V: Tensor) -> Tensor:
        *narrower, teacher_VC = logits(item_CD, first)
        share_VC = (teacher_VC.detach() - total_V[:, None]).exp()
        return torch.stack([(share_VC * logit_VC).sum(dim=1) for logit_VC in narrower])

    def over_chunks(function: Callable[..., Tensor], *arguments: Tensor) -> list[Tensor]:
        return [
            checkpoint(
                function, item_CD, number * chunk_size, *arguments, use_reentrant=False, preserve_rng_state=False
            )
            for number, item_CD in enumerate(torch.split(item_SD, chunk_size))
        ]

    pairs = pair_scores_by_width(user_VU, item_SD, row_P, positive_P, widths)
    positives = [score_P * inverse for score_P, inverse in zip(pairs, inverse_temperature, strict=True)]
    negatives = torch.stack(over_chunks(sums)).logsumexp(dim=0).unbind()
    own_L = torch.stack([cross_entropy(*one, row_P) for one in zip(positives, negatives, strict=True)])
    if not distil or len(widths) == 1:
        return own_L, torch.zeros_like(own_L)
    total_V = log_total(positives[-1], negatives[-1], row_P).detach()
    expected_LV = torch.stack(over_chunks(expectations, total_V)).sum(dim=0)
    return own_L, cross_entropies(positives, negatives, expected_LV.unbind(), row_P)
