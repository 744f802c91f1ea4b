"""A run that stopped goes on as if it had not."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from training_runs import CONFIG, newest, options, record_of, weights

from recsys.data.dataset import Dataset
from recsys.errors import ArtifactError, TrainingError
from recsys.train.trainer import Trainer, train


def test_the_state_of_the_loss_is_resumed_too(finished, simulated, tmp_path):
    learned = replace(CONFIG.loss, learn_temperature=True, learn_weights=True, distillation=1.0, queue_size=100)
    train(options(simulated, tmp_path / "whole", loss=learned))
    train(options(simulated, tmp_path / "parts", loss=learned, epochs=1))
    train(options(simulated, tmp_path / "parts", loss=learned, resume=True))
    history = record_of(tmp_path / "whole")
    assert record_of(tmp_path / "parts") == history
    assert record_of(finished)[-1]["temperature"] == {"4": 0.1, "8": 0.1}
    assert record_of(finished)[-1]["weight"] == {"4": 1, "8": 1}
    assert all(0 < value != pytest.approx(1, rel=1e-3) for value in history[-1]["weight"].values())
    assert all(0.01 < value != pytest.approx(0.1, rel=1e-3) for value in history[-1]["temperature"].values())


@pytest.mark.parametrize("history", ["mean", "none"])
@pytest.mark.parametrize("ordered", [True, False])
def test_rows_of_every_kind_learn_and_are_resumed(simulated, tmp_path, monkeypatch, history, ordered):
    seal, model = Dataset.__init__, replace(CONFIG.model, user_id=True, history=history)

    def without_order(self, path):
        seal(self, path)
        self.manifest["ordered"] = ordered

    monkeypatch.setattr(Dataset, "__init__", without_order)
    # Rows are events where their order says what came before, and otherwise users, of whom there are fewer.
    settings = {"model": model, "batch_size": 128 if ordered and history == "mean" else 20}
    whole = record_of(train(options(simulated, tmp_path / "whole", **settings)))
    train(options(simulated, tmp_path / "parts", epochs=1, **settings))
    assert record_of(train(options(simulated, tmp_path / "parts", resume=True, **settings))) == whole
    for width in ("4", "8"):
        assert whole[-1]["loss"][width] < whole[0]["loss"][width]


@pytest.mark.parametrize(("optimizer", "rate"), [("adagrad", 0.2), ("adam", 0.01)])
def test_every_table_optimizer_learns_and_is_resumed(finished, simulated, tmp_path, optimizer, rate):
    settings = {"table_optimizer": optimizer, "table_learning_rate": rate}
    whole = record_of(train(options(simulated, tmp_path / "whole", **settings)))
    train(options(simulated, tmp_path / "parts", epochs=1, **settings))
    assert record_of(train(options(simulated, tmp_path / "parts", resume=True, **settings))) == whole
    assert whole[-1]["loss"]["8"] < whole[0]["loss"]["8"]
    assert whole[-1]["loss"] != record_of(finished)[-1]["loss"]


@pytest.mark.parametrize(
    "settings",
    [
        {"rate_schedule": "cosine"},
        {"loss": replace(CONFIG.loss, distillation=1.0, energy_weight=5.0, energy_ramp=0.8)},
    ],
    ids=["cosine", "ramp"],
)
def test_a_run_that_changes_on_its_way_is_resumed_with_its_length_alone(simulated, tmp_path, monkeypatch, settings):
    whole = record_of(train(options(simulated, tmp_path / "whole", **settings)))
    finish = Trainer._finish_epoch

    def interrupted_finish(self, record):
        finish(self, record)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_finish_epoch", interrupted_finish)
        with pytest.raises(KeyboardInterrupt):
            train(options(simulated, tmp_path / "run", **settings))
    with pytest.raises(TrainingError, match=r"config\.epochs"):
        train(options(simulated, tmp_path / "run", resume=True, epochs=9, **settings))
    assert record_of(train(options(simulated, tmp_path / "run", resume=True, **settings))) == whole


def test_training_on_validation_is_resumed_too(simulated, tmp_path):
    train(options(simulated, tmp_path / "whole", include_validation=True))
    train(options(simulated, tmp_path / "parts", include_validation=True, epochs=1))
    train(options(simulated, tmp_path / "parts", include_validation=True, resume=True))
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_resuming_after_an_epoch_equals_never_stopping(finished, simulated, tmp_path, capsys):
    train(options(simulated, tmp_path / "run", epochs=1))
    assert "goes on from" not in capsys.readouterr().err
    step = json.loads((newest(tmp_path / "run") / "progress.json").read_text())["total_steps"]
    train(options(simulated, tmp_path / "run", resume=True))
    assert f"goes on from step {step}, read in " in capsys.readouterr().err
    assert record_of(tmp_path / "run") == record_of(finished)


def test_resuming_within_an_epoch_equals_never_stopping(finished, simulated, tmp_path, monkeypatch):
    steps = iter(range(100))
    step = Trainer.step

    def interrupted_step(self, batches):
        if next(steps) == 12:
            raise KeyboardInterrupt
        return step(self, batches)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", interrupted_step)
        interrupted = options(simulated, tmp_path / "run", checkpoint_every=5)
        with pytest.raises(KeyboardInterrupt):
            train(interrupted)
    newest = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))[-1]
    assert json.loads((newest / "progress.json").read_text())["step"] > 0
    train(options(simulated, tmp_path / "run", resume=True))
    assert record_of(tmp_path / "run") == record_of(finished)


def test_a_run_is_not_overwritten(finished, simulated):
    with pytest.raises(ArtifactError, match="already holds a run; pass --resume"):
        train(options(simulated, finished))


def test_resuming_nothing_is_refused(simulated, tmp_path):
    with pytest.raises(TrainingError, match="got no run to resume"):
        train(options(simulated, tmp_path / "run", resume=True))


def test_resuming_with_other_settings_names_them(finished, simulated):
    with pytest.raises(
        TrainingError, match=r"config\.batch_size: was 128, is 32; config\.seed: was 1, is 9\. .*--allow-changes"
    ):
        train(options(simulated, finished, resume=True, batch_size=32, seed=9))


def test_settings_may_change_if_that_is_asked_for(simulated, tmp_path):
    run = train(options(simulated, tmp_path / "run", epochs=1))
    before = record_of(run)
    train(options(simulated, run, resume=True, epochs=2, batch_size=32, allow_changes=True))
    assert record_of(run)[:1] == before
    assert json.loads((run / "config.json").read_text())["config"]["batch_size"] == 32
    num_events = len(Dataset(simulated).events("train"))
    stood = json.loads((newest(run) / "progress.json").read_text())
    assert stood["total_steps"] == num_events // 128 + num_events // 32


def test_a_checkpoint_of_another_model_names_what_differs(simulated, tmp_path):
    run = train(options(simulated, tmp_path / "run", epochs=1))
    other = replace(CONFIG.model, embedding_dim=16, user_id=True)
    expected = r"another model: model\.embedding_dim: was 8, is 16; model\.user_id: was false, is true$"
    with pytest.raises(TrainingError, match=expected):
        train(options(simulated, run, resume=True, model=other, allow_changes=True))
    # What was refused has left no trace.
    train(options(simulated, run, resume=True, epochs=2))
    assert len(record_of(run)) == 2


def test_a_run_that_was_stopped_before_its_first_checkpoint_begins_again(finished, simulated, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text((finished / "config.json").read_text())
    assert record_of(train(options(simulated, run, resume=True))) == record_of(finished)


@pytest.mark.parametrize(
    "model",
    [
        {"history": "attention", "history_windows": (), "history_features": (2, 9)},
        {"history": "sequence", "time_bias": True},
        {"history": "sequence", "sequence_length": 6, "user_id": True, "item_id_dropout": 0.3},
    ],
    ids=str,
)
def test_history_encoders_learn_and_are_resumed(simulated, tmp_path, model):
    size = 128 if model["history"] == "attention" else 20  # rows are events there, and otherwise users
    settings = {"model": replace(CONFIG.model, **model), "batch_size": size, "dense_learning_rate": 1e-2}
    settings["loss"] = replace(CONFIG.loss, num_batch_negatives=0)
    whole = record_of(train(options(simulated, tmp_path / "whole", **settings)))
    train(options(simulated, tmp_path / "parts", epochs=1, **settings))
    assert record_of(train(options(simulated, tmp_path / "parts", resume=True, **settings))) == whole
    for width in ("4", "8"):
        assert whole[-1]["loss"][width] < whole[0]["loss"][width]
