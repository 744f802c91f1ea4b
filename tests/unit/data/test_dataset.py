"""Opening a dataset, and the queries of a split."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys import artifact
from recsys.data.dataset import Dataset
from recsys.data.prepare import PrepareOptions, prepare
from recsys.errors import ArtifactError

LOG = pl.DataFrame(
    {
        "user_id": list("bbbbaaaacc"),
        "item_id": list("xyxyzxyzzx"),
        "timestamp": [1, 2, 3, 4, 10, 20, 30, 40, 1, 2],
    }
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("dataset")
    LOG.write_csv(folder / "log.csv")
    options = PrepareOptions(
        out=folder / "dataset", interactions=str(folder / "log.csv"), time_column="timestamp", protocol="leave-last-out"
    )
    return Dataset(prepare(options))


def test_ids_are_not_read_for_features_that_there_are_not(dataset: Dataset) -> None:
    fresh = Dataset(dataset.path)
    assert fresh.feature_lists("item") == fresh.feature_lists("user") == {}
    assert not {"item_frame", "user_frame"} & vars(fresh).keys()


def test_queries_hold_what_came_before_and_what_is_to_be_found(dataset: Dataset) -> None:
    validation, test = dataset.queries("validation"), dataset.queries("test")
    x, y, z = dataset.items.rows("xyz")
    assert dataset.users.ids(test.user) == ["a", "b"]
    assert [one.tolist() for one in (validation.history[0], validation.history[1])] == [[z, x], [x, y]]
    assert [one.tolist() for one in (validation.target[0], validation.target[1])] == [[y], [x]]
    assert [one.tolist() for one in (test.history[0], test.history[1])] == [[z, x, y], [x, y, x]]
    assert [one.tolist() for one in (test.target[0], test.target[1])] == [[z], [y]]
    assert len(test) == 2
    assert test.mask_seen


def test_histories_have_a_list_for_every_user(dataset: Dataset) -> None:
    assert dataset.histories("train").lengths.tolist() == [2, 2, 2]
    assert dataset.histories("test").lengths.tolist() == [1, 1, 0]
    assert dataset.histories("fold_in").lengths.tolist() == [0, 0, 0]


def test_events_of_several_splits_stay_in_order(dataset: Dataset) -> None:
    events = dataset.events("train", "validation", "test")
    assert len(events) == 10
    assert events.time.tolist() == [10, 20, 30, 40, 1, 2, 3, 4, 1, 2]
    assert events.user.dtype == events.item.dtype == np.int64


def test_targets_are_distinct_and_sorted(tmp_path: Path) -> None:
    log = pl.DataFrame({"user_id": ["a"] * 8, "item_id": list("pqrszzxz"), "timestamp": [1, 2, 3, 4, 9, 9, 9, 9]})
    log.write_parquet(tmp_path / "log.parquet")
    options = PrepareOptions(
        out=tmp_path / "dataset",
        interactions=str(tmp_path / "log.parquet"),
        time_column="timestamp",
        protocol="global-time",
        validation_from="3",
        test_from="9",
    )
    dataset = Dataset(prepare(options))
    target = dataset.queries("test").target
    assert dataset.items.ids(target[0]) == ["x", "z"]


def test_a_changed_file_is_found(dataset: Dataset, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in dataset.path.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    assert Dataset(copy).name == "log"
    (copy / "test.arrow").write_bytes((copy / "train.arrow").read_bytes())
    with pytest.raises(ArtifactError, match=r"test\.arrow: (size|SHA-256): got"):
        Dataset(copy)
    assert Dataset(copy, verify=False).name == "log"


def test_of_many_users_a_seeded_sample_is_asked(simulated: Path) -> None:
    dataset = Dataset(simulated)
    whole, some = dataset.queries("test"), dataset.queries("test", most=30, seed=1)
    assert len(some) == 30
    assert (np.diff(some.user) > 0).all()
    chosen = whole.take(np.searchsorted(whole.user, some.user))
    for name in ("user", "history", "target", "time"):
        one, other = (getattr(queries, name) for queries in (some, chosen))
        for part in ("values", "offsets"):
            np.testing.assert_array_equal(getattr(one, part, one), getattr(other, part, other))
    assert dataset.queries("test", most=30, seed=1).user.tolist() == some.user.tolist()
    assert dataset.queries("test", most=30, seed=2).user.tolist() != some.user.tolist()
    assert len(dataset.queries("test", most=len(whole))) == len(whole)


def test_a_dataset_of_another_version_is_refused(simulated: Path, tmp_path: Path) -> None:
    with artifact.staged(tmp_path / "old") as folder:
        pl.read_ipc(simulated / "train.arrow").write_parquet(folder / "train.parquet")
        artifact.seal(folder, "dataset", {"name": "old", "features": []})
    with pytest.raises(ArtifactError, match=r"old: got no fold_in\.arrow, expected one \(made by another version\)"):
        Dataset(tmp_path / "old")
