"""The loss alone, for towers of one's own: plain tensors in, no dataset, configuration or TorchRec needed.

Shapes: ``user_BD`` and ``item_BD`` (batch, full width), ``negative_ND`` (negatives, full width).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from recsys.config import LossConfig
from recsys.data.parts import Parts
from recsys.errors import ConfigError
from recsys.model.losses.matryoshka import MatryoshkaLoss
from recsys.model.losses.samples import Samples
from recsys.widths import Norm, WidthLadder


class MatryoshkaSoftmax(nn.Module):
    """Softmax cross-entropy to each user's item among negatives, at every width for about the price of the widest.

    It is the loss of `recsys train` with one positive per user (sums over prefixes: arXiv 2205.13147; sampled softmax
    with logQ). Scores are cosines of prefixes, over the temperature. Nothing of size batch x negatives is kept for the
    backward pass, which has no second derivative. Any two towers do::

        towers = nn.ModuleDict({"user": nn.EmbeddingBag(10_000, 256), "item": nn.Embedding(10_000, 256)})
        softmax = MatryoshkaSoftmax([16, 64, 256], temperature=0.1)

        user_BD, item_BD = towers["user"](history_BH), towers["item"](item_B)
        loss, loss_L = softmax(user_BD, item_BD, towers["item"](negative_N), item_B=item_B, negative_N=negative_N)
        loss.backward()  # loss_L: each width's own, to watch

    Args:
        widths: prefix lengths to train, strictly increasing; the last is the vectors' full width.
        temperature: of the scores, one for all widths or one per width.
        weights: of the widths in the sum, which is divided by theirs; one for all widths or one per width.
        learn_temperature: learn a temperature per width from the given ones on. They are parameters of this module.
        norm: ``prefix``, or ``full`` to scale only full vectors to unit length (see `recsys.widths`).

    Raises:
        WidthError: the widths are not strictly increasing positive integers.
        ConfigError: a temperature or weight is out of range, or their number is neither one nor that of the widths.
    """

    def __init__(
        self,
        widths: Sequence[int],
        *,
        temperature: float | Sequence[float] = 0.07,
        weights: float | Sequence[float] = 1.0,
        learn_temperature: bool = False,
        norm: Norm = "prefix",
    ) -> None:
        super().__init__()
        config = LossConfig(
            temperature=_tuple(temperature), weights=_tuple(weights), learn_temperature=learn_temperature
        )
        self.loss = MatryoshkaLoss(WidthLadder(widths, norm=norm), config)

    def forward(
        self,
        user_BD: Float[Tensor, "batch full"],
        item_BD: Float[Tensor, "batch full"],
        negative_ND: Float[Tensor, "negatives full"] | None = None,
        *,
        item_B: Int[Tensor, " batch"] | None = None,
        negative_N: Int[Tensor, " negatives"] | None = None,
        log_expected_N: Float[Tensor, " negatives"] | None = None,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, " widths"]]:
        """Return the loss and, detached, each width's own.

        Args:
            user_BD: ``(batch, full)`` any scale.
            item_BD: ``(batch, full)`` any scale: each user's positive.
            negative_ND: ``(negatives, full)`` shared by all users; None for the batch's other positives.
            item_B: ids of the positives. A negative of the same id is none to its user.
            negative_N: ids of the negatives; to be given with ``item_B``, or not at all.
            log_expected_N: log of how often each is expected among the negatives (logQ), subtracted from its logits;
                None where all are expected alike.

        Raises:
            ConfigError: vectors are not of the full width; only one of the two kinds of ids is given; ids of negatives
                without negatives.
        """
        given = {"user_BD": user_BD, "item_BD": item_BD, "negative_ND": negative_ND}
        for name, vectors in given.items():
            if vectors is not None and vectors.shape[1:] != (self.loss.widths.full,):
                expected = f"(rows, {self.loss.widths.full}), of the full width"
                raise ConfigError(f"{name}: got shape {tuple(vectors.shape)}, expected {expected}")
        if negative_ND is None:
            if negative_N is not None:
                raise ConfigError("negative_N: got ids without negative_ND, expected none: negatives are the positives")
            negative_ND, negative_N = item_BD, item_B
            if item_B is None:
                item_B = negative_N = torch.arange(len(item_BD), device=item_BD.device)
        elif (item_B is None) != (negative_N is None):
            raise ConfigError("ids: got only one of item_B and negative_N, expected both or none")
        samples = _samples(item_BD, negative_ND, item_B, negative_N, log_expected_N)
        loss, loss_L = self.loss(user_BD, torch.cat([item_BD, negative_ND]), samples)
        return loss, loss_L


def _samples(
    item_BD: Tensor,
    negative_ND: Tensor,
    item_B: Tensor | None,
    negative_N: Tensor | None,
    log_expected_N: Tensor | None,
) -> Samples:
    """Say that each user has one positive, and all have all negatives but those of their positive's id."""
    batch, num = len(item_BD), len(negative_ND)
    place_S = torch.arange(batch + num, device=item_BD.device)
    if log_expected_N is None:
        log_expected_N = item_BD.new_zeros(num)
    return Samples(
        row_P=place_S[:batch],
        positive_P=place_S[:batch],
        negative_N=place_S[batch:],
        count_N=torch.ones_like(place_S[batch:]),
        log_weight_N=-log_expected_N.detach(),
        user_V=place_S[:batch],
        item_S=place_S if item_B is None or negative_N is None else torch.cat([item_B, negative_N]),
        pairs=Parts.whole(batch),
        vectors=Parts.whole(batch),
        encoded=Parts.whole(batch + num),
    )


def _tuple(given: float | Sequence[float]) -> tuple[float, ...]:
    return tuple(given) if isinstance(given, Sequence) else (given,)
