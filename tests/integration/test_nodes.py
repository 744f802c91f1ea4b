"""Two torchrun agents, as on two machines, that find each other; and one whose worker is killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
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


def of_two(port: int) -> list[str]:
    """Return how an agent finds the other one."""
    return [
        "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{port}",
        "--rdzv-id", "two-nodes", "--local-addr", "localhost",
    ]  # fmt: skip


def agent(agent_words: list[str], log: Path, *words: str, **variables: str) -> subprocess.Popen:
    """Start what one machine would run."""
    variables = {"OMP_NUM_THREADS": "1"} | variables
    command = [sys.executable, "-m", "torch.distributed.run", *agent_words, "-m", "recsys.train", *words]
    with log.open("w") as output:
        return subprocess.Popen(command, env=os.environ | variables, stdout=output, stderr=output)


def finish(agents: list[subprocess.Popen], logs: list[Path], meanwhile: Callable[[], None] = lambda: None) -> None:
    """Wait for agents to end well; they end in any case."""
    try:
        meanwhile()
        for one, log in zip(agents, logs, strict=True):
            assert one.wait(timeout=300) == 0, log.read_text()
    finally:
        for one in agents:
            one.kill()
            one.wait()


def losses(run: Path) -> np.ndarray:
    newest = sorted((run / "checkpoints").glob("step-*"))[-1]
    history = json.loads((newest / "progress.json").read_text())["history"]
    return np.array([list(record["loss"].values()) for record in history])


@pytest.mark.deep
def test_two_agents_meet_and_train_as_one_process(simulated, tmp_path):
    run, port = tmp_path / "run", free_port()
    logs = [tmp_path / f"agent-{number}.log" for number in range(2)]
    # They may start workers again, as nothing here makes them do, but lack what that would take over several machines.
    restarting = [*of_two(port), "--max-restarts", "1"]
    agents = [agent(restarting, log, "--dataset", str(simulated), "--out", str(run), *WORDS) for log in logs]
    finish(agents, logs)
    assert sum(log.read_text().count("may wait for each other for ever") for log in logs) == 1
    newest = sorted((run / "checkpoints").glob("step-*"))[-1]
    # Each node's worker wrote its part.
    assert {path.name.split("_")[2] for path in newest.glob("*.distcp")} == {"0", "1"}
    assert len(losses(run)) == CONFIG.epochs
    whole = train(TrainOptions(dataset=simulated, out=tmp_path / "whole", config=CONFIG))
    np.testing.assert_allclose(losses(run), losses(whole), rtol=1e-3)


def kill_worker_after_a_checkpoint(of: subprocess.Popen, run: Path) -> None:
    until_s = time.monotonic() + 300
    while not list(run.glob("checkpoints/step-*")) and of.poll() is None and time.monotonic() < until_s:
        time.sleep(0.01)
    psutil.Process(of.pid).children()[-1].kill()


@pytest.mark.deep
def test_a_worker_that_is_killed_is_started_again_and_goes_on_by_itself(simulated, tmp_path):
    run, log = tmp_path / "run", tmp_path / "agent.log"
    restarting = ["--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
    one = agent(restarting, log, "--dataset", str(simulated), "--out", str(run), *WORDS)
    finish([one], [log], meanwhile=lambda: kill_worker_after_a_checkpoint(one, run))
    assert "exitcode: -9" in log.read_text()
    whole = train(TrainOptions(dataset=simulated, out=tmp_path / "whole", config=CONFIG))
    np.testing.assert_allclose(losses(run), losses(whole), rtol=1e-3)


@pytest.mark.deep
@pytest.mark.parametrize("killed", [0, 1])
def test_a_worker_of_two_agents_that_is_killed_is_started_again(simulated, tmp_path, killed):
    run, restarting = tmp_path / "run", [*of_two(free_port()), "--max-restarts", "2"]
    words = ["--dataset", str(simulated), "--out", str(run), *WORDS]
    logs = [tmp_path / f"agent-{number}.log" for number in range(2)]
    agents = [agent(restarting, log, *words, TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1") for log in logs]
    finish(agents, logs, meanwhile=lambda: kill_worker_after_a_checkpoint(agents[killed], run))
    assert "exitcode: -9" in logs[killed].read_text()
    said = "".join(log.read_text() for log in logs)
    assert "goes on from step" in said
    assert "for ever" not in said
    whole = train(TrainOptions(dataset=simulated, out=tmp_path / "whole", config=CONFIG))
    np.testing.assert_allclose(losses(run), losses(whole), rtol=1e-3)
