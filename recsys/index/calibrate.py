"""Measure the ladder: how close each rung comes to the exact full-width answer, and what it costs on this machine.

Overlap@k is the share of the exact full-width top-k that a rung returns. Two items whose full-width scores differ by
no more than float32 rounding are the same to a ranking, so a returned item counts when its own full-width score is
within `TIE_TOLERANCE` of the k-th best: an answer that breaks a tie the other way misses nothing.

Latency is that of one call with one query on one thread; `recsys.index.timing` says how the machine is kept out of it.

Shapes: ``query_QU`` (queries, query size), ``rows_QK`` (queries, k), ``ms_PQ`` (passes, queries).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

import numpy as np
from jaxtyping import Float

from recsys.errors import ConfigError
from recsys.index.cells import num_cells
from recsys.index.checks import check_queries
from recsys.index.exact import NOTHING, exact_top_k
from recsys.index.rungs import Ladder, Rung, climbable
from recsys.index.searcher import Searcher
from recsys.index.specs import RungSpec
from recsys.index.timing import Search, machine, percentile, time_rungs, undisturbed
from recsys.ragged import Ragged
from recsys.widths import WidthLadder, query_at

TIE_TOLERANCE = 2e-6
"""Largest difference of two full-width cosines that float32 rounding alone may cause."""

MIN_RUNGS = 8
_EFFORTS = (
    # (rerank depths as multiples of k, IVF probes as shares of the cells), coarse to fine
    ((2, 4, 10), (1 / 64, 1 / 16, 1 / 4)),
    ((2, 3, 4, 6, 8, 10), (1 / 128, 1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)),
)


def default_specs(widths: WidthLadder, num_items: int, *, k: int = 100) -> list[RungSpec]:
    """Return the rungs to measure: every width, exact and IVF, at a few efforts and rerank depths.

    At least `MIN_RUNGS` of them, except where so many different ones do not exist: a single trained width has one rung
    without IVF and one per effort with it, and a handful of items allow few rerank depths. IVF starts at
    `MIN_ITEMS_FOR_IVF` items. Nothing is reranked at full width, where that would change nothing, and never the whole
    catalogue.

    Args:
        widths: the trained widths.
        num_items: items in the catalogue.
        k: the largest k that is asked for; rerank depths are multiples of it, of less in a catalogue below 10 k items.
    """
    specs: list[RungSpec] = []
    for multiples, shares in _EFFORTS:
        base = k if 10 * k < num_items else max(1, num_items // 20)
        depths = sorted({multiple * base for multiple in multiples if multiple * base < num_items})
        cells = num_cells(num_items)
        probes = sorted({max(1, round(cells * share)) for share in shares}) if cells else []
        specs = []
        for width in widths:
            for rerank in [0, *depths] if width < widths.full else [0]:
                specs.append(RungSpec(engine="exact", width=width, rerank=rerank))
                specs += [RungSpec(engine="ivf", width=width, nprobe=nprobe, rerank=rerank) for nprobe in probes]
        if len(specs) >= MIN_RUNGS:
            break
    return specs


def usable_ks(ks: Sequence[int], num_items: int) -> list[int]:
    """Return the ks at which overlap tells rungs apart: those of at most a quarter of the catalogue.

    Any search finds most of the best 100 of 120 items. Where every k is too large, a quarter of the catalogue is used.
    """
    most = max(1, num_items // 4)
    return sorted({k for k in ks if k <= most}) or [most]


def measure_ladder(
    searcher: Searcher,
    query_QU: Float[np.ndarray, "queries size"],
    *,
    specs: Sequence[RungSpec],
    ks: Sequence[int] = (10, 100),
    exclude: Ragged | None = None,
    repeats: int = 5,
    seed: int = 1,
    progress: Callable[[float], None] | None = None,
) -> Ladder:
    """Measure every rung and mark those that requests climb.

    Overlaps depend on the arguments alone; latencies on the machine and its load too.

    Args:
        searcher: the indexes.
        query_QU: unit queries of real users.
        specs: the rungs, each once.
        ks: the k of each overlap; latency is measured at the largest.
        exclude: per query, distinct item rows that it may not get, as in serving; None excludes nothing.
        repeats: passes through the queries, in each of which every rung answers every query once.
        seed: fixes the order of queries and rungs.
        progress: called with the share that is done, 0 to 1.

    Returns:
        the rungs in order of p99 latency, and what was measured where.

    Raises:
        ConfigError: there are no queries, rungs or ks, a k is not positive, or a rung comes twice.
        WidthError: a query is not of the query size, or not of finite unit vectors.
    """
    _check(searcher, query_QU, specs=specs, ks=ks, exclude=exclude, repeats=repeats)
    ks = sorted(set(ks))
    tell = progress or (lambda _share: None)
    order = np.random.default_rng(seed)
    search = Search(searcher, query_QU, exclude)
    with undisturbed():
        ms_RPQ, disturbed_share = time_rungs(
            search, specs, k=ks[-1], repeats=repeats, order=order, progress=lambda share: tell(0.8 * share)
        )
        overlap_RK = np.empty((len(specs), len(ks)))
        for place, k in enumerate(ks):
            overlap_RK[:, place] = _overlaps(search, specs, k=k)
            tell(0.8 + 0.2 * (place + 1) / len(ks))
    rungs = [_rung(searcher, spec, overlap_RK[r], ks, ms_RPQ[r]) for r, spec in enumerate(specs)]
    rungs = [replace(rung, on_ladder=on) for rung, on in zip(rungs, climbable(rungs), strict=True)]
    rungs.sort(key=lambda rung: (rung.latency_p99_ms, rung.name))
    measured = {
        "num_queries": len(query_QU),
        "num_items": searcher.num_items,
        "ks": list(ks),
        "repeats": repeats,
        "disturbed_share": disturbed_share,
        "seed": seed,
        "seen_items_excluded": exclude is not None,
        "tie_tolerance": TIE_TOLERANCE,
        **machine(),
    }
    return Ladder(rungs=tuple(rungs), measured=measured)


def _rung(searcher: Searcher, spec: RungSpec, overlap_K: np.ndarray, ks: Sequence[int], ms_PQ: np.ndarray) -> Rung:
    return Rung(
        **asdict(spec),
        overlap={k: float(share) for k, share in zip(ks, overlap_K, strict=True)},
        latency_p50_ms=percentile(ms_PQ, 50),
        latency_p99_ms=percentile(ms_PQ, 99),
        size_bytes=searcher.size_bytes(spec),
    )


def _overlaps(search: Search, specs: Sequence[RungSpec], *, k: int) -> Float[np.ndarray, " rungs"]:
    searcher, query_QU, num_queries = search.searcher, search.query_QU, len(search.query_QU)
    query_QD = query_at(query_QU, searcher.widths.full, searcher.widths)
    best_QK, exact_QK = exact_top_k(query_QD, searcher.store_ND, k=k, masked=search.exclude)
    wanted_Q = (exact_QK != NOTHING).sum(axis=1)
    least_Q1 = np.where(exact_QK != NOTHING, best_QK, np.inf).min(axis=1, keepdims=True)
    shares = []
    for spec in specs:
        rows_QK = np.stack([search(query, spec, k) for query in range(num_queries)])
        hits_Q = (searcher.score(query_QU, rows_QK) >= least_Q1 - TIE_TOLERANCE).sum(axis=1)
        # A query that may get nothing at all misses nothing.
        shares.append(float(np.where(wanted_Q > 0, hits_Q / np.maximum(wanted_Q, 1), 1.0).mean()))
    return np.asarray(shares)


def _check(
    searcher: Searcher,
    query_QU: np.ndarray,
    *,
    specs: Sequence[RungSpec],
    ks: Sequence[int],
    exclude: Ragged | None,
    repeats: int,
) -> None:
    check_queries(query_QU, searcher.widths)
    for name, got in (("queries", len(query_QU)), ("specs", len(specs)), ("ks", len(ks)), ("repeats", repeats)):
        if got < 1:
            raise ConfigError(f"{name}: got {got}, expected at least one to measure the ladder")
    if min(ks) < 1:
        raise ConfigError(f"ks: got {list(ks)}, expected positive numbers of items")
    if len(set(specs)) != len(specs):
        raise ConfigError(f"specs: got {[spec.name for spec in specs]}, expected each rung once")
    if exclude is not None and len(exclude) != len(query_QU):
        raise ConfigError(f"exclude: got {len(exclude)} lists, expected one per query ({len(query_QU)})")
