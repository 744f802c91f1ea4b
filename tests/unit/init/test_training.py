"""Settings for training that `recsys init` proposes: where the log calls for them, valid, and what training takes."""

from __future__ import annotations

import tomllib
from dataclasses import replace

import pytest

from recsys.config import TrainConfig
from recsys.init.costs import estimate_costs
from recsys.init.facts import Facts
from recsys.init.training import write_training
from recsys.settings import field_values

GROCERIES = Facts(
    num_rows=1000, num_usable=1000, num_users=20, num_items=100, user_events=(1, 50, 90), item_events=(1, 9, 80),
    short_users=0.0, rare_items={5: (1, 0.1), 3: (1, 0.1), 2: (0, 0.0)}, exact_repeats=0.01, repeats=0.4,
    returning_users=0.99, num_test_users=19, sampled_users=1.0, num_not_positive=0, least_positive=None,
    pass_seconds=0.1,
)  # fmt: skip


def config_of(text):
    return TrainConfig(**field_values(TrainConfig, tomllib.loads(text), where="proposed"))


def test_where_the_same_users_buy_the_same_items_again_each_user_has_a_vector():
    text = write_training(GROCERIES)
    config = config_of(text)
    assert (config.model.user_id, config.model.history) == (True, "none")
    assert "39% of events" in text
    assert "99% of the users" in text


def test_without_times_all_of_a_history_counts_alike():
    config = config_of(write_training(replace(GROCERIES, returning_users=None)))
    assert (config.model.history, config.model.history_windows) == ("mean", (200,))
    assert config.batch_size < TrainConfig().batch_size


@pytest.mark.parametrize(
    "other", [{"repeats": 0.05}, {"returning_users": 0.5}, {"returning_users": None, "num_items": 10**6}]
)
def test_elsewhere_the_defaults_are_as_good_a_guess(other):
    assert write_training(replace(GROCERIES, **other)) is None


def costs(config, *, ordered):
    return estimate_costs(
        config, num_events=100_000, ordered=ordered, num_users=1_000, num_items=5_000, num_feature_rows=0, pass_s=0.1,
        max_rows=10**6,
    )  # fmt: skip


def test_training_by_user_is_estimated_by_users():
    by_user = costs(config_of(write_training(GROCERIES)), ordered=True)
    by_event, unordered = (costs(TrainConfig(), ordered=ordered) for ordered in (True, False))
    assert by_user.epoch_s < by_event.epoch_s
    assert unordered.epoch_s < by_event.epoch_s
    assert by_user.max_epochs == 60


def test_rows_of_single_events_are_estimated_by_events():
    by_user = replace(config_of(write_training(GROCERIES)), batch_size=1024)
    by_user_s, by_event_s = (costs(replace(by_user, rows=rows), ordered=True).epoch_s for rows in ("auto", "event"))
    assert by_event_s > 1.5 * by_user_s


def test_a_vector_per_user_and_adam_take_memory():
    plain = TrainConfig()
    with_users = replace(plain, model=replace(plain.model, user_id=True))
    adam = replace(with_users, table_optimizer="adam")
    taken = [costs(one, ordered=True).train_bytes for one in (plain, with_users, adam)]
    assert taken == sorted(set(taken))
