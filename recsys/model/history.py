"""Which module encodes histories, if any does: windows are averaged inside the tables' lookup and need none."""

from __future__ import annotations

from recsys.config import ModelConfig
from recsys.model.attention import AttentionPooling
from recsys.model.sequence import SequenceEncoder

HistoryEncoder = AttentionPooling | SequenceEncoder


def history_encoder(config: ModelConfig) -> HistoryEncoder | None:
    """Return the module that the model's user tower stands on, with random weights."""
    if config.history == "attention":
        return AttentionPooling(config)
    return SequenceEncoder(config) if config.history == "sequence" else None
