"""Towers that are made of the mean of the weights that epochs ended with."""

from __future__ import annotations

import pytest
import torch
from training_runs import options, record_of, weights

from recsys.train.trainer import train

OPTIMIZERS = [("rowwise_adagrad", 0.2), ("adam", 0.01)]


@pytest.fixture(scope="module", params=OPTIMIZERS, ids=lambda pair: pair[0])
def settings(request):
    optimizer, rate = request.param
    return {"include_validation": True, "table_optimizer": optimizer, "table_learning_rate": rate}


@pytest.fixture(scope="module")
def ended_with(settings, simulated, tmp_path_factory):
    """The weights that the first, second and third epoch end with."""
    run, ends = tmp_path_factory.mktemp("ends") / "run", []
    for epochs in (1, 2, 3):
        train(options(simulated, run, epochs=epochs, resume=epochs > 1, **settings))
        ends.append(weights(run))
    return ends


def assert_mean(folder, parts):
    for name, weight in weights(folder).items():
        torch.testing.assert_close(weight, sum(share * ended[name] for share, ended in parts))


@pytest.mark.parametrize(("averaged_epochs", "shares"), [(9, (1 / 3, 1 / 3, 1 / 3)), (2, (1 / 4, 1 / 4, 1 / 2))])
def test_towers_are_the_mean_of_what_epochs_ended_with(
    settings, ended_with, simulated, tmp_path, averaged_epochs, shares
):
    run = train(options(simulated, tmp_path / "run", averaged_epochs=averaged_epochs, **settings))
    assert_mean(run, list(zip(shares, ended_with, strict=True)))


def test_a_mean_is_resumed(settings, simulated, tmp_path):
    averaged = {**settings, "averaged_epochs": 2, "include_validation": False}
    whole = train(options(simulated, tmp_path / "whole", **averaged))
    train(options(simulated, tmp_path / "parts", epochs=1, **averaged))
    parts = train(options(simulated, tmp_path / "parts", resume=True, **averaged))
    assert record_of(parts) == record_of(whole)
    assert all(torch.equal(weight, weights(parts)[name]) for name, weight in weights(whole).items())


def test_a_mean_begins_and_ends_where_that_is_asked_for(settings, ended_with, simulated, tmp_path):
    run = tmp_path / "run"
    train(options(simulated, run, epochs=1, averaged_epochs=4, **settings))
    assert_mean(run, [(1, ended_with[0])])
    train(options(simulated, run, epochs=2, resume=True, allow_changes=True, **settings))
    assert_mean(run, [(1, ended_with[1])])
    train(options(simulated, run, averaged_epochs=4, resume=True, allow_changes=True, **settings))
    assert_mean(run, [(1, ended_with[2])])
