"""Measure the ladder: how close each rung comes to the exact full-width answer, and what it costs on this machine.

Of a declared space of rungs (`recsys.index.space`) successive halving finds those that are on a frontier over overlap,
latency and bytes at one of the ks asked for; the rest is dropped. Latency is that of one call with one query on one
thread; `recsys.index.timing` says how the machine is kept out of it, `recsys.index.truth` what overlap is.

Shapes: ``query_QU`` (queries, query size).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from time import perf_counter
from typing import Any

import numpy as np
from jaxtyping import Float

from recsys.errors import ConfigError
from recsys.index import frontier
from recsys.index.checks import check_queries
from recsys.index.halving import FLOORS, Bench, Trial, costs, fastest_reaching, pass_s
from recsys.index.intervals import mean_interval, percentile_interval
from recsys.index.rungs import Ladder, Rung, climbable
from recsys.index.searcher import Searcher
from recsys.index.specs import RungSpec
from recsys.index.timing import LadderSearch, machine
from recsys.index.truth import TIE_TOLERANCE, Truth
from recsys.ragged import Ragged
from recsys.widths import WidthLadder, query_at

MIN_RUNGS, MAX_RUNGS = 6, 16
"""How many rungs a calibrated ladder has: fewer only where fewer were offered."""
MIN_QUERIES = 32
"""A frontier that is found on fewer queries says more about them than about the rungs."""
_VARIED = 10
"""How many rungs at most show what can be had for p99 and bytes too; the rest are steps of overlap and p50."""
_WORTHWHILE = 0.5
"""Overlap below which a rung takes no place from others, however fast or small it is."""
_ALIKE = np.log([1.25, 1.1, 1.25, 2.0])
"""Ratios of what is missed, p50, p99 and bytes below which two rungs are alike. The first two are what requests climb
by, and bytes hardly matter between rungs of one bundle, which holds what all of them read."""


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
    progress: Callable[[float], None] = lambda _share: None,
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
    bench = _bench(searcher, query_QU, specs=specs, ks=ks, exclude=exclude, repeats=repeats, seed=seed)
    trials = bench.measure(
        specs,
        num_queries=len(query_QU),
        repeats=repeats,
        exact_ks=lambda spec: not is_exact(spec, searcher.widths),
        progress=lambda share: progress(0.9 * share),
    )
    rungs = [_rung(trial, seed=seed) for trial in trials]
    progress(1.0)
    return _ladder(rungs, bench, repeats=repeats, seed=seed, exclude=exclude, disturbed_share=trials[0].disturbed_share)


def calibrate(
    searcher: Searcher,
    query_QU: Float[np.ndarray, "queries size"],
    *,
    specs: Sequence[RungSpec],
    ks: Sequence[int] = (10, 100),
    exclude: Ragged | None = None,
    repeats: int = 5,
    seed: int = 1,
    budget_s: float = 600.0,
    progress: Callable[[float], None] = lambda _share: None,
) -> Ladder:
    """Find the rungs that are on a frontier, and measure those well.

    Successive halving drops most rungs on few queries; those that are left answer all queries, as often as the time
    allows. On the ladder stay `MIN_RUNGS` to `MAX_RUNGS` (`chosen`); some are there for requests that name their width
    alone (``on_frontier`` is false: no request climbs to them).

    Args:
        searcher: indexes for all the rungs.
        query_QU: unit queries of real users.
        specs: the rungs on offer, each once, an exact one of full width among them.
        ks: the k of each overlap; latency is measured at the largest.
        exclude: per query, distinct item rows that it may not get, as in serving; None excludes nothing.
        repeats: most passes through the queries of the last measurement.
        seed: fixes the order of queries and rungs.
        budget_s: seconds that it should take; one round of halving and one pass are always made.
        progress: called with the share that is done, 0 to 1.

    Returns:
        the ladder; ``measured`` holds every trial.

    Raises:
        ConfigError: as `measure_ladder`, or no rung on offer is exact.
        WidthError: as `measure_ladder`.
    """
    started = perf_counter()
    bench = _bench(searcher, query_QU, specs=specs, ks=ks, exclude=exclude, repeats=repeats, seed=seed)
    if not any(is_exact(spec, searcher.widths) for spec in specs):
        raise ConfigError(f"specs: got none that is exact, expected an exact scan at full width {searcher.widths.full}")
    left, rounds = bench.halve(
        specs, keep=3 * MAX_RUNGS, budget_s=budget_s / 2, progress=lambda share: progress(0.5 * share)
    )
    left = _with_necessary(left, specs, rounds, searcher.widths)
    if rounds:
        left_s = budget_s - (perf_counter() - started)
        repeats = _num_passes(left, rounds[0], num_queries=len(query_QU), num_ks=len(ks), left_s=left_s, most=repeats)
    trials = bench.measure(
        left,
        num_queries=len(query_QU),
        repeats=repeats,
        exact_ks=lambda spec: not is_exact(spec, searcher.widths),
        progress=lambda share: progress(0.5 + 0.4 * share),
    )
    rungs = [_rung(trials[place], seed=seed, on_frontier=on) for place, on in chosen(trials, searcher.widths).items()]
    ladder = _ladder(
        rungs, bench, repeats=repeats, seed=seed, exclude=exclude, disturbed_share=trials[0].disturbed_share
    )
    found = {
        "calibration_seconds": perf_counter() - started,
        "budget_seconds": budget_s,
        "widths_on_no_frontier": _widths_on_no_frontier(specs, rungs),
        "trials": [
            [{"rung": trial.spec.name, **trial.summary()} for trial in one_round] for one_round in [*rounds, trials]
        ],
    }
    progress(1.0)
    return replace(ladder, measured=ladder.measured | found)


def _widths_on_no_frontier(specs: Sequence[RungSpec], rungs: Sequence[Rung]) -> list[int]:
    """Return the widths on offer that no rung of a frontier has, narrowest first."""
    return sorted({spec.width for spec in specs} - {rung.width for rung in rungs if rung.on_frontier})


def _num_passes(
    specs: Sequence[RungSpec],
    trials: Sequence[Trial[RungSpec]],
    *,
    num_queries: int,
    num_ks: int,
    left_s: float,
    most: int,
) -> int:
    """Return how many passes fit into the time left, one at least; each smaller k takes a pass of its own."""
    of_specs = [trial for trial in trials if trial.spec in set(specs)]
    fitting = int(left_s / max(pass_s(of_specs, num_queries=num_queries), 1e-9))
    return max(1, min(most, fitting - (num_ks - 1)))


def is_exact(spec: RungSpec, widths: WidthLadder) -> bool:
    """Whether the rung's answer is the exact full-width one by construction, not by measurement."""
    return spec.width == widths.full and spec.engine in ("exact", "certified") and spec.store == "float32"


