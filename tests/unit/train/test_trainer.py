from __future__ import annotations

import json
import re
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.distributed._shard.sharded_tensor import ShardedTensor

from recsys import artifact
from recsys.config import LossConfig, ModelConfig, TrainConfig
from recsys.data.dataset import Dataset
from recsys.errors import ArtifactError, ConfigError, DataError, TrainingError
from recsys.evaluate.towers import item_vectors, query_vectors
from recsys.evaluate.verb import EvaluateOptions, evaluate
from recsys.model.best import load_towers
from recsys.train.tracking import figures_of
from recsys.train.trainer import Trainer, TrainOptions, train

CONFIG = TrainConfig(
    model=ModelConfig(widths=(4, 8), embedding_dim=8, hidden=(16,), history_windows=(1, 5), dropout=0.2),
    loss=LossConfig(num_uniform_negatives=16, temperature=(0.1,)),
    batch_size=64,
    epochs=3,
    device="cpu",
)
TIMES = ("examples_per_s", "data_wait_share")


def options(simulated, folder, **changes):
    config = replace(CONFIG, **{name: changes.pop(name) for name in list(changes) if hasattr(CONFIG, name)})
    return TrainOptions(dataset=simulated, out=folder, config=config, **changes)


def record_of(folder):
    history = record_with_times(folder)
    return [{name: value for name, value in record.items() if name not in TIMES} for record in history]


def newest(folder):
    return sorted((folder / "checkpoints").glob("step-*"))[-1]


def record_with_times(folder):
    return json.loads((newest(folder) / "progress.json").read_text())["history"]


def weights(folder):
    return load_file(folder / "towers" / "towers.safetensors")


@pytest.fixture(scope="module")
def finished(simulated, tmp_path_factory):
    folder = tmp_path_factory.mktemp("train") / "run"
    return train(options(simulated, folder))


def test_training_learns(finished):
    history = record_of(finished)
    assert len(history) == 3
    for width in ("4", "8"):
        assert history[-1]["loss"][width] < history[0]["loss"][width]


def test_the_run_folder_says_what_ran(finished, simulated):
    content = json.loads((finished / "config.json").read_text())
    assert content["config"]["model"]["widths"] == [4, 8]
    assert content["dataset_fingerprint"] == Dataset(simulated).manifest["fingerprint"]
    assert list((finished / "tensorboard").glob("events.*"))
    assert len(list((finished / "checkpoints").glob("step-*"))) == 2


def test_the_energy_of_prefixes_is_recorded_and_follows_the_profile(finished, simulated, tmp_path):
    shaped = replace(CONFIG.loss, distillation=1.0, energy_weight=20.0, energy_decay=3.0)
    with_profile = train(options(simulated, tmp_path / "run", loss=shaped))
    for side in ("user", "item"):
        plain, pushed = (record_of(folder)[-1]["energy"][side] for folder in (finished, with_profile))
        assert pushed["8"] == pytest.approx(1)
        assert 0 < plain["4"] < pushed["4"] < 1
        assert pushed["4"] > 1 - 0.5**3 - 0.1


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


@pytest.mark.parametrize(
    "loss",
    [
        LossConfig(kind="bilateral_softmax", positive_ratio=0.5, num_uniform_negatives=16),
        LossConfig(kind="full_softmax", num_uniform_negatives=0, distillation=1.0, learn_temperature=True),
        LossConfig(num_uniform_negatives=4, num_popular_negatives=12, popularity_power=0.75),
        LossConfig(num_batch_negatives=0, num_uniform_negatives=30),
        LossConfig(num_batch_negatives=40, num_uniform_negatives=0, num_hard_negatives=10, queue_size=50),
    ],
    ids=lambda loss: f"{loss.kind}-{loss.num_popular_negatives}-{loss.num_batch_negatives}",
)
def test_every_kind_of_loss_learns(simulated, tmp_path, loss):
    history = record_of(train(options(simulated, tmp_path / "run", loss=loss)))
    for width in ("4", "8"):
        assert history[-1]["loss"][width] < history[0]["loss"][width]
        assert history[-1]["validation"][width]["ndcg@10"] > 0


