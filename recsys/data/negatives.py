"""Where a batch's negatives come from, and how often each item is expected among them.

The batch's own positives cost nothing more to encode, but are as popular as the log. Uniform draws reach the whole
catalogue; draws by smoothed popularity, ``p ~ count**power`` (word2vec's negative sampling, arXiv 1310.4546), are
harder to tell from positives. All may be mixed: what the loss corrects by (logQ) is the expected number of an item
among all of them.

Shapes: ``rate_N`` (items,); ``item_P`` (positives,).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from jaxtyping import Float, Int64


class Negatives(Protocol):
    """Where a batch's negatives come from."""

    expected: Float[np.ndarray, " items"]
    """How often each item is expected among one row's negatives."""

    def draw(self, random: np.random.Generator, item_P: Int64[np.ndarray, " positives"]) -> Int64[np.ndarray, " rows"]:
        """Return item rows, given the batch's positives."""


class NegativeSampler:
    """Draws item rows by probabilities that it can state.

    Args:
        rate_N: ``(items,)`` how often each item is expected among one row's positives.
        batch_size: rows per batch.
        num_batch: how many of the batch's positives to take at random, at most ``batch_size``; None takes all.
        num_uniform: rows that may be any item, with replacement.
        num_popular: rows by smoothed popularity, with replacement.
        popularity_power: 1 draws by popularity as it is, towards 0 ever more evenly; items without examples never.
            Read only with ``num_popular``.
    """

    def __init__(
        self,
        rate_N: Float[np.ndarray, " items"],
        *,
        batch_size: int,
        num_batch: int | None = None,
        num_uniform: int = 0,
        num_popular: int = 0,
        popularity_power: float | None = None,
    ) -> None:
        self._num_items, self._num_batch = len(rate_N), num_batch
        self._num_uniform, self._num_popular = num_uniform, num_popular
        # A row's own positives do not count among its negatives: what it meets are those of the others.
        in_batch_N = rate_N * (batch_size - 1)
        if num_batch is not None:
            in_batch_N = in_batch_N * num_batch / (batch_size * rate_N.sum())
        self.expected: Float[np.ndarray, " items"] = in_batch_N + num_uniform / len(rate_N)
        """How often each item is expected among one row's negatives."""
        if num_popular > 0:
            assert popularity_power is not None, "popularity_power: got None with num_popular"
            smoothed_N = rate_N**popularity_power
            probability_N = smoothed_N / smoothed_N.sum()
            cumulative_N = np.cumsum(probability_N)
            # Ending in exactly 1, which no random level reaches, whatever the sums were rounded to.
            self._cumulative_N = cumulative_N / cumulative_N[-1]
            self.expected = self.expected + num_popular * probability_N

    def draw(self, random: np.random.Generator, item_P: Int64[np.ndarray, " positives"]) -> Int64[np.ndarray, " rows"]:
        """Return ``num_uniform`` rows, ``num_popular`` rows, and those taken of the batch's positives."""
        drawn = [random.integers(self._num_items, size=self._num_uniform)]
        if self._num_popular > 0:
            drawn.append(np.searchsorted(self._cumulative_N, random.random(self._num_popular), side="right"))
        if self._num_batch is not None:
            item_P = random.choice(item_P, self._num_batch, replace=False)
        return np.concatenate([*drawn, item_P])


class WholeCatalogue:
    """Every item once, by row: nothing is left to chance."""

    def __init__(self, num_items: int) -> None:
        self.expected: Float[np.ndarray, " items"] = np.ones(num_items)
        """How often each item is in one draw."""

    def draw(self, random: np.random.Generator, item_P: Int64[np.ndarray, " positives"]) -> Int64[np.ndarray, " rows"]:
        """Return all rows."""
        del random, item_P
        return np.arange(len(self.expected))
