"""Sampled softmax at every trained width, for little more than the price of the full width alone.

Sources: the Matryoshka objective, a weighted sum of one loss per prefix, is arXiv 2205.13147. The softmax over a few
negatives instead of the catalogue is corrected by the log of how often each is expected among them (logQ); as
arXiv 2507.09331 points out, the positive is not a sample, so it is neither corrected nor counted among the
negatives.

How all widths come from one product: with ``u = [u1 u2 ...]`` and ``v = [v1 v2 ...]`` cut into column blocks at the
widths, the inner product of two prefixes is ``u1.v1 + u2.v2 + ...`` and their squared norms add up in the same way.
Going block by block with running sums therefore gives every width's cosine after multiplying each pair of columns
exactly once: the work of one full-width product, not of the sum of the widths.

Two additions teach a prefix to predict the full width's ranking, so that a short list found with it can be trusted:
distillation (arXiv 1503.02531), in which the full width's softmax is the teacher of every narrower one's, and an energy
profile, a soft lower bound on the share of the squared norm that each prefix holds. What the tail does not hold, it
cannot change: ``|u.v - (prefix of u).(prefix of v)| <= |tail of u| |tail of v|``.

Shapes: ``user_BD`` (batch, full width), ``item_SD`` (samples, full width), ``cosine_BS``, ``logit_BS``; ``N`` vectors
of either side; ``L`` widths; the first B samples are the positives of the B users, in order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from recsys.config import LEAST_TEMPERATURE, LossConfig
from recsys.errors import ConfigError
from recsys.widths import WidthLadder

_TINY = 1e-12
"""Least squared norm: a zero prefix has cosine 0 with everything instead of NaN."""


def squares_by_width(vector_ND: Float[Tensor, "rows full"], widths: WidthLadder) -> Iterator[Float[Tensor, "rows 1"]]:
    """Yield the squared norm of every vector's prefix at each width, narrowest first, from running sums over blocks."""
    square_N1 = vector_ND.new_zeros(())
    for block in widths.blocks:
        square_N1 = square_N1 + vector_ND[:, block].square().sum(dim=1, keepdim=True)
        yield square_N1


def cosines_by_width(
    user_BD: Float[Tensor, "batch full"], item_SD: Float[Tensor, "samples full"], widths: WidthLadder
) -> Iterator[Float[Tensor, "batch samples"]]:
    """Yield the cosine of every pair at each width, narrowest first, from running sums over column blocks.

    Args:
        user_BD: ``(batch, full)``, any scale.
        item_SD: ``(samples, full)``, any scale.
        widths: the trained widths; ``full`` is the last.
    """
    dot_BS = user_BD.new_zeros(())
    squares = zip(squares_by_width(user_BD, widths), squares_by_width(item_SD, widths), strict=True)
    for block, (user_square_B1, item_square_S1) in zip(widths.blocks, squares, strict=True):
        dot_BS = dot_BS + user_BD[:, block] @ item_SD[:, block].T
        yield dot_BS * user_square_B1.clamp_min(_TINY).rsqrt() * item_square_S1.T.clamp_min(_TINY).rsqrt()


class MatryoshkaSoftmax(nn.Module):
    """Weighted sum over widths of the sampled-softmax cross-entropy of each user's positive item, and what is added.

    With ``c_w`` the cross-entropy to the positive at width w, ``d_w`` that to the full width's softmax (0 at the full
    width), ``p_w`` the energy penalty and ``a_w`` the weights, the loss is
    ``sum(a_w * (c_w + distillation * d_w)) / sum(a_w) + energy_weight * sum(p_w)``.

    Learned temperatures are ``LEAST_TEMPERATURE + exp(parameter)``: no step can bring one to zero or below.

    Args:
        widths: the trained widths.
        config: temperatures, weights, distillation, energy profile.

    Raises:
        ConfigError: the number of temperatures or weights is neither one nor that of the widths.
    """

    def __init__(self, widths: WidthLadder, config: LossConfig) -> None:
        super().__init__()
        self.widths, self.config = widths, config
        self.weights = _per_width("weights", config.weights, widths)
        self._temperature = _per_width("temperature", config.temperature, widths)
        if config.learn_temperature:
            self.log_excess_L = nn.Parameter((torch.tensor(self._temperature) - LEAST_TEMPERATURE).log())

    @property
    def temperature(self) -> tuple[float, ...]:
        """Each width's temperature as it is now, narrowest first."""
        if not self.config.learn_temperature:
            return self._temperature
        return tuple((LEAST_TEMPERATURE + self.log_excess_L.detach().exp()).tolist())

    def forward(
        self,
        user_BD: Float[Tensor, "batch full"],
        item_SD: Float[Tensor, "samples full"],
        item_S: Int[Tensor, " samples"],
        log_expected_S: Float[Tensor, " samples"],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, " widths"]]:
        """Return the loss and, for watching, each width's own loss.

        Args:
            user_BD: ``(batch, full)`` user vectors, any scale.
            item_SD: ``(samples, full)`` item vectors, any scale: the batch's positives first, then further negatives.
            item_S: ``(samples,)`` item rows, to find negatives that are the user's own positive again.
            log_expected_S: ``(samples,)`` log of how often each item is expected among the samples.

        Returns:
            the scalar loss, and ``(widths,)`` detached cross-entropies to the positives, narrowest first.
        """
        shift_BS = sampling_shift(item_S, log_expected_S, batch=len(user_BD))
        positive_B = torch.arange(len(user_BD), device=user_BD.device)
        cosines = cosines_by_width(user_BD, item_SD, self.widths)
        if self.config.learn_temperature:
            inverse_L = 1 / (LEAST_TEMPERATURE + self.log_excess_L.exp())
            logits = [shift_BS + cosine_BS * inverse for cosine_BS, inverse in zip(cosines, inverse_L, strict=True)]
        else:
            fixed = zip(cosines, self._temperature, strict=True)
            logits = [torch.add(shift_BS, cosine_BS, alpha=1 / temperature) for cosine_BS, temperature in fixed]
        own_L = torch.stack([nn.functional.cross_entropy(logit_BS, positive_B) for logit_BS in logits])
        loss_L = own_L
        if self.config.distillation > 0:
            loss_L = own_L + self.config.distillation * distillation(logits)
        weight_L = loss_L.new_tensor(self.weights)
        loss = (loss_L * weight_L).sum() / weight_L.sum()
        if self.config.energy_weight > 0:
            profile = energy_profile(self.widths, alpha=self.config.energy_alpha)
            penalties = [energy_penalty(vector_ND, self.widths, profile) for vector_ND in (user_BD, item_SD)]
            loss = loss + self.config.energy_weight * sum(penalties)
        return loss, own_L.detach()


