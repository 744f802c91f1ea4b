"""Histories through the whole server side, for a model that encodes them in order and with their times."""

import numpy as np
import pytest
import torch

from recsys.bundle import Bundle
from recsys.bundle_writer import PublishOptions, write_bundle
from recsys.data.dataset import Dataset
from recsys.model.exported import ExportedTowers
from recsys.ragged import Ragged
from recsys.testing import small_bundle, small_dataset, small_towers
from serving.budget import Budget
from serving.engine import Engine
from serving.query import BatchQuery, Query, User

EXACT = Budget(width=16)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    root = tmp_path_factory.mktemp("sequences")
    dataset = Dataset(small_dataset(root / "dataset"))
    towers = small_towers(dataset, history="sequence", sequence_length=8, time_bias=True)
    torch.manual_seed(1)
    for block in towers.history.blocks:
        block.time_bias.copy_(torch.randn_like(block.time_bias) * 3)
    options = PublishOptions(num_queries=16, repeats=1)
    return Bundle.open(write_bundle(root, towers=towers, dataset=dataset, options=options))


def best_scores(bundle, row, *, times):
    history = Ragged.from_lists([bundle.users.history(row)])
    user_D = bundle.towers.encode_users(history, bundle.users.features(row), times=times)[0]
    return pytest.approx(np.sort(bundle.item_vectors @ user_D)[::-1][:10], abs=1e-5)


def test_known_users_are_encoded_with_the_times_of_their_histories(bundle):
    row = bundle.users.vocabulary.row("u3")
    times = bundle.users.times(np.array([row]))
    assert times.lengths.tolist() == [8]
    answer = Engine(bundle).recommend(Query(user=User(id="u3"), k=10, budget=EXACT, exclude_seen=False))
    assert answer.candidates[0].scores == best_scores(bundle, row, times=times)
    assert answer.candidates[0].scores != best_scores(bundle, row, times=None)


def test_the_history_of_a_request_has_no_times(bundle):
    row = bundle.users.vocabulary.row("u3")
    group = bundle.towers.specs[-1].values[bundle.users.features(row)["group"][0][0]]
    given = User(history=bundle.items.ids(bundle.users.history(row)), features={"group": [group]})
    users = [given, User(id="u3"), User(history=[])]
    answer = Engine(bundle).recommend_batch(BatchQuery(users=users, k=10, budget=EXACT, exclude_seen=False))
    assert answer.candidates[0].scores == best_scores(bundle, row, times=None)
    assert answer.candidates[1].scores == best_scores(bundle, row, times=bundle.users.times(np.array([row])))
    assert answer.candidates[2].cold


def test_the_order_of_a_history_counts(bundle):
    items = ["i1", "i2", "i3", "i4"]
    forwards, backwards = (
        Engine(bundle).recommend(Query(user=User(history=history), k=10, budget=EXACT)).candidates[0].scores
        for history in (items, items[::-1])
    )
    assert not np.allclose(forwards, backwards, atol=1e-4)


def test_a_history_comes_with_the_features_of_its_items(tmp_path):
    bundle = Bundle.open(small_bundle(tmp_path, history_features=(3,)))
    row = bundle.users.vocabulary.row("u3")
    group = bundle.towers.specs[-1].values[bundle.users.features(row)["group"][0][0]]
    given = User(history=bundle.items.ids(bundle.users.history(row)), features={"group": [group]})
    users = [given, User(id="u3")]
    answer = Engine(bundle).recommend_batch(BatchQuery(users=users, k=10, budget=EXACT, exclude_seen=False))
    assert answer.candidates[0].item_ids == answer.candidates[1].item_ids
    assert answer.candidates[0].scores == best_scores(bundle, row, times=None)
    towers, history = bundle.towers, Ragged.from_lists([bundle.users.history(row)])
    without = ExportedTowers(towers.layout, {spec.name: Ragged.empty(80) for spec in towers.layout.item_specs})
    without.load_state_dict(towers.state_dict())
    assert not np.allclose(towers.encode_users(history), without.encode_users(history), atol=1e-2)
