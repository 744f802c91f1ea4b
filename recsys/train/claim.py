"""What runs in a run folder: written down when a run begins, insisted on when it goes on."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch.distributed.checkpoint.api import CheckpointException

from recsys import artifact
from recsys.errors import ArtifactError, TrainingError
from recsys.train.process import Process, is_restarted
from recsys.train.run_folder import CONFIG


class Change(NamedTuple):
    """A value that is not what it was; nested ones by their path, dotted."""

    name: str
    was: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.name}: was {_shown(self.was)}, is {_shown(self.now)}"


def claim(
    folder: Path,
    identity: Mapping[str, Any],
    *,
    resume: bool,
    allow_changes: bool,
    free: Collection[str],
    process: Process,
) -> list[Change]:
    """Write down what runs here, or, when resuming, insist that it is what ran here before.

    A worker that torchrun has started again resumes by itself.

    Args:
        folder: the run folder.
        identity: what runs, as plain values.
        resume: go on with the run that is there.
        allow_changes: go on with other values, of which every one counts from now on.
        free: names that may change without being asked for.
        process: every process must call; the first writes.

    Returns:
        what has changed, be it free to or allowed. It is for the caller to write it down, once nothing else stands in
        the way.

    Raises:
        ArtifactError: the folder already holds a run, and ``resume`` is off; or it cannot be written.
        TrainingError: there is no run to resume, or it was another one.
    """
    path, here = folder / CONFIG, json.loads(json.dumps(identity))
    # Rank 0 looks for all, before it writes: a process that looked later would find this very run.
    is_taken, restarted = bool(process.broadcast(float(path.exists()))), process.any(is_restarted())
    if is_taken and not (resume or restarted):
        raise ArtifactError(f"{folder}: already holds a run; pass --resume to go on, or another --out")
    if resume and not is_taken and not restarted:
        raise TrainingError(f"{folder}: got no run to resume there; start without --resume")
    changes = changes_of(json.loads(path.read_text()), here) if is_taken else []
    binding = [change for change in changes if change.name not in free]
    if binding and not allow_changes:
        found = "; ".join(map(str, binding))
        raise TrainingError(
            f"{folder}: got other settings than the run was started with: {found}. Give it those it had, or "
            "--allow-changes to go on with these"
        )
    if not is_taken:
        write_identity(folder, identity, process)
    return changes


def write_identity(folder: Path, identity: Mapping[str, Any], process: Process) -> None:
    """Write down what runs in a folder; the first process does.

    Raises:
        ArtifactError: it cannot be written.
    """
    if process.is_first:
        with writing(folder / CONFIG):
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder / CONFIG, identity)


def changes_of(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[Change]:
    """Return the leaves that differ."""
    found = []
    for key in sorted(before.keys() | now.keys()):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += changes_of(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(Change(f"{prefix}{key}", old, new))
    return found


def write_whole(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file that is whole or not there, whenever the process may die."""
    staging = path.with_name(f".staging-{path.name}")
    staging.write_text(json.dumps(content, indent=2) + "\n")
    artifact.sync_path(staging)
    staging.replace(path)
    artifact.sync_path(path.parent)


@contextlib.contextmanager
def writing(path: Path, *, last_good: Path | None = None) -> Iterator[None]:
    """Say what could not be written, and what there is to go on from.

    Args:
        path: what is written in the block.
        last_good: the newest checkpoint, if there is one.

    Raises:
        ArtifactError: the disk is full, the folder unwritable, or the like.
    """
    try:
        yield
    except (OSError, CheckpointException) as error:
        if isinstance(error, CheckpointException):
            causes = [cause for cause, _ in error.failures.values()]
            if not all(isinstance(cause, Exception) for cause in causes):
                raise  # somebody wants the process to end
            reason = str(causes[0])
        else:
            reason = os.strerror(error.errno) if error.errno else str(error)
        rest = f"; {last_good} is whole: make room, then go on from it with --resume" if last_good else ""
        raise ArtifactError(f"{path}: got {reason!r}, expected to be able to write there{rest}") from error


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
