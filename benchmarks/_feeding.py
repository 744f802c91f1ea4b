"""The first steps of `recsys train` over a simulated log, in a process of its own: what it holds and waits for.

Run as ``python -m benchmarks._feeding JOB``, of `benchmarks.training`; it prints one JSON object.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks._harness import status_bytes
from recsys import artifact
from recsys.config import TrainConfig
from recsys.data.dataset import Dataset
from recsys.data.event_files import SUFFIX, write_events
from recsys.data.shards import ROW_GROUPS, describe_row_groups
from recsys.settings import from_mapping, to_mapping
from recsys.train.inputs import Inputs
from recsys.train.noise import silenced
from recsys.train.process import Process, joined
from recsys.train.trainer import Trainer, TrainOptions

EVENTS_PER_USER = 100
_PIECE = 10_000
"""Users that are drawn at a time."""
_IDS = 1_000_000
"""Ids that are written at a time."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What the process does.

    Args:
        dataset: to train on.
        out: run folder.
        config: of the training, as a mapping.
        threads: of torch.
        steps: to do.
    """

    dataset: str
    out: str
    config: dict[str, Any]
    threads: int
    steps: int


def write_log(path: Path, *, num_users: int, num_items: int, seed: int = 1) -> Path:
    """Write a prepared dataset of simulated users with `EVENTS_PER_USER` events each, never holding all of them.

    Popularity falls off as one over the rank; nothing else is to be learned.
    """
    random = np.random.default_rng(seed)

    def pieces(per_user: int, first: int) -> Iterator[pl.DataFrame]:
        for start in range(0, num_users, _PIECE):
            user = np.repeat(np.arange(start, min(num_users, start + _PIECE)), per_user)
            place = first + np.arange(len(user)) % per_user
            item = np.floor(num_items ** random.random(len(user))).astype(np.int64) - 1
            time_s = 1_700_000_000 + 60 * place
            yield pl.DataFrame({"user": user.astype(np.uint32), "item": item.astype(np.uint32), "time": time_s})

    with artifact.staged(path) as folder:
        write_events(folder / f"train{SUFFIX}", pieces(EVENTS_PER_USER, 0))
        write_events(folder / f"fold_in{SUFFIX}", [next(pieces(1, 0)).clear()])
        for number, name in enumerate(("validation", "test")):
            write_events(folder / f"{name}{SUFFIX}", pieces(1, EVENTS_PER_USER + number))
        for name, num in (("users", num_users), ("items", num_items)):
            _write_ids(folder / f"{name}.parquet", num)
        content = {
            "name": "simulated-log",
            "simulated": True,
            "protocol": "leave-last-out",
            "ordered": True,
            "mask_seen": True,
            "time_unit": "s",
            "features": [],
            ROW_GROUPS: describe_row_groups(folder),
        }
        artifact.seal(folder, "dataset", content)
    return path


def _write_ids(path: Path, num: int) -> None:
    with pq.ParquetWriter(path, pa.schema([("id", pa.large_string())])) as writer:
        for start in range(0, num, _IDS):
            ids = pl.arange(start, min(num, start + _IDS), eager=True).cast(pl.String)
            writer.write_table(pa.table({"id": pa.array(ids.to_list(), pa.large_string())}))


def measure(dataset: Path, out: Path, config: TrainConfig, *, threads: int, steps: int) -> dict[str, float]:
    """Train in a process of its own.

    Returns:
        ``grown_bytes``, by how much the memory that is the process's own grows at most from before the dataset is
        opened (files that are mapped are not: the system may drop them at any time); ``data_wait_share`` of the time
        of the steps.
    """
    job = Job(dataset=str(dataset), out=str(out), config=to_mapping(config), threads=threads, steps=steps)
    command = [sys.executable, "-m", "benchmarks._feeding", json.dumps(asdict(job))]
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    return dict(json.loads(run.stdout.splitlines()[-1]))


class _DoneError(Exception):
    """The steps are done."""


class _Brief(Trainer):
    """Stops after some steps."""

    steps_left: int

    def step(self, batches: Iterator[Inputs]) -> list[float]:
        """Count the step."""
        if self.steps_left == 0:
            raise _DoneError
        self.steps_left -= 1
        return super().step(batches)


class _Peak:
    """Looks at the process's own memory all the time."""

    def __init__(self) -> None:
        self.bytes, self._ended = status_bytes("RssAnon"), threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> _Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.005):
            self.bytes = max(self.bytes, status_bytes("RssAnon"))


def _run(job: Job, process: Process) -> dict[str, float]:
    before = status_bytes("RssAnon")
    with _Peak() as peak:
        config = from_mapping(TrainConfig, job.config, where="job")
        options = TrainOptions(dataset=Path(job.dataset), out=Path(job.out), config=config)
        started = time.perf_counter()
        trainer = _Brief(options, Dataset(options.dataset), process)
        opened_s = time.perf_counter() - started
        trainer.steps_left = job.steps
        try:
            trainer.run()
        except _DoneError:
            share = trainer.watch.wait_share
    return {"grown_bytes": peak.bytes - before, "data_wait_share": share, "seconds_to_open": opened_s}


def main(job: Job) -> None:
    """Do a job and print what it cost."""
    torch.set_num_threads(job.threads)
    with silenced(), joined("cpu") as process:
        found = _run(job, process)
    print(json.dumps(found))


if __name__ == "__main__":
    main(Job(**json.loads(sys.argv[1])))
