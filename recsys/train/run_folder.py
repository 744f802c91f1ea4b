"""What a run folder holds, and what can be read of it without torchrec.

A run folder::

    config.json                 the configuration that ran, and the dataset it ran on
    plan.json                   where tables were put last, and the memory of each process that was planned
    checkpoints/step-00001234/  torch.distributed.checkpoint (weights, both optimizers), progress.json and model.json
    diverged/step-00001234/     the batch whose loss was not finite, if there was one
    towers/                     the best towers so far, exported: towers.safetensors, towers.json, manifest.json
    tensorboard/                scalars
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CONFIG = "config.json"
PLAN = "plan.json"
CHECKPOINTS = "checkpoints"
PROGRESS = "progress.json"


@dataclass(kw_only=True)
class Progress:
    """Where a run stands: which data comes next, and what validation has said so far.

    Args:
        epoch: the pass that is under way, from 0.
        step: batches of that pass already done.
        total_steps: batches done in all passes.
        loss_sums: sum over this pass's batches of the loss at each width, narrowest first.
        best: best validation score so far, and None before the first.
        stale_epochs: passes since then.
        history: one record of scores per finished pass.
        num_averaged: passes whose last weights are in the mean that towers are made of; 0 where there is none.
    """

    epoch: int = 0
    step: int = 0
    total_steps: int = 0
    loss_sums: list[float] = field(default_factory=list)
    best: float | None = None
    stale_epochs: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    num_averaged: int = 0


def read_progress(run: Path) -> Progress | None:
    """Return where a run stood at its newest checkpoint, or None before the first."""
    newest = newest_checkpoint(run)
    return None if newest is None else load_progress(newest)


def newest_checkpoint(run: Path) -> Path | None:
    """Return the newest checkpoint's folder, or None before the first."""
    complete = complete_checkpoints(run)
    return complete[-1] if complete else None


def load_progress(checkpoint: Path) -> Progress:
    """Return where a run stood at one of its checkpoints."""
    return Progress(**json.loads((checkpoint / PROGRESS).read_text()))


def complete_checkpoints(run: Path) -> list[Path]:
    """Return a run's checkpoints, oldest first."""
    return sorted((run / CHECKPOINTS).glob("step-*"))
