"""The protocol of every quality number: exact ranking of the whole catalogue, seen items masked, nothing sampled.

A model is measured at each of its widths, with the vectors that users and items have there in serving
(`recsys.widths`); baselines are measured on the same queries, by the same code, from their rankings.

Shapes: ``Q`` queries, ``N`` items, ``D`` the full width, ``U`` a query's size, ``K`` places of a ranking.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int64

from recsys.data.dataset import Dataset, Queries
from recsys.errors import ConfigError, DataError
from recsys.evaluate import metrics
from recsys.evaluate.baselines import fit_baselines, rank
from recsys.index.exact import exact_top_k
from recsys.widths import Array, WidthLadder, query_at, truncate

CUTOFFS = (10, 20, 50, 100)


@dataclass(frozen=True, kw_only=True)
class Quality:
    """How well one way of ranking did.

    Args:
        name: for tables, such as ``width 64`` or ``popularity``.
        width: the embedding width, None of a baseline.
        per_query: by metric (``recall@10``), one number per query.
        coverage: by metric (``coverage@10``), the share of the catalogue that was recommended to anybody.
    """

    name: str
    width: int | None
    per_query: dict[str, np.ndarray] = field(repr=False)
    coverage: dict[str, float]

    def mean(self, metric: str) -> float:
        """Return a metric's mean over queries."""
        return float(self.per_query[metric].mean())


def evaluate_vectors(
    queries: Queries,
    user_QU: Array,
    item_ND: Array,
    widths: WidthLadder,
    *,
    ks: Sequence[int] = CUTOFFS,
) -> dict[int, Quality]:
    """Rank all items for each query at every width, and measure.

    Beside the metrics of `measure` each width gets its overlap with the full width's ranking, at the largest cut-off.
    Runs on the device of ``item_ND``.

    Args:
        queries: what is to be found, and what was seen.
        user_QU: the queries' vectors, in their order: ``(queries, query size)``.
        item_ND: every item's vector, by item row: ``(items, full width)``.
        widths: the trained widths.
        ks: the cut-offs.

    Returns:
        by width, narrowest first.

    Raises:
        DataError: the vectors are not one per query, or a target is not an item.
        WidthError: the users' vectors are not of the query size or the items' not of a trained width, or they cannot be
            cut to every width.
        ConfigError: ``ks`` is empty or holds a number less than 1.
    """
    _check_cutoffs(ks)
    ranked = rank_at_widths(queries, user_QU, item_ND, widths, k=max(ks))
    return measure_widths(ranked, queries, num_items=len(item_ND), ks=ks)


def rank_at_widths(
    queries: Queries,
    user_QU: Array,
    item_ND: Array,
    widths: WidthLadder,
    *,
    k: int,
    progress: Callable[[float], None] = lambda _share: None,
) -> dict[int, Int64[np.ndarray, "queries places"]]:
    """Return each query's exact ``k`` best item rows at every width, narrowest first; seen items left out as asked.

    ``progress`` is called with the share that is done, 0 to 1.

    Raises:
        DataError: the vectors are not one per query.
        WidthError: as `evaluate_vectors`.
    """
    if len(user_QU) != len(queries):
        raise DataError(f"user vectors: got {len(user_QU)}, expected one per query ({len(queries)})")
    masked = queries.history if queries.mask_seen else None
    ranked = {}
    for place, width in enumerate(widths):
        progress(place / len(widths))
        query_Qw, item_Nw = query_at(user_QU, width, widths), truncate(item_ND, width, widths)
        ranked[width] = exact_top_k(query_Qw, item_Nw, k=k, masked=masked)[1]
    return ranked


def measure_widths(
    ranked: Mapping[int, Int64[np.ndarray, "queries places"]],
    queries: Queries,
    *,
    num_items: int,
    ks: Sequence[int] = CUTOFFS,
) -> dict[int, Quality]:
    """Measure what `rank_at_widths` gave, down to the largest cut-off; the last ranking is the full width's.

    Raises:
        DataError: as `measure`.
        ConfigError: as `measure`.
    """
    depth, full_QK = max(ks), ranked[max(ranked)]
    found = {}
    for width, ranked_QK in ranked.items():
        quality = measure(ranked_QK, queries, name=f"width {width}", width=width, num_items=num_items, ks=ks)
        quality.per_query[f"overlap@{depth}"] = metrics.overlap(ranked_QK, full_QK, k=depth)
        found[width] = quality
    return found


def evaluate_baselines(
    dataset: Dataset,
    split: str,
    *,
    ks: Sequence[int] = CUTOFFS,
    recent_days: int = 7,
    progress: Callable[[float], None] = lambda _share: None,
) -> list[Quality]:
    """Fit the baselines on the train split and measure them on the queries of ``validation`` or ``test``.

    Raises:
        ConfigError: ``ks`` is empty or holds a number less than 1, or ``recent_days`` is less than 1.
    """
    _check_cutoffs(ks)
    queries = dataset.queries(split)
    found: list[Quality] = []
    for baseline in (baselines := fit_baselines(dataset, recent_days=recent_days)):
        progress(len(found) / len(baselines))
        ranked_QK = rank(baseline, queries, k=max(ks))
        found.append(measure(ranked_QK, queries, name=baseline.name, num_items=dataset.num_items, ks=ks))
    return found


def measure(
    ranked_QK: Int64[np.ndarray, "queries places"],
    queries: Queries,
    *,
    name: str,
    num_items: int,
    width: int | None = None,
    ks: Sequence[int] = CUTOFFS,
) -> Quality:
    """Measure rankings: recall and ndcg at every cut-off, mrr and coverage at the smallest.

    Raises:
        DataError: a query has no target, or a target or ranking is not of distinct items of the catalogue.
        ConfigError: ``ks`` is empty or holds a number less than 1.
    """
    _check_cutoffs(ks)
    target = queries.target
    if not target.lengths.all():
        raise DataError(f"targets: query {target.lengths.argmin()} has none, expected at least one for each query")
    if target.values.max(initial=0) >= num_items:
        raise DataError(f"targets: got item row {target.values.max()}, expected rows from 0 to {num_items - 1}")
    hit_QK = metrics.find_hits(ranked_QK, target)
    per_query = {f"recall@{k}": metrics.recall(hit_QK, target.lengths, k=k) for k in ks}
    per_query |= {f"ndcg@{k}": metrics.ndcg(hit_QK, target.lengths, k=k) for k in ks}
    least = min(ks)
    per_query[f"mrr@{least}"] = metrics.mrr(hit_QK, k=least)
    coverage = {f"coverage@{least}": metrics.coverage(ranked_QK, k=least, num_items=num_items)}
    return Quality(name=name, width=width, per_query=per_query, coverage=coverage)


def _check_cutoffs(ks: Sequence[int]) -> None:
    if not ks or min(ks) < 1:
        raise ConfigError(f"ks: got {list(ks)}, expected at least one cut-off, each at least 1")
