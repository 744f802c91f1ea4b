"""Training holds next to nothing of a log, however long it is."""

from __future__ import annotations

import pytest

from benchmarks._feeding import EVENTS_PER_USER, measure, write_log
from recsys.config import LossConfig, ModelConfig, TrainConfig


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """A simulated log of 20 million events."""
    return write_log(tmp_path_factory.mktemp("large") / "log", num_users=200_000, num_items=5_000)


@pytest.mark.deep
@pytest.mark.parametrize("settings", [{"history": "mean"}, {"history": "sequence", "sequence_length": 20}])
def test_a_process_takes_a_quarter_of_the_logs_bytes_at_most(log, tmp_path, settings):
    log_bytes = (log / "train.arrow").stat().st_size
    assert log_bytes > 16 * 200_000 * EVENTS_PER_USER
    config = TrainConfig(
        model=ModelConfig(widths=(4, 8), embedding_dim=8, hidden=(16,), **settings),
        loss=LossConfig(num_batch_negatives=0, num_uniform_negatives=256),
        batch_size=2048,
        validation_users=500,
        device="cpu",
    )
    measured = measure(log, tmp_path / "run", config, threads=1, steps=30)
    assert measured["grown_bytes"] < log_bytes / 4
