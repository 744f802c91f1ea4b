"""What is checked before a run begins."""

from __future__ import annotations

import pytest
import torch

from recsys.config import TrainConfig
from recsys.data.dataset import Dataset
from recsys.errors import ConfigError
from recsys.train.checks import check_divides
from recsys.train.process import Process
from recsys.train.trainer import Trainer, TrainOptions


def test_a_batch_that_processes_cannot_share_is_refused_with_one_that_they_can():
    with pytest.raises(ConfigError, match=r"^batch_size: got 33 rows per step for 2 processes, .* such as 32$"):
        check_divides(33, 2)
    check_divides(32, 2)


def test_a_run_of_such_a_batch_is_refused_before_anything_is_written(simulated, tmp_path):
    options = TrainOptions(dataset=simulated, out=tmp_path / "run", config=TrainConfig(batch_size=33))
    process = Process(rank=1, world_size=2, device=torch.device("cpu"))
    with pytest.raises(ConfigError, match="batch_size: got 33 rows per step for 2 processes"):
        Trainer(options, Dataset(simulated), process)
    assert not options.out.exists()
