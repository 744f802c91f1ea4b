"""Baselines: scores worked out by hand or with dense matrices, the window of recency, and published figures."""

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.data.dataset import Queries
from recsys.data.schema import Events
from recsys.errors import ConfigError
from recsys.evaluate import baselines
from recsys.evaluate.baselines import ItemFilter, Popularity, fit_baselines, last_days, rank
from recsys.evaluate.protocol import measure
from recsys.index.exact import NOTHING
from recsys.ragged import Ragged


def queries_of(history, *, mask_seen=True):
    lists = Ragged.from_lists(history)
    target = Ragged.from_lists([[0]] * len(lists))
    return Queries(user=np.arange(len(lists)), history=lists, target=target, mask_seen=mask_seen)


def test_popularity_counts_interactions_and_breaks_ties_by_row():
    popularity = Popularity(np.array([3, 1, 3, 2, 1, 4]), num_items=6)
    ranked_QK = rank(popularity, queries_of([[], [3], [1, 4, 1]]), k=6)
    assert ranked_QK.tolist() == [
        [1, 3, 2, 4, 0, 5],
        [1, 2, 4, 0, 5, NOTHING],
        [3, 2, 0, 5, NOTHING, NOTHING],
    ]


def test_seen_items_stay_where_queries_do_not_mask_them():
    popularity = Popularity(np.array([2, 2, 1]), num_items=3)
    assert rank(popularity, queries_of([[2]], mask_seen=False), k=2).tolist() == [[2, 1]]


def test_item_filter_by_hand():
    """Users 0: {a, b}, 1: {b, c}. From a history of a alone: b through user 0, c not at all, so it follows.

    S = D_U^-1/2 R D_I^-1/2 has S[0, a] = 1/sqrt(2 * 1) and S[0, b] = 1/sqrt(2 * 2), and likewise for user 1.
    """
    item_filter = ItemFilter(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 2]), num_users=2, num_items=3)
    scores = item_filter.scores(Ragged.from_lists([[0], [1]]))
    a, b = 1 / np.sqrt(2), 1 / 2
    np.testing.assert_allclose(scores, [[a * a, a * b, -3], [b * a, 2 * b * b, b * a]], rtol=1e-6)
    assert scores.dtype == np.float32


def test_item_filter_is_the_dense_formula_and_repeats_count_once():
    rng = np.random.default_rng(0)
    num_users, num_items = 30, 20
    user, item = (
        rng.integers(0, num_users - 1, 150),
        rng.integers(0, num_items - 1, 150),
    )  # the last of each never occur
    history = Ragged.from_lists([rng.integers(0, num_items, length) for length in (0, 1, 5, 40)])
    interaction_UN = np.zeros((num_users, num_items))
    interaction_UN[user, item] = 1
    taste_BN = np.zeros((4, num_items))
    taste_BN[history.row_of_values(), history.values] = 1
    degree_U1, degree_1N = interaction_UN.sum(axis=1, keepdims=True), interaction_UN.sum(axis=0, keepdims=True)
    filter_UN = interaction_UN / np.sqrt(np.maximum(degree_U1 * degree_1N, 1))
    scores = ItemFilter(user, item, num_users=num_users, num_items=num_items).scores(history)
    np.testing.assert_allclose(np.maximum(scores, 0), taste_BN @ filter_UN.T @ filter_UN, rtol=1e-5, atol=1e-7)


def test_item_filter_ranks_what_a_history_does_not_reach_by_popularity():
    """Users 0: {1, 2}, 1: {3, 4}, 2: {4}: item 4 has two users, each other one, item 0 none."""
    user, item = np.array([0, 0, 1, 1, 2]), np.array([1, 2, 3, 4, 4])
    item_filter = ItemFilter(user, item, num_users=3, num_items=5)
    ranked_QK = rank(item_filter, queries_of([[], [1], [0]]), k=5)
    assert ranked_QK.tolist() == [[4, 1, 2, 3, 0], [2, 4, 3, 0, NOTHING], [4, 1, 2, 3, NOTHING]]


def test_chunks_change_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    item_filter = ItemFilter(rng.integers(0, 30, 200), rng.integers(0, 20, 200), num_users=30, num_items=20)
    queries = queries_of([rng.integers(0, 20, length) for length in rng.integers(0, 25, 17)])
    whole_QK = rank(item_filter, queries, k=5)
    monkeypatch.setattr(baselines, "_CHUNK_BYTES", 3 * item_filter.row_bytes)
    np.testing.assert_array_equal(rank(item_filter, queries, k=5), whole_QK)


