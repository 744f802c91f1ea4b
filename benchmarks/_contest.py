"""One contest: the same vectors and queries for everybody, each tuned by the same search with the same means.

Every contender halves its trials on one sample of users (`recsys.index.halving`), and what is left is measured on
another, in turns with the exact scan. Those that lead are measured again, all in turns: a machine whose speed changes
does not change an exact scan's and another search's alike, so that their ratio is no measure to compare runs by.

Shapes: ``item_ND`` (items, full width), ``query_QU`` (queries, query size).
"""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks._catalogue import blocked_top_k
from benchmarks._experiment import digest, remembered
from benchmarks._frontiers import Point
from benchmarks.rivals import Index, Rival, RivalSearch, Settings, SlowRival, Way
from benchmarks.rivals.faiss_indexes import FlatView
from recsys.index import frontier
from recsys.index.build import build_for
from recsys.index.calibrate import MAX_RUNGS, calibrate, is_exact
from recsys.index.halving import Bench, Trial, costs
from recsys.index.searcher import Searcher
from recsys.index.space import LadderSpace
from recsys.index.specs import RungSpec
from recsys.index.timing import LadderSearch, Search, percentile, time_searches, undisturbed
from recsys.index.truth import Truth
from recsys.ragged import Ragged
from recsys.widths import WidthLadder, query_at

KS = (10, 100)
_FLAT = Way("the exact scan", -1, ())
_NOISE = np.log([1.25, 1.1, 1.1])


@dataclass(frozen=True, kw_only=True)
class Contest:
    """What everybody searches, and with how much effort.

    Args:
        item_ND: unit item vectors.
        tune_QU: queries that contenders are tuned on.
        test_QU: queries that they are measured on, of other users.
        label_QU: queries of more users yet, who are not timed: recall of held-out items needs many.
        target: per such query, the item rows that were held out.
        learn_QU: queries of others yet, for whoever learns from queries: of all contenders ours alone can.
        widths: the trained widths.
        num_trials: ways to search that each contender may try.
        budget_s: seconds that each may take to build and tune.
        repeats: passes through the test queries.
        seed: fixes everything but the clock.
        builds: a folder for what is slow to build; None keeps nothing.
    """

    item_ND: np.ndarray
    tune_QU: np.ndarray
    test_QU: np.ndarray
    label_QU: np.ndarray
    target: Ragged
    learn_QU: np.ndarray
    widths: WidthLadder
    num_trials: int
    budget_s: float
    repeats: int
    seed: int
    builds: Path | None = None

    @cached_property
    def tuning(self) -> Truth:
        """The exact answers of the queries that contenders are tuned on."""
        return self._truth(self.tune_QU)

    @cached_property
    def testing(self) -> Truth:
        """The exact answers of the queries that they are measured on."""
        return self._truth(self.test_QU)

    def _truth(self, query_QU: np.ndarray) -> Truth:
        query_QD = query_at(query_QU, self.widths.full, self.widths)
        best_QK, rows_QK = blocked_top_k(query_QD, self.item_ND, k=KS[-1])
        return Truth(query_QD, self.item_ND, best_QK, rows_QK, ks=KS)

    @cached_property
    def asked(self) -> np.ndarray:
        """The test queries, and those of `label_QU` after them: what a search answers by number."""
        return np.concatenate([self.test_QU, self.label_QU])

    @cached_property
    def exact_recall(self) -> float:
        """The label recall of the exact answers."""
        query_QD = query_at(self.label_QU, self.widths.full, self.widths)
        return label_recall(blocked_top_k(query_QD, self.item_ND, k=KS[-1])[1], self.target)

    def point(self, trial: Trial[Any], *, who: str, width: int, flat: Trial[Any], search: Search[Any]) -> Point:
        """Return what a trial on the test queries shows, and what ``search`` finds of other users' held-out items."""
        return Point(
            who=who,
            name=trial.spec.name,
            width=width,
            overlap=trial.overlap[KS[-1]],
            recall=self._recall(trial, search),
            p50_ms=trial.p50_ms,
            p99_ms=trial.p99_ms,
            flat_p50_ms=flat.p50_ms,
            bytes_per_item=trial.size_bytes / len(self.item_ND),
        )

    def _recall(self, trial: Trial[Any], search: Search[Any]) -> float:
        if trial.overlap[KS[-1]] == 1:  # what is exact takes long, and is known
            return self.exact_recall
        queries = range(len(self.test_QU), len(self.asked))
        with undisturbed():
            return label_recall(np.stack([search(query, trial.spec, KS[-1]) for query in queries]), self.target)


def label_recall(rows_QK: np.ndarray, target: Ragged) -> float:
    """Return the mean share of each query's held-out items, at least one, among its rows."""
    query_V = target.row_of_values()
    found_V = (rows_QK[query_V] == target.values[:, None]).any(axis=1)
    return float((np.bincount(query_V, weights=found_V, minlength=len(target)) / target.lengths).mean())


