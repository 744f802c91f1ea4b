"""Is a prefix as good as a model of its width, and does the full width give anything up?

At one budget (same data, epochs, batches, optimisers and early stop) and for each seed this trains the Matryoshka
model, a model for each width alone, and so, at full width, the twin that knows nothing of prefixes. The twin is also
cut to every narrower width: as it is (truncated); after rotating users and items to the principal components of the
items (PCA, not centred, since inner products are what counts); and with dimensions in random order (mean of several).

Every number is of the test split, read once per seed, with the towers that validation chose; the settings come from a
search on validation (benchmarks.search). Ratios are taken seed by seed. Containment and the share that Panorama touches
are of a seeded sample of users; seen items are left out of containment's lists but not of Panorama's.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks._configs import Benchmark, benchmark_names, load_benchmark
from benchmarks._experiment import (
    SIMULATED,
    WORK,
    Trained,
    alone,
    digest,
    open_dataset,
    over_seeds,
    quick_config,
    remembered,
    trained,
)
from benchmarks._harness import RESULTS, Parts, finish_part, parser
from benchmarks._plots import plot_widths
from recsys.config import TrainConfig, from_toml, to_mapping
from recsys.data.dataset import Dataset, Queries
from recsys.errors import ConfigError
from recsys.evaluate.containment import containment
from recsys.evaluate.protocol import evaluate_vectors
from recsys.index.panorama import panorama_scan
from recsys.widths import WidthLadder, energy_shares, truncate

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
_DECIDING = "ndcg@20"
_DRAWS = 3
_PROBE = 2000
_LEVELS = 8

ByWidth = dict[str, dict[str, float]]


def main() -> None:
    """Train and measure everything for each seed, then compare."""
    given = _parse()
    name, benchmark = _benchmark(given)
    config, seeds = benchmark.train, list(range(1, (2 if given.quick else given.seeds) + 1))
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch) if given.quick else given.work
        dataset = open_dataset(work, benchmark.recipe, benchmark.protocol)
        measured = [_measure_seed(work, dataset, replace(config, seed=seed)) for seed in seeds]
        figures = _figures(measured, WidthLadder(config.model.widths), seeds) | {"config": to_mapping(config)}
        plot_widths(name, figures, (RESULTS if given.record else work) / f"widths-{name}.png")
    _print(name, figures)
    finish_part("widths", name, figures, summary=worst, record=given.record)


def _parse() -> argparse.Namespace:
    arguments = parser(__doc__ or "")
    arguments.add_argument(
        "--dataset", default="gowalla", help="a benchmark of benchmarks/configs, or a recipe with --config (gowalla)"
    )
    arguments.add_argument("--seeds", type=int, default=3, help="how many seeds, from 1 on (3; 2 if --quick)")
    arguments.add_argument("--config", type=Path, help="TOML file of training settings, instead of the benchmark's")
    arguments.add_argument("--work", type=Path, default=WORK, help=f"keeps what is finished, to go on from ({WORK})")
    return arguments.parse_args()


def _benchmark(given: argparse.Namespace) -> tuple[str, Benchmark]:
    """Return what to measure, by name: simulated data, a benchmark, or a recipe with settings of the caller's."""
    name = SIMULATED if given.quick else given.dataset
    if given.quick or (given.config is not None and name not in benchmark_names()):
        benchmark = Benchmark(recipe=name, train=quick_config())
    else:
        benchmark = load_benchmark(name)
    if given.config is not None:
        benchmark = replace(benchmark, train=from_toml(TrainConfig, given.config))
    widths = benchmark.train.model.widths
    if widths[0] * 4 > widths[-1]:
        raise ConfigError(f"model.widths: got {list(widths)}, expected one of at most {widths[-1] // 4}: a quarter")
    return name, benchmark


def _measure_seed(work: Path, dataset: Dataset, config: TrainConfig) -> dict[str, Any]:
    """Return every method's figures by width for one seed, and what a scan of the Matryoshka model costs."""
    widths = WidthLadder(config.model.widths)
    models = {"matryoshka": trained(work, dataset, config)}
    models |= {f"alone {width}": trained(work, dataset, alone(config, width)) for width in widths}

    def measure() -> dict[str, Any]:
        probe = _Probe(dataset.queries("test"), seed=config.seed)
        user_QD, item_ND = models["matryoshka"].encode(dataset, probe.queries)
        scan = panorama_scan(*_unit(widths, user_QD[probe.rows], item_ND), k=min(100, len(item_ND)), num_levels=_LEVELS)
        methods = {"matryoshka": probe.measure(user_QD, item_ND, widths)} | _alone(models, dataset, probe, widths)
        energy = energy_shares(item_ND, widths).mean(axis=0).tolist()
        return {
            "methods": methods,
            "panorama_share": scan.share,
            "item_energy": dict(zip(map(str, widths), energy, strict=True)),
            "trainings": {name: _cost(one) for name, one in models.items()},
        }

    key = digest(dataset.manifest["fingerprint"], to_mapping(config))
    return remembered(work / "widths" / f"{dataset.name}-{key}.json", measure)


