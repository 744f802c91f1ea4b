"""Training as a command does it: options, and what to say and to return when it is done."""

from __future__ import annotations

import json
from typing import Any

from recsys.command import Loaded, err
from recsys.config import TrainConfig
from recsys.model.best import TOWERS
from recsys.train.run_folder import PLAN, Progress, read_progress
from recsys.train.trainer import TRAIN_DEFAULTS, TrainOptions, train


def load() -> Loaded:
    """Return the options with their defaults, and the verb."""
    return TRAIN_DEFAULTS, run


def run(options: TrainOptions) -> dict[str, Any]:
    """Train, say where the best towers are, and return that with where tables were and how each epoch went."""
    folder = train(options)
    err.print(f"best towers: {folder / TOWERS}", soft_wrap=True)
    stood = read_progress(folder)
    assert stood is not None, "a finished run has a checkpoint"
    if may_get_better(options.config, stood):
        more = 2 * options.config.epochs
        err.print(f"the last epoch was the best: to go on, the same words and --resume --epochs {more}", soft_wrap=True)
    return {
        "run": str(folder),
        "towers": str(folder / TOWERS),
        "epochs": stood.epoch,
        "steps": stood.total_steps,
        "best": stood.best,
        "plan": json.loads((folder / PLAN).read_text()),
        "history": stood.history,
    }


def may_get_better(config: TrainConfig, stood: Progress) -> bool:
    """Say whether training ended since its epochs were used up, while validation still rose."""
    goes_on = config.rate_schedule == "constant" and config.loss.energy_ramp == 0
    return goes_on and not config.include_validation and stood.epoch == config.epochs > 1 and stood.stale_epochs == 0
