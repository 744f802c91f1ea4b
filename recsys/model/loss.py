"""Sampled softmax at every trained width, for little more than the price of the full width alone.

Sources: the Matryoshka objective, a weighted sum of one loss per prefix, is arXiv 2205.13147. The softmax over a few
negatives instead of the catalogue is corrected by the log of how often each is expected among them (logQ); as
arXiv 2507.09331 points out, the positive is not a sample, so it is neither corrected nor counted among the
negatives.

How all widths come from one product: with ``u = [u1 u2 ...]`` and ``v = [v1 v2 ...]`` cut into column blocks at the
widths, the inner product of two prefixes is ``u1.v1 + u2.v2 + ...`` and their squared norms add up in the same way.
Going block by block with running sums therefore gives every width's cosine after multiplying each pair of columns
exactly once: the work of one full-width product, not of the sum of the widths.

Shapes: ``user_BD`` (batch, full width), ``item_SD`` (samples, full width), ``cosine_BS``, ``logit_BS``; the first B
samples are the positives of the B users, in order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from recsys.errors import ConfigError
from recsys.widths import WidthLadder

_TINY = 1e-12
"""Least squared norm: a zero prefix has cosine 0 with everything instead of NaN."""


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
    user_square_B1 = user_BD.new_zeros(())
    item_square_1S = user_BD.new_zeros(())
    for block in widths.blocks:
        user_Bb, item_Sb = user_BD[:, block], item_SD[:, block]
        dot_BS = dot_BS + user_Bb @ item_Sb.T
        user_square_B1 = user_square_B1 + user_Bb.square().sum(dim=1, keepdim=True)
        item_square_1S = item_square_1S + item_Sb.square().sum(dim=1).unsqueeze(0)
        yield dot_BS * user_square_B1.clamp_min(_TINY).rsqrt() * item_square_1S.clamp_min(_TINY).rsqrt()


class MatryoshkaSoftmax(nn.Module):
    """Weighted sum over widths of the sampled-softmax cross-entropy of each user's positive item.

    Args:
        widths: the trained widths.
        temperature: what cosines are divided by: one for all widths, or one per width.
        weights: of each width's loss: one for all widths, or one per width; the sum is divided by their total.

    Raises:
        ConfigError: the number of temperatures or weights fits neither.
    """

    def __init__(self, widths: WidthLadder, *, temperature: Sequence[float], weights: Sequence[float] = (1.0,)) -> None:
        super().__init__()
        self.widths = widths
        self.temperature = _per_width("temperature", temperature, widths)
        self.weights = _per_width("weights", weights, widths)

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
            the scalar loss, and ``(widths,)`` detached losses, narrowest first.
        """
        shift_BS = sampling_shift(item_S, log_expected_S, batch=len(user_BD))
        positive_B = torch.arange(len(user_BD), device=user_BD.device)
        losses = [
            nn.functional.cross_entropy(torch.add(shift_BS, cosine_BS, alpha=1 / temperature), positive_B)
            for cosine_BS, temperature in zip(
                cosines_by_width(user_BD, item_SD, self.widths), self.temperature, strict=True
            )
        ]
        loss_L = torch.stack(losses)
        weight_L = loss_L.new_tensor(self.weights)
        return (loss_L * weight_L).sum() / weight_L.sum(), loss_L.detach()


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


def _per_width(name: str, given: Sequence[float], widths: WidthLadder) -> tuple[float, ...]:
    if len(given) == 1:
        return (float(given[0]),) * len(widths)
    if len(given) != len(widths):
        raise ConfigError(f"{name}: got {len(given)} values, expected 1 or {len(widths)} (one per width)")
    return tuple(float(value) for value in given)
