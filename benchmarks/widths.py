"""Is a prefix as good as a model of its width, and does the full width give anything up?

At one budget (same data, epochs, batches, optimisers and early stop) and for each seed this trains the Matryoshka
model, a model for each width alone, and so, at full width, the twin that knows nothing of prefixes. The twin is also
cut to every narrower width: as it is (truncated); after rotating users and items to the principal components of the
items (PCA, not centred, since inner products are what counts, with and without making cut vectors unit vectors again);
and with dimensions in random order (mean of three).

Every number is of the test split, read once per seed, with the towers that validation chose; the settings were
chosen on validation too. Ratios are taken seed by seed. Containment and the share that Panorama touches
are of a seeded sample of users; seen items are left out of containment's lists but not of Panorama's.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks._configs import Benchmark, benchmark_names, load_benchmark
from benchmarks._experiment import (
    SIMULATED,
    Trained,
    alone,
    digest,
    open_dataset,
    over_seeds,
    parse,
    quick_config,
    remembered,
    trained,
)
from benchmarks._harness import RESULTS, Parts, finish_part, parser
from benchmarks._plots import plot_widths
from benchmarks._rivals import METRICS, NUM_LEVELS, Probe, measure_dedicated, measure_twin
from recsys.config import TrainConfig
from recsys.data.dataset import Dataset
from recsys.errors import ConfigError
from recsys.settings import from_toml, to_mapping
from recsys.widths import WidthLadder, energy_shares

_DECIDING = "ndcg@20"


def main() -> None:
    """Train and measure everything for each seed, then compare."""
    given = _parse()
    name, benchmark = _benchmark(given)
    config, seeds = benchmark.train, list(range(1, (2 if given.quick else given.seeds) + 1))
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch) if given.quick else given.work
        dataset = open_dataset(work, benchmark.recipe, benchmark.protocol)
        measured = [_measure_seed(work, dataset, replace(config, seed=seed)) for seed in seeds]
        figures = compare(measured, config.model.ladder) | {"seeds": seeds, "config": to_mapping(config)}
        _print(name, figures)
        finish_part("widths", name, figures, summary=worst, record=given.record)
        # Only now: a picture that changed would make the commit that is recorded look changed.
        plot_widths(name, figures, (RESULTS if given.record else work) / f"widths-{name}.png")


def _parse() -> argparse.Namespace:
    arguments = parser(__doc__ or "")
    arguments.add_argument(
        "--dataset", default="gowalla", help="a benchmark of benchmarks/configs, or a recipe with --config (gowalla)"
    )
    arguments.add_argument("--seeds", type=int, default=3, help="how many seeds, from 1 on (3; 2 if --quick)")
    arguments.add_argument("--config", type=Path, help="TOML file of training settings, instead of the benchmark's")
    return parse(arguments)


def _benchmark(given: argparse.Namespace) -> tuple[str, Benchmark]:
    """Return what to measure, by name: simulated data, a benchmark, or a recipe with settings of the caller's."""
    name = SIMULATED if given.quick else given.dataset
    if given.quick or (given.config is not None and name not in benchmark_names()):
        benchmark = Benchmark(recipe=name, train=quick_config())
    else:
        benchmark = load_benchmark(name, wide=True)
    if given.config is not None:
        benchmark = replace(benchmark, train=from_toml(TrainConfig, given.config))
    widths = benchmark.train.model.widths
    if widths[0] * 4 > widths[-1]:
        raise ConfigError(f"model.widths: got {list(widths)}, expected one of at most {widths[-1] // 4}: a quarter")
    return name, benchmark


def _measure_seed(work: Path, dataset: Dataset, config: TrainConfig) -> dict[str, Any]:
    """Return every method's figures by width for one seed, and what scans at full width must read."""
    widths = config.model.ladder
    model = trained(work, dataset, config)
    single = {width: trained(work, dataset, alone(config, width)) for width in widths}

    def measure() -> dict[str, Any]:
        probe = Probe(dataset.queries("test"), seed=config.seed)
        user_QU, item_ND = model.encode(dataset, probe.queries)
        twin_QD, twin_ND = single[widths.full].encode(dataset, probe.queries)
        energy = energy_shares(item_ND, widths).mean(axis=0).tolist()
        return {
            "methods": {
                "matryoshka": probe.measure(user_QU, item_ND, widths),
                "dedicated": measure_dedicated(single, dataset, probe),
                **measure_twin(twin_QD, twin_ND, probe, widths),
            },
            "panorama_share": probe.panorama_share(user_QU, item_ND, widths),
            "twin_panorama_share": probe.panorama_share(twin_QD, twin_ND, WidthLadder([widths.full])),
            "item_energy": dict(zip(map(str, widths), energy, strict=True)),
            "trainings": {"matryoshka": _cost(model)}
            | {f"dedicated {width}": _cost(one) for width, one in single.items()},
        }

    key = digest(dataset.manifest["fingerprint"], to_mapping(config))
    return remembered(work / "widths" / f"{dataset.name}-{key}.json", measure)


