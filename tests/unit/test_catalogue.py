"""The published item set: a dataset's items with the changes made since."""

import numpy as np
import pytest

from recsys.bundle import Bundle, read_names
from recsys.bundle_writer import PublishOptions, write_bundle
from recsys.catalogue import catalogue_items, place_items
from recsys.changes import Batch, ChangedItem, Changes, last_words
from recsys.data.dataset import Dataset
from recsys.errors import DataError
from recsys.index.space import LadderSpace
from recsys.ragged import Ragged
from recsys.testing import small_dataset, small_towers

OPTIONS = PublishOptions(
    num_queries=8,
    repeats=1,
    space=LadderSpace(engines=("exact",), levels=(0,), reranks=(0,), funnels=(), stores=("float32",)),
)
NEW = ChangedItem(id="new", title="A brand new drama", features={"genre": ["drama", "no such genre"]})
REPLACED = ChangedItem(id="i5", title="Another i5", features={"genre": ["horror"]})


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return Dataset(small_dataset(tmp_path_factory.mktemp("data") / "dataset"))


@pytest.fixture(scope="module")
def towers(dataset):
    return small_towers(dataset)


def changes(*, upserts=(), deletes=(), model_id="m"):
    batch = Batch(sequence=7, model_id=model_id, upserts=upserts, deletes=deletes)
    return Changes(log_id="log", sequence=7, last=last_words([batch]))


def encode(towers, row, **features):
    specs = {spec.name: spec for spec in towers.specs}
    bags = {name: Ragged.from_lists([specs[name].encode(value)]) for name, value in features.items()}
    return towers.encode_items(np.array([row]), bags)[0]


def test_without_changes_the_items_are_those_of_the_dataset(towers, dataset):
    items = catalogue_items(towers, dataset)
    assert items.as_trained
    assert items.frame["id"].to_list() == dataset.item_frame["id"].to_list()
    lists = Ragged.from_lists([[3, 1], []])
    assert items.rows_of(lists) is lists


def test_changes_are_done_to_the_items(towers, dataset):
    items = catalogue_items(towers, dataset, changes(upserts=[NEW, REPLACED], deletes=["i0", "unheard of"]))
    ids = items.frame["id"].to_list()
    assert ids == [f"i{row}" for row in range(80) if row not in (0, 5)] + ["new", "i5"]
    assert items.table_row_N.tolist() == [row for row in range(80) if row not in (0, 5)] + [-1, 5]
    assert items.frame["title"].to_list()[-2:] == ["A brand new drama", "Another i5"]
    assert items.frame["genre"].to_list()[-2:] == [["drama", "no such genre"], ["horror"]]
    kept = dataset.items.rows(ids[:-2])
    before_ND = towers.encode_items(np.arange(80), dataset.feature_lists("item"))
    assert np.array_equal(items.vector_ND[:-2], before_ND[kept])
    # A new item by its features, of which the title is one; a replaced one by its trained id and the new features.
    assert np.allclose(items.vector_ND[-2], encode(towers, -1, genre=["drama"], title=NEW.title), atol=1e-6)
    assert np.allclose(items.vector_ND[-1], encode(towers, 5, genre=["horror"], title=REPLACED.title), atol=1e-6)


def test_rows_of_seen_items_follow_the_items_and_lose_those_that_are_gone(towers, dataset):
    items = catalogue_items(towers, dataset, changes(upserts=[REPLACED], deletes=["i0"]))
    assert [rows.tolist() for rows in items.rows_of(Ragged.from_lists([[0, 1, 5], [0], [79]]))] == [[0, 78], [], [77]]


def test_what_means_nothing_to_the_model_is_left_out(towers, dataset, caplog):
    vector_D = np.eye(16, dtype=np.float32)[0]
    batches = [
        Batch(sequence=1, model_id="another", upserts=[ChangedItem(id="old vector", vector_D=vector_D)]),
        Batch(sequence=2, model_id="m", upserts=[ChangedItem(id="own vector", vector_D=3 * vector_D)]),
        Batch(sequence=3, model_id="m", upserts=[ChangedItem(id="says nothing", features={"gone": ["x"]})]),
        Batch(sequence=4, model_id="m", upserts=[ChangedItem(id="i3"), ChangedItem(id="word", title="drama")]),
    ]
    placed, vector_PD = place_items(towers, list(last_words(batches).values()), known=dataset.items, model_id="m")
    assert [item.id for item in placed] == ["own vector", "i3", "word"]
    assert np.allclose(vector_PD[0], vector_D)
    assert np.allclose(np.linalg.norm(vector_PD, axis=1), 1, atol=1e-5)
    assert "item 'old vector' is left out: its vector is another model's" in caplog.text
    assert "item 'says nothing' is left out: nothing in it is known to this model" in caplog.text


def test_nothing_left_to_publish_is_an_error(towers, dataset):
    with pytest.raises(DataError, match="deletes every item"):
        catalogue_items(towers, dataset, changes(deletes=dataset.item_frame["id"].to_list()))


def test_a_bundle_of_a_changed_catalogue(towers, dataset, tmp_path):
    user = dataset.users.row("u3")
    seen = dataset.items.ids(np.unique(dataset.histories("train", "validation", "test")[user]))
    gone, again = seen[0], seen[1]
    made = changes(upserts=[NEW, ChangedItem(id=again, features={"genre": ["horror"]})], deletes=[gone])
    plain = Bundle.open(write_bundle(tmp_path, towers=towers, dataset=dataset, options=OPTIONS))
    bundle = Bundle.open(write_bundle(tmp_path, towers=towers, dataset=dataset, options=OPTIONS, changes=made))
    assert bundle.manifest["catalogue"] == {"log_id": "log", "sequence": 7}
    assert "catalogue" not in plain.manifest
    assert plain.history_items is plain.items
    assert (len(bundle.items), len(bundle.history_items)) == (80, 80)
    assert gone not in bundle.items
    assert bundle.titles[bundle.items.row("new")] == "A brand new drama"
    # What somebody did stays in the history that the user tower reads, and what is left of it may not come back.
    assert bundle.users.history(user).tolist() == plain.users.history(user).tolist()
    items, users = read_names(bundle.path)
    _, before = read_names(plain.path)
    named = [
        plain.items.ids(before["history"][user].to_list()),
        items["id"][users["history"][user].to_list()].to_list(),
    ]
    assert named[1] == [name for name in named[0] if name != gone]
    assert len(named[0]) > 1
    assert sorted(bundle.items.ids(bundle.users.seen(user))) == sorted(seen[1:])
    assert bundle.manifest["model_id"] == plain.manifest["model_id"]
