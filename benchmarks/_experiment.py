"""What experiments on quality share: data prepared once, trainings finished once, figures over seeds.

Everything is kept in a work folder under names made of what it depends on (the dataset's fingerprint, the
configuration), so that an experiment that was interrupted goes on where it stopped: finished trainings are not
repeated, a training under way resumes from its last epoch. A work folder does not notice that the code has changed;
each training's commit is kept with its figures.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import shutil
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from benchmarks._harness import commit
from recsys.config import LossConfig, ModelConfig, TrainConfig
from recsys.data.dataset import Dataset, Queries
from recsys.data.options import PrepareOptions
from recsys.data.prepare import prepare
from recsys.data.synthetic import SimulatedWorld
from recsys.evaluate.towers import item_vectors, query_vectors
from recsys.model.best import load_towers
from recsys.settings import to_mapping
from recsys.train.run_folder import read_progress
from recsys.train.trainer import TrainOptions, train

SIMULATED = "simulated"
"""The dataset of quick runs."""


def parse(arguments: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line of an experiment, which has a work folder too, and of which no quick run is recorded."""
    arguments.add_argument(
        "--work",
        type=Path,
        default=Path("work/benchmarks"),
        help="folder that keeps what is finished, to go on from (work/benchmarks; a temporary one if --quick)",
    )
    given = arguments.parse_args()
    if given.quick and given.record:
        arguments.error("--record: got it with --quick, whose figures prove nothing")
    return given


def open_dataset(work: Path, recipe: str, protocol: str | None = None) -> Dataset:
    """Return a recipe's dataset, prepared in the work folder if it is not there; ``simulated`` needs no files."""
    folder = work / "datasets" / "-".join(filter(None, [Path(recipe).stem, protocol]))
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        named: dict[str, Any] = {"out": folder, "protocol": protocol}
        if recipe == SIMULATED:
            world = SimulatedWorld(num_users=200, num_items=240, num_events=4000).write(folder.with_suffix(".log"))
            named |= {"interactions": str(world / "interactions.parquet"), "time_column": "timestamp"}
            named |= {"protocol": protocol or "leave-last-out"}
        else:
            named |= {"recipe": recipe}
        prepare(PrepareOptions(**named))
    return Dataset(folder)


def quick_config() -> TrainConfig:
    """Return settings that train within seconds and prove nothing."""
    model = ModelConfig(widths=(8, 16, 32), embedding_dim=8, hidden=(16,))
    loss = LossConfig(num_uniform_negatives=32)
    return TrainConfig(model=model, loss=loss, batch_size=256, epochs=2)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A finished training.

    Args:
        run: its folder; the best towers are in it.
        curve: one record per epoch, as the trainer wrote it: losses, validation metrics by width, energy.
        commit: of the code that trained.
    """

    run: Path
    curve: list[dict[str, Any]]
    commit: str

    @property
    def seconds(self) -> float:
        """Wall-clock of all epochs' steps; of an epoch that was interrupted, from where it was gone on with."""
        return float(sum(record["seconds"] for record in self.curve))

    def encode(self, dataset: Dataset, queries: Queries) -> tuple[np.ndarray, np.ndarray]:
        """Return the queries' and all items' vectors at full width."""
        towers, _ = load_towers(self.run)
        user_QD = query_vectors(towers, queries, dataset.feature_lists("user"))
        return user_QD, item_vectors(towers, dataset.feature_lists("item"))

    def scores(self, metric: str) -> list[float]:
        """Return a metric of validation at full width, epoch by epoch."""
        return [list(record["validation"].values())[-1][metric] for record in self.curve]

    @property
    def best_epoch(self) -> int:
        """The epoch, counted from 1, whose towers validation chose."""
        return int(np.argmax(self.scores("ndcg@10"))) + 1


def trained(work: Path, dataset: Dataset, config: TrainConfig) -> Trained:
    """Train, or go on with training, or return what was trained before."""
    run = work / "runs" / f"{dataset.name}-{digest(dataset.manifest['fingerprint'], to_mapping(config))}"

    def finish() -> dict[str, Any]:
        resume = read_progress(run) is not None
        if run.exists() and not resume:
            shutil.rmtree(run)
        train(TrainOptions(dataset=dataset.path, out=run, resume=resume, config=config))
        progress = read_progress(run)
        assert progress is not None
        return {"curve": progress.history, "commit": commit()}

    finished = remembered(run / "finished.json", finish)
    shutil.rmtree(run / "checkpoints", ignore_errors=True)  # gone already where it was finished before
    return Trained(run=run, **finished)


def alone(config: TrainConfig, width: int) -> TrainConfig:
    """Return the same training for one width only: same data, epochs, batches, optimisers and early stop.

    What ties widths together has no meaning then and goes; what is set per width keeps that width's value.
    """
    place, loss = config.model.widths.index(width), config.loss
    temperature = loss.temperature if len(loss.temperature) == 1 else (loss.temperature[place],)
    tying = ("weights", "learn_weights", "distillation", "energy_weight", "energy_decay", "energy_parts", "energy_ramp")
    none: dict[str, Any] = {name: getattr(LossConfig(), name) for name in tying}
    single = replace(loss, temperature=temperature, **none)
    # Without a projection rows are the vectors, and as wide.
    dim = config.model.embedding_dim if config.model.projection else width
    return replace(config, model=replace(config.model, widths=(width,), embedding_dim=dim), loss=single)


def over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """Return the mean of one number per seed, and its 95% interval by Student's t (none of a single seed)."""
    mean, interval = statistics.fmean(values), None
    if len(values) > 1:
        margin = float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
        interval = [mean - margin, mean + margin]
    return {"mean": mean, "interval": interval, "by_seed": list(values)}


def remembered(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the JSON in a file, making and writing it first where there is none."""
    if not path.is_file():
        content = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        staging = path.with_suffix(".partial")
        staging.write_text(json.dumps(content, allow_nan=False))
        staging.rename(path)
    return dict(json.loads(path.read_text()))


def digest(*content: Any) -> str:
    """Return a short name for plain values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
