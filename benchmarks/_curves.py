"""Train and keep every step's losses: what processes of ``benchmarks.processes``, and of tests, run under torchrun."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recsys.config import TrainConfig
from recsys.data.dataset import Dataset
from recsys.settings import from_mapping
from recsys.train.inputs import Inputs
from recsys.train.noise import silenced
from recsys.train.process import Process, joined
from recsys.train.trainer import Trainer, TrainOptions

Curve = list[list[float]]
"""By step, the loss at each width."""


class _Followed(Trainer):
    """Keeps every step's losses."""

    def __init__(self, options: TrainOptions, dataset: Dataset, process: Process) -> None:
        super().__init__(options, dataset, process)
        self.curve: Curve = []

    def step(self, batches: Iterator[Inputs]) -> list[float]:
        """Keep what the step returns."""
        self.curve.append(super().step(batches))
        return self.curve[-1]


def follow(job: dict[str, Any], process: Process) -> Curve:
    """Train, or go on with training, and return the losses of every step that was done.

    Args:
        job: ``dataset`` and ``out``, folders; ``resume``; ``config``, as a mapping.
        process: this one's place in the run.
    """
    options = TrainOptions(
        dataset=Path(job["dataset"]),
        out=Path(job["out"]),
        resume=job["resume"],
        config=from_mapping(TrainConfig, job["config"], where="job"),
    )
    trainer = _Followed(options, Dataset(options.dataset), process)
    trainer.run()
    return trainer.curve


def main(jobs: Path) -> None:
    """Do one job after another; the first process writes ``curve.json`` into each run's folder."""
    with silenced(), joined("cpu") as process:
        for job in json.loads(jobs.read_text()):
            curve = follow(job, process)
            if process.is_first:
                (Path(job["out"]) / "curve.json").write_text(json.dumps(curve))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
