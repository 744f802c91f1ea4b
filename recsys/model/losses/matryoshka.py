"""The loss that is trained: a weighted sum over widths of one loss per prefix, and what teaches prefixes beside it.

Source of the sum over prefixes: Matryoshka representation learning, arXiv 2205.13147. With every item as a negative
that is expected once, the sampled softmax is the full one, so the two kinds differ in what the sampler gives alone.

Shapes: ``user_VU`` (vectors, query size), ``user_VD`` (vectors, full width), ``item_SD`` (samples, full width), ``P``
(vector, positive) pairs, ``N`` distinct negatives, ``score_VN``; ``L`` widths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recsys.config import LEAST_TEMPERATURE, LossConfig
from recsys.errors import ConfigError
from recsys.model.losses.bilateral_softmax import bilateral_softmax
from recsys.model.losses.blocks import items_by_width, queries_by_width
from recsys.model.losses.distillation import distillation, log_total
from recsys.model.losses.energy import energy_penalty, energy_profile
from recsys.model.losses.partition import Negatives, average, log_sum
from recsys.model.losses.queue import NegativeQueue
from recsys.model.losses.sampled_softmax import sampled_softmax
from recsys.model.losses.samples import Logits, Samples, accidental_hits
from recsys.widths import WidthLadder


class MatryoshkaLoss(nn.Module):
    """Weighted sum over widths of the loss that was chosen, with distillation and an energy profile where asked for.

    With ``c_w`` the chosen loss at width w, ``d_w`` the cross-entropy to the full width's softmax (0 at the full
    width), ``p_w`` the energy penalty on full-width vectors and ``a_w`` the weights, the loss is
    ``sum(a_w * (c_w + distillation * d_w)) / sum(a_w) + energy_weight * ramp * sum(p_w)``, where ``ramp`` grows from 0
    to 1 over the first ``energy_ramp`` of training.

    Learned temperatures are ``LEAST_TEMPERATURE + exp(parameter)``: no step can bring one to zero or below. Learned
    weights are ``a_w = exp(-s_w)``, and the sum is then the mean over widths of ``a_w * (...) + s_w``: without the
    second term, no weight at all would be best (homoscedastic uncertainty, arXiv 1705.07115).

    Args:
        widths: the trained widths.
        config: kind of loss, temperatures, weights, distillation, energy profile.

    Raises:
        ConfigError: the number of temperatures or weights is neither one nor that of the widths.
    """

    def __init__(self, widths: WidthLadder, config: LossConfig) -> None:
        super().__init__()
        self.widths, self.config = widths, config
        self._weights = _per_width("weights", config.weights, widths)
        self._temperature = _per_width("temperature", config.temperature, widths)
        if config.learn_temperature:
            self.log_excess_L = nn.Parameter((torch.tensor(self._temperature) - LEAST_TEMPERATURE).log())
        if config.learn_weights:
            self.log_noise_L = nn.Parameter(-torch.tensor(self._weights).log())
        if config.queue_size > 0:
            self.queue = NegativeQueue(config.queue_size, widths.full)

    @property
    def temperature(self) -> tuple[float, ...]:
        """Each width's temperature as it is now, narrowest first."""
        if not self.config.learn_temperature:
            return self._temperature
        return tuple((LEAST_TEMPERATURE + self.log_excess_L.detach().exp()).tolist())

    @property
    def weights(self) -> tuple[float, ...]:
        """Each width's weight as it is now, narrowest first."""
        if not self.config.learn_weights:
            return self._weights
        return tuple((-self.log_noise_L.detach()).exp().tolist())

    def forward(
        self,
        user_VU: Float[Tensor, "vectors query"],
        item_SD: Float[Tensor, "samples full"],
        samples: Samples,
        *,
        done: float = 1.0,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, " widths"]]:
        """Return the loss and, for watching, each width's own loss.

        Args:
            user_VU: ``(vectors, query size)`` user vectors, any scale.
            item_SD: ``(samples, full)`` item vectors, any scale, all of different items; for the full softmax these
                are the whole catalogue.
            samples: which of them meet as positives, and which as negatives. In training mode the negatives then
                enter the queue, where there is one.
            done: share of training that lies behind, 0 to 1.

        Returns:
            the scalar loss, and ``(widths,)`` detached losses of the chosen kind, narrowest first.
        """
        own_L, distilled_L = self._by_width(user_VU, item_SD, samples)
        loss_L = own_L + self.config.distillation * distilled_L
        loss = self._balance(loss_L)
        if self.config.energy_weight > 0:
            profile = energy_profile(self.widths, decay=self.config.energy_decay)
            user_VD = user_VU[:, self.widths.query_blocks[-1]]
            penalties = [energy_penalty(vector_ND, self.widths, profile) for vector_ND in (user_VD, item_SD)]
            ramp = min(1.0, done / self.config.energy_ramp) if self.config.energy_ramp > 0 else 1.0
            loss = loss + self.config.energy_weight * ramp * sum(penalties)
        return loss, own_L.detach()

    def _balance(self, loss_L: Tensor) -> Tensor:
        if self.config.learn_weights:
            return (loss_L * (-self.log_noise_L).exp() + self.log_noise_L).mean()
        weight_L = loss_L.new_tensor(self._weights)
        return (loss_L * weight_L).sum() / weight_L.sum()

    def _by_width(self, user_VU: Tensor, item_SD: Tensor, samples: Samples) -> tuple[Tensor, Tensor]:
        """Return each width's own loss, and its cross-entropy to the full width's softmax where that is asked for."""
        if self.config.queue_size > 0:
            now = item_SD, samples
            item_SD, samples = self.queue.join(item_SD, samples)
            if self.training:
                self.queue.push(*now)
        vectors = self._vectors(user_VU, item_SD, samples)
        everything = Negatives(samples.log_weight_N.to(item_SD.dtype), *accidental_hits(samples))
        negatives = replace(everything, num_hardest=self.config.num_hard_negatives)
        logits = [one.logits(samples.row_P, negatives) for one in vectors]
        own_L = (
            bilateral_softmax(
                logits,
                samples,
                positive_ratio=self.config.positive_ratio,
                negative_weight=self.config.negative_weight,
            )
            if self.config.kind == "bilateral_softmax"
            else sampled_softmax(logits, samples.row_P)
        )
        if self.config.distillation == 0:
            return own_L, torch.zeros_like(own_L)
        if negatives.num_hardest is not None:
            logits = [one.logits(samples.row_P, everything) for one in vectors]
        total_V = log_total(logits[-1], samples.row_P)
        return own_L, distillation(logits, _expected_logits(vectors, everything, total_V), samples.row_P)

    def _vectors(self, user_VU: Tensor, item_SD: Tensor, samples: Samples) -> list[_Vectors]:
        positive_PD = item_SD.index_select(0, samples.positive_P)
        negative_ND = item_SD.index_select(0, samples.negative_N)
        by_width = zip(
            queries_by_width(user_VU, self.widths),
            items_by_width(positive_PD, self.widths),
            items_by_width(negative_ND, self.widths),
            self._inverse_temperature(),
            strict=True,
        )
        return [_Vectors(query_Vw * inverse, *items) for query_Vw, *items, inverse in by_width]

    def _inverse_temperature(self) -> Sequence[float | Tensor]:
        if self.config.learn_temperature:
            return (1 / (LEAST_TEMPERATURE + self.log_excess_L.exp())).unbind()
        return [1 / temperature for temperature in self._temperature]


