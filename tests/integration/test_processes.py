"""Training in two real processes over gloo, started as a user would start them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from torch.distributed.checkpoint import FileSystemReader

from recsys.data.dataset import Dataset
from recsys.evaluate.protocol import evaluate_vectors
from recsys.evaluate.towers import item_vectors, query_vectors
from recsys.model.best import load_towers

SETTINGS = [
    "--device", "cpu", "--batch-size", "32", "--model.widths", "4", "8", "--model.embedding-dim", "8",
    "--model.hidden", "16", "--model.history-windows", "1", "5", "--loss.num-uniform-negatives", "16",
    "--loss.learn-temperature", "--loss.queue-size", "40",
]  # fmt: skip


def torchrun(num_processes: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(num_processes),
            "--master-addr", "127.0.0.1", "--master-port", str(port), "-m", "recsys.train", *arguments, *SETTINGS,
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip


def progress(run: Path) -> dict:
    newest = sorted((run / "checkpoints").glob("step-*"))[-1]
    return json.loads((newest / "progress.json").read_text())


@pytest.fixture(scope="module")
def run(simulated, tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes") / "run"
    finished = torchrun(2, "--dataset", str(simulated), "--out", str(folder), "--epochs", "2")
    assert finished.returncode == 0, finished.stderr
    return folder


def test_two_processes_learn_and_export_whole_tables(run, simulated):
    history = progress(run)["history"]
    assert [record["epoch"] for record in history] == [0, 1]
    assert history[1]["loss"]["8"] < history[0]["loss"]["8"]
    towers, manifest = load_towers(run)
    dataset = Dataset(simulated)
    queries = dataset.queries("validation")
    quality = evaluate_vectors(
        queries,
        query_vectors(towers, queries, dataset.feature_lists("user")),
        item_vectors(towers, dataset.feature_lists("item")),
        towers.widths,
        ks=(10,),
    )
    recorded = manifest["best"]["validation"]["8"]
    assert quality[8].mean("ndcg@10") == pytest.approx(recorded["ndcg@10"], abs=1e-6)
    for table in towers.tables.values():
        rows = table.weight.numpy()
        assert np.isfinite(rows).all()
        assert (np.abs(rows).max(axis=1) > 0).all()


def test_what_the_loss_learns_is_one_for_all_processes(run):
    """The checkpoint holds one parameter per width, not one per process, and it has moved."""
    newest = sorted((run / "checkpoints").glob("step-*"))[-1]
    written = FileSystemReader(newest).read_metadata().state_dict_metadata
    assert [tuple(written[name].size) for name in written if name.startswith("loss/")] == [(2,)]
    # A queue is each process's own.
    assert {f"buffers/queue.item_Q/{rank}" for rank in range(2)} <= written.keys()
    temperature = progress(run)["history"][-1]["temperature"]
    assert all(0.01 < value != pytest.approx(0.07, rel=1e-3) for value in temperature.values())


def test_two_processes_see_the_log_once(run, simulated):
    steps = progress(run)["total_steps"]
    assert steps == 2 * (len(Dataset(simulated).events("train")) // (2 * 32))


def test_one_process_goes_on_where_two_stopped(run, simulated):
    finished = torchrun(1, "--dataset", str(simulated), "--out", str(run), "--epochs", "3", "--resume")
    assert finished.returncode == 0, finished.stderr
    history = progress(run)["history"]
    assert len(history) == 3
    assert history[2]["loss"]["8"] < history[0]["loss"]["8"]
    assert history[2]["temperature"]["8"] == pytest.approx(history[1]["temperature"]["8"], rel=0.1)


def test_two_processes_keep_replicated_tables_alike(simulated, tmp_path):
    run, adam = tmp_path / "run", ["--table-optimizer", "adam", "--table-learning-rate", "0.01"]
    finished = torchrun(2, "--dataset", str(simulated), "--out", str(run), "--epochs", "1", *adam)
    assert finished.returncode == 0, finished.stderr
    again = torchrun(1, "--dataset", str(simulated), "--out", str(run), "--epochs", "2", "--resume", *adam)
    assert again.returncode == 0, again.stderr
    history = progress(run)["history"]
    assert history[1]["loss"]["8"] < history[0]["loss"]["8"]
