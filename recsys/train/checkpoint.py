"""Checkpoints: everything needed to go on as if never stopped, and the towers as others read them.

A checkpoint is written under another name and renamed when it is whole, so the newest one there is always good.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import torch.distributed as dist
import torch.distributed.checkpoint as dcp

from recsys import artifact
from recsys.model.exported import ExportedTowers
from recsys.model.layout import Layout
from recsys.train.process import Process
from recsys.train.run_folder import CHECKPOINTS, PROGRESS, Progress, complete_checkpoints, load_progress
from recsys.train.sharding import Sharded, gather

_KEPT = 2


def save_checkpoint(run: Path, sharded: Sharded, progress: Progress, process: Process) -> None:
    """Write a checkpoint (every rank must call) and remove all but the newest two."""
    final = run / CHECKPOINTS / f"step-{progress.total_steps:08d}"
    staging = final.with_name(f".staging-{final.name}")
    if process.is_first:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
    dist.barrier()
    dcp.save(sharded.tensors(), checkpoint_id=staging)
    if process.is_first:
        (staging / PROGRESS).write_text(json.dumps(asdict(progress), indent=2) + "\n")
        for file in staging.iterdir():
            artifact.sync_path(file)
        shutil.rmtree(final, ignore_errors=True)
        staging.rename(final)
        artifact.sync_path(final.parent)
        for old in complete_checkpoints(run)[:-_KEPT]:
            shutil.rmtree(old)
    dist.barrier()


def load_checkpoint(run: Path, sharded: Sharded) -> Progress:
    """Load the newest checkpoint into a freshly sharded model, in place, and return where it stood.

    Where there is none, that is at the start. It may have been written by any number of processes: nothing in it
    depends on that.
    """
    complete = complete_checkpoints(run)
    if not complete:
        return Progress()
    sharded.dense_optimizer.init_state()
    dcp.load(sharded.tensors(), checkpoint_id=complete[-1])
    return load_progress(complete[-1])


def export_towers(layout: Layout, sharded: Sharded, process: Process) -> ExportedTowers | None:
    """Collect the trained weights into plain towers; every rank must call, rank 0 gets them."""
    weights = {}
    for name, value in sharded.model.state_dict().items():
        plain = gather(value, process)
        if plain is not None:
            weights[name.replace("tables.embedding_bags.", "tables.")] = plain
    if not process.is_first:
        return None
    towers = ExportedTowers(layout)
    towers.load_state_dict(weights)
    return towers