@pytest.mark.parametrize("history", ["mean", "none"])
@pytest.mark.parametrize("ordered", [True, False])
def test_rows_of_every_kind_learn_and_are_resumed(simulated, tmp_path, monkeypatch, history, ordered):
    seal, model = Dataset.__init__, replace(CONFIG.model, user_id=True, history=history)

    def without_order(self, path):
        seal(self, path)
        self.manifest["ordered"] = ordered

    monkeypatch.setattr(Dataset, "__init__", without_order)
    settings = {"model": model, "batch_size": 20}
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


@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "adam"])
def test_rates_fall_to_nothing(simulated, tmp_path, optimizer):
    settings = {"table_optimizer": optimizer, "rate_schedule": "cosine", "patience": 9}
    moved = []
    step = Trainer.step

    def measured_step(self, inputs, done):
        before = {name: value.clone() for name, value in self.sharded.model.state_dict().items()}
        losses = step(self, inputs, done)
        after = self.sharded.model.state_dict()
        moved.append({name: float((_plain(after[name]) - _plain(value)).abs().max()) for name, value in before.items()})
        return losses

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", measured_step)
        train(options(simulated, tmp_path / "run", epochs=4, **settings))
    for name in moved[0]:
        assert 0 < moved[-1][name] < 0.05 * moved[0][name]


def _plain(value):
    return value.local_tensor() if isinstance(value, ShardedTensor) else value


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


@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "adam"])
def test_without_a_projection_a_vector_is_a_row_of_its_table(simulated, tmp_path, monkeypatch, optimizer):
    opened = artifact.read_manifest
    monkeypatch.setattr(artifact, "read_manifest", lambda *given: opened(*given) | {"features": []})
    model = ModelConfig(
        widths=(4, 8), embedding_dim=8, hidden=(), dropout=0.0, history="none", user_id=True, projection=False
    )
    settings = {"model": model, "batch_size": 20, "table_optimizer": optimizer, "table_learning_rate": 0.05}
    whole = train(options(simulated, tmp_path / "whole", **settings))
    assert record_of(whole)[-1]["loss"]["8"] < record_of(whole)[0]["loss"]["8"]
    train(options(simulated, tmp_path / "parts", epochs=1, **settings))
    assert record_of(train(options(simulated, tmp_path / "parts", resume=True, **settings))) == record_of(whole)
    found = weights(whole)
    assert found.keys() == {"tables.user.weight", "tables.item.weight"}
    item_ND = item_vectors(load_towers(whole)[0], {})
    expected_ND = torch.nn.functional.normalize(found["tables.item.weight"]).numpy()
    np.testing.assert_allclose(item_ND, expected_ND, atol=1e-6)


def test_the_best_towers_are_kept(finished, simulated):
    towers, manifest = load_towers(finished)
    dataset = Dataset(simulated)
    best = max(record["validation"]["8"]["ndcg@10"] for record in record_of(finished))
    assert manifest["best"]["validation"]["8"]["ndcg@10"] == best
    queries = dataset.queries("validation")
    user_QD = query_vectors(towers, queries, dataset.feature_lists("user"))
    item_ND = item_vectors(towers, dataset.feature_lists("item"))
    score_QN = user_QD @ item_ND.T
    for query in range(len(queries)):
        score_QN[query, queries.history[query]] = -2
    place_Q = (score_QN > score_QN[np.arange(len(queries)), queries.target.values][:, None]).sum(axis=1)
    assert np.where(place_Q < 10, 1 / np.log2(place_Q + 2), 0).mean() == pytest.approx(best, abs=1e-6)


