"""The loss that is trained: a weighted sum over widths of one loss per prefix, and what teaches prefixes beside it.

Sources: the sum over prefixes is Matryoshka representation learning, arXiv 2205.13147. With tied heads all widths come
from one product (`recsys.model.losses.blocks`), so they cost little more than the full width alone.

Shapes: ``user_VU`` (vectors, query size), ``user_VD`` (vectors, full width), ``item_SD`` (samples, full width), ``P``
(vector, positive) pairs, ``N`` distinct negatives, ``score_VN``; ``L`` widths.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recsys.config import LEAST_TEMPERATURE, LossConfig
from recsys.errors import ConfigError
from recsys.model.losses.bilateral_softmax import bilateral_softmax
from recsys.model.losses.blocks import pair_scores_by_width, scores_by_width
from recsys.model.losses.distillation import distillation
from recsys.model.losses.energy import energy_penalty, energy_profile
from recsys.model.losses.full_softmax import full_softmax
from recsys.model.losses.hard_negatives import hardest
from recsys.model.losses.queue import NegativeQueue
from recsys.model.losses.sampled_softmax import sampled_softmax, sampling_shift
from recsys.model.losses.samples import Logits, Samples
from recsys.widths import WidthLadder


class MatryoshkaLoss(nn.Module):
    """Weighted sum over widths of the loss that was chosen, with distillation and an energy profile where asked for.

    With ``c_w`` the chosen loss at width w, ``d_w`` the cross-entropy to the full width's softmax (0 at the full
    width), ``p_w`` the energy penalty on full-width vectors and ``a_w`` the weights, the loss is
    ``sum(a_w * (c_w + distillation * d_w)) / sum(a_w) + energy_weight * sum(p_w)``.

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
        self, user_VU: Float[Tensor, "vectors query"], item_SD: Float[Tensor, "samples full"], samples: Samples
    ) -> tuple[Float[Tensor, ""], Float[Tensor, " widths"]]:
        """Return the loss and, for watching, each width's own loss.

        Args:
            user_VU: ``(vectors, query size)`` user vectors, any scale.
            item_SD: ``(samples, full)`` item vectors, any scale, all of different items; for the full softmax these
                are the whole catalogue.
            samples: which of them meet as positives, and which as negatives. In training mode the negatives then
                enter the queue, where there is one.

        Returns:
            the scalar loss, and ``(widths,)`` detached losses of the chosen kind, narrowest first.
        """
        own_L, distilled_L = self._by_width(user_VU, item_SD, samples)
        loss_L = own_L + self.config.distillation * distilled_L
        loss = self._balance(loss_L)
        if self.config.energy_weight > 0:
            profile = energy_profile(self.widths, alpha=self.config.energy_alpha)
            user_VD = user_VU[:, self.widths.query_blocks[-1]]
            penalties = [energy_penalty(vector_ND, self.widths, profile) for vector_ND in (user_VD, item_SD)]
            loss = loss + self.config.energy_weight * sum(penalties)
        return loss, own_L.detach()

    def _balance(self, loss_L: Tensor) -> Tensor:
        if self.config.learn_weights:
            return (loss_L * (-self.log_noise_L).exp() + self.log_noise_L).mean()
        weight_L = loss_L.new_tensor(self._weights)
        return (loss_L * weight_L).sum() / weight_L.sum()

    def _by_width(self, user_VU: Tensor, item_SD: Tensor, samples: Samples) -> tuple[Tensor, Tensor]:
        """Return each width's own loss, and its cross-entropy to the full width's softmax where that is asked for."""
        distil = self.config.distillation > 0
        if self.config.kind == "full_softmax":
            pairs = (samples.row_P, samples.positive_P)
            return full_softmax(user_VU, item_SD, *pairs, self.widths, self._inverse_temperature(), distil=distil)
        if self.config.queue_size > 0:
            now = item_SD, samples
            item_SD, samples = self.queue.join(item_SD, samples)
            if self.training:
                self.queue.push(*now)
        shift_VN = sampling_shift(samples)
        logits = self._logits(user_VU, item_SD, samples, shift_VN)
        num_hard = self.config.num_hard_negatives
        chosen = logits if num_hard is None else hardest(logits, shift_VN, num_hard)
        own_L = (
            sampled_softmax(chosen, samples.row_P)
            if self.config.kind == "sampled_softmax"
            else bilateral_softmax(chosen, samples, positive_ratio=self.config.positive_ratio)
        )
        return own_L, distillation(logits, samples.row_P) if distil else torch.zeros_like(own_L)

    def _inverse_temperature(self) -> Sequence[float | Tensor]:
        if self.config.learn_temperature:
            return (1 / (LEAST_TEMPERATURE + self.log_excess_L.exp())).unbind()
        return [1 / temperature for temperature in self._temperature]

    def _logits(self, user_VU: Tensor, item_SD: Tensor, samples: Samples, shift_VN: Tensor) -> list[Logits]:
        """Return each width's logits, narrowest first."""
        pairs = pair_scores_by_width(user_VU, item_SD, samples.row_P, samples.positive_P, self.widths)
        scores = scores_by_width(user_VU, item_SD.index_select(0, samples.negative_N), self.widths)
        logits = []
        for positive_P, score_VN, inverse in zip(pairs, scores, self._inverse_temperature(), strict=True):
            if isinstance(inverse, Tensor):
                negative_VN = shift_VN + score_VN * inverse
            else:
                # A plain number multiplies and adds in one go, without another matrix in between.
                negative_VN = torch.add(shift_VN, score_VN, alpha=inverse)
            logits.append(Logits(positive_P * inverse, negative_VN))
        return logits


def _per_width(name: str, given: Sequence[float], widths: WidthLadder) -> tuple[float, ...]:
    if len(given) == 1:
        return (float(given[0]),) * len(widths)
    if len(given) != len(widths):
        raise ConfigError(f"{name}: got {len(given)} values, expected 1 or {len(widths)} (one per width)")
    return tuple(float(value) for value in given)
