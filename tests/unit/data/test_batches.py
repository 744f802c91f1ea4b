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


def all_batches(events, epoch=0, **settings):
    negatives = NegativeSampler(events.item_share, num_uniform=6, num_popular=2, popularity_power=0.75)
    settings = {"batch_size": 32, "negatives": negatives} | settings
    return list(events.epoch(epoch, **settings))


def test_a_history_is_what_the_user_did_before_the_target(dataset):
    log = dataset.events("train")
    events = TrainingEvents(dataset, longest=1000, seed=1)
    for batch in all_batches(events):
        for place, user in enumerate(batch.user):
            own = log.item[log.user == user].tolist()
            # Items are distinct in this log, so the target's place is known.
            assert batch.history[place].tolist() == own[: own.index(batch.item[place])]


def test_histories_are_cut_to_the_longest_asked_for(dataset):
    events = TrainingEvents(dataset, longest=2, seed=1)
    lengths = np.concatenate([batch.history.lengths for batch in all_batches(events)])
    assert lengths.max() == 2


def test_an_epoch_sees_every_example_at_most_once_over_all_ranks(dataset):
    events = TrainingEvents(dataset, longest=10, seed=1)
    batches = [batch for rank in range(3) for batch in all_batches(events, rank=rank, world_size=3)]
    pairs = [pair for batch in batches for pair in zip(batch.user.tolist(), batch.item.tolist(), strict=True)]
    assert len(set(pairs)) == len(pairs)
    assert len(pairs) == events.steps_per_epoch(batch_size=32, world_size=3) * 3 * 32
    assert len(events) - len(pairs) < 3 * 32


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


def test_without_an_order_histories_are_other_events_in_any_order(dataset, monkeypatch):
    monkeypatch.setitem(dataset.manifest, "ordered", False)
    log = dataset.events("train")
    events = TrainingEvents(dataset, longest=100, seed=1)
    orders = set()
    for epoch in range(3):
        for batch in all_batches(events, epoch):
            for place, user in enumerate(batch.user):
                own, history = log.item[log.user == user].tolist(), batch.history[place].tolist()
                assert set(history) <= set(own) - {batch.item[place]}
                assert len(set(history)) == len(history)
                if user == 0:
                    orders.add((int(batch.item[place]), *history))
    assert len(orders) > len(log.item[log.user == 0])


def test_a_batch_larger_than_the_data_is_refused(dataset):
    events = TrainingEvents(dataset, longest=10, seed=1)
    with pytest.raises(TrainingError, match=f"got 100000 on 1 process\\(es\\) for {len(events)} training examples"):
        events.steps_per_epoch(batch_size=100_000, world_size=1)
