"""A small real run and a bundle of it: towers trained for two epochs on simulated users."""

from pathlib import Path

import pytest

from recsys.bundle_writer import PublishOptions, write_bundle
from recsys.config import ModelConfig, TrainConfig
from recsys.data.dataset import Dataset
from recsys.model.best import load_towers
from recsys.train.trainer import TrainOptions, train

WIDTHS = (4, 8, 16)


@pytest.fixture(scope="package")
def run(simulated, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "run"
    model = ModelConfig(widths=WIDTHS, embedding_dim=8, hidden=(16,), history_windows=(1, 5))
    config = TrainConfig(model=model, epochs=2, batch_size=64, device="cpu")
    return train(TrainOptions(dataset=simulated, out=folder, config=config))


@pytest.fixture(scope="package")
def bundles(simulated, run, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("bundles")
    options = PublishOptions(num_queries=40, repeats=1, budget_s=5)
    write_bundle(root, towers=load_towers(run)[0], dataset=Dataset(simulated), options=options)
    return root
