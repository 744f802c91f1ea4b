"""The published-protocol benchmarks: what the full width reaches beside what was published, over seeds.

The whole catalogue is ranked exactly, seen items are left out unless the recipe says otherwise, test is read once per
seed. Settings stand in benchmarks/configs and were chosen on validation (docs/quality.md says how); so is the
number of epochs. Where a split is published as train and test alone, validation is cut from train to
choose the epochs (with the first seed), and what is measured was trained on both for as many; or, where the published
training's own number of epochs is taken (``include_validation``), there is nothing to choose, and no curve.

docs/quality.md says how to read the figures; ``--table`` renews its table from the recorded ones.
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

from benchmarks._configs import Benchmark, Target, benchmark_names, load_benchmark
from benchmarks._experiment import (
    SIMULATED,
    Trained,
    digest,
    open_dataset,
    over_seeds,
    parse,
    quick_config,
    remembered,
    trained,
)
from benchmarks._harness import Parts, finish_part, parser, recorded_parts
from recsys.config import TrainConfig
from recsys.data.dataset import Dataset
from recsys.evaluate.protocol import Quality, evaluate_baselines, evaluate_vectors
from recsys.settings import to_mapping

PAGE = Path(__file__).parents[1] / "docs" / "quality.md"
BEGIN, END = "<!-- table: python -m benchmarks.quality --table -->\n", "<!-- end of table -->"


def main() -> None:
    """Measure the benchmarks one after another, each recorded as soon as it is done."""
    given = _parse()
    if given.table:
        text = PAGE.read_text()
        PAGE.write_text(
            text[: text.index(BEGIN) + len(BEGIN)] + table(recorded_parts("quality")) + text[text.index(END) :]
        )
        return
    if given.quick:
        with tempfile.TemporaryDirectory() as scratch:
            for refit in (False, True):
                name, benchmark = _quick_benchmark(refit=refit)
                _finish(name, benchmark, work=Path(scratch), seeds=range(1, 3), record=given.record)
        return
    for name in given.only:
        _finish(name, load_benchmark(name), work=given.work, seeds=range(1, given.seeds + 1), record=given.record)


def _parse() -> argparse.Namespace:
    known = benchmark_names()
    arguments = parser(__doc__ or "")
    arguments.add_argument(
        "--only", type=lambda text: text.split(","), default=known, help=f"some of {','.join(known)} (all)"
    )
    arguments.add_argument("--seeds", type=int, default=3, help="how many seeds, from 1 on (3; 2 if --quick)")
    arguments.add_argument("--table", action="store_true", help=f"write the recorded figures into {PAGE.name}, no more")
    return parse(arguments)


def _quick_benchmark(*, refit: bool) -> tuple[str, Benchmark]:
    target = Target(must=1.0, aim=1.2, source="the baselines", times_best_baseline=True)
    name = f"{SIMULATED}-refit" if refit else SIMULATED
    return name, Benchmark(recipe=SIMULATED, refit=refit, targets={"ndcg@10": target}, train=quick_config())


def _finish(name: str, benchmark: Benchmark, *, work: Path, seeds: Sequence[int], record: bool) -> None:
    dataset = open_dataset(work, benchmark.recipe, benchmark.protocol)
    figures = _measure(dataset, benchmark, work=work, seeds=seeds)
    _print(name, figures)
    finish_part("quality", name, figures, summary=summary, record=record)


def _measure(dataset: Dataset, benchmark: Benchmark, *, work: Path, seeds: Sequence[int]) -> dict[str, Any]:
    configs, curves = [replace(benchmark.train, seed=seed) for seed in seeds], []
    if benchmark.refit:
        chosen = trained(work, dataset, configs[0])
        curves = [_curve(configs[0], chosen)]
        configs = [replace(config, include_validation=True, epochs=chosen.best_epoch) for config in configs]
    runs = [trained(work, dataset, config) for config in configs]
    if not benchmark.refit and not benchmark.train.include_validation:
        curves = [_curve(config, run) for config, run in zip(configs, runs, strict=True)]
    seen = [_read_test(work, dataset, config, run) for config, run in zip(configs, runs, strict=True)]
    by_width = {
        width: {metric: over_seeds([one[width][metric] for one in seen]) for metric in metrics}
        for width, metrics in seen[0].items()
    }
    baselines = remembered(
        work / "baselines" / f"{dataset.name}-{digest(dataset.manifest['fingerprint'])}.json",
        lambda: {one.name: _means(one) for one in evaluate_baselines(dataset, "test")},
    )
    full = by_width[str(benchmark.train.model.widths[-1])]
    return {
        "metrics": {
            metric: full[metric] | {"seeds": list(seeds)} | _wanted(metric, target, baselines)
            for metric, target in benchmark.targets.items()
        },
        "baselines": baselines,
        "by_width": by_width,
        "validation_curves": curves,
        "epochs": [len(run.curve) for run in runs],
        "seconds": [run.seconds for run in runs],
        "commits": sorted({run.commit for run in runs}),
        "num_users": len(dataset.queries("test")),
        "num_items": dataset.num_items,
        "protocol": dataset.manifest["protocol"],
        "refit": benchmark.refit,
        "mask_seen": dataset.mask_seen,
        "dataset_fingerprint": dataset.manifest["fingerprint"],
        "config": to_mapping(benchmark.train),
    }


def _read_test(work: Path, dataset: Dataset, config: TrainConfig, run: Trained) -> dict[str, dict[str, float]]:
    """Return a run's metrics on test by width."""

    def measure() -> dict[str, dict[str, float]]:
        queries = dataset.queries("test")
        found = evaluate_vectors(queries, *run.encode(dataset, queries), config.model.ladder)
        return {str(width): _means(one) for width, one in found.items()}

    return remembered(work / "quality" / f"{run.run.name}.json", measure)