class _InTurns:
    """Answers at a rung, or in a rival's way: what everybody takes turns with.

    Args:
        ladder: answers at rungs.
        rivals: answer in their ways, by name.
    """

    def __init__(self, ladder: LadderSearch, rivals: Mapping[str, RivalSearch]) -> None:
        self.ladder = ladder
        self.rivals = rivals

    def __call__(self, query: int, spec: RungSpec | Way, k: int) -> np.ndarray:
        """Return one query's rows, best first."""
        return self.rivals[spec.rival](query, spec, k) if isinstance(spec, Way) else self.ladder(query, spec, k)

    def size_bytes(self, spec: RungSpec | Way) -> int:
        """Return the memory of either."""
        if isinstance(spec, Way):
            return self.rivals[spec.rival].size_bytes(spec)
        return self.ladder.searcher.size_bytes(spec)


def measure_ours(contest: Contest, space: LadderSpace) -> dict[str, Any]:
    """Build, calibrate and measure our ladder."""
    started = perf_counter()
    num_items, widths = len(contest.item_ND), contest.widths
    specs = space.specs(widths, num_items=num_items, k=KS[-1], seed=contest.seed)
    searcher = build_for(contest.item_ND, specs, widths=widths, seed=contest.seed, learn_from=contest.learn_QU)
    build_s = perf_counter() - started
    ladder = calibrate(
        searcher,
        contest.tune_QU,
        specs=specs,
        ks=KS,
        seed=contest.seed,
        budget_s=max(1.0, contest.budget_s - build_s),
    )
    minutes = (perf_counter() - started) / 60
    rungs = {rung.name: rung for rung in ladder.rungs}
    again = [spec for spec in specs if spec.name in rungs or is_exact(spec, widths)]
    points = _measure(contest, searcher, again, {}, [])
    return {
        "points": [point.plain() for point in points],
        "on_frontier": [name for name, rung in rungs.items() if rung.on_frontier],
        "widths_on_no_frontier": ladder.measured["widths_on_no_frontier"],
        "calibration_minutes": minutes,
        "build_minutes": build_s / 60,
        "num_trials": len(specs),
        "num_rungs": len(ladder.rungs),
    }


def _measure(
    contest: Contest,
    searcher: Searcher,
    specs: Sequence[RungSpec],
    indexes: Mapping[str, Mapping[int, Index]],
    ways: Sequence[Way],
) -> list[Point]:
    """Measure rungs, and ways of rivals by their indexes, on the test queries in turns with the exact scan."""
    everybody = {_FLAT.rival: {_FLAT.build: FlatView(contest.item_ND)}, **indexes}
    asked_QD = query_at(contest.asked, contest.widths.full, contest.widths)
    searches = {name: RivalSearch(built, asked_QD) for name, built in everybody.items()}
    search = _InTurns(LadderSearch(searcher, contest.asked, None), searches)
    bench: Bench[RungSpec | Way] = Bench(search, contest.testing, size_bytes=search.size_bytes, seed=contest.seed)
    flat, *trials = bench.measure([_FLAT, *specs, *ways], num_queries=len(contest.test_QU), repeats=contest.repeats)
    return [
        contest.point(
            trial,
            who=trial.spec.rival if isinstance(trial.spec, Way) else "ours",
            width=contest.widths.full if isinstance(trial.spec, Way) else trial.spec.width,
            flat=flat,
            search=search,
        )
        for trial in trials
    ]


def measure_in_turns(
    contest: Contest, space: LadderSpace, rivals: Sequence[Rival], points: Sequence[Point]
) -> dict[str, Any]:
    """Build what these points need, ours and rivals', and measure all of them again in one run."""
    searcher, specs = _build_ours(contest, space, points)
    indexes, ways = _build_theirs(contest, rivals, points)
    gc.collect()
    return {"points": [point.plain() for point in _measure(contest, searcher, specs, indexes, ways)]}


def time_across(
    model: Contest, twin: Contest, space: LadderSpace, rivals: Sequence[Rival], points: Sequence[Point]
) -> dict[str, float]:
    """Build what these points need, ours over the model's vectors and rivals' over its twin's; return each one's p50.

    All take turns, each with the vectors and the queries of its side.
    """
    searcher, specs = _build_ours(model, space, points)
    indexes, ways = _build_theirs(twin, rivals, points)
    gc.collect()
    query_QD = query_at(twin.test_QU, twin.widths.full, twin.widths)
    searches = {name: RivalSearch(built, query_QD) for name, built in indexes.items()}
    everybody: list[RungSpec | Way] = [*specs, *ways]
    with undisturbed():
        timed = time_searches(
            _InTurns(LadderSearch(searcher, model.test_QU, None), searches),
            everybody,
            queries=np.arange(len(model.test_QU)),
            k=KS[-1],
            repeats=model.repeats,
            order=np.random.default_rng(model.seed),
            progress=lambda _share: None,
        )
    return {spec.name: percentile(ms_PQ, 50) for spec, ms_PQ in zip(everybody, timed.ms_RPQ, strict=True)}


