"""95% intervals of what was measured on a sample of queries: what another sample might have shown.

Queries are drawn anew with replacement and the figure is computed each time (the percentile bootstrap, Efron 1979), for
means of overlap and for percentiles of latency alike. An interval of a p99 from few hundred queries rests on few
slow calls and is as wide as it looks.

Shapes: ``ms_PQ`` (passes, queries), ``draw_BQ`` (bootstrap draws, queries).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

_NUM_DRAWS = 200
_LIMITS = (2.5, 97.5)

Interval = tuple[float, float]


def _draws(num_queries: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(num_queries, size=(_NUM_DRAWS, num_queries))


def mean_interval(value_Q: Float[np.ndarray, " queries"], *, seed: int) -> Interval:
    """Return the interval of a mean over queries."""
    low, high = np.percentile(value_Q[_draws(len(value_Q), seed)].mean(axis=1), _LIMITS)
    return float(low), float(high)


def percentile_interval(ms_PQ: Float[np.ndarray, "passes queries"], percent: float, *, seed: int) -> Interval:
    """Return the interval of `recsys.index.timing.percentile`: the median over passes of a percentile over queries."""
    by_draw_BPQ = ms_PQ.T[_draws(ms_PQ.shape[1], seed)].transpose(0, 2, 1)
    low, high = np.percentile(np.median(np.percentile(by_draw_BPQ, percent, axis=2), axis=1), _LIMITS)
    return float(low), float(high)
