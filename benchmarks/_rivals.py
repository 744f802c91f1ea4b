"""How a Matryoshka model's widths and their rivals do on a split: the rivals' vectors, and every figure of theirs.

Shapes: ``user_QU`` (queries, query size), ``user_QD`` (queries, full width), ``item_ND`` (items, full width).
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping

import numpy as np

from benchmarks._experiment import Trained
from recsys.data.dataset import Dataset, Queries
from recsys.evaluate.containment import containment
from recsys.evaluate.protocol import evaluate_vectors
from recsys.index.panorama import panorama_scan
from recsys.widths import WidthLadder, query_at, truncate

METRICS = (
    "recall@10",
    "recall@20",
    "ndcg@10",
    "ndcg@20",
    "coverage@10",
    "overlap@100",
    "containment_x2",
    "containment_x5",
)
_OF_FULL = ("overlap", "containment")
NUM_LEVELS = 8
"""Of Panorama."""
_NUM_DRAWS = 3
_PROBE = 2000

ByWidth = dict[str, dict[str, float]]


class Probe:
    """Measures vectors on all queries of a split, and what compares rankings on a seeded sample of at most 2,000."""

    def __init__(self, queries: Queries, *, seed: int) -> None:
        self.queries = queries
        random = np.random.default_rng(seed)
        self.rows = np.sort(random.choice(len(queries), min(_PROBE, len(queries)), replace=False))

    def measure(self, user_QU: np.ndarray, item_ND: np.ndarray, widths: WidthLadder) -> ByWidth:
        """Return every metric by width."""
        found = evaluate_vectors(self.queries, user_QU, item_ND, widths, ks=(10, 20, 100))
        masked = self.queries.history.take(self.rows) if self.queries.mask_seen else None
        held = containment(user_QU[self.rows], item_ND, widths, masked=masked)
        return {
            str(width): {name: one.mean(name) for name in METRICS if name in one.per_query}
            | {"coverage@10": one.coverage["coverage@10"]}
            | {f"containment_x{multiple}": float(share.mean()) for multiple, share in held[width].items()}
            for width, one in found.items()
        }

    def panorama_share(self, user_QU: np.ndarray, item_ND: np.ndarray, widths: WidthLadder) -> float:
        """Return the share of dimensions that an exact search of the top 100 at full width touches."""
        query_QD = query_at(user_QU[self.rows], widths.full, widths)
        unit_ND = truncate(item_ND, widths.full, widths)
        return panorama_scan(query_QD, unit_ND, k=min(100, len(item_ND)), num_levels=NUM_LEVELS).share


def measure_dedicated(models: Mapping[int, Trained], dataset: Dataset, probe: Probe) -> ByWidth:
    """Measure the models that were trained for one width each, by that width."""
    found: ByWidth = {}
    for width, model in models.items():
        user_QD, item_ND = model.encode(dataset, probe.queries)
        metrics = probe.measure(user_QD, item_ND, WidthLadder([width]))[str(width)]
        # Its own width is its full width, so how much of that it holds says nothing.
        found[str(width)] = {name: value for name, value in metrics.items() if not name.startswith(_OF_FULL)}
    return found


def measure_twin(user_QD: np.ndarray, item_ND: np.ndarray, probe: Probe, widths: WidthLadder) -> dict[str, ByWidth]:
    """Measure what can be made of a model that knows no prefixes.

    Cut vectors are made unit vectors again. For PCA this is not clearly the better way (unscaled, a narrow score
    is the best approximation of the full one), so it competes in both.
    """
    prefix, full = (WidthLadder(widths.widths, norm=norm) for norm in ("prefix", "full"))
    axes_DD = principal_axes(item_ND)
    random = np.random.default_rng(widths.full)
    draws = [random.permutation(widths.full) for _ in range(_NUM_DRAWS)]
    shuffled = [probe.measure(user_QD[:, draw], item_ND[:, draw], prefix) for draw in draws]
    return {
        "twin truncated": probe.measure(user_QD, item_ND, prefix),
        "twin PCA": probe.measure(user_QD @ axes_DD, item_ND @ axes_DD, prefix),
        "twin PCA unscaled": probe.measure(user_QD @ axes_DD, item_ND @ axes_DD, full),
        "twin random dimensions": {
            str(width): {name: statistics.fmean(one[str(width)][name] for one in shuffled) for name in METRICS}
            for width in widths
        },
    }


def principal_axes(item_ND: np.ndarray) -> np.ndarray:
    """Return the ``(D, D)`` orthonormal columns along which items have most energy, in falling order; not centred."""
    wide_ND = item_ND.astype(np.float64)
    axes_DD: np.ndarray = np.linalg.eigh(wide_ND.T @ wide_ND)[1][:, ::-1]
    return axes_DD.astype(np.float32)
