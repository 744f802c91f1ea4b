"""Does every width earn its place? The calibrated ladder beside other libraries' search, on the same vectors.

The vectors are those of a model that was trained here: its own catalogue (``--items 0``), or one of any size that is
grown from it (simulated: benchmarks._catalogue says how). Queries are test users, some to tune on, others to measure.
Everybody is tuned by the same search with the same number of trials and the same time, runs on one thread, and is
timed in turns with the exact scan: first on these vectors, where those of ours and of rivals that lead are then timed
in turns with each other, and last (rivals alone) on those of the twin, a model of the same full width that knows no
prefixes, where the fastest of both sides that reach the same label recall are timed in turns too. What was measured is
kept in the work folder, so an interrupted run goes on.

Nobody leaves out items that a user has seen: not every library can.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks._catalogue import Catalogue
from benchmarks._configs import Benchmark, benchmark_names, load_benchmark
from benchmarks._contest import Contest, measure_in_turns, measure_ours, measure_rival, time_across
from benchmarks._experiment import SIMULATED, alone, digest, open_dataset, parse, quick_config, remembered, trained
from benchmarks._frontiers import FLOORS, Point, compare, fastest, fastest_few, leaders, level_with_twin
from benchmarks._harness import RESULTS, Parts, finish_part, parser, recorded_parts
from benchmarks._plots import plot_frontier
from benchmarks.rivals import Rival, faiss_indexes, libraries
from recsys.config import TrainConfig
from recsys.data.dataset import Dataset
from recsys.errors import ConfigError
from recsys.evaluate.towers import item_vectors, query_vectors
from recsys.index.learned_cells import MAX_LEARNED_FROM
from recsys.index.space import LadderSpace
from recsys.model.best import load_towers, load_towers_and_dataset
from recsys.model.exported import ExportedTowers
from recsys.settings import from_toml, to_mapping
from recsys.widths import WidthLadder, unit_queries

PAGE = Path(__file__).parents[1] / "docs" / "ladder.md"
BEGIN, END = "<!-- table: python -m benchmarks.ladder --table -->\n", "<!-- end of table -->"
RIVALS: tuple[type[Rival], ...] = (
    faiss_indexes.Flat,
    faiss_indexes.HNSW,
    faiss_indexes.RaBitQ,
    faiss_indexes.PQ,
    faiss_indexes.Panorama,
    libraries.Hnswlib,
    libraries.Usearch,
    libraries.Scann,
    libraries.Voyager,
    libraries.ScalableVS,
)
_IN_MEMORY = 2_000_000
_SETTINGS = ("num_items", "queries", "label_users", "trials", "budget_s", "repeats")
HEADLINES = (
    "best_at_099",
    *(f"speed_ratio_to_best_rival_at_{key}" for key in ("095", "099", "0999")),
    *(f"bytes_ratio_to_best_rival_at_{key}" for key in ("095", "099", "0999")),
    "speed_ratio_to_best_rival_on_twin",
    "frontier_share",
    "certified_speedup",
    "calibration_minutes",
    "recall_lost_at_099",
)
"""The figures that the benchmark is known for."""


def main() -> None:
    """Measure everybody on one catalogue, compare, draw."""
    given = _parse()
    if given.table:
        text = PAGE.read_text()
        shown = table(recorded_parts("ladder"))
        PAGE.write_text(text[: text.index(BEGIN) + len(BEGIN)] + shown + text[text.index(END) :])
        return
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch) if given.quick else given.work
        name, figures = measure(given, work)
        _print(name, figures)
        finish_part("ladder", name, figures, summary=summary, record=given.record)
        # Only now: a picture that changed would make the commit that is recorded look changed.
        plot_frontier(name, figures, (RESULTS if given.record else work) / f"ladder-{name}.png")


def _parse() -> argparse.Namespace:
    arguments = parser(__doc__ or "")
    add = arguments.add_argument
    add("--items", type=int, default=1_000_000, help="items to search; 0 for the trained catalogue itself (1,000,000)")
    add("--dataset", default="gowalla", help="a benchmark of benchmarks/configs, trained if no --towers are given")
    add("--towers", type=Path, help="run folder of the model, instead of training one")
    add(
        "--twin",
        type=Path,
        help="run folder of its twin, to --towers; without it rivals run on the model's vectors alone",
    )
    add("--prepared", type=Path, help="prepared dataset folder that --towers and --twin were trained on")
    add("--energy-decay", type=float, help="train with this loss.energy_decay instead of the benchmark's")
    add("--queries", type=int, default=512, help="users to tune on, and users to measure with (512 each)")
    add("--label-users", type=int, default=4096, help="more users, for the recall of held-out items (4096)")
    add("--space", type=Path, help="TOML of the rungs on offer, where not all (recsys.index.space)")
    add("--trials", type=int, default=2000, help="ways to search that each contender may try (2000)")
    add("--budget", type=float, default=600.0, help="seconds that each may take to build and tune (600)")
    add("--repeats", type=int, default=3, help="passes through the users that are measured with (3)")
    add("--only", nargs="*", help="rivals by name, or none, instead of all of them")
    add("--on-twin", nargs="*", help="those of them that run on the twin's vectors too, instead of all")
    add("--table", action="store_true", help=f"write the recorded figures into {PAGE.name}, no more")
    given = parse(arguments)
    if (given.towers is None) != (given.prepared is None):
        arguments.error("--towers, --prepared: got one of them, expected both or neither")
    if given.energy_decay is not None and (given.towers is not None or given.quick):
        arguments.error("--energy-decay: got it with --towers or --quick, expected a benchmark to train")
    for option, names in (("--only", given.only), ("--on-twin", given.on_twin)):
        if unknown := set(names or ()) - {rival.name for rival in RIVALS}:
            arguments.error(f"{option}: got {sorted(unknown)}, expected some of {[rival.name for rival in RIVALS]}")
    if given.quick:
        given.items, given.queries, given.trials, given.budget, given.repeats = 3000, 60, 24, 2.0, 1
    return given


def measure(given: argparse.Namespace, work: Path) -> tuple[str, dict[str, Any]]:
    """Return the name of what was measured, and all figures."""
    source = _source(given, work)
    num_items = given.items or len(source.dataset.items)
    if num_items < len(source.dataset.items):
        raise ConfigError(f"items: got {num_items}, expected at least the {len(source.dataset.items)} that are trained")
    name = f"{source.name}-{num_items}"
    if given.energy_decay is not None:
        name += f"-decay{given.energy_decay:g}"
    space = replace(from_toml(LadderSpace, given.space) if given.space else LadderSpace(), max_trials=given.trials)
    settings = [num_items, given.queries, given.label_users, given.trials, given.budget, given.repeats]
    kept = work / "ladder" / f"{name}-{digest(source.key, settings, to_mapping(space))}"
    rivals = [rival() for rival in RIVALS if given.only is None or rival.name in given.only]
    model, twin = (
        cache(lambda towers=towers, side=side: _contest(towers, source.dataset, given, kept / f"{side}.npy"))
        for side, towers in (("model", source.model), ("twin", source.twin))
    )
    found = remembered(kept / "ours.json", lambda: measure_ours(model(), space))
    by_rival = _measure_rivals(rivals, model, kept / "model")
    leading = [*leaders(_points([found])), *leaders(_points(by_rival.values()))]
    again = kept / f"in-turns-{digest([[point.who, point.name] for point in leading])}.json"
    # With nobody to take turns with, to build everything again tells nothing new.
    in_turns = remembered(again, lambda: measure_in_turns(model(), space, rivals, leading)) if rivals else found
    again_on_twin = [rival for rival in rivals if given.on_twin is None or rival.name in given.on_twin]
    on_twin = {} if source.twin is None else _measure_rivals(again_on_twin, twin, kept / "twin")
    ours, theirs = _points([found]), _points(on_twin.values())
    level = level_with_twin(ours, theirs) if theirs else 0.0
    few = [fastest_few(side, recall=level) for side in (ours, theirs)]
    across_ms: dict[str, float] = {}
    if all(few):
        across = kept / f"across-{digest([[point.who, point.name] for side in few for point in side])}.json"
        across_ms = remembered(across, lambda: time_across(model(), twin(), space, rivals, [*few[0], *few[1]]))
    figures = compare(ours, theirs, in_turns=_points([in_turns]), across_ms=across_ms)
    return name, figures | {
        "calibration_minutes": found["calibration_minutes"],
        "widths_on_no_frontier": found["widths_on_no_frontier"],
        "num_items": num_items,
        "num_trained_items": len(source.dataset.items),
        "simulated": source.name == SIMULATED or num_items > len(source.dataset.items),
        "widths": list(source.widths),
        "ours": found,
        "rivals": by_rival,
        "rivals_on_twin": on_twin,
        "in_turns": in_turns["points"],
        "space": to_mapping(space),
        "settings": dict(zip(_SETTINGS, settings, strict=True)),
        "memory": "bytes of an index written to disk (ours: of the arrays that are read), rerank store included",
    }


def _points(found: Any) -> list[Point]:
    return [Point.load(plain) for one in found for plain in one.get("points", [])]


def _measure_rivals(rivals: Sequence[Rival], contest: Callable[[], Contest], kept: Path) -> dict[str, dict[str, Any]]:
    found = {}
    for rival in rivals:
        path = kept / f"{rival.name.replace(' ', '-')}.json"
        found[rival.name] = remembered(path, lambda rival=rival: measure_rival(contest(), rival))  # type: ignore[misc]
        print(f"{kept.name}: {rival.name}: {found[rival.name].get('skipped', 'measured')}", flush=True)
    return found


@dataclass(frozen=True, kw_only=True)
class _Source:
    """Where vectors come from: a model, and its twin where there is one."""

    name: str
    key: list[str]
    dataset: Dataset
    model: ExportedTowers
    twin: ExportedTowers | None

    @property
    def widths(self) -> WidthLadder:
        """The trained widths."""
        return self.model.widths


def _source(given: argparse.Namespace, work: Path) -> _Source:
    """Return the model and its twin: given run folders, or trainings that are done or gone on with now."""
    if given.towers is not None:
        model, dataset, manifest = load_towers_and_dataset(given.towers, given.prepared)
        twin = load_towers_and_dataset(given.twin, given.prepared)[0] if given.twin else None
        if twin is not None and twin.widths.full != model.widths.full:
            raise ConfigError(f"twin: got full width {twin.widths.full}, expected the model's {model.widths.full}")
        key = [str(manifest["files"]), str(given.twin)]
        return _Source(name=given.prepared.name, key=key, dataset=dataset, model=model, twin=twin)
    name = SIMULATED if given.quick else given.dataset
    if not given.quick and name not in benchmark_names():
        raise ConfigError(f"dataset: got {name!r}, expected one of {', '.join(benchmark_names())}, or --towers")
    benchmark = Benchmark(recipe=name, train=quick_config()) if given.quick else load_benchmark(name, wide=True)
    config = train_config(benchmark, energy_decay=given.energy_decay)
    dataset = open_dataset(work, benchmark.recipe, benchmark.protocol)
    model, twin = (
        load_towers(trained(work, dataset, one).run)[0] for one in (config, alone(config, config.model.widths[-1]))
    )
    key = [dataset.manifest["fingerprint"], str(to_mapping(config))]
    return _Source(name=name, key=key, dataset=dataset, model=model, twin=twin)


def train_config(benchmark: Benchmark, *, energy_decay: float | None = None) -> TrainConfig:
    """Return the model's settings: the benchmark's, with another energy profile if asked for.

    Raises:
        ConfigError: the benchmark's loss asks for no profile, so that another one would change nothing.
    """
    config = replace(benchmark.train, seed=1)
    if energy_decay is None:
        return config
    if config.loss.energy_weight == 0:
        raise ConfigError(f"energy_decay: got {energy_decay}, but {benchmark.recipe} trains with loss.energy_weight 0")
    return replace(config, loss=replace(config.loss, energy_decay=energy_decay))


def _contest(towers: ExportedTowers, dataset: Dataset, given: argparse.Namespace, path: Path) -> Contest:
    """Return the vectors and the queries; large catalogues lie on disk."""
    queries = dataset.queries("test")
    timed = 2 * given.queries
    if len(queries) <= timed:
        raise ConfigError(f"queries: got {given.queries}, expected less than half of the {len(queries)} test users")
    order, measured = np.random.default_rng(1).permutation(len(queries)), timed + given.label_users
    chosen = queries.take(order[: measured + MAX_LEARNED_FROM])
    query_QU = unit_queries(query_vectors(towers, chosen, dataset.feature_lists("user")), towers.widths)
    item_ND = item_vectors(towers, dataset.feature_lists("item"))
    if given.items > len(item_ND):
        catalogue = Catalogue(item_ND, seed=1)
        large = given.items > _IN_MEMORY
        item_ND = catalogue.write(given.items, path) if large else catalogue.vectors(given.items)
    return Contest(
        item_ND=item_ND,
        tune_QU=query_QU[: given.queries],
        test_QU=query_QU[given.queries : timed],
        label_QU=query_QU[timed:measured],
        target=chosen.target.take(np.arange(timed, min(measured, len(chosen)))),
        learn_QU=query_QU[measured:],
        widths=towers.widths,
        num_trials=given.trials,
        budget_s=given.budget,
        repeats=given.repeats,
        seed=1,
        builds=path.with_suffix(""),
    )


def summary(parts: Parts) -> dict[str, Any]:
    """Return each part's headline figures."""
    return {name: {key: part["figures"][key] for key in HEADLINES} for name, part in parts.items()}


