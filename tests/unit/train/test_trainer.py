"""Training in one process: what it learns, writes and refuses."""

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
from training_runs import CONFIG, newest, options, record_of, record_with_times, weights

from recsys import artifact
from recsys.config import LossConfig, ModelConfig
from recsys.data.dataset import Dataset
from recsys.errors import ArtifactError, ConfigError, DataError, TrainingError
from recsys.evaluate.towers import item_vectors, query_vectors
from recsys.evaluate.verb import EvaluateOptions, evaluate
from recsys.model.best import load_towers
from recsys.train.tracking import figures_of
from recsys.train.trainer import Trainer, TrainOptions, train


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


@pytest.mark.parametrize("half_life", [None, 0.3])
def test_without_histories_rows_are_users_or_single_events_as_asked(simulated, tmp_path, half_life):
    log = Dataset(simulated).events("train")
    settings = {"model": replace(CONFIG.model, history="none", user_id=True), "batch_size": 50, "epochs": 2}
    of_rows = {"auto": {}, "event": {"rows": "event", "recency_half_life": half_life}}
    steps = {}
    for rows, changes in of_rows.items():
        folder = train(options(simulated, tmp_path / rows, **settings, **changes))
        steps[rows] = json.loads((newest(folder) / "progress.json").read_text())["total_steps"]
        first, last = (record["loss"]["8"] for record in record_of(folder))
        assert last < first
    assert steps["auto"] == 2 * (len(np.unique(log.user)) // 50)
    all_events = 2 * (len(log.item) // 50)
    assert steps["event"] == all_events if half_life is None else steps["auto"] < steps["event"] < all_events


@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "adam"])
def test_rates_fall_to_nothing(simulated, tmp_path, optimizer):
    settings = {"table_optimizer": optimizer, "rate_schedule": "cosine", "patience": 9}
    moved = []
    step = Trainer.step

    def measured_step(self, batches):
        before = {name: value.clone() for name, value in self.sharded.model.state_dict().items()}
        losses = step(self, batches)
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


def test_same_seed_same_weights(finished, simulated, tmp_path):
    again = train(options(simulated, tmp_path / "run"))
    assert record_of(again) == record_of(finished)
    for name, value in weights(again).items():
        torch.testing.assert_close(value, weights(finished)[name], rtol=0, atol=0)


def test_an_epochs_figures_are_recorded_here_and_for_tensorboard(finished):
    record = json.loads((newest(finished) / "progress.json").read_text())["history"][-1]
    assert 0 < record["data_wait_share"] < 1
    assert record["seconds"] > 0
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
    assert found.data.params["config.batch_size"] == "128"
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
        ({"history_features": (5,)}, {"features": []}, r"history_features: got \(5,\), expected none: .* have no feat"),
    ],
)
def test_what_a_dataset_lacks_is_said_before_training_starts(simulated, tmp_path, monkeypatch, model, lacking, message):
    opened = artifact.read_manifest
    monkeypatch.setattr(artifact, "read_manifest", lambda *given: opened(*given) | lacking)
    loss = replace(CONFIG.loss, num_batch_negatives=0)
    with pytest.raises(DataError, match=message):
        train(options(simulated, tmp_path / "run", model=replace(CONFIG.model, **model), loss=loss))
    assert not (tmp_path / "run").exists()
