"""What every loss of a step is made of: scores at all widths, of pairs and of vectors with negatives.

Shapes: ``user_VU`` (vectors, query size), ``item_SD`` (samples, full width), ``P`` (vector, positive) pairs, ``N``
distinct negatives; ``L`` widths.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from recsys.model.losses.averages import average
from recsys.model.losses.blocks import (
    item_scales,
    items_by_width,
    products_by_width,
    queries_by_width,
    query_scales,
)
from recsys.model.losses.negatives import Negatives
from recsys.model.losses.partition import LogSums, log_sums
from recsys.model.losses.passes import Pairs, Scores
from recsys.model.losses.samples import Logits, Samples, accidental_hits
from recsys.widths import WidthLadder


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step's vectors, as their losses see them.

    Args:
        widths: the trained widths.
        samples: which vectors meet.
        scores: of vectors with negatives.
        negatives: their weights, and which do not count.
        positive_LP: ``(widths, pairs)`` logits of the positives.
    """

    widths: WidthLadder
    samples: Samples
    scores: Scores
    negatives: Negatives
    positive_LP: Float[Tensor, "widths pairs"]

    @classmethod
    def of(
        cls,
        user_VU: Float[Tensor, "vectors query"],
        item_SD: Float[Tensor, "samples full"],
        samples: Samples,
        widths: WidthLadder,
        inverse_temperature_L: Float[Tensor, " widths"],
    ) -> Step:
        """Score the positives, and describe the scores of negatives."""
        query_scale_LV = query_scales(user_VU, widths) * inverse_temperature_L[:, None]
        item_scale_LS = item_scales(item_SD, widths)
        # Selecting rows has a quicker gradient than indexing by them: it adds whole rows up.
        user_PU, positive_PD = user_VU.index_select(0, samples.row_P), item_SD.index_select(0, samples.positive_P)
        scale_LP = query_scale_LV.index_select(1, samples.row_P) * item_scale_LS.index_select(1, samples.positive_P)
        negative_ND = item_SD.index_select(0, samples.negative_N)
        negative_scale_LN = item_scale_LS.index_select(1, samples.negative_N)
        return cls(
            widths=widths,
            samples=samples,
            scores=Scores(user_VU, negative_ND, query_scale_LV, negative_scale_LN),
            negatives=Negatives(samples.log_weight_N.to(item_SD.dtype), *accidental_hits(samples)),
            positive_LP=products_by_width(user_PU, positive_PD, widths) * scale_LP,
        )

    def log_sums(self, negatives: Negatives, pairs: Pairs) -> LogSums:
        """Return the sums over negatives, of which the loss makes what ``pairs`` say."""
        return log_sums(self.scores, negatives, self.widths, pairs)

    def logits(self, found: LogSums) -> list[Logits]:
        """Return what losses read, by width."""
        return [Logits(*of_width) for of_width in zip(self.positive_LP, found.log_sum_LV, strict=True)]

    def expected_logits(self, total_V: Float[Tensor, " vectors"]) -> list[Float[Tensor, " vectors"]]:
        """Return, by width but the last, the sum over negatives of the full width's share times the logit.

        Logits are linear in the items, so that is a query times the average item, plus the average weight.

        Args:
            total_V: ``(vectors,)`` log of the full width's denominator.
        """
        log_weight_N = self.negatives.log_weight_N
        *queries, teacher_VD = queries_by_width(self.scores.query_VU, self.scores.query_scale_LV, self.widths)
        *items, known_ND = items_by_width(self.scores.item_ND, self.scores.item_scale_LN, self.widths)
        value_NC = torch.cat([*items, log_weight_N[:, None]], dim=1)
        average_VC = average(teacher_VD, known_ND, self.negatives, total_V, value_NC)
        *averages, weight_V1 = torch.split(average_VC, [*(item_Nw.shape[1] for item_Nw in items), 1], dim=1)
        pairs = zip(queries, averages, strict=True)
        return [(query_Vw * average_Vw).sum(dim=1) + weight_V1[:, 0] for query_Vw, average_Vw in pairs]
