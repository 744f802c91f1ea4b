"""Training in two real processes over gloo, started as a user would start them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from processes import launched
from torch.distributed.checkpoint import FileSystemReader

from recsys.command import execute
from recsys.data.dataset import Dataset
from recsys.evaluate.protocol import evaluate_vectors
from recsys.evaluate.towers import item_vectors, query_vectors
from recsys.model.best import load_towers
from recsys.train.verb import load

SETTINGS = [
    "--device", "cpu", "--batch-size", "64", "--model.widths", "4", "8", "--model.embedding-dim", "8",
    "--model.hidden", "16", "--model.history-windows", "1", "5", "--loss.num-uniform-negatives", "16",
    "--loss.learn-temperature", "--loss.queue-size", "40", "--table-precision", "fp16",
]  # fmt: skip


def torchrun(num_processes: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    return launched(num_processes, "-m", "recsys.train", *SETTINGS, *arguments)


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
        np.testing.assert_array_equal(rows, rows.astype(np.float16))
        assert (np.abs(rows).max(axis=1) > 0).all()


def test_what_the_loss_learns_is_one_for_all_processes(run):
    """The checkpoint holds one parameter per width, not one per process, and it has moved."""
    newest = sorted((run / "checkpoints").glob("step-*"))[-1]
    written = FileSystemReader(newest).read_metadata().state_dict_metadata
    sizes = {name: tuple(one.size) for name, one in written.items() if name.startswith("loss/")}
    assert sizes["loss/module.log_excess_L"] == (2,)
    assert sizes["loss/module.queue.item_Q"] == (40,)
    temperature = progress(run)["history"][-1]["temperature"]
    assert all(0.01 < value != pytest.approx(0.07, rel=1e-3) for value in temperature.values())


def test_two_processes_see_the_log_once(run, simulated):
    steps = progress(run)["total_steps"]
    assert steps == 2 * (len(Dataset(simulated).events("train")) // 64)


@pytest.mark.deep  # the refusal itself is tested without processes too
def test_a_batch_that_processes_cannot_share_is_refused(simulated, tmp_path):
    run = tmp_path / "run"
    finished = torchrun(2, "--dataset", str(simulated), "--out", str(run), "--batch-size", "33")
    assert finished.returncode != 0
    assert "batch_size: got 33 rows per step for 2 processes, expected a multiple of 2, such as 32" in finished.stderr
    assert not run.exists()


def test_one_process_goes_on_where_two_stopped(run, simulated):
    words = [*SETTINGS, "--dataset", str(simulated), "--out", str(run), "--epochs", "3", "--resume"]
    execute("recsys.train", "Train the towers in this process.", load, words)
    history = progress(run)["history"]
    assert len(history) == 3
    assert history[2]["loss"]["8"] < history[0]["loss"]["8"]
    assert history[2]["temperature"]["8"] == pytest.approx(history[1]["temperature"]["8"], rel=0.1)


REPLICAS = """
import sys
from pathlib import Path
import torch
import torch.distributed as dist
from recsys.config import LossConfig, ModelConfig, TrainConfig
from recsys.data.dataset import Dataset
from recsys.train.process import joined
from recsys.train.trainer import Trainer, TrainOptions

dataset, out, epochs, resume = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:] == ["resume"]
model = ModelConfig(widths=(4, 8), embedding_dim=8, hidden=(16,), history_windows=(1, 5))
config = TrainConfig(
    model=model, loss=LossConfig(num_uniform_negatives=16), batch_size=64, epochs=epochs, device="cpu",
    table_optimizer="adam", table_learning_rate=0.01,
)
with joined("cpu") as process:
    trainer = Trainer(TrainOptions(dataset=dataset, out=out, resume=resume, config=config), Dataset(dataset), process)
    before = trainer.sharded.model.state_dict()["tables.embedding_bags.item.weight"].clone()
    trainer.run()
    after = trainer.sharded.model.state_dict()["tables.embedding_bags.item.weight"]
    assert not torch.equal(before, after), "the table has not moved"
    of_ranks = [torch.empty_like(after) for _ in range(process.world_size)]
    dist.all_gather(of_ranks, after.contiguous())
    assert all(torch.equal(one, after) for one in of_ranks), "the ranks' tables differ"
"""


@pytest.mark.deep
def test_two_processes_keep_replicated_tables_alike(simulated, tmp_path):
    program, run = tmp_path / "replicas.py", tmp_path / "run"
    program.write_text(REPLICAS)
    for num_processes, *words in ((2, "1"), (2, "2", "resume"), (1, "3", "resume")):
        finished = launched(num_processes, str(program), str(simulated), str(run), *words)
        assert finished.returncode == 0, finished.stderr
    history = progress(run)["history"]
    assert history[2]["loss"]["8"] < history[1]["loss"]["8"] < history[0]["loss"]["8"]
