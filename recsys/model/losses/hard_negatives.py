"""The negatives that are hardest under each prefix (level-specific hard negatives, arXiv 2406.07432).

What is near at one width need not be near at another, so every width has a choice of its own. Hard is what is near,
however often it was drawn: weights correct for that afterwards, as they do without a choice.

Shapes: ``P`` (vector, positive) pairs, ``V`` vectors, ``N`` negatives, ``K`` of them; ``L`` widths.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from recsys.model.losses.samples import MASKED, Logits


def hardest(logits: Sequence[Logits], shift_VN: Float[Tensor, "vectors negatives"], num: int) -> list[Logits]:
    """Return each width's logits of the ``num`` negatives nearest to each vector at that width; all, if fewer.

    Args:
        logits: by width.
        shift_VN: ``(vectors, negatives)`` what `recsys.model.losses.sampled_softmax.sampling_shift` gave, and the
            logits hold.
        num: negatives per vector.
    """
    is_masked_VN = shift_VN < MASKED / 2
    chosen = []
    for one in logits:
        nearness_VN = (one.negative_VN.detach() - shift_VN).masked_fill(is_masked_VN, MASKED)
        place_VK = nearness_VN.topk(min(num, nearness_VN.shape[1]), dim=1, sorted=False).indices
        chosen.append(Logits(one.positive_P, one.negative_VN.gather(1, place_VK)))
    return chosen
