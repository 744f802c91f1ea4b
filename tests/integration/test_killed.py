"""Runs that are killed anywhere, and runs whose disk is full: what is on disk is always enough to go on from."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training_children import finish, start

from recsys.config import LossConfig, ModelConfig, TrainConfig
from recsys.train.trainer import TrainOptions

# The last towers are those that are kept, so they are what all steps made.
CONFIG = TrainConfig(
    model=ModelConfig(widths=(4, 8), embedding_dim=8, hidden=(16,), history_windows=(1, 5), dropout=0.2),
    loss=LossConfig(num_uniform_negatives=16, queue_size=50, learn_temperature=True),
    batch_size=128,
    epochs=3,
    include_validation=True,
    device="cpu",
)


def options(dataset, out, **settings):
    return TrainOptions(dataset=dataset, out=out, config=CONFIG, checkpoint_every=3, **settings)


def weights(run):
    return load_file(run / "towers" / "towers.safetensors")


def newest(run):
    return sorted((run / "checkpoints").glob("step-*"))[-1]


def assert_same(run, whole):
    ours, theirs = weights(run), weights(whole)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    losses = [
        [record["loss"] for record in json.loads((newest(one) / "progress.json").read_text())["history"]]
        for one in (run, whole)
    ]
    assert losses[0] == losses[1]


@pytest.fixture(scope="module")
def whole(simulated, tmp_path_factory):
    """A run that was never killed, and how long it took."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    started = time.perf_counter()
    assert finish(options(simulated, folder)) == ""
    return folder, time.perf_counter() - started


def kill(child, run, random, seconds):
    """Kill a child at a random moment, or as soon as it writes a checkpoint; return whether it still ran, and wrote."""
    at_checkpoint, deadline = random.random() < 0.5, time.perf_counter() + random.uniform(0, seconds)
    while child.is_alive() and time.perf_counter() < deadline:
        if at_checkpoint and list((run / "checkpoints").glob(".staging-*")):
            time.sleep(random.uniform(0, 0.03))
            break
        time.sleep(0.001)
    child.kill()
    child.join()
    return child.exitcode == -9, bool(list((run / "checkpoints").glob(".staging-*")))


@pytest.mark.parametrize(("num_kills", "seed"), [(6, 1), pytest.param(50, 2, marks=pytest.mark.deep)])
def test_a_run_that_is_killed_ends_as_if_it_had_not_been(simulated, whole, tmp_path, num_kills, seed):
    untouched, seconds = whole
    random, run = np.random.default_rng(seed), tmp_path / "run"
    killed = while_writing = 0
    while killed < num_kills:
        child, said = start(options(simulated, run, resume=(run / "config.json").exists()))
        was_running, was_writing = kill(child, run, random, seconds)
        killed, while_writing = killed + was_running, while_writing + was_writing
        if not was_running:
            # It had come to its end: begin another.
            assert (child.exitcode, said.recv()) == (0, "")
            assert_same(run, untouched)
            shutil.rmtree(run)
    assert while_writing > 0
    assert finish(options(simulated, run, resume=(run / "config.json").exists())) == ""
    assert_same(run, untouched)
    assert not list((run / "checkpoints").glob(".staging-*"))


def test_a_full_disk_is_an_error_and_leaves_the_last_checkpoint(simulated, whole, tmp_path):
    run = tmp_path / "run"
    assert finish(replace(options(simulated, run), config=replace(CONFIG, epochs=1))) == ""
    before = newest(run)
    said = finish(options(simulated, run, resume=True), most_bytes=8_000)
    assert "File too large" in said
    assert f"{before} is whole: make room, then go on from it with --resume" in said
    assert newest(run) == before
    assert not list((run / "checkpoints").glob(".staging-*"))
    assert finish(options(simulated, run, resume=True)) == ""
    assert_same(run, whole[0])


def test_an_unwritable_folder_is_an_error(simulated):
    assert "/proc/run/config.json: got 'No such file or directory', expected to be able to write there" in finish(
        options(simulated, Path("/proc/run"))
    )