def test_validation_can_be_trained_on_to_the_last_epoch(finished, simulated, tmp_path):
    settings = {"include_validation": True, "patience": 1, "epochs": 4}
    folder = train(options(simulated, tmp_path / "run", **settings))
    history = record_of(folder)
    assert [record["validation"] for record in history] == [{}] * 4
    assert load_towers(folder)[1]["best"]["epoch"] == 3
    assert history[0]["loss"] != record_of(finished)[0]["loss"]
    with pytest.raises(ConfigError, match=r"got 'validation', but .* was trained on it"):
        evaluate(EvaluateOptions(run=folder, dataset=simulated, split="validation"))
    assert evaluate(EvaluateOptions(run=folder, dataset=simulated)).num_queries > 0


def test_training_on_validation_is_resumed_too(simulated, tmp_path):
    train(options(simulated, tmp_path / "whole", include_validation=True))
    train(options(simulated, tmp_path / "parts", include_validation=True, epochs=1))
    train(options(simulated, tmp_path / "parts", include_validation=True, resume=True))
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_same_seed_same_weights(finished, simulated, tmp_path):
    again = train(options(simulated, tmp_path / "run"))
    assert record_of(again) == record_of(finished)
    for name, value in weights(again).items():
        torch.testing.assert_close(value, weights(finished)[name], rtol=0, atol=0)


def test_resuming_after_an_epoch_equals_never_stopping(finished, simulated, tmp_path):
    train(options(simulated, tmp_path / "run", epochs=1))
    train(options(simulated, tmp_path / "run", resume=True))
    assert record_of(tmp_path / "run") == record_of(finished)


def test_resuming_within_an_epoch_equals_never_stopping(finished, simulated, tmp_path, monkeypatch):
    steps = iter(range(100))
    step = Trainer.step

    def interrupted_step(self, inputs, done):
        if next(steps) == 12:
            raise KeyboardInterrupt
        return step(self, inputs, done)

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
        TrainingError, match=r"config\.batch_size: was 64, is 32; config\.seed: was 1, is 9\. .*--allow-changes"
    ):
        train(options(simulated, finished, resume=True, batch_size=32, seed=9))


def test_settings_may_change_if_that_is_asked_for(simulated, tmp_path):
    run = train(options(simulated, tmp_path / "run", epochs=1))
    before = record_of(run)
    train(options(simulated, run, resume=True, epochs=2, batch_size=32, allow_changes=True))
    assert record_of(run)[:1] == before
    assert json.loads((run / "config.json").read_text())["config"]["batch_size"] == 32
    num_events = len(Dataset(simulated).events("train"))
    assert json.loads((newest(run) / "progress.json").read_text())["total_steps"] == num_events // 64 + num_events // 32


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


def test_an_epochs_figures_are_recorded_here_and_for_tensorboard(finished):
    record = json.loads((newest(finished) / "progress.json").read_text())["history"][-1]
    assert 0 < record["data_wait_share"] < 1
    assert 0 < record["collision_rate"] < 0.5
    for side in ("user", "item"):
        assert record["block_norm"][side].keys() == {"4", "8"}
        assert all(norm > 0 for norm in record["block_norm"][side].values())
    events = EventAccumulator(str(finished / "tensorboard"))
    events.Reload()
    for name, value in figures_of(record).items():
        assert events.Scalars(name)[-1].value == pytest.approx(value, rel=1e-6), name
    assert len(events.Scalars("loss/width_8")) == 3


def test_mlflow_gets_an_epochs_figures(simulated, tmp_path):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed (the extra `tracking`)")
    train(options(simulated, tmp_path / "run", epochs=1, track=("mlflow",)))
    run = train(options(simulated, tmp_path / "run", epochs=2, track=("mlflow",), resume=True))
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{run}/mlflow.db")
    (found,) = client.search_runs([client.get_experiment_by_name("recsys").experiment_id])
    assert found.data.params["config.batch_size"] == "64"
    for name, value in figures_of(record_with_times(run)[-1]).items():
        assert found.data.metrics[name] == pytest.approx(value), name