def _means(one: Quality) -> dict[str, float]:
    return {metric: one.mean(metric) for metric in one.per_query} | one.coverage


def _curve(config: TrainConfig, run: Trained) -> dict[str, Any]:
    scores = {metric: run.scores(metric) for metric in ("ndcg@10", "recall@10")}
    return {"seed": config.seed, "best_epoch": run.best_epoch, **scores}


def _wanted(metric: str, target: Target, baselines: dict[str, dict[str, float]]) -> dict[str, Any]:
    best = max(baselines, key=lambda name: baselines[name][metric])
    unit = baselines[best][metric] if target.times_best_baseline else 1.0
    return {
        "must": target.must * unit,
        "aim": target.aim * unit,
        "source": target.source,
        "best_baseline": {"name": best, "mean": baselines[best][metric]},
    }


def summary(parts: Parts) -> dict[str, Any]:
    """Return every target's figures by dataset/metric, each with the date and commit of its recording."""
    return {
        f"{name}/{metric}": one | {"date": part["date"], "commit": part["commit"]}
        for name, part in parts.items()
        for metric, one in part["figures"]["metrics"].items()
    }


def table(parts: Parts) -> str:
    """Return the Markdown table of what was wanted and what was recorded; a benchmark without a record shows dashes."""
    lines = [
        "| benchmark | must reach | aim | got (95% interval over seeds) | best baseline | recorded |",
        "|---|---|---|---|---|---|",
    ]
    found = summary(parts)
    for name in benchmark_names():
        for metric, target in load_benchmark(name).targets.items():
            one = found.get(f"{name}/{metric}")
            must, aim = (_number(one[key]) if one else _planned(target, key) for key in ("must", "aim"))
            lines.append(f"| {name} {metric} | {must} | {aim} | {_got(one)} |")
    return "\n".join(lines) + "\n"


def _planned(target: Target, key: str) -> str:
    value: float = getattr(target, key)
    return f"{value:g} times the best baseline" if target.times_best_baseline else _number(value)


def _got(one: dict[str, Any] | None) -> str:
    """Return the last three cells of a row."""
    if one is None:
        return "— | — | —"
    interval = "" if one["interval"] is None else " ({} to {})".format(*map(_number, one["interval"]))
    verdict = "aim reached" if one["mean"] >= one["aim"] else "reached" if one["mean"] >= one["must"] else "not reached"
    baseline = one["best_baseline"]
    seeds = f"{len(one['seeds'])} seed(s)"
    return (
        f"**{_number(one['mean'])}**{interval}, {seeds}: {verdict} | {_number(baseline['mean'])} ({baseline['name']}) "
        f"| {one['date'][:10]}, {one['commit']}"
    )


def _number(value: float) -> str:
    """Four decimals without the zero before the point."""
    return f"{value:.4f}".removeprefix("0")


def _print(name: str, figures: dict[str, Any]) -> None:
    console = Console(width=130, highlight=False)
    metrics = list(dict.fromkeys([*figures["metrics"], "recall@20", "ndcg@20", "ndcg@10", "coverage@10"]))
    shown = Table("", *metrics, title=f"{name}, test, mean of {len(figures['epochs'])} seed(s)")
    rows = {f"width {width}": {m: one[m]["mean"] for m in metrics} for width, one in figures["by_width"].items()}
    for row, values in (rows | figures["baselines"]).items():
        shown.add_row(row, *(_number(values[metric]) for metric in metrics))
    for key in ("must", "aim"):
        shown.add_row(key, *(_number(figures["metrics"][m][key]) if m in figures["metrics"] else "" for m in metrics))
    console.print(shown)


if __name__ == "__main__":
    main()
