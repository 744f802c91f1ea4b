"""Whether one table of 50 million rows of 64 float32, 12.8 GB, trains on a CPU in less than 20 GB, and survives a kill.

The log is simulated and has 50 million items, of which few are ever chosen; uniform negatives come from all of them.
`recsys train` runs over it three times, each in a process of its own whose largest resident set is the system's own
figure, beside that of a few steps with a small table. The first is killed (SIGKILL) some steps after its checkpoint in
the middle of the epoch, the second goes on from there to the end, the third is never stopped. All is well where the
second says that it goes on from that checkpoint's step, and ends with the losses and, bit for bit, with the towers (the
whole table is in them) of the third.

``large_table_ok`` asks for that, for the full number of rows, and for less than 20 GB (20e9 bytes) in every process.
Needs three times the table in free disk, in the folder given by ``--work``; everything there is removed at the end.
"""

from __future__ import annotations

import json
import math
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks._feeding import EVENTS_PER_USER, write_log
from benchmarks._harness import finish, parser
from benchmarks._watched import Watched, train_watched
from recsys import artifact
from recsys.model.best import TOWERS
from recsys.model.exported import WEIGHTS
from recsys.train.run_folder import complete_checkpoints, read_progress

_NUM_ROWS = 50_000_000
_DIM = 64
_SMALL_ROWS = 10_000
_LIMIT_BYTES = 20 * 10**9
_DISK_TABLES = 3.3
"""Copies of the table on disk at once: two checkpoints and the towers, and the rest for all that is smaller."""


def main() -> None:
    """Write the log, train three times, compare, print."""
    given = _parse()
    with tempfile.TemporaryDirectory(dir=given.work, prefix="large-table-") as scratch:
        figures = _measure(
            Path(scratch),
            num_rows=given.rows,
            batch_size=given.batch_size,
            num_steps=given.steps,
            kill_after_s=0.02 if given.quick else 5.0,
        )
    _print(figures)
    finish("large_table", figures | {"quick": given.quick}, record=given.record)


