"""What experiments share: figures over seeds by hand, work that is not done twice, a model of one width."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks import _experiment
from benchmarks._experiment import SIMULATED, alone, open_dataset, over_seeds, parse, quick_config, remembered, trained
from benchmarks._harness import parser
from recsys.config import LossConfig, ModelConfig, TrainConfig
from recsys.train.trainer import Trainer


def test_the_interval_is_student_s():
    found = over_seeds([1.0, 2.0, 3.0])
    # Three seeds: standard error 1 / sqrt(3), and the 97.5th percentile of t with two degrees of freedom is 4.30265.
    assert found["mean"] == pytest.approx(2.0)
    np.testing.assert_allclose(found["interval"], [2 - 4.30265 / 3**0.5, 2 + 4.30265 / 3**0.5], atol=1e-5)
    assert found["by_seed"] == [1.0, 2.0, 3.0]


def test_a_single_seed_has_no_interval():
    assert over_seeds([0.5]) == {"mean": 0.5, "interval": None, "by_seed": [0.5]}


def test_what_was_made_is_not_made_again(tmp_path):
    made = []

    def make():
        made.append(1)
        return {"value": len(made)}

    path = tmp_path / "folder" / "figures.json"
    assert [remembered(path, make) for _ in range(2)] == [{"value": 1}, {"value": 1}]


def test_a_model_of_one_width_keeps_the_settings_of_that_width_and_the_budget():
    loss = LossConfig(
        temperature=(0.1, 0.2, 0.3), weights=(1.0, 2.0, 3.0), distillation=1.0, energy_weight=5.0, learn_weights=True
    )
    config = TrainConfig(model=ModelConfig(widths=(8, 16, 32)), loss=loss, epochs=7, seed=3)
    single = alone(config, 16)
    assert single.model == replace(config.model, widths=(16,))
    assert single.loss == LossConfig(temperature=(0.2,))
    assert replace(single, model=config.model, loss=config.loss) == config


def test_an_interrupted_training_goes_on_and_a_finished_one_is_not_repeated(tmp_path, monkeypatch):
    dataset = open_dataset(tmp_path, SIMULATED)
    config = quick_config()
    whole = trained(tmp_path / "whole", dataset, config)

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    finish_epoch = Trainer._finish_epoch

    def finish_one(self, record):
        finish_epoch(self, record)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_finish_epoch", finish_one)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "parts", dataset, config)
    resumed = trained(tmp_path / "parts", dataset, config)
    assert resumed.scores("ndcg@10") == whole.scores("ndcg@10")
    assert len(whole.curve) == 2

    monkeypatch.setattr(_experiment, "train", interrupt)
    assert trained(tmp_path / "parts", dataset, config) == resumed


def test_a_quick_run_is_not_recorded(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["widths", "--quick", "--record"])
    with pytest.raises(SystemExit):
        parse(parser("an experiment"))
    assert "--record: got it with --quick" in capsys.readouterr().err


def test_rows_that_are_the_vectors_are_as_wide_as_the_width_alone():
    model = ModelConfig(widths=(8, 16, 32), embedding_dim=32, hidden=(), history="none", user_id=True, projection=False)
    single = alone(TrainConfig(model=model), 8)
    assert single.model.widths == (8,)
    assert single.model.embedding_dim == 8
