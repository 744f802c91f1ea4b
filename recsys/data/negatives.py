"""Negatives beyond the batch's own items, and how often each item is expected among them.

Uniform draws reach the whole catalogue; draws by smoothed popularity, ``p ~ count**power`` (word2vec's negative
sampling, arXiv 1310.4546), are harder to tell from positives. Both may be mixed: what the loss corrects by (logQ) is
the expected number of an item among all of them.

Shapes: ``share_N`` (items,).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from jaxtyping import Float, Int64


class Negatives(Protocol):
    """Where a batch's negatives come from."""

    expected: Float[np.ndarray, " items"]
    """How often each item is expected in one draw."""

    def draw(self, random: np.random.Generator) -> Int64[np.ndarray, " rows"]:
        """Return item rows."""


class NegativeSampler:
    """Draws item rows, with replacement, by probabilities that it can state.

    Args:
        share_N: ``(items,)`` share of each item among the training examples.
        num_uniform: rows per draw that may be any item.
        num_popular: rows per draw by smoothed popularity.
        popularity_power: 1 draws by popularity as it is, towards 0 ever more evenly; items without examples never.
    """

    def __init__(
        self, share_N: Float[np.ndarray, " items"], *, num_uniform: int, num_popular: int, popularity_power: float
    ) -> None:
        self._num_items, self._num_uniform, self._num_popular = len(share_N), num_uniform, num_popular
        smoothed_N = share_N**popularity_power
        probability_N = smoothed_N / smoothed_N.sum()
        cumulative_N = np.cumsum(probability_N)
        # Ending in exactly 1, which no random level reaches, whatever the sums were rounded to.
        self._cumulative_N = cumulative_N / cumulative_N[-1]
        self.expected: Float[np.ndarray, " items"] = num_uniform / len(share_N) + num_popular * probability_N
        """How often each item is expected in one draw."""

    def draw(self, random: np.random.Generator) -> Int64[np.ndarray, " rows"]:
        """Return ``num_uniform`` rows followed by ``num_popular``."""
        uniform = random.integers(self._num_items, size=self._num_uniform)
        popular = np.searchsorted(self._cumulative_N, random.random(self._num_popular), side="right")
        return np.concatenate([uniform, popular])


class WholeCatalogue:
    """Every item once, by row: nothing is left to chance."""

    def __init__(self, num_items: int) -> None:
        self.expected: Float[np.ndarray, " items"] = np.ones(num_items)
        """How often each item is in one draw."""

    def draw(self, random: np.random.Generator) -> Int64[np.ndarray, " rows"]:
        """Return all rows."""
        del random
        return np.arange(len(self.expected))