def chosen(trials: Sequence[Trial[RungSpec]], widths: WidthLadder) -> dict[int, bool]:
    """Return the places of the trials that make the ladder, in order, and whether each is on a frontier.

    They are the fastest that surely reaches each of `recsys.index.halving.FLOORS` at the largest k, the fastest that is
    exact by construction, some points of the frontiers over overlap@k, p50, p99 and bytes, each width's best, and,
    where places are left, points of the frontier over overlap at the largest k and p50, so that its steps are small.
    Where even so they are too many, the lowest floors go without.
    """
    cost = costs(trials, tail=True)
    exact = min(
        (place for place, trial in enumerate(trials) if is_exact(trial.spec, widths)), key=lambda i: trials[i].p50_ms
    )
    worthwhile = [place for place, trial in enumerate(trials) if trial.overlap[trial.ks[-1]] >= _WORTHWHILE]
    worthwhile_cost = [cost_TO[worthwhile] for cost_TO in cost]
    fewer = [(most, FLOORS) for most in range(_VARIED, len(cost), -1)]
    fewer += [(len(cost), FLOORS[lowest:]) for lowest in range(len(FLOORS))]
    for most, floors in fewer:
        points = {worthwhile[i] for i in frontier.thin(worthwhile_cost, most=most, cells=_ALIKE)}
        points.update(fastest_reaching(trials, each=1, surely=True, floors=floors))
        points.add(exact)
        if len(points) < MIN_RUNGS:
            points.update(frontier.best(cost, num=min(MIN_RUNGS, len(trials))))
        others = {_best_of_width(trials, width) for width in {trial.spec.width for trial in trials}} - points
        if len(points) + len(others) <= MAX_RUNGS:
            break
    most = MAX_RUNGS - len(others)
    points.update(frontier.spread(cost[-1][:, :2], first=sorted(points), among=worthwhile, most=most, cells=_ALIKE[:2]))
    dominated = np.all([frontier.is_dominated(cost_TO) for cost_TO in cost], axis=0)
    return {i: i in points and (i == exact or not dominated[i]) for i in sorted(points | others)}