def table(parts: Parts) -> str:
    """Return the Markdown table of what was recorded, one column for each catalogue; dashes where nothing was."""
    names = list(parts) or ["nothing recorded yet"]
    lines = ["| figure | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for key in HEADLINES:
        cells = [_cell(parts[name]["figures"][key]) if parts else "—" for name in names]
        lines.append(f"| `{key}` | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    if value is None:
        return "—"
    if isinstance(value, dict):
        return f"{value['speedup']:.1f} times ({value['name']}, overlap {value['overlap']:.4f})"
    return f"{value:.3g}"


def _print(name: str, figures: dict[str, Any]) -> None:
    console = Console(width=130, highlight=False)
    shown = Table("who", "way", "overlap@100", "recall@100", "p50 ms", "p99 ms", "times exact", "bytes", title=name)
    rivals = [fastest_of for found in figures["rivals"].values() for fastest_of in _best_of(found)]
    for point in [*figures["ours"]["points"], *rivals]:
        overlap, recall = f"{point['overlap']:.4f}", f"{point['recall']:.4f}"
        times = [f"{point[key]:.3f}" for key in ("p50_ms", "p99_ms")]
        ratio, size = f"{point['speedup']:.1f}", f"{point['bytes_per_item']:.0f}"
        shown.add_row(point["who"], point["name"], overlap, recall, *times, ratio, size)
    console.print(shown)
    for rival, found in figures["rivals"].items():
        if "skipped" in found:
            console.print(f"{rival} was skipped: {found['skipped']}", markup=False)
    for key in HEADLINES:
        console.print(f"{key}: {_cell(figures[key])}", markup=False)
    if off := figures["widths_on_no_frontier"]:
        console.print(f"On no frontier, so not on the ladder: width(s) {', '.join(map(str, off))}", markup=False)


def _best_of(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a rival's fastest point at each overlap that is compared."""
    best = [fastest(_points([found]), overlap=floor) for floor in FLOORS]
    return [point.plain() for point in dict.fromkeys(best) if point is not None]


if __name__ == "__main__":
    main()
