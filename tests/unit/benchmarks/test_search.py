"""The search: seeded draws inside the space, settings put in by name, refusals."""

import pytest

from benchmarks._configs import benchmark_names, load_benchmark
from benchmarks.search import best, draws, overridden, read_space
from recsys.config import TrainConfig
from recsys.errors import ConfigError

SPACE = {
    "draw": {
        "loss.temperature": {"low": 0.03, "high": 0.2, "log": True},
        "model.dropout": {"low": 0.0, "high": 0.5},
        "batch_size": [256, 512],
    }
}


def test_draws_are_seeded_inside_the_space_and_the_first_of_more():
    many = draws(SPACE, num_trials=40, seed=3)
    assert many[:5] == draws(SPACE, num_trials=5, seed=3) != draws(SPACE, num_trials=5, seed=4)
    assert {one["batch_size"] for one in many} == {256, 512}
    assert all(0.03 <= one["loss.temperature"] <= 0.2 and 0 <= one["model.dropout"] <= 0.5 for one in many)
    # The median of a log-uniform draw is the geometric mean, .077; of a uniform one it would be .115.
    assert sorted(one["loss.temperature"] for one in many)[20] == pytest.approx(0.077, abs=0.02)


def test_settings_are_put_in_by_dotted_name():
    found = overridden(TrainConfig(), {"loss.temperature": 0.1, "model.hidden": [64, 32], "epochs": 4})
    assert found.loss.temperature == (0.1,)
    assert found.model.hidden == (64, 32)
    assert found.epochs == 4


def test_unknown_settings_are_refused():
    with pytest.raises(ConfigError, match=r"temprature.*did you mean 'temperature'"):
        overridden(TrainConfig(), {"loss.temprature": 0.1})


@pytest.mark.parametrize("among", [[], 3, {"low": 1}, {"low": 2, "high": 1}])
def test_refuses_what_cannot_be_drawn_from(among):
    with pytest.raises(ConfigError, match="space: epochs: got"):
        draws({"draw": {"epochs": among}}, num_trials=1, seed=1)


def test_refuses_a_space_of_nothing():
    with pytest.raises(ConfigError, match="no table"):
        draws({"fixed": {"epochs": 1}}, num_trials=1, seed=1)


def test_the_best_trial_is_the_first_of_the_sorted():
    trials = [{"drawn": {"epochs": 3}, "score": 0.2, "best_epoch": 2}, {"drawn": {"epochs": 1}, "failed": "diverged"}]
    assert best({"toy": {"figures": {"trials": trials}}}) == {
        "toy": {"drawn": {"epochs": 3}, "score": 0.2, "best_epoch": 2}
    }


def test_every_space_can_be_drawn_and_put_into_the_benchmarks_that_name_it():
    for name in benchmark_names():
        benchmark = load_benchmark(name)
        space = read_space(benchmark.space_path)
        for one in draws(space, num_trials=5, seed=1):
            assert overridden(benchmark.train, space["fixed"] | one).epochs == space["fixed"]["epochs"]


@pytest.mark.parametrize(("text", "message"), [("[drawn]", "got the table 'drawn'"), ("[", "not TOML")])
def test_refuses_files_that_are_no_space(tmp_path, text, message):
    path = tmp_path / "space.toml"
    with pytest.raises(ConfigError, match="no such file"):
        read_space(path)
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_space(path)
