"""Windows of events for an encoder that predicts at every position, and batches of windows of like length.

A window covers up to ``length`` of a user's events as targets, each after the one before it, so that its input is the
targets shifted by one. A user's windows meet without overlap: every event is a target once. They are laid from the
user's latest event backwards, because that end is what the trained encoder reads; what is left over is a short window
at the beginning, of which every history begins as it did when the user was new.

Shapes: ``U`` users, ``W`` windows.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64

_MIXING = 0.25
"""Octaves of length within which windows are shuffled: at most 16% of a batch is padding."""


def num_windows(
    first_U: Int64[np.ndarray, " users"], stop_U: Int64[np.ndarray, " users"], *, length: int
) -> Int64[np.ndarray, " users"]:
    """Return how many windows ranges of events are cut into, of up to ``length`` events each."""
    num_U: Int64[np.ndarray, " users"] = -(-(stop_U - first_U) // length)
    return num_U


def window_at(
    first_W: Int64[np.ndarray, " windows"],
    stop_W: Int64[np.ndarray, " windows"],
    nth_W: Int64[np.ndarray, " windows"],
    *,
    length: int,
) -> tuple[Int64[np.ndarray, " windows"], Int64[np.ndarray, " windows"]]:
    """Return windows' first events and their stops.

    Args:
        first_W: ``(windows,)`` where each window's range of events begins.
        stop_W: ``(windows,)`` where it ends.
        nth_W: ``(windows,)`` which of the range's windows, from the latest backwards.
        length: events per window at most.
    """
    end_W = stop_W - nth_W * length
    return np.maximum(first_W, end_W - length), end_W


def batches_of_like_length(
    length_W: Int64[np.ndarray, " windows"], *, num_batches: int, random: np.random.Generator
) -> list[Int64[np.ndarray, " some"]]:
    """Share windows out into batches of nearly as many events each, in which lengths are nearly the same.

    Args:
        length_W: ``(windows,)`` events of each window, above 0.
        num_batches: how many batches, at most the number of windows.
        random: shuffles windows among those of like length.

    Returns:
        ``num_batches`` arrays of windows, none of them empty, from short windows to long ones.
    """
    assert 0 < num_batches <= len(length_W), f"num_batches: got {num_batches} of {len(length_W)} windows"
    order_W = np.argsort(np.log2(length_W) + random.uniform(0, _MIXING, size=len(length_W)))
    total_W = np.cumsum(length_W[order_W])
    batch = np.arange(1, num_batches)
    bounds = np.searchsorted(total_W, total_W[-1] * batch / num_batches)
    # Where windows are few, a bound may fall on its neighbour: every batch keeps at least one window.
    bounds = np.maximum.accumulate(np.maximum(bounds, 1) - batch) + batch
    return np.split(order_W, np.minimum(bounds, len(order_W) - num_batches + batch))
