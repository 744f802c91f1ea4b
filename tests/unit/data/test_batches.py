from __future__ import annotations

import numpy as np
import pytest

from recsys.data.batches import TrainingEvents
from recsys.data.dataset import Dataset
from recsys.data.negatives import NegativeSampler
from recsys.errors import TrainingError


@pytest.fixture(scope="module")
def dataset(simulated):
    return Dataset(simulated)


@pytest.fixture
def unordered(dataset, monkeypatch):
    monkeypatch.setitem(dataset.manifest, "ordered", False)
    return dataset


def all_batches(events, epoch=0, **settings):
    settings = {"batch_size": 32} | settings
    negatives = NegativeSampler(events.item_rate, batch_size=settings["batch_size"], num_uniform=8)
    return list(events.epoch(epoch, negatives=negatives, **settings))


def all_rows(batches):
    """Yield each row's user, history and positives."""
    for batch in batches:
        assert (np.diff(batch.row) >= 0).all()
        for row, user in enumerate(batch.user):
            yield user, batch.history[row].tolist(), batch.item[batch.row == row].tolist()


def test_a_history_is_what_the_user_did_before_the_target(dataset):
    log = dataset.events("train")
    events = TrainingEvents(dataset, longest=1000, seed=1)
    for batch in all_batches(events):
        for place, user in enumerate(batch.user):
            own = log.item[log.user == user].tolist()
            # Items are distinct in this log, so the target's place is known.
            assert batch.history[place].tolist() == own[: own.index(batch.item[place])]
        assert batch.row.tolist() == list(range(32))


def test_validation_events_are_targets_too_if_asked(dataset):
    train, validation = dataset.histories("train"), dataset.histories("validation")
    rows = list(
        all_rows(all_batches(TrainingEvents(dataset, longest=1000, include_validation=True, seed=1), batch_size=1))
    )
    assert len(rows) == len(train.values) + len(validation.values)
    seen = {user: (history, positives) for user, history, positives in rows if len(history) == len(train[user])}
    for user in np.flatnonzero(validation.lengths):
        assert seen[user] == (train[user].tolist(), validation[user].tolist())


def test_histories_are_cut_to_the_longest_asked_for(dataset):
    events = TrainingEvents(dataset, longest=2, seed=1)
    lengths = np.concatenate([batch.history.lengths for batch in all_batches(events)])
    assert lengths.max() == 2


def test_an_epoch_sees_every_example_at_most_once_over_all_ranks(dataset):
    events = TrainingEvents(dataset, longest=10, seed=1)
    batches = [batch for rank in range(3) for batch in all_batches(events, rank=rank, world_size=3, batch_size=33)]
    pairs = [pair for batch in batches for pair in zip(batch.user.tolist(), batch.item.tolist(), strict=True)]
    assert len(set(pairs)) == len(pairs)
    assert len(pairs) == events.steps_per_epoch(batch_size=33) * 33
    assert len(events) - len(pairs) < 33


def test_the_same_epoch_comes_again_and_another_differs(dataset):
    events = TrainingEvents(dataset, longest=10, seed=1)
    first, again, other = all_batches(events), all_batches(events), all_batches(events, epoch=1)
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.item, two.item)
        np.testing.assert_array_equal(one.negative, two.negative)
    assert any((one.item != two.item).any() for one, two in zip(first, other, strict=True))
    assert (all_batches(TrainingEvents(dataset, longest=10, seed=2))[0].item != first[0].item).any()


def test_skipping_goes_on_where_the_rest_would(dataset):
    events = TrainingEvents(dataset, longest=10, seed=1)
    whole, rest = all_batches(events), all_batches(events, skip=3)
    assert len(rest) == len(whole) - 3
    np.testing.assert_array_equal(rest[0].item, whole[3].item)
    np.testing.assert_array_equal(rest[0].negative, whole[3].negative)


def test_only_the_latest_events_become_examples_if_asked(dataset):
    log = dataset.events("train")
    events = TrainingEvents(dataset, longest=100, max_events_per_user=2, seed=1)
    per_user = np.bincount(log.user)
    assert len(events) == np.minimum(per_user, 2).sum()
    for batch in all_batches(events):
        for place, user in enumerate(batch.user):
            assert batch.item[place] in log.item[log.user == user][-2:]


