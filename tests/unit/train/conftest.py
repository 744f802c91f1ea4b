"""Shared by tests of training: a run that has ended; read only."""

from __future__ import annotations

from pathlib import Path

import pytest
from training_runs import options

from recsys.train.trainer import train


@pytest.fixture(scope="session")
def finished(simulated, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("train") / "run"
    return train(options(simulated, folder))