@pytest.mark.skipif(find_spec("mlflow") is not None, reason="mlflow is installed")
def test_mlflow_is_refused_where_it_is_not_installed(simulated, tmp_path):
    with pytest.raises(ConfigError, match=r"track: got 'mlflow', which is not installed; install .*\[tracking\]"):
        options(simulated, tmp_path / "run", track=("mlflow",))


def test_a_diverged_loss_stops_with_advice_and_keeps_the_batch(simulated, tmp_path):
    run = tmp_path / "run"
    expected = r"loss: got nan at epoch 0, step (\d+); .*lower table_learning_rate.* The batch is in (.*)$"
    with pytest.raises(TrainingError, match=expected) as raised:
        train(options(simulated, run, dense_learning_rate=1e30))
    step, folder = re.search(expected, str(raised.value)).groups()
    assert folder == str(run / "diverged" / f"step-{int(step):08d}")
    content = json.loads((Path(folder) / "rank-0.json").read_text())
    tensors = load_file(Path(folder) / "rank-0.safetensors")
    assert (content["step"], content["loss"]) == (int(step), "nan")
    assert content["config"]["dense_learning_rate"] == 1e30
    assert content["not_finite"].keys() == tensors.keys()
    assert content["not_finite"]["user_VU"] > 0
    assert len(tensors["lengths"]) % len(content["inputs"]) == 0
    assert tensors["positive_P"].max() < len(tensors["item_S"])


def test_cuda_is_refused_where_there_is_none(simulated, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(ConfigError, match="no CUDA device"):
        train(options(simulated, tmp_path / "run", device="cuda"))


def test_missing_towers_are_an_error(tmp_path):
    with pytest.raises(ArtifactError, match="no such run folder"):
        load_towers(tmp_path / "nowhere")


def test_steps_between_checkpoints_must_be_positive(simulated, tmp_path):
    with pytest.raises(ConfigError, match="checkpoint_every: got 0"):
        TrainOptions(dataset=simulated, out=tmp_path, checkpoint_every=0)


@pytest.mark.parametrize(
    "model",
    [
        {"history": "attention", "history_windows": ()},
        {"history": "sequence", "time_bias": True},
        {"history": "sequence", "sequence_length": 6, "user_id": True, "item_id_dropout": 0.3},
    ],
    ids=str,
)
def test_history_encoders_learn_and_are_resumed(simulated, tmp_path, model):
    settings = {"model": replace(CONFIG.model, **model), "batch_size": 20, "dense_learning_rate": 1e-2}
    settings["loss"] = replace(CONFIG.loss, num_batch_negatives=0)
    whole = record_of(train(options(simulated, tmp_path / "whole", **settings)))
    train(options(simulated, tmp_path / "parts", epochs=1, **settings))
    assert record_of(train(options(simulated, tmp_path / "parts", resume=True, **settings))) == whole
    for width in ("4", "8"):
        assert whole[-1]["loss"][width] < whole[0]["loss"][width]


@pytest.mark.parametrize(
    ("model", "lacking", "message"),
    [
        ({"history": "sequence"}, {"ordered": False}, "history: got 'sequence'.* has no order"),
        ({"history": "sequence", "time_bias": True}, {"time_unit": "order"}, "time_bias: got true, expected false"),
        (
            {"projection": False, "hidden": (), "history_windows": (9,)},
            {},
            "projection: got false, expected true: .* has features, such as",
        ),
        ({"item_id_dropout": 0.5}, {"features": []}, "item_id_dropout: got 0.5, expected 0: .* have no features"),
    ],
)
def test_what_a_dataset_lacks_is_said_before_training_starts(simulated, tmp_path, monkeypatch, model, lacking, message):
    opened = artifact.read_manifest
    monkeypatch.setattr(artifact, "read_manifest", lambda *given: opened(*given) | lacking)
    loss = replace(CONFIG.loss, num_batch_negatives=0)
    with pytest.raises(DataError, match=message):
        train(options(simulated, tmp_path / "run", model=replace(CONFIG.model, **model), loss=loss))
    assert not (tmp_path / "run").exists()
