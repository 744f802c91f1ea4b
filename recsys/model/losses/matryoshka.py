"""The loss that is trained: a weighted sum over widths of one loss per prefix, and what teaches prefixes beside it.

Source of the sum over prefixes: Matryoshka representation learning, arXiv 2205.13147. With every item as a negative
that is expected once, the sampled softmax is the full one, so the two kinds differ in what the sampler gives alone.

Shapes: ``user_VU`` (vectors, query size), ``user_VD`` (vectors, full width), ``item_SD`` (samples, full width), ``P``
(vector, positive) pairs, ``N`` distinct negatives, ``score_VN``; ``L`` widths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recsys.config import LEAST_TEMPERATURE, LossConfig
from recsys.errors import ConfigError
from recsys.model.losses.bilateral_softmax import bilateral_softmax, negative_pairs
from recsys.model.losses.distillation import distillation, log_total, student_pairs
from recsys.model.losses.energy import energy_penalty, energy_profile, energy_widths
from recsys.model.losses.passes import Pairs, joined
from recsys.model.losses.queue import NegativeQueue
from recsys.model.losses.sampled_softmax import sampled_softmax
from recsys.model.losses.samples import Logits, Samples
from recsys.model.losses.step import Step
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
        ConfigError: the number of temperatures or weights is neither one nor that of the widths, or the vector cannot
            be cut into ``energy_parts`` equal parts.
    """

    def __init__(self, widths: WidthLadder, config: LossConfig) -> None:
        super().__init__()
        self.widths, self.config = widths, config
        self._weights = _per_width("weights", config.weights, widths)
        self._temperature = _per_width("temperature", config.temperature, widths)
        self._energy_widths = energy_widths(widths, num_parts=config.energy_parts)
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
            item_SD: ``(samples, full)`` item vectors, any scale, all of different items, whichever process encoded
                them; for the full softmax these are the whole catalogue.
            samples: which of them meet as positives, and which as negatives. In training mode the negatives then
                enter the queue, where there is one.
            done: share of training that lies behind, 0 to 1.

        Returns:
            the scalar loss, and ``(widths,)`` detached losses of the chosen kind, narrowest first. Where processes
            share a step, the mean over them is that of the whole step, and so is the mean of gradients.
        """
        # Mixed precision is for towers: half a float's digits are too few for sums of thousands of exponentials.
        user_VU, item_SD = (one.float() if one.dtype.itemsize < 4 else one for one in (user_VU, item_SD))
        joined_SD, joined_samples = item_SD, samples
        if self.config.queue_size > 0:
            joined_SD, joined_samples = self.queue.join(item_SD, samples)
            if self.training:
                self.queue.push(item_SD, samples)
        inverse_L = self._inverse_temperature(user_VU)
        loss, own_L = self._balanced(Step.of(user_VU, joined_SD, joined_samples, self.widths, inverse_L))
        if self.config.energy_weight > 0:
            asked = self._energy_widths
            profile = energy_profile(asked, decay=self.config.energy_decay)
            user_VD = user_VU[:, self.widths.query_blocks[-1]]
            # Items are those of all processes already, users are not.
            share = len(user_VD) / samples.vectors.mean
            of_users, of_items = (energy_penalty(vectors, asked, profile) for vectors in (user_VD, item_SD))
            ramp = min(1.0, done / self.config.energy_ramp) if self.config.energy_ramp > 0 else 1.0
            loss = loss + self.config.energy_weight * ramp * (share * of_users + of_items)
        return loss, own_L.detach()

    def _balanced(self, step: Step) -> tuple[Tensor, Tensor]:
        """Return the weighted sum over widths, and each width's own loss."""
        config, weight_L = self.config, self._weight(step.positive_LP)
        hardest = replace(step.negatives, num_hardest=config.num_hard_negatives)
        own, taught = self._pairs(step, weight_L)
        if taught is None or config.num_hard_negatives is None:
            found = teacher = step.log_sums(hardest, own if taught is None else joined(own, taught))
            carrier = found.carrier
        else:
            # A width's own loss is over its hardest negatives, what it is taught over all.
            found, teacher = step.log_sums(hardest, own), step.log_sums(step.negatives, taught)
            carrier = found.carrier + teacher.carrier
        loss_L = own_L = self._own(step, step.logits(found))
        if taught is not None:
            logits = step.logits(teacher)
            expected = step.expected_logits(log_total(logits[-1], step.samples.row_P))
            loss_L = own_L + config.distillation * distillation(logits, expected, step.samples)
        loss = (weight_L * loss_L).sum() + carrier
        return loss + self.log_noise_L.mean() if config.learn_weights else loss, own_L

    def _pairs(self, step: Step, weight_L: Tensor) -> tuple[Pairs, Pairs | None]:
        """Return how the losses depend on sums over negatives: each width's own, and what it is taught."""
        samples, positive_LP = step.samples, step.positive_LP
        if self.config.kind == "bilateral_softmax":
            own = negative_pairs(positive_LP, samples, weight_L * self.config.negative_weight)
        else:
            own = Pairs.alike(samples, positive_LP, weight_L)
        if self.config.distillation == 0:
            return own, None
        weight_L = weight_L * self.config.distillation
        return own, student_pairs(positive_LP, samples, weight_L, num_vectors=len(step.scores.query_VU))

    def _own(self, step: Step, logits: Sequence[Logits]) -> Tensor:
        if self.config.kind != "bilateral_softmax":
            return sampled_softmax(logits, step.samples)
        return bilateral_softmax(
            logits,
            step.samples,
            positive_ratio=self.config.positive_ratio,
            negative_weight=self.config.negative_weight,
        )

    def _weight(self, like: Tensor) -> Tensor:
        """Return what each width's loss is multiplied with."""
        if self.config.learn_weights:
            return (-self.log_noise_L).exp() / len(self.widths)
        weight_L = like.new_tensor(self._weights)
        return weight_L / weight_L.sum()

    def _inverse_temperature(self, like: Tensor) -> Tensor:
        if self.config.learn_temperature:
            return 1 / (LEAST_TEMPERATURE + self.log_excess_L.exp())
        return 1 / like.new_tensor(self._temperature)


def _per_width(name: str, given: Sequence[float], widths: WidthLadder) -> tuple[float, ...]:
    if len(given) == 1:
        return (float(given[0]),) * len(widths)
    if len(given) != len(widths):
        raise ConfigError(f"{name}: got {len(given)} values, expected 1 or {len(widths)} (one per width)")
    return tuple(float(value) for value in given)