def _best_of_width(trials: Sequence[Trial[RungSpec]], width: int) -> int:
    of_width = [place for place, trial in enumerate(trials) if trial.spec.width == width]
    return max(of_width, key=lambda i: (sum(trials[i].overlap.values()), -trials[i].p50_ms))


def _with_necessary(
    left: list[RungSpec],
    specs: Sequence[RungSpec],
    rounds: Sequence[Sequence[Trial[RungSpec]]],
    widths: WidthLadder,
) -> list[RungSpec]:
    """Add what is measured whatever trials say: the fastest exact rung, and the best rung of each width."""
    exact = [spec for spec in specs if is_exact(spec, widths)]
    if rounds:
        exact = [min((t for t in rounds[0] if is_exact(t.spec, widths)), key=lambda trial: trial.p50_ms).spec]
    wanted = {*exact, *left}
    if rounds:
        wanted |= {rounds[0][_best_of_width(rounds[0], width)].spec for width in {spec.width for spec in specs}}
    return [spec for spec in specs if spec in wanted]


def _rung(trial: Trial[RungSpec], *, seed: int, on_frontier: bool = True) -> Rung:
    intervals = {
        f"overlap@{k}": mean_interval(overlap_Q, seed=seed)
        for k, overlap_Q in zip(trial.ks, trial.overlap_QK.T, strict=True)
    }
    for percent in (50, 99):
        intervals[f"latency_p{percent}_ms"] = percentile_interval(trial.ms_PQ, percent, seed=seed)
    return Rung(
        **asdict(trial.spec),
        overlap=trial.overlap,
        latency_p50_ms=trial.p50_ms,
        latency_p99_ms=trial.p99_ms,
        size_bytes=trial.size_bytes,
        on_frontier=on_frontier,
        intervals=intervals,
    )


def _ladder(
    rungs: Sequence[Rung],
    bench: Bench[RungSpec],
    *,
    repeats: int,
    seed: int,
    exclude: Ragged | None,
    disturbed_share: float,
) -> Ladder:
    steps = climbable([rung for rung in rungs if rung.on_frontier])
    following = iter(steps)
    rungs = [replace(rung, on_ladder=rung.on_frontier and next(following)) for rung in rungs]
    measured: dict[str, Any] = {
        "num_queries": len(bench.queries),
        "num_items": len(bench.truth.store_ND),
        "ks": list(bench.truth.ks),
        "repeats": repeats,
        "disturbed_share": disturbed_share,
        "seed": seed,
        "seen_items_excluded": exclude is not None,
        "tie_tolerance": TIE_TOLERANCE,
        **machine(),
    }
    return Ladder(rungs=tuple(sorted(rungs, key=lambda rung: (rung.latency_p99_ms, rung.name))), measured=measured)


def _bench(
    searcher: Searcher,
    query_QU: np.ndarray,
    *,
    specs: Sequence[RungSpec],
    ks: Sequence[int],
    exclude: Ragged | None,
    repeats: int,
    seed: int,
) -> Bench[RungSpec]:
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
    query_QD = query_at(query_QU, searcher.widths.full, searcher.widths)
    truth = Truth.find(query_QD, searcher.store_ND, ks=ks, exclude=exclude)
    search = LadderSearch(searcher, query_QU, exclude)
    return Bench(search, truth, size_bytes=searcher.size_bytes, seed=seed)