def test_recent_events_are_rows_as_often_as_their_half_life_says(dataset):
    log = dataset.events("train")
    days = (log.time.max() - log.time) / 86_400
    half_life = float(np.median(days))
    events = TrainingEvents(dataset, longest=100, half_life=half_life, seed=1)
    weight = 0.5 ** (days / half_life)
    assert len(events) == int(weight.sum()) < len(log.item)
    place_of = {pair: place for place, pair in enumerate(zip(log.user, log.item, strict=True))}
    count, num_epochs = np.zeros(len(log.item)), 400
    for epoch in range(num_epochs):
        (batch,) = all_batches(events, epoch, batch_size=len(events))
        place = np.array([place_of[pair] for pair in zip(batch.user, batch.item, strict=True)])
        assert len(np.unique(place)) == len(events)
        count[place] += 1
    error = np.sqrt(weight * (1 - weight) / num_epochs)
    assert (np.abs(count / num_epochs - weight) < 5 * error + 0.01).all()
    expected = np.bincount(log.item, weights=weight, minlength=len(dataset.items)) / len(events)
    np.testing.assert_allclose(events.item_rate, expected, rtol=0.01)


def test_without_an_order_each_epoch_splits_every_users_items_anew(unordered):
    log = unordered.events("train")
    events = TrainingEvents(unordered, longest=100, seed=1)
    assert len(events) == len(np.unique(log.user))
    splits = set()
    for epoch in range(20):
        seen = list(all_rows(all_batches(events, epoch, batch_size=10)))
        assert len({user for user, _, _ in seen}) == len(seen) == len(events) // 10 * 10
        for user, history, positives in seen:
            assert sorted(history + positives) == sorted(log.item[log.user == user])
            assert positives
            if user == seen[0][0]:
                splits.add((tuple(history), tuple(positives)))
    assert len(splits) > 10


def test_without_an_order_every_number_of_positives_is_alike(unordered):
    log = unordered.events("train")
    events = TrainingEvents(unordered, longest=100, max_events_per_user=4, seed=1)
    numbers = np.concatenate([np.bincount(batch.row) for epoch in range(40) for batch in all_batches(events, epoch)])
    num_long = (np.bincount(log.user) >= 4).mean()
    assert numbers.min() == 1
    assert numbers.max() == 4
    assert (numbers == 4).mean() == pytest.approx(num_long / 4, abs=0.02)


def test_users_of_a_tower_without_history_are_one_row_each(dataset):
    log = dataset.events("train")
    events = TrainingEvents(dataset, longest=0, max_events_per_user=7, seed=1)
    seen = list(all_rows(all_batches(events, batch_size=50)))
    assert len({user for user, _, _ in seen}) == len(seen) == 200
    for user, history, positives in seen:
        assert history == []
        assert positives == log.item[log.user == user][-7:].tolist()


@pytest.mark.parametrize("ordered", [True, False])
def test_a_tower_without_history_may_have_a_row_for_every_event(dataset, monkeypatch, ordered):
    monkeypatch.setitem(dataset.manifest, "ordered", ordered)
    log = dataset.events("train")
    events = TrainingEvents(dataset, longest=0, single_events=True, max_events_per_user=7, seed=1)
    seen = list(all_rows(all_batches(events, batch_size=len(events))))
    assert all(history == [] and len(positives) == 1 for _, history, positives in seen)
    latest = [(user, item) for user in np.unique(log.user) for item in log.item[log.user == user][-7:]]
    assert sorted((user, item) for user, _, (item,) in seen) == sorted(latest)
    counts = np.bincount([item for _, item in latest], minlength=events.num_items)
    np.testing.assert_allclose(events.item_rate, counts / len(latest), atol=1e-12)


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize(("longest", "most"), [(0, None), (0, 3), (5, None), (5, 3)])
def test_an_item_is_a_positive_as_often_as_is_said(dataset, monkeypatch, ordered, longest, most):
    monkeypatch.setitem(dataset.manifest, "ordered", ordered)
    events = TrainingEvents(dataset, longest=longest, max_events_per_user=most, seed=1)
    num_epochs = 100 if longest > 0 and not ordered else 1
    # A batch of everything, so that nothing is left to another epoch.
    batches = [batch for epoch in range(num_epochs) for batch in all_batches(events, epoch, batch_size=len(events))]
    counts = np.bincount(np.concatenate([batch.item for batch in batches]), minlength=events.num_items)
    tolerance = 0.02 if num_epochs > 1 else 1e-12
    np.testing.assert_allclose(counts / len(batches) / len(events), events.item_rate, atol=tolerance)