def _parse() -> Any:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--work", type=Path, help="folder for what is written and then removed (the system's own)")
    arguments.add_argument("--rows", type=int, help=f"of the table ({_NUM_ROWS:,}; 20,000 if --quick)")
    given = arguments.parse_args()
    given.rows = given.rows or (20_000 if given.quick else _NUM_ROWS)
    given.batch_size, given.steps = (256, 60) if given.quick else (4096, 200)
    if given.work is not None:
        given.work.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(given.work or tempfile.gettempdir()).free
    if free < (needed := _DISK_TABLES * given.rows * _DIM * 4):
        arguments.error(f"--work: got {free / 1e9:.1f} GB free there, expected {needed / 1e9:.1f} GB")
    return given


def _measure(folder: Path, *, num_rows: int, batch_size: int, num_steps: int, kill_after_s: float) -> dict[str, Any]:
    started, middle = time.perf_counter(), num_steps // 2
    # Training on validation too, each user has one event more.
    num_users = math.ceil(num_steps * batch_size / (EVENTS_PER_USER + 1))
    dataset = write_log(folder / "dataset", num_users=num_users, num_items=num_rows)
    seconds_to_write_log = time.perf_counter() - started
    words: list[str | Path] = [
        "--checkpoint-every", str(middle), "--device", "cpu", "--epochs", "1",
        "--include-validation", "--batch-size", str(batch_size), "--model.embedding-dim", str(_DIM),
        "--table-optimizer", "rowwise_adagrad", "--loss.num-batch-negatives", "0",
        "--loss.num-uniform-negatives", str(batch_size),
    ]  # fmt: skip
    # First of all, so that the others find the loss's loops compiled: a process that compiles them itself may differ
    # from one that finds them on disk in the last bits of gradients.
    small = write_log(folder / "small-dataset", num_users=math.ceil(batch_size / 25), num_items=_SMALL_ROWS)
    runs = {"small table": _ended_well(train_watched(["--dataset", small, *words], folder / "small"))}
    words += ["--dataset", dataset]
    parts, whole = folder / "parts", folder / "whole"
    runs["killed"] = train_watched(words, parts, kill_at=middle, kill_after_s=kill_after_s)
    runs["resumed"] = _ended_well(train_watched([*words, "--resume"], parts))
    of_parts = _outcome(parts)
    shutil.rmtree(parts)  # the disk need not hold two runs at once
    runs["never stopped"] = _ended_well(train_watched(words, whole))
    return {
        "data": "simulated",
        "rows": num_rows,
        "dim": _DIM,
        "table_bytes": num_rows * _DIM * 4,
        "events": num_users * (EVENTS_PER_USER + 1),
        "seconds_to_write_log": seconds_to_write_log,
        "batch": batch_size,
        "steps": num_steps,
    } | _judged(runs, of_parts, _outcome(whole), num_rows=num_rows, batch_size=batch_size, middle=middle)


def _ended_well(run: Watched) -> Watched:
    if run.code:
        raise SystemExit(f"recsys train failed with exit code {run.code}:\n{run.said}")
    return run


def _outcome(run: Path) -> dict[str, Any]:
    """Return what a run that has come to its end has in its folder."""
    stood, newest = read_progress(run), complete_checkpoints(run)[-1]
    assert stood is not None, "a finished run has a checkpoint"
    return {
        "steps": stood.total_steps,
        "loss": stood.history[-1]["loss"],
        "examples_per_s": stood.history[-1]["examples_per_s"],
        "data_wait_share": stood.history[-1]["data_wait_share"],
        "towers": artifact.read_manifest(run / TOWERS, "towers")["files"][WEIGHTS],
        "checkpoint_bytes": sum(path.stat().st_size for path in newest.iterdir()),
        "plan": json.loads((run / "plan.json").read_text()),
    }


def _judged(
    runs: dict[str, Watched],
    parts: dict[str, Any],
    whole: dict[str, Any],
    *,
    num_rows: int,
    batch_size: int,
    middle: int,
) -> dict[str, Any]:
    """Return the figures of the runs and what holds of them."""
    killed, resumed = runs["killed"], runs["resumed"].resumed or (0, 0.0)
    checks = {
        "was_killed_after_its_checkpoint": killed.code == -signal.SIGKILL and middle in killed.write_seconds,
        "resumes_at_the_checkpoint": resumed[0] == middle,
        "same_losses_as_never_stopped": parts["loss"] == whole["loss"] and parts["steps"] == whole["steps"],
        "same_towers_as_never_stopped": parts["towers"] == whole["towers"],
        "below_memory_limit": max(run.peak_bytes for run in runs.values()) < _LIMIT_BYTES,
        "full_size": num_rows >= _NUM_ROWS,
    }
    large = [run for name, run in runs.items() if name != "small table"]
    written = [seconds for run in large for seconds in run.write_seconds.values() if seconds > 0]
    return {
        "peak_bytes": {name: run.peak_bytes for name, run in runs.items()},
        "limit_bytes": _LIMIT_BYTES,
        "planned_bytes": whole["plan"]["needed_bytes"][0],
        "seconds": {name: run.seconds for name, run in runs.items()},
        # Of the run that goes on: within its part of the epoch it writes no checkpoint.
        "seconds_per_step": batch_size / parts["examples_per_s"],
        "data_wait_share": parts["data_wait_share"],
        "checkpoint_bytes": whole["checkpoint_bytes"],
        "checkpoint_write_seconds": {"least": min(written), "most": max(written)},
        "checkpoint_read_seconds": resumed[1],
        "checkpoint_step": middle,
        "resumed_at_step": resumed[0],
        "towers_bytes": whole["towers"]["size_bytes"],
        "loss": whole["loss"],
        "checks": checks,
        "large_table_ok": all(checks.values()),
    }


def _print(figures: dict[str, Any]) -> None:
    console = Console(width=110, highlight=False)
    title = f"recsys train, simulated log, one table of {figures['rows']:,} x {figures['dim']} float32"
    table = Table("run", "peak GB", "seconds", title=title)
    for name, peak in figures["peak_bytes"].items():
        table.add_row(name, f"{peak / 1e9:.2f}", f"{figures['seconds'][name]:.1f}")
    console.print(table)
    write = figures["checkpoint_write_seconds"]
    console.print(
        f"table {figures['table_bytes'] / 1e9:.2f} GB, planned {figures['planned_bytes'] / 1e9:.2f} GB; "
        f"{figures['seconds_per_step']:.3f} s a step of {figures['batch']:,} rows; checkpoint "
        f"{figures['checkpoint_bytes'] / 1e9:.2f} GB, written in {write['least']:.1f} to {write['most']:.1f} s, "
        f"read in {figures['checkpoint_read_seconds']:.1f} s"
    )
    for name, holds in figures["checks"].items():
        console.print(f"{name.replace('_', ' ')}: {'yes' if holds else 'NO'}")


if __name__ == "__main__":
    main()
