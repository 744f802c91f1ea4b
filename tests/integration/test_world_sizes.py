"""The same steps in one process, two and four: over gloo, started as a user would start them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from processes import launched
from training_runs import weights

from benchmarks._curves import follow
from recsys.config import LossConfig, ModelConfig, TrainConfig
from recsys.data.dataset import Dataset
from recsys.settings import to_mapping
from recsys.train.noise import silenced
from recsys.train.process import joined

MODEL = ModelConfig(widths=(4, 8), embedding_dim=8, hidden=(16,), history_windows=(1, 5), dropout=0.2)
PLAIN = TrainConfig(
    model=MODEL, loss=LossConfig(num_uniform_negatives=16), batch_size=60, epochs=1, patience=9, device="cpu"
)
CONFIGS = {
    "everything": replace(
        PLAIN,
        model=replace(MODEL, user_id=True, input_dropout=0.1, item_id_dropout=0.2),
        loss=LossConfig(
            num_batch_negatives=30, num_uniform_negatives=8, num_popular_negatives=9, popularity_power=0.75,
            queue_size=70, learn_temperature=True, learn_weights=True, distillation=0.5,
            energy_weight=1.0, energy_ramp=0.5,
        ),
        num_micro_batches=3,
        rate_schedule="cosine",
        averaged_epochs=2,
        epochs=2,
    ),
    # Which of two that are all but equally near is taken depends on the last digit, and what follows then parts:
    # so that all steps say the same, they are small; wrong gradients would still show.
    "hardest": replace(
        PLAIN, loss=LossConfig(num_batch_negatives=0, num_uniform_negatives=40, num_hard_negatives=10),
        table_learning_rate=1e-4, dense_learning_rate=1e-6,
    ),
    "bilateral": replace(
        PLAIN, loss=LossConfig(kind="bilateral_softmax", positive_ratio=0.5, num_uniform_negatives=16),
        table_optimizer="adam", table_learning_rate=0.01,
    ),
    "sequence": replace(
        PLAIN, model=replace(MODEL, history="sequence", sequence_length=6, time_bias=True), batch_size=20, epochs=2,
        loss=LossConfig(num_batch_negatives=0, num_uniform_negatives=30),
    ),
    "users": replace(
        PLAIN, model=replace(MODEL, history="none", user_id=True), batch_size=20, epochs=2, table_optimizer="adagrad",
        loss=LossConfig(kind="full_softmax", num_uniform_negatives=0),
    ),
}  # fmt: skip
CHANGED = CONFIGS["everything"]
"""Of the runs that change their number of processes after an epoch: rates fall to the end, so epochs are not free."""


def job(dataset, out, config, *, resume=False):
    return {"dataset": str(dataset), "out": str(out), "resume": resume, "config": to_mapping(config)}


def in_one(job):
    with silenced(), joined("cpu") as process:
        return follow(job, process)


def in_many(num_processes, folder, jobs):
    path = folder / f"jobs-{num_processes}.json"
    path.write_text(json.dumps(jobs))
    finished = launched(num_processes, "-m", "benchmarks._curves", str(path))
    assert finished.returncode == 0, finished.stderr


def curve_of(folder):
    return json.loads((folder / "curve.json").read_text())


@pytest.fixture(scope="module")
def configs(simulated, tmp_path_factory):
    """The configurations, of which one starts with vectors of some of its items."""
    folder, ids = tmp_path_factory.mktemp("pretrained"), Dataset(simulated).items.ids(range(59, 5, -2))
    np.save(folder / "items.npy", np.random.default_rng(1).normal(size=(len(ids), 8)))
    (folder / "ids.txt").write_text("\n".join(ids))
    files = {"pretrained_items": str(folder / "items.npy"), "pretrained_ids": str(folder / "ids.txt")}
    return CONFIGS | {"sequence": replace(CONFIGS["sequence"], **files)}


@pytest.fixture(scope="module")
def alone(simulated, configs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    return {name: in_one(job(simulated, folder / name, config)) for name, config in configs.items()}


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.deep)])
def shared(request, simulated, configs, tmp_path_factory):
    """Runs of several processes, those that one began and those that it will end."""
    num_processes, folder = request.param, tmp_path_factory.mktemp("shared")
    constant = replace(CHANGED, rate_schedule="constant", loss=replace(CHANGED.loss, energy_ramp=0.0))
    in_one(job(simulated, folder / "from-one", replace(constant, epochs=1)))
    jobs = [job(simulated, folder / name, config) for name, config in configs.items()]
    jobs.append(job(simulated, folder / "from-one", constant, resume=True))
    jobs.append(job(simulated, folder / "to-one", replace(constant, epochs=1)))
    in_many(num_processes, folder, jobs)
    return folder, constant


@pytest.mark.parametrize("name", CONFIGS)
def test_several_processes_take_the_steps_of_one(alone, shared, name):
    folder, _ = shared
    curve = np.array(curve_of(folder / name))
    assert len(curve) > 10
    # Sums are taken in another order, which is all the difference there is.
    np.testing.assert_allclose(curve, alone[name], rtol=1e-5)


def test_a_run_changes_its_number_of_processes(simulated, shared, tmp_path):
    folder, config = shared
    whole = in_one(job(simulated, tmp_path / "whole", config))
    half = len(whole) // 2
    np.testing.assert_allclose(curve_of(folder / "from-one"), whole[half:], rtol=1e-5)
    np.testing.assert_allclose(curve_of(folder / "to-one"), whole[:half], rtol=1e-5)
    np.testing.assert_allclose(in_one(job(simulated, folder / "to-one", config, resume=True)), whole[half:], rtol=1e-5)
    # Of the mean of both epochs' weights, in which another number of processes has the first.
    expected = weights(tmp_path / "whole")
    for run in ("from-one", "to-one"):
        for name, weight in weights(folder / run).items():
            torch.testing.assert_close(weight, expected[name], rtol=1e-3, atol=1e-4)


@pytest.mark.deep
def test_two_processes_go_on_as_four(simulated, tmp_path):
    config = replace(CHANGED, rate_schedule="constant", loss=replace(CHANGED.loss, energy_ramp=0.0))
    whole = in_one(job(simulated, tmp_path / "whole", config))
    in_many(2, tmp_path, [job(simulated, tmp_path / "run", replace(config, epochs=1))])
    in_many(4, tmp_path, [job(simulated, tmp_path / "run", config, resume=True)])
    np.testing.assert_allclose(curve_of(tmp_path / "run"), whole[len(whole) // 2 :], rtol=1e-5)
