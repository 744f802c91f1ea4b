"""Choose settings on validation: a small seeded random search whose space, budget and every trial are recorded.

A trial draws each setting of the space independently, trains with seed 1, and scores validation ndcg@10 at full width
at the best epoch. Test is never read. The space is a TOML file. Under ``[draw]`` a list is a set of choices, a table
with ``low`` and ``high`` a range (``log = true`` draws its logarithm evenly); ``[fixed]`` overrides the benchmark's own
settings in every trial. Names are dotted, in quotes: ``"loss.temperature"``.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks._configs import Benchmark, load_benchmark
from benchmarks._experiment import SIMULATED, open_dataset, parse, quick_config, trained
from benchmarks._harness import Parts, finish_part, parser
from recsys.config import TrainConfig
from recsys.data.dataset import Dataset
from recsys.errors import ConfigError, TrainingError
from recsys.settings import from_mapping, read_toml, to_mapping

_SCORE = "ndcg@10"


def main() -> None:
    """Draw, train, rank the trials."""
    given = _parse()
    name = SIMULATED if given.quick else given.dataset
    benchmark = Benchmark(recipe=name, train=quick_config()) if given.quick else load_benchmark(name)
    space = read_space(given.space or benchmark.space_path)
    if given.quick:
        space["fixed"] = {}
    num_trials = 2 if given.quick else given.trials
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch) if given.quick else given.work
        dataset = open_dataset(work, benchmark.recipe, benchmark.protocol)
        base = benchmark.train
        drawn = draws(space, num_trials=num_trials, seed=given.seed)
        trials = [_try(work, dataset, overridden(base, space.get("fixed", {}) | one)) | {"drawn": one} for one in drawn]
    trials.sort(key=lambda trial: -trial.get("score", -1.0))
    _print(name, trials)
    figures = {"base": to_mapping(base), "space": space, "seed": given.seed, "num_trials": num_trials, "trials": trials}
    finish_part("search", name, figures, summary=best, record=given.record)


def _parse() -> argparse.Namespace:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--dataset", default="gowalla", help="which benchmark of benchmarks/configs (gowalla)")
    arguments.add_argument("--trials", type=int, default=20, help="trainings (20; 2 if --quick)")
    arguments.add_argument("--space", type=Path, help="TOML file of what to draw from, instead of the benchmark's")
    arguments.add_argument("--seed", type=int, default=1, help="fixes what is drawn (1)")
    return parse(arguments)


def read_space(path: Path) -> dict[str, Any]:
    """Read a search space.

    Raises:
        ConfigError: the file is missing or not TOML, or has another table than ``fixed`` and ``draw``.
    """
    space = read_toml(path)
    if unknown := sorted(space.keys() - {"fixed", "draw"}):
        raise ConfigError(f"{path}: got the table {unknown[0]!r}, expected fixed and draw")
    return space


def draws(space: Mapping[str, Any], *, num_trials: int, seed: int) -> list[dict[str, Any]]:
    """Draw settings by dotted name, such as ``loss.temperature``; the first n of more trials are the n of fewer.

    Raises:
        ConfigError: the space has no ``draw`` table, or one of its entries is neither choices nor a range.
    """
    if not space.get("draw"):
        raise ConfigError("space: got no table [draw], expected settings to draw")
    random = np.random.default_rng(seed)
    return [{name: _draw(name, among, random) for name, among in space["draw"].items()} for _ in range(num_trials)]


def _draw(name: str, among: Any, random: np.random.Generator) -> Any:
    if isinstance(among, list) and among:
        return among[random.integers(len(among))]
    if not isinstance(among, dict) or not among.keys() >= {"low", "high"} or not among["low"] < among["high"]:
        raise ConfigError(f"space: {name}: got {among!r}, expected a list of choices, or low and high above it")
    low, high = among["low"], among["high"]
    if among.get("log", False):
        return float(np.exp(random.uniform(np.log(low), np.log(high))))
    return float(random.uniform(low, high))


def overridden(base: TrainConfig, values: Mapping[str, Any]) -> TrainConfig:
    """Return a configuration with settings by dotted name put in.

    Raises:
        ConfigError: a setting is unknown or out of range.
    """
    content = to_mapping(base)
    for name, value in values.items():
        *tables, setting = name.split(".")
        table = content
        for one in tables:
            table = table.setdefault(one, {})
        # A number for a setting of one value per width stands for all widths.
        table[setting] = [value] if isinstance(table.get(setting), tuple) and not isinstance(value, list) else value
    return from_mapping(TrainConfig, content, where="space")


def _try(work: Path, dataset: Dataset, config: TrainConfig) -> dict[str, Any]:
    """Train one trial; one whose loss diverges is a result too."""
    try:
        run = trained(work, dataset, replace(config, seed=1))
    except TrainingError as error:
        return {"failed": str(error)}
    scores = run.scores(_SCORE)
    return {
        "score": max(scores),
        "best_epoch": run.best_epoch,
        "curve": scores,
        "seconds": run.seconds,
        "commit": run.commit,
    }


def best(parts: Parts) -> dict[str, Any]:
    """Return each dataset's best trial."""
    return {
        name: {key: part["figures"]["trials"][0].get(key) for key in ("drawn", "score", "best_epoch")}
        for name, part in parts.items()
    }


def _print(name: str, trials: list[dict[str, Any]]) -> None:
    shown = Table(_SCORE, "epoch", "seconds", "drawn", title=f"{name}, validation")
    for trial in trials:
        drawn = ", ".join(
            f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}"
            for key, value in trial["drawn"].items()
        )
        if "failed" in trial:
            shown.add_row("failed", "", "", drawn)
        else:
            shown.add_row(f"{trial['score']:.4f}", str(trial["best_epoch"]), f"{trial['seconds']:.0f}", drawn)
    Console(width=130, highlight=False).print(shown)


if __name__ == "__main__":
    main()