def _build_ours(contest: Contest, space: LadderSpace, points: Sequence[Point]) -> tuple[Searcher, list[RungSpec]]:
    names = {point.name for point in points if point.who == "ours"}
    offered = space.specs(contest.widths, num_items=len(contest.item_ND), k=KS[-1], seed=contest.seed)
    specs = [spec for spec in offered if spec.name in names]
    learn_from = contest.learn_QU
    return build_for(contest.item_ND, specs, widths=contest.widths, seed=contest.seed, learn_from=learn_from), specs


def _build_theirs(
    contest: Contest, rivals: Sequence[Rival], points: Sequence[Point]
) -> tuple[dict[str, dict[int, Index]], list[Way]]:
    names = {(point.who, point.name) for point in points}
    num_items, full = len(contest.item_ND), contest.widths.full
    indexes: dict[str, dict[int, Index]] = {}
    ways: list[Way] = []
    for rival in rivals:
        for build, settings in enumerate(rival.builds(num_items, full)):
            wanted = [way for way in rival.ways(build, num_items, KS[-1]) if (rival.name, way.name) in names]
            if wanted:
                indexes.setdefault(rival.name, {})[build], _ = _built(contest, rival, settings)
                ways += wanted
    return indexes, ways


def measure_rival(contest: Contest, rival: Rival) -> dict[str, Any]:
    """Build, tune and measure a rival at full width; say why where it cannot run here."""
    if (reason := rival.missing()) is not None:
        return {"skipped": reason}
    settings = rival.builds(len(contest.item_ND), contest.widths.full)
    indexes, notes = _build(contest, rival, settings)
    build_s, started = sum(note.get("seconds", 0.0) for note in notes), perf_counter()
    ways = [way for build in indexes for way in rival.ways(build, len(contest.item_ND), KS[-1])]
    random = np.random.default_rng(contest.seed)
    drawn = sorted(random.choice(len(ways), min(len(ways), contest.num_trials), replace=False))
    bench = _bench(contest, contest.tuning, contest.tune_QU, indexes)
    left, _ = bench.halve([ways[place] for place in drawn], keep=2 * MAX_RUNGS, budget_s=contest.budget_s - build_s)
    tuned = bench.measure(left, num_queries=len(contest.tune_QU))
    left = [left[place] for place in frontier.thin(costs(tuned, tail=False), most=MAX_RUNGS, cells=_NOISE)]
    minutes = (build_s + perf_counter() - started) / 60
    indexes = {build: indexes[build] for build in {way.build for way in left}}
    gc.collect()
    bench = _bench(contest, contest.testing, contest.asked, indexes)
    flat, *trials = bench.measure([_FLAT, *left], num_queries=len(contest.test_QU), repeats=contest.repeats)
    points = [
        contest.point(one, who=rival.name, width=contest.widths.full, flat=flat, search=bench.search) for one in trials
    ]
    return {
        "points": [point.plain() for point in points],
        "builds": notes,
        "tuning_minutes": minutes,
        "num_trials": len(drawn),
    }


def _build(contest: Contest, rival: Rival, settings: Sequence[Any]) -> tuple[dict[int, Index], list[dict[str, Any]]]:
    """Build what half the time allows, at least once; return the indexes by number, and what became of every build."""
    indexes: dict[int, Index] = {}
    notes: list[dict[str, Any]] = []
    spent = 0.0
    for number, one in enumerate(settings):
        if indexes and spent + spent / len(indexes) > contest.budget_s / 2:
            notes.append({**one, "skipped": f"no time left: {spent:.0f} s of {contest.budget_s / 2:.0f} s for builds"})
            continue
        indexes[number], seconds = _built(contest, rival, one)
        notes.append({**one, "seconds": seconds})
        spent += seconds
    return indexes, notes


def _built(contest: Contest, rival: Rival, settings: Settings) -> tuple[Index, float]:
    """Return one of a rival's builds, and the seconds that it took: now, or when it was built and kept."""
    if contest.builds is None or not isinstance(rival, SlowRival):
        return _build_now(contest, rival, settings)
    path = contest.builds / f"{rival.name.replace(' ', '-')}-{digest(settings)}"
    note = path.with_suffix(".json")  # written last: what was interrupted is built again
    if note.is_file():
        return rival.load(path, width=contest.widths.full), float(json.loads(note.read_text())["seconds"])
    if path.is_dir():
        shutil.rmtree(path)
    index, seconds = _build_now(contest, rival, settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    index.save(path)
    remembered(note, lambda: {"seconds": seconds, **settings})
    return index, seconds


def _build_now(contest: Contest, rival: Rival, settings: Settings) -> tuple[Index, float]:
    started = perf_counter()
    index = rival.build(np.ascontiguousarray(contest.item_ND), settings, seed=contest.seed)
    return index, perf_counter() - started


def _bench(contest: Contest, truth: Truth, asked_QU: np.ndarray, indexes: dict[int, Index]) -> Bench[Way]:
    asked_QD = query_at(asked_QU, contest.widths.full, contest.widths)
    search = RivalSearch({_FLAT.build: FlatView(contest.item_ND), **indexes}, asked_QD)
    return Bench(search, truth, size_bytes=search.size_bytes, seed=contest.seed)