class _Probe:
    """Measures vectors on the test split: labels on all its queries, containment on a seeded sample of them."""

    def __init__(self, queries: Queries, *, seed: int) -> None:
        self.queries = queries
        random = np.random.default_rng(seed)
        self.rows = np.sort(random.choice(len(queries), min(_PROBE, len(queries)), replace=False))

    def measure(self, user_QD: np.ndarray, item_ND: np.ndarray, widths: WidthLadder) -> ByWidth:
        """Return every metric by width."""
        found = evaluate_vectors(self.queries, user_QD, item_ND, widths, ks=(10, 20, 100))
        masked = self.queries.history.take(self.rows) if self.queries.mask_seen else None
        held = containment(user_QD[self.rows], item_ND, widths, masked=masked)
        return {
            str(width): {name: one.mean(name) for name in METRICS if name in one.per_query}
            | {"coverage@10": one.coverage["coverage@10"]}
            | {f"containment_x{multiple}": float(share.mean()) for multiple, share in held[width].items()}
            for width, one in found.items()
        }


def _alone(models: dict[str, Trained], dataset: Dataset, probe: _Probe, widths: WidthLadder) -> dict[str, ByWidth]:
    """Measure the models of one width each, and what can be made of the one of full width."""
    dedicated: ByWidth = {}
    for width in widths:
        user_QD, item_ND = models[f"alone {width}"].encode(dataset, probe.queries)
        if width < widths.full:
            dedicated |= probe.measure(user_QD, item_ND, WidthLadder([width]))
            # Its own width is its full width, so how much of that it holds says nothing.
            told = {name: value for name, value in dedicated[str(width)].items() if not name.startswith(_OF_FULL)}
            dedicated[str(width)] = told
    twin = probe.measure(user_QD, item_ND, widths)
    axes_DD = principal_axes(item_ND)
    random = np.random.default_rng(widths.full)
    draws = [random.permutation(widths.full) for _ in range(_DRAWS)]
    shuffled = [probe.measure(user_QD[:, draw], item_ND[:, draw], widths) for draw in draws]
    return {
        "dedicated": dedicated | {str(widths.full): twin[str(widths.full)]},
        "twin truncated": twin,
        "twin PCA": probe.measure(user_QD @ axes_DD, item_ND @ axes_DD, widths),
        "twin random dimensions": {
            width: {name: statistics.fmean(one[width][name] for one in shuffled) for name in METRICS} for width in twin
        },
    }


def principal_axes(item_ND: np.ndarray) -> np.ndarray:
    """Return the ``(D, D)`` orthonormal columns along which items have most energy, in falling order; not centred."""
    item_ND = item_ND.astype(np.float64)
    axes_DD: np.ndarray = np.linalg.eigh(item_ND.T @ item_ND)[1][:, ::-1]
    return axes_DD.astype(np.float32)


def _unit(widths: WidthLadder, *vectors: np.ndarray) -> list[np.ndarray]:
    return [truncate(vector_XD, widths.full, widths) for vector_XD in vectors]


def _cost(one: Trained) -> dict[str, Any]:
    return {"epochs": len(one.curve), "best_epoch": one.best_epoch, "seconds": one.seconds, "commit": one.commit}


def _figures(measured: Sequence[dict[str, Any]], widths: WidthLadder, seeds: list[int]) -> dict[str, Any]:
    """Compare method with method seed by seed, and average every number over seeds."""
    full, narrow = str(widths.full), [width for width in widths if width * 4 <= widths.full]
    quarter = str(narrow[-1])

    def ratio(width: str, method: str, of: str) -> dict[str, Any]:
        pairs = [
            (one["methods"]["matryoshka"][width][_DECIDING], one["methods"][method][of][_DECIDING]) for one in measured
        ]
        return over_seeds([mine / other for mine, other in pairs]) | {"width": int(width)}

    def smallest(method: str, among: Sequence[int]) -> dict[str, Any]:
        return min((ratio(str(width), method, str(width)) for width in among), key=lambda one: float(one["mean"]))

    methods = measured[0]["methods"]
    held = [one["methods"]["matryoshka"][quarter]["containment_x2"] for one in measured]
    return {
        "full_vs_twin": ratio(full, "twin truncated", full),
        "min_width_vs_dedicated": smallest("dedicated", list(widths)),
        "quarter_vs_full": ratio(quarter, "matryoshka", full),
        "containment_quarter_x2": over_seeds(held) | {"width": int(quarter)},
        "panorama_share": over_seeds([one["panorama_share"] for one in measured]) | {"levels": _LEVELS},
        "min_width_vs_pca_at_quarter_and_below": smallest("twin PCA", narrow),
        "seeds": seeds,
        "widths": list(widths),
        "methods": {
            method: {
                width: {name: over_seeds([one["methods"][method][width][name] for one in measured]) for name in metrics}
                for width, metrics in by_width.items()
            }
            for method, by_width in methods.items()
        },
        "item_energy": {
            width: over_seeds([one["item_energy"][width] for one in measured]) for width in measured[0]["item_energy"]
        },
        "trainings": [one["trainings"] for one in measured],
    }


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
