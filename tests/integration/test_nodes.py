"""Two torchrun agents, as on two machines, that find each other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from processes import free_port

from recsys.config import LossConfig, ModelConfig, TrainConfig
from recsys.train.trainer import TrainOptions, train

CONFIG = TrainConfig(
    model=ModelConfig(widths=(4, 8), embedding_dim=8, hidden=(16,), history_windows=(1, 5)),
    loss=LossConfig(num_uniform_negatives=16),
    batch_size=64,
    epochs=2,
    patience=99,
    device="cpu",
)
WORDS = [
    "--device", "cpu", "--batch-size", "64", "--model.widths", "4", "8", "--model.embedding-dim", "8",
    "--model.hidden", "16", "--model.history-windows", "1", "5", "--loss.num-uniform-negatives", "16",
    "--epochs", "2", "--patience", "99", "--checkpoint-every", "5",
]  # fmt: skip


def agent(port: int, log: Path, *words: str) -> subprocess.Popen:
    """Start what one machine of two would run."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1",
        "--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{port}", "--rdzv-id", "two-nodes",
        "--local-addr", "localhost", "-m", "recsys.train", *words,
    ]  # fmt: skip
    with log.open("w") as output:
        return subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=output, stderr=output)


def losses(run: Path) -> np.ndarray:
    newest = sorted((run / "checkpoints").glob("step-*"))[-1]
    history = json.loads((newest / "progress.json").read_text())["history"]
    return np.array([list(record["loss"].values()) for record in history])


@pytest.mark.deep
def test_two_agents_meet_and_train_as_one_process(simulated, tmp_path):
    run, port = tmp_path / "run", free_port()
    logs = [tmp_path / f"agent-{number}.log" for number in range(2)]
    agents = [agent(port, log, "--dataset", str(simulated), "--out", str(run), *WORDS) for log in logs]
    try:
        for one, log in zip(agents, logs, strict=True):
            assert one.wait(timeout=900) == 0, log.read_text()
    finally:
        for one in agents:
            one.kill()
            one.wait()
    newest = sorted((run / "checkpoints").glob("step-*"))[-1]
    # Each node's worker wrote its part.
    assert {path.name.split("_")[2] for path in newest.glob("*.distcp")} == {"0", "1"}
    assert len(losses(run)) == CONFIG.epochs
    whole = train(TrainOptions(dataset=simulated, out=tmp_path / "whole", config=CONFIG))
    np.testing.assert_allclose(losses(run), losses(whole), rtol=1e-3)