@pytest.mark.parametrize(("unit", "ticks"), [("s", 1), ("ms", 1_000), ("us", 1_000_000)])
def test_last_days_end_with_the_last_event_and_leave_out_the_first_instant(unit, ticks):
    day = 86_400 * ticks
    time = np.array([0, 3 * day, 3 * day + 1, 10 * day, 5 * day])
    events = Events(user=np.zeros(5, dtype=np.int64), item=np.arange(5), time=time)
    assert last_days(events, 7, unit=unit).tolist() == [False, False, True, True, True]


def test_a_timed_dataset_gets_recent_popularity_fitted_on_train_alone(make_dataset):
    """Train's last event is on day 10, so its last 2 days hold user 1's item 2 (day 9) and items 3 and 4 (day 10)."""
    dataset = make_dataset()
    popular, recent, item_item = fit_baselines(dataset, recent_days=2)
    assert [one.name for one in (popular, recent, item_item)] == ["popularity", "popularity, 2 days", "item-item"]
    nothing_seen = queries_of([[]])
    assert rank(popular, nothing_seen, k=6).tolist() == [[1, 0, 2, 3, 4, 5]]
    assert rank(recent, nothing_seen, k=6).tolist() == [[2, 3, 4, 0, 1, 5]]


@pytest.mark.parametrize("time_unit", [None, "order"])
def test_without_real_times_there_is_no_recent_popularity(make_dataset, time_unit):
    assert [one.name for one in fit_baselines(make_dataset(time_unit=time_unit))] == ["popularity", "item-item"]


def test_a_window_of_no_days_is_refused(make_dataset):
    with pytest.raises(ConfigError, match="recent_days: got 0, expected at least 1"):
        fit_baselines(make_dataset(), recent_days=0)


NEEDS_DATASETS = pytest.mark.skipif("RECSYS_DATASETS" not in os.environ, reason="RECSYS_DATASETS names no folder")


def published_split(name):
    """Return the train events and, for every user, the query of a published train and test file."""
    folder = Path(os.environ["RECSYS_DATASETS"]) / name
    (user, item), (target_user, target_item) = (
        pl.read_parquet(folder / f"{split}.parquet", columns=["user_id", "item_id"])
        .sort("user_id", maintain_order=True)
        .to_numpy()
        .T.astype(np.int64)
        for split in ("train", "test")
    )
    num_users = user.max() + 1
    target = Ragged.from_lengths(target_item, np.bincount(target_user, minlength=num_users))
    some = np.flatnonzero(target.lengths)
    history = Ragged.from_lengths(item, np.bincount(user, minlength=num_users))
    queries = Queries(user=some, history=history.take(some), target=target.take(some), mask_seen=True)
    return Events(user=user, item=item), queries


def scores_at_20(baseline, queries, num_items):
    quality = measure(rank(baseline, queries, k=20), queries, name=baseline.name, num_items=num_items, ks=(20,))
    return quality.mean("recall@20"), quality.mean("ndcg@20")


@NEEDS_DATASETS
def test_gowalla_figures_of_another_implementation():
    """All users for popularity; for the filter a sample, whose mean may lie three standard errors off."""
    events, queries = published_split("gowalla-lightgcn")
    num_items = 40_981
    found = scores_at_20(Popularity(events.item, num_items=num_items), queries, num_items)
    assert found == pytest.approx((0.0416, 0.0317), abs=5e-5)
    some = np.random.default_rng(0).choice(len(queries), size=3000, replace=False)
    sample = Queries(user=some, history=queries.history.take(some), target=queries.target.take(some), mask_seen=True)
    item_filter = ItemFilter(events.user, events.item, num_users=len(queries), num_items=num_items)
    assert scores_at_20(item_filter, sample, num_items) == pytest.approx((0.1682, 0.1331), abs=0.012)


@NEEDS_DATASETS
@pytest.mark.deep
@pytest.mark.parametrize(
    ("name", "popularity", "item_filter"),
    [
        ("gowalla-lightgcn", (0.0416, 0.0317), (0.1682, 0.1331)),
        ("yelp2018-lightgcn", (0.0125, 0.0101), (0.0684, 0.0565)),
    ],
)
def test_figures_of_another_implementation_to_the_last_digit(name, popularity, item_filter):
    events, queries = published_split(name)
    num_users, num_items = int(events.user.max()) + 1, int(events.item.max()) + 1
    found = scores_at_20(Popularity(events.item, num_items=num_items), queries, num_items)
    assert found == pytest.approx(popularity, abs=5.1e-5)
    baseline = ItemFilter(events.user, events.item, num_users=num_users, num_items=num_items)
    assert scores_at_20(baseline, queries, num_items) == pytest.approx(item_filter, abs=5.1e-5)