def sampling_shift(
    item_S: Int[Tensor, " samples"], log_expected_S: Float[Tensor, " samples"], *, batch: int
) -> Float[Tensor, "batch samples"]:
    """Return what is added to every width's logits: -logQ for negatives, -inf for accidental hits, 0 for the positive.

    A negative that is the user's positive item again (another example's positive, or drawn by chance) would be
    pushed away and pulled in at once; with -inf it has neither probability nor gradient.
    """
    hit_BS: Bool[Tensor, "batch samples"] = item_S[:batch, None] == item_S[None, :]
    shift_BS = torch.where(hit_BS, -torch.inf, -log_expected_S[None, :])
    shift_BS.fill_diagonal_(0.0)
    return shift_BS


def distillation(logits: Sequence[Float[Tensor, "batch samples"]]) -> Float[Tensor, " widths"]:
    """Return the mean cross-entropy of each width's softmax to that of the last, which gets no gradient from it.

    Args:
        logits: by width, narrowest first; -inf, in the same places at all, for samples that do not count.

    Returns:
        ``(widths,)``, the last one 0: the teacher learns from the positives alone.
    """
    teacher_BS = logits[-1].detach().softmax(dim=1)
    # A sample without probability adds nothing, but 0 * -inf would be NaN.
    left_out_BS = torch.isneginf(logits[-1].detach())
    cross_entropies = [
        -(teacher_BS * logit_BS.log_softmax(dim=1).masked_fill(left_out_BS, 0)).sum(dim=1).mean()
        for logit_BS in logits[:-1]
    ]
    return torch.stack([*cross_entropies, teacher_BS.new_zeros(())])


def energy_profile(widths: WidthLadder, *, alpha: float) -> tuple[float, ...]:
    """Return the least share of the squared norm that each width's prefix should hold: ``(w / full)**alpha``."""
    return tuple((width / widths.full) ** alpha for width in widths)


def energy_penalty(
    vector_ND: Float[Tensor, "rows full"], widths: WidthLadder, profile: Sequence[float]
) -> Float[Tensor, ""]:
    """Return the mean over vectors of the sum over widths of ``relu(profile - share)**2``; 0 where the profile is met.

    Args:
        vector_ND: ``(rows, full)``, any scale.
        widths: the trained widths.
        profile: the least share at each width, narrowest first; the full width's share is always 1.
    """
    square_NL = torch.cat(list(squares_by_width(vector_ND, widths)), dim=1)
    share_NL = square_NL / square_NL[:, -1:].clamp_min(_TINY)
    # The full width is left out: its share is 1 but for rounding, and 0 only of a zero vector.
    missing_NL = (share_NL.new_tensor(profile) - share_NL)[:, :-1].relu()
    return missing_NL.square().sum(dim=1).mean()


def _per_width(name: str, given: Sequence[float], widths: WidthLadder) -> tuple[float, ...]:
    if len(given) == 1:
        return (float(given[0]),) * len(widths)
    if len(given) != len(widths):
        raise ConfigError(f"{name}: got {len(given)} values, expected 1 or {len(widths)} (one per width)")
    return tuple(float(value) for value in given)
