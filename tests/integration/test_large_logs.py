"""Training holds next to nothing of a log, however long it is."""

from __future__ import annotations

import pytest

from benchmarks._feeding import EVENTS_PER_USER, measure, write_log
from recsys.config import LossConfig, ModelConfig, TrainConfig


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """Two simulated logs, of 200 thousand and of 20 million events."""
    folder = tmp_path_factory.mktemp("logs")
    return [write_log(folder / str(num), num_users=num, num_items=5_000) for num in (2_000, 200_000)]


@pytest.mark.deep
@pytest.mark.parametrize("settings", [{"history": "mean"}, {"history": "sequence", "sequence_length": 20}])
def test_a_longer_log_takes_little_more_memory(logs, tmp_path, settings):
    config = TrainConfig(
        model=ModelConfig(widths=(4, 8), embedding_dim=8, hidden=(16,), **settings),
        loss=LossConfig(num_batch_negatives=0, num_uniform_negatives=256),
        batch_size=2048,
        validation_users=500,
        device="cpu",
    )
    small, large = (measure(log, tmp_path / log.name, config, threads=1, steps=4)["grown_bytes"] for log in logs)
    log_bytes = (logs[1] / "train.arrow").stat().st_size
    assert log_bytes > 16 * 200_000 * EVENTS_PER_USER
    assert large - small < log_bytes / 4
