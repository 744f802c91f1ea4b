"""Checkpoints: everything needed to go on as if never stopped, and the towers as others read them.

A checkpoint is written under another name and renamed when it is whole, so the newest one there is always good.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp

from recsys import artifact
from recsys.errors import TrainingError
from recsys.model.exported import ExportedTowers
from recsys.model.layout import Layout
from recsys.ragged import Ragged
from recsys.train.blocks import BlockPlanner
from recsys.train.claim import changes_of, writing
from recsys.train.process import Process
from recsys.train.run_folder import (
    CHECKPOINTS,
    PROGRESS,
    Progress,
    complete_checkpoints,
    load_progress,
    newest_checkpoint,
)
from recsys.train.sharding import AVERAGE, Sharded, exported_name, gather

_MODEL = "model.json"
_KEPT = 2


def save_checkpoint(run: Path, sharded: Sharded, progress: Progress, process: Process) -> None:
    """Write a checkpoint (every rank must call) and remove all but the newest two.

    Raises:
        ArtifactError: it cannot be written; those before it are still there.
    """
    final = run / CHECKPOINTS / f"step-{progress.total_steps:08d}"
    staging = final.with_name(f".staging-{final.name}")
    with writing(final, last_good=newest_checkpoint(run)), _removed_if_incomplete(staging, process):
        if process.is_first:
            for left in final.parent.glob(".staging-*"):
                shutil.rmtree(left)  # of a process that died over it
            staging.mkdir(parents=True)
        process.wait()
        dcp.save(sharded.tensors(), checkpoint_id=staging, planner=BlockPlanner())
        if process.is_first:
            (staging / PROGRESS).write_text(json.dumps(asdict(progress), indent=2) + "\n")
            (staging / _MODEL).write_text(json.dumps(sharded.described, indent=2) + "\n")
            for file in staging.iterdir():
                artifact.sync_path(file)
            artifact.sync_path(staging)
            staging.rename(final)
            artifact.sync_path(final.parent)
            for old in complete_checkpoints(run)[:-_KEPT]:
                shutil.rmtree(old)
        process.wait()


def load_checkpoint(run: Path, sharded: Sharded) -> Progress:
    """Load the newest checkpoint into a freshly sharded model, in place, and return where it stood.

    It may have been written by any number of processes: nothing in it depends on that. A run that was stopped before
    its first checkpoint stands at its beginning.

    Raises:
        TrainingError: the checkpoint is of another model.
    """
    checkpoint = newest_checkpoint(run)
    if checkpoint is None:
        return Progress()
    if changes := changes_of(json.loads((checkpoint / _MODEL).read_text()), sharded.described):
        raise TrainingError(f"{checkpoint}: got a checkpoint of another model: {'; '.join(map(str, changes))}")
    sharded.dense_optimizer.init_state()
    progress, tensors = load_progress(checkpoint), sharded.tensors()
    if not progress.num_averaged:  # a mean that somebody wants now begins with the next epoch
        tensors = {name: value for name, value in tensors.items() if not name.startswith(AVERAGE)}
    dcp.load(tensors, checkpoint_id=checkpoint)
    return progress


def export_towers(
    layout: Layout, sharded: Sharded, process: Process, item_features: Mapping[str, Ragged] | None = None
) -> ExportedTowers | None:
    """Collect the weights, or their means, into plain towers; every rank must call, rank 0 gets them.

    Where rank 0 holds float32 tables whole on the CPU, they are the towers' own too: no copies, so what training does
    next is done to them.

    Args:
        layout: tables and inputs.
        sharded: what was trained.
        process: this one.
        item_features: of all items, for towers that read those of histories' items.
    """
    kept = {exported_name(name): value for name, value in sharded.kept.items()}
    tables = {table: gather(kept[f"tables.{table}.weight"], process) for table in layout.tables if process.is_alone}
    shared = {table: plain for table, plain in tables.items() if plain is not None and plain.dtype == torch.float32}
    towers = ExportedTowers(layout, item_features, tables=shared or None) if process.is_first else None
    own = {} if towers is None else towers.state_dict()
    # One after another into their places: tables may be a large part of what memory holds.
    for name, value in kept.items():
        plain = gather(value, process)
        if plain is not None and (place := own.pop(name)).data_ptr() != plain.data_ptr():
            place.copy_(plain)
    assert not own, f"towers: got no weights for {sorted(own)}"
    return towers


@contextlib.contextmanager
def _removed_if_incomplete(staging: Path, process: Process) -> Iterator[None]:
    try:
        yield
    except BaseException:
        if process.is_first:
            shutil.rmtree(staging, ignore_errors=True)
        raise
