"""Checkpoints: everything needed to go on as if never stopped, and the towers as others read them.

A checkpoint is written under another name and renamed when it is whole, so the newest one there is always good.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import torch
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
    dcp.save(sharded.tensors() | _rank_states(sharded, process), checkpoint_id=staging)
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


def load_checkpoint(run: Path, sharded: Sharded, process: Process) -> Progress:
    """Load the newest checkpoint into a freshly sharded model, in place, and return where it stood.

    Where there is none, that is at the start.

    Written by any number of processes; with another number than then, random states start afresh from the seed, and
    queues of negatives empty.
    """
    complete = complete_checkpoints(run)
    if not complete:
        return Progress()
    sharded.dense_optimizer.init_state()
    state = sharded.tensors()
    rank_states = _rank_states(sharded, process)
    written = dcp.FileSystemReader(complete[-1]).read_metadata().state_dict_metadata
    same_processes = rank_states.keys() <= written.keys() and _rank_key(process.world_size) not in written
    dcp.load(state | (rank_states if same_processes else {}), checkpoint_id=complete[-1])
    if same_processes:
        torch.set_rng_state(rank_states[_rank_key(process.rank)])
        if process.device.type == "cuda":
            torch.cuda.set_rng_state(rank_states[_rank_key(process.rank, "cuda")], process.device)
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


def _rank_key(rank: int, device: str = "cpu") -> str:
    return f"random/{device}/{rank}"


def _rank_states(sharded: Sharded, process: Process) -> dict[str, torch.Tensor]:
    """Return what each rank has of its own, by names of this rank's own.

    These are the states of the generators that dropout draws from (copies), and the loss's buffers (themselves).
    """
    states = {_rank_key(process.rank): torch.get_rng_state()}
    if process.device.type == "cuda":
        states[_rank_key(process.rank, "cuda")] = torch.cuda.get_rng_state(process.device)
    for name, buffer in sharded.plain_loss.named_buffers():
        states[f"buffers/{name}/{process.rank}"] = buffer
    return states
