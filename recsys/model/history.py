"""Which module encodes histories, if any does: windows are averaged inside the tables' lookup and need none.

Shapes: ``item_TE`` (items of all lists, embedding_dim), ``state_BE`` (batch, embedding_dim).
"""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from recsys.config import ModelConfig
from recsys.model.attention import AttentionPooling
from recsys.model.padding import last_places
from recsys.model.sequence import SequenceEncoder

HistoryEncoder = AttentionPooling | SequenceEncoder


def history_encoder(config: ModelConfig) -> HistoryEncoder | None:
    """Return the module that the model's user tower stands on, with random weights."""
    if config.history == "attention":
        return AttentionPooling(config)
    return SequenceEncoder(config) if config.history == "sequence" else None


def encode_whole(
    encoder: HistoryEncoder,
    item_TE: Float[Tensor, "items dim"],
    length_B: Int[Tensor, " batch"],
    time_T: Int[Tensor, " items"] | None = None,
) -> Float[Tensor, "batch dim"]:
    """Return one vector per list, of all that it holds: of a sequence's states, the last."""
    state_BE: Tensor
    if isinstance(encoder, AttentionPooling):
        state_BE = encoder(item_TE, length_B)
    else:
        state_BE = encoder(item_TE, length_B, time_T)[last_places(length_B)]
    return state_BE