class _Vectors(NamedTuple):
    """One width's vectors; their products are logits."""

    query_Vw: Tensor
    positive_Pw: Tensor
    negative_Nw: Tensor

    def logits(self, row_P: Tensor, negatives: Negatives) -> Logits:
        # Selecting rows has a quicker gradient than indexing by them: it adds whole rows up.
        positive_P = (self.query_Vw.index_select(0, row_P) * self.positive_Pw).sum(dim=1)
        return Logits(positive_P, log_sum(self.query_Vw, self.negative_Nw, negatives))


def _expected_logits(vectors: Sequence[_Vectors], negatives: Negatives, total_V: Tensor) -> list[Tensor]:
    """Return, by width but the last, the sum over negatives of the full width's share times the logit.

    Logits are linear in the items, so that is a query times the average item, plus the average weight.
    """
    *narrower, teacher = vectors
    items = [one.negative_Nw for one in narrower]
    average_VC = average(
        teacher.query_Vw,
        teacher.negative_Nw,
        negatives,
        total_V,
        torch.cat([*items, negatives.log_weight_N[:, None]], dim=1),
    )
    *averages, weight_V1 = torch.split(average_VC, [*(item_Nw.shape[1] for item_Nw in items), 1], dim=1)
    pairs = zip(narrower, averages, strict=True)
    return [(one.query_Vw * average_Vw).sum(dim=1) + weight_V1[:, 0] for one, average_Vw in pairs]


def _per_width(name: str, given: Sequence[float], widths: WidthLadder) -> tuple[float, ...]:
    if len(given) == 1:
        return (float(given[0]),) * len(widths)
    if len(given) != len(widths):
        raise ConfigError(f"{name}: got {len(given)} values, expected 1 or {len(widths)} (one per width)")
    return tuple(float(value) for value in given)
