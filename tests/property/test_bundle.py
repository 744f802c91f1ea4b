"""Bundles: what is published is what is opened, and no changed bit goes unnoticed."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.bundle import Bundle
from recsys.bundle_writer import PublishOptions, write_bundle
from recsys.data.dataset import Dataset
from recsys.errors import ArtifactError
from recsys.ragged import Ragged
from recsys.testing import small_bundle, small_dataset, small_towers
from recsys.users import UserStore, distinct

NUM_ITEMS = 9

lists = st.lists(st.lists(st.integers(0, NUM_ITEMS - 1), max_size=6), min_size=1, max_size=8)


@given(lists, st.data())
def test_users_round_trip(histories, data):
    ids = data.draw(st.lists(st.text(), min_size=len(histories), max_size=len(histories), unique=True))
    history = Ragged.from_lists(histories)
    seen = distinct(history, NUM_ITEMS)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "users.parquet"
        UserStore(pl.Series(ids), histories=history, seen=seen, features={"f": history}).save(path)
        users = UserStore.load(path, features=["f"], num_items=NUM_ITEMS)
    assert users.vocabulary.rows(ids).tolist() == list(range(len(ids)))
    for row, expected in enumerate(histories):
        assert users.history(row).tolist() == users.features(row)["f"][0].tolist() == expected
        assert users.seen(row).tolist() == sorted(set(expected))


@settings(max_examples=8)
@given(
    num_users=st.integers(1, 30),
    num_items=st.integers(40, 120),
    widths=st.sampled_from([(16,), (4, 16), (2, 4, 8, 16)]),
    seed=st.integers(0, 2**31),
    k=st.integers(1, 200),
)
def test_bundles_round_trip(num_users, num_items, widths, seed, k):
    with tempfile.TemporaryDirectory() as folder:
        dataset = Dataset(small_dataset(Path(folder) / "dataset", num_users=num_users, num_items=num_items, seed=seed))
        towers = small_towers(dataset, widths=widths, seed=seed)
        options = PublishOptions(num_queries=2, repeats=1, ks=(k,), seed=seed)
        bundle = Bundle.open(write_bundle(Path(folder) / "root", towers=towers, dataset=dataset, options=options))
        vectors = towers.encode_items(np.arange(num_items), dataset.feature_lists("item"))
        assert (bundle.item_vectors == vectors).all()
        assert bundle.items.ids(range(num_items)) == dataset.item_frame["id"].to_list()
        assert bundle.users.vocabulary.ids(range(num_users)) == dataset.user_frame["id"].to_list()
        assert bundle.ladder.steps[-1].mean_overlap == 1.0
        history, features, _ = bundle.users.batch(np.arange(num_users))
        query = bundle.towers.encode_users(history, features)
        assert (query == towers.encode_users(history, features)).all()
        for rung in bundle.ladder.rungs:
            assert bundle.searcher.search(query, k=k, rung=rung).rows_BK.shape == (num_users, k)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return small_bundle(tmp_path_factory.mktemp("root"))


@given(data=st.data())
def test_no_changed_bit_goes_unnoticed(bundle, data):
    name = data.draw(st.sampled_from(sorted(str(path.relative_to(bundle)) for path in bundle.rglob("*.*"))))
    whole = (bundle / name).read_bytes()
    place, bit = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 7))
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(bundle, Path(folder) / bundle.name))
        (copy / name).write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
        with pytest.raises(ArtifactError) as refused:
            Bundle.open(copy)
        assert name in str(refused.value)
