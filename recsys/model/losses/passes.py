"""What is known of a tile's inner products and of the loss, and what torch operations make of it.

Between the products that make a tile's logits and those that use their gradient, each operation is a pass over the
tile. Compiled ways do the same in fewer (`recsys.model.losses.compiled`, `recsys.model.losses.fused`).

Shapes: ``V`` vectors, ``T`` of them in a tile; ``N`` negatives; ``P`` (vector, positive) pairs; ``L`` widths.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recsys.model.losses.hard_negatives import is_hardest
from recsys.model.losses.negatives import MASKED, Negatives
from recsys.model.losses.samples import Samples
from recsys.widths import WidthLadder


@dataclass(frozen=True)
class Scores:
    """What logits are made of: at width w, ``query_scale * item_scale * (inner product of prefixes) + log_weight``.

    Args:
        query_VU: ``(vectors, query size)`` any scale.
        item_ND: ``(negatives, full)`` any scale.
        query_scale_LV: ``(widths, vectors)`` above 0.
        item_scale_LN: ``(widths, negatives)`` above 0.
    """

    query_VU: Float[Tensor, "vectors query"]
    item_ND: Float[Tensor, "negatives full"]
    query_scale_LV: Float[Tensor, "widths vectors"]
    item_scale_LN: Float[Tensor, "widths negatives"]


def nan_if_any(scores: Scores) -> Tensor:
    """Return 0, or NaN if there is one: instructions that find a maximum pass over NaN, which must not go unseen."""
    return sum((one.sum() for one in vars(scores).values()), scores.query_VU.new_zeros(())) * 0


class Pairs(NamedTuple):
    """What a loss makes of the sums over negatives: the sum over pairs of ``weight * log(exp(floor) + sum)``.

    Args:
        row_P: ``(pairs,)`` the vector of each pair, non-decreasing.
        floor_LP: ``(widths, pairs)`` logits that are in the log beside the negatives; about `MASKED` for none.
        weight_LP: ``(widths, pairs)``.
    """

    row_P: Int[Tensor, " pairs"]
    floor_LP: Float[Tensor, "widths pairs"]
    weight_LP: Float[Tensor, "widths pairs"]

    @classmethod
    def alike(
        cls, samples: Samples, floor_LP: Float[Tensor, "widths pairs"], weight_L: Float[Tensor, " widths"]
    ) -> Pairs:
        """Make pairs of which the loss takes the mean."""
        weight_LP = (weight_L.detach() / samples.pairs.mean)[:, None].expand_as(floor_LP)
        return cls(samples.row_P, floor_LP.detach(), weight_LP)


def joined(*parts: Pairs) -> Pairs:
    """Return the pairs of several losses, which have the same vectors in the same order, as those of one."""
    row_P = parts[0].row_P.repeat_interleave(len(parts))
    return Pairs(row_P, *(torch.stack(values, dim=2).flatten(1) for values in list(zip(*parts, strict=True))[1:]))


class Passes:
    """A pass for each torch operation, on any device.

    Of vectors, tiles fill in log-sum-exps and the gradient with respect to the logs of scales; of negatives they add
    that gradient up.

    Args:
        scores: what logits are made of.
        negatives: their weights, and which do not count.
        pairs: what the loss makes of the sums.
        widths: the trained widths; with tied heads, products come block by block and add up.
        learns: whether gradients are asked for.
    """

    def __init__(
        self, scores: Scores, negatives: Negatives, pairs: Pairs, widths: WidthLadder, *, learns: bool
    ) -> None:
        self.scores, self.negatives, self.pairs, self.learns = scores, negatives, pairs, learns
        self.is_nested = widths.head == "tied"
        self.log_sum_LV, self.row_LV = (torch.zeros_like(scores.query_scale_LV) for _ in range(2))
        self.column_LN = torch.zeros_like(scores.item_scale_LN)

    def run(self, tile: slice, product_LTN: Tensor) -> None:
        """Do a tile, of whose products the loss's gradient with respect to them takes the place."""
        found = [self._terms(tile, width, product_LTN) for width in range(len(product_LTN))]
        if not self.learns:
            return
        for width, (term_TN, slope_T) in reversed(list(enumerate(found))):
            gradient_TN = term_TN.mul_(slope_T[:, None]).mul_(self.scores.item_scale_LN[width])
            together_TN = gradient_TN * product_LTN[width]
            self.row_LV[width, tile] = together_TN.sum(dim=1)
            self.column_LN[width] += together_TN.sum(dim=0)
            wider_TN = product_LTN[width + 1] if self.is_nested and width + 1 < len(found) else 0
            product_LTN[width] = gradient_TN + wider_TN

    def _terms(self, tile: slice, width: int, product_LTN: Tensor) -> tuple[Tensor, Tensor]:
        """Return a width's exponentials, and what multiplies each row of them in the gradient."""
        if self.is_nested and width > 0:
            product_LTN[width] += product_LTN[width - 1]
        scale_T = self.scores.query_scale_LV[width, tile]
        hits = self.negatives.hits(tile)
        near_TN = product_LTN[width] * self.scores.item_scale_LN[width]
        near_TN[hits] = -torch.inf
        logit_TN = torch.addcmul(self.negatives.log_weight_N, near_TN, scale_T[:, None])
        if self.negatives.num_hardest is not None:
            logit_TN.masked_fill_(~is_hardest(near_TN, self.negatives.num_hardest), -torch.inf)
        most_T = torch.full_like(scale_T, MASKED)
        if logit_TN.shape[1] > 0:
            most_T = logit_TN.amax(dim=1).clamp_min(MASKED)
        term_TN = logit_TN.sub_(most_T[:, None]).exp_()
        total_T = term_TN.sum(dim=1)
        log_sum_T = torch.where(most_T > MASKED / 2, most_T + total_T.log(), MASKED)
        self.log_sum_LV[width, tile] = log_sum_T
        first, stop = torch.searchsorted(
            self.pairs.row_P, self.pairs.row_P.new_tensor([tile.start, tile.stop])
        ).tolist()
        row_P = self.pairs.row_P[first:stop] - tile.start
        weight_P = torch.sigmoid(log_sum_T[row_P] - self.pairs.floor_LP[width, first:stop])
        weight_P *= self.pairs.weight_LP[width, first:stop]
        weight_T = torch.zeros_like(scale_T).index_add_(0, row_P, weight_P)
        return term_TN, torch.where(most_T > MASKED / 2, weight_T * scale_T / total_T, 0)