def _cost(one: Trained) -> dict[str, Any]:
    return {"epochs": len(one.curve), "best_epoch": one.best_epoch, "seconds": one.seconds, "commit": one.commit}


def compare(measured: Sequence[dict[str, Any]], widths: WidthLadder) -> dict[str, Any]:
    """Compare method with method seed by seed, and average every number over seeds.

    Args:
        measured: per seed, the metrics of each method by width, and what scans must read.
        widths: the Matryoshka model's.
    """
    narrow = [width for width in widths if width * 4 <= widths.full]

    def ratio(width: int, method: str, of: int) -> dict[str, Any]:
        mine = [one["methods"]["matryoshka"][str(width)][_DECIDING] for one in measured]
        other = [one["methods"][method][str(of)][_DECIDING] for one in measured]
        return over_seeds([a / b for a, b in zip(mine, other, strict=True)]) | {"width": width, "against": method}

    def smallest(methods: Sequence[str], among: Sequence[int]) -> dict[str, Any]:
        ratios = [ratio(width, method, width) for method in methods for width in among]
        return min(ratios, key=lambda one: float(one["mean"]))

    def mean(*path: str) -> dict[str, Any]:
        return over_seeds([float(_at(one, path)) for one in measured])

    return {
        "full_vs_twin": ratio(widths.full, "twin truncated", widths.full),
        "min_width_vs_dedicated": smallest(["dedicated"], list(widths)),
        "quarter_vs_full": ratio(narrow[-1], "matryoshka", widths.full),
        "containment_quarter_x2": mean("methods", "matryoshka", str(narrow[-1]), "containment_x2"),
        "panorama_share": mean("panorama_share"),
        "min_width_vs_pca_at_quarter_and_below": smallest(["twin PCA", "twin PCA unscaled"], narrow),
        "twin_panorama_share": mean("twin_panorama_share"),
        "panorama_levels": NUM_LEVELS,
        "widths": list(widths),
        "quarter": narrow[-1],
        "methods": {
            method: {
                width: {name: mean("methods", method, width, name) for name in metrics}
                for width, metrics in by_width.items()
            }
            for method, by_width in measured[0]["methods"].items()
        },
        "item_energy": {width: mean("item_energy", width) for width in measured[0]["item_energy"]},
        "trainings": [one["trainings"] for one in measured],
    }


def _at(content: Any, path: Sequence[str]) -> Any:
    for key in path:
        content = content[key]
    return content


HEADLINES = {
    "full_vs_twin": min,
    "min_width_vs_dedicated": min,
    "quarter_vs_full": min,
    "containment_quarter_x2": min,
    "panorama_share": max,
    "min_width_vs_pca_at_quarter_and_below": min,
}
"""The figures that the experiment is known for, and which of two is the worse."""


def worst(parts: Parts) -> dict[str, Any]:
    """Return each headline figure where it is worst among the datasets, and name that dataset."""
    return {
        name: worse(
            (part["figures"][name] | {"dataset": dataset} for dataset, part in parts.items()),
            key=lambda one: float(one["mean"]),
        )
        for name, worse in HEADLINES.items()
    }


def _print(name: str, figures: dict[str, Any]) -> None:
    console = Console(width=130, highlight=False)
    title = f"{name}, test, mean of {len(figures['seeds'])} seed(s)"
    table = Table("", "width", *(metric.replace("containment_", "held ") for metric in METRICS), title=title)
    for method, by_width in figures["methods"].items():
        for width, metrics in by_width.items():
            cells = [f"{metrics[metric]['mean']:.4f}" if metric in metrics else "" for metric in METRICS]
            table.add_row(method, width, *cells, end_section=width == str(figures["widths"][-1]))
    console.print(table)
    for key in HEADLINES:
        one = figures[key]
        interval = "" if one["interval"] is None else " [{:.4f}, {:.4f}]".format(*one["interval"])
        console.print(f"{key}: {one['mean']:.4f}{interval}", markup=False)


if __name__ == "__main__":
    main()