def test_a_batch_larger_than_the_data_is_refused(dataset):
    events = TrainingEvents(dataset, longest=10, seed=1)
    with pytest.raises(TrainingError, match=f"got 100000, expected at most {len(events)}, all training rows"):
        events.steps_per_epoch(batch_size=100_000)


@pytest.mark.parametrize("most", [None, 5])
def test_windows_predict_each_event_from_the_one_before(dataset, most):
    log = dataset.events("train")
    events = TrainingEvents(dataset, longest=4, by_position=True, max_events_per_user=most, seed=1)
    predicted = []
    for batch in all_batches(events, batch_size=16):
        first = np.cumsum(batch.history.lengths + 1) - batch.history.lengths - 1
        list_of_row = np.searchsorted(first, batch.row, side="right") - 1
        assert batch.history.lengths.max() <= 4
        for place, row, item in zip(list_of_row, batch.row, batch.item, strict=True):
            user, read = batch.user[place], batch.history[place][: row - first[place]].tolist()
            own = log.item[log.user == user].tolist()
            # Items are distinct in this log, so the target's place is known.
            assert read == own[: own.index(item)][-len(read) :] if read else own[0] == item
            predicted.append((user, item))
    expected = [
        (user, item) for user in np.unique(log.user) for item in log.item[log.user == user][-(most or len(log)) :]
    ]
    assert sorted(predicted) == sorted(expected)


def test_histories_come_with_their_times(dataset, monkeypatch):
    log = dataset.events("train")
    time_of = dict(zip(zip(log.user.tolist(), log.item.tolist(), strict=True), log.time.tolist(), strict=True))
    for by_position in (False, True):
        batch = all_batches(TrainingEvents(dataset, longest=3, by_position=by_position, seed=1))[0]
        for row, user in enumerate(batch.user.tolist()):
            assert batch.time[row].tolist() == [time_of[user, item] for item in batch.history[row].tolist()]
    monkeypatch.setitem(dataset.manifest, "time_unit", "order")
    assert all_batches(TrainingEvents(dataset, longest=3, seed=1))[0].time is None


def test_windows_are_batched_by_length_over_all_ranks(dataset):
    events = TrainingEvents(dataset, longest=20, by_position=True, seed=1)
    batches = [batch for rank in range(2) for batch in all_batches(events, rank=rank, world_size=2, batch_size=16)]
    assert len(batches) == 2 * events.steps_per_epoch(batch_size=16)
    assert sum(len(batch.user) for batch in batches) == len(events) == 200
    assert all(batch.history.lengths.max() <= 1.25 * batch.history.lengths.min() + 1 for batch in batches)
    num_positives = [len(batch.item) for batch in batches]
    assert max(num_positives) <= min(num_positives) + 2 * 20


@pytest.mark.parametrize(
    "rows",
    [{"longest": 20}, {"longest": 20, "by_position": True}, {"longest": 0}, {"longest": 0, "single_events": True}],
)
def test_ranks_share_out_the_batches_of_one(dataset, rows):
    by_position = rows.get("by_position", False)
    events = TrainingEvents(dataset, seed=1, **rows)
    whole, *ranks = (
        all_batches(events, rank=rank, world_size=world_size, batch_size=30)
        for rank, world_size in ((0, 1), (0, 3), (1, 3), (2, 3))
    )
    for one, *parts in zip(whole, *ranks, strict=True):
        np.testing.assert_array_equal(np.concatenate([part.user for part in parts]), one.user)
        np.testing.assert_array_equal(np.concatenate([part.history.values for part in parts]), one.history.values)
        np.testing.assert_array_equal(np.concatenate([part.item for part in parts]), one.item)
        np.testing.assert_array_equal(np.concatenate([part.vectors.own.start + part.row for part in parts]), one.row)
        for part in parts:
            np.testing.assert_array_equal(part.batch_item, one.item)
            np.testing.assert_array_equal(part.negative, one.negative)
            assert part.lists.total == len(one.user)
            assert part.vectors.total == one.vectors.total == len(one.user) + by_position * len(one.history.values)


def test_a_batch_of_long_windows_that_cannot_be_shared_is_refused(dataset):
    events = TrainingEvents(dataset, longest=20, by_position=True, seed=1)
    with pytest.raises(TrainingError, match=r"batch_size: got 4, with which a batch of long windows has \d for 4 proc"):
        all_batches(events, rank=0, world_size=4, batch_size=4)
