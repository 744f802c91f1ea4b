"""Softmax over the whole catalogue, a chunk of items at a time.

Only one chunk's logits exist at once, in the backward pass too: there each chunk's are computed again (checkpointing,
arXiv 1604.06174), and the log-sum-exps of chunks add up to the catalogue's. Nothing is sampled, so nothing is
corrected. For catalogues small enough to encode in every step.

Shapes: ``user_BD`` (batch, full width), ``item_ND`` (items, full width), ``logit_BC`` (batch, items of a chunk);
``L`` widths.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from recsys.model.losses.blocks import cosines_by_width
from recsys.widths import WidthLadder


def full_softmax(
    user_BD: Float[Tensor, "batch full"],
    item_ND: Float[Tensor, "items full"],
    target_B: Int[Tensor, " batch"],
    widths: WidthLadder,
    inverse_temperature: Sequence[float | Tensor],
    *,
    distil: bool = False,
    chunk_size: int = 4096,
) -> tuple[Float[Tensor, " widths"], Float[Tensor, " widths"]]:
    """Return each width's mean cross-entropy to the targets, and to the full width's softmax.

    Args:
        user_BD: ``(batch, full)`` user vectors, any scale.
        item_ND: ``(items, full)`` item vectors of the whole catalogue, any scale.
        target_B: ``(batch,)`` rows of the positives in ``item_ND``.
        widths: the trained widths.
        inverse_temperature: what cosines are multiplied by, one per width.
        distil: whether to compute the second; zeros otherwise.
        chunk_size: items whose logits exist at once.
    """

    def logits(item_CD: Tensor) -> Iterator[Tensor]:
        cosines = cosines_by_width(user_BD, item_CD, widths)
        return (cosine_BC * inverse for cosine_BC, inverse in zip(cosines, inverse_temperature, strict=True))

    def sums(item_CD: Tensor, first: int) -> tuple[Tensor, Tensor]:
        place_B = target_B - first
        here_B = (place_B >= 0) & (place_B < len(item_CD))
        place_B1 = place_B.clamp(0, len(item_CD) - 1)[:, None]
        total_LB, target_LB = [], []
        for logit_BC in logits(item_CD):
            total_LB.append(logit_BC.logsumexp(dim=1))
            target_LB.append(torch.where(here_B, logit_BC.gather(1, place_B1)[:, 0], 0))
        return torch.stack(total_LB), torch.stack(target_LB)

    def expectations(item_CD: Tensor, teacher_total_B: Tensor) -> Tensor:
        *narrower, teacher_BC = logits(item_CD)
        share_BC = (teacher_BC.detach() - teacher_total_B[:, None]).exp()
        return torch.stack([(share_BC * logit_BC).sum(dim=1) for logit_BC in narrower])

    chunks = torch.split(item_ND, chunk_size)
    totals, targets = zip(
        *(
            checkpoint(sums, item_CD, number * chunk_size, use_reentrant=False, preserve_rng_state=False)
            for number, item_CD in enumerate(chunks)
        ),
        strict=True,
    )
    total_LB = torch.stack(totals).logsumexp(dim=0)
    own_L = (total_LB - sum(targets)).mean(dim=1)
    distilled_L = torch.zeros_like(own_L)
    if distil and len(widths) > 1:
        teacher_total_B = total_LB[-1].detach()
        expected_LB = sum(
            checkpoint(expectations, item_CD, teacher_total_B, use_reentrant=False, preserve_rng_state=False)
            for item_CD in chunks
        )
        narrower_L = (total_LB[:-1] - expected_LB).mean(dim=1)
        distilled_L = torch.cat([narrower_L, distilled_L[-1:]])
    return own_L, distilled_L
