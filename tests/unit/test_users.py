import numpy as np
import polars as pl
import pytest

from recsys.errors import ArtifactError
from recsys.ids import UNKNOWN
from recsys.ragged import Ragged
from recsys.users import UserStore, distinct


@pytest.fixture
def path(tmp_path):
    UserStore(
        pl.Series(["a", "b", "c"]),
        histories=Ragged.from_lists([[3, 1], [], [2]]),
        seen=Ragged.from_lists([[1, 3], [], [0, 2]]),
        features={"age": Ragged.from_lists([[4], [], [0, 1]])},
    ).save(tmp_path / "users.parquet")
    return tmp_path / "users.parquet"


def test_users_are_read_as_they_were_written(path):
    users = UserStore.load(path, features=["age"], num_items=4)
    assert len(users) == 3
    assert [users.vocabulary.row(id_) for id_ in ("a", "c", "nobody")] == [0, 2, UNKNOWN]
    assert [users.history(row).tolist() for row in range(3)] == [[3, 1], [], [2]]
    assert [users.seen(row).tolist() for row in range(3)] == [[1, 3], [], [0, 2]]
    assert [users.features(row)["age"][0].tolist() for row in range(3)] == [[4], [], [0, 1]]
    assert users.history(0).dtype == users.seen(0).dtype == users.features(0)["age"].values.dtype == np.int64


def test_many_users_come_in_the_order_asked_for(path):
    users = UserStore.load(path, features=["age"], num_items=4)
    history, features, seen = users.batch(np.array([2, 0]))
    assert history.values.tolist() == [2, 3, 1]
    assert features["age"].offsets.tolist() == [0, 2, 3]
    assert seen.values.tolist() == [0, 2, 1, 3]
    assert history.values.dtype == seen.values.dtype == np.int64


def test_lists_take_four_bytes_a_value(path):
    users = UserStore.load(path, features=["age"], num_items=4)
    assert users._histories.values.dtype == users._seen.values.dtype == np.uint32


def test_times_are_kept_only_if_given(path, tmp_path):
    assert UserStore.load(path, features=[], num_items=4).times(np.array([0])) is None
    with pytest.raises(ArtifactError, match="column time: got None"):
        UserStore.load(path, features=[], num_items=4, with_times=True)
    histories, times = Ragged.from_lists([[3, 1], [], [2]]), Ragged.from_lists([[-5, 2**60], [], [7]])
    users = UserStore(pl.Series(["a", "b", "c"]), histories=histories, seen=Ragged.empty(3), features={}, times=times)
    users.save(tmp_path / "timed.parquet")
    loaded = UserStore.load(tmp_path / "timed.parquet", features=[], num_items=4, with_times=True)
    assert loaded.times(np.array([2, 0, 1])).values.tolist() == [7, -5, 2**60]
    short = pl.read_parquet(tmp_path / "timed.parquet").with_columns(pl.col("time").list.head(1))
    short.write_parquet(tmp_path / "timed.parquet")
    with pytest.raises(ArtifactError, match="column time: got lists of other lengths than column history"):
        UserStore.load(tmp_path / "timed.parquet", features=[], num_items=4, with_times=True)


def test_distinct_values_of_each_list():
    lists = Ragged.from_lists([[3, 1, 3], [], [0, 0], [2, 1, 0]])
    found = distinct(lists, 4)
    assert found.values.tolist() == [1, 3, 0, 0, 1, 2]
    assert found.lengths.tolist() == [2, 0, 1, 3]


def test_a_file_of_another_kind_is_named(path):
    with pytest.raises(ArtifactError, match=r"users\.parquet: column feature:zip: got None"):
        UserStore.load(path, features=["age", "zip"], num_items=4)
    with pytest.raises(ArtifactError, match="column history: got item row 3 of 3 items"):
        UserStore.load(path, features=["age"], num_items=3)
    frame = pl.read_parquet(path)
    frame.with_columns(pl.lit(None, dtype=pl.List(pl.UInt32)).alias("seen")).write_parquet(path)
    with pytest.raises(ArtifactError, match="column seen: got 3 nulls"):
        UserStore.load(path, features=["age"], num_items=4)
    frame.drop("id").write_parquet(path)
    with pytest.raises(ArtifactError, match="column id: got None, expected String"):
        UserStore.load(path, features=["age"], num_items=4)
    path.write_bytes(b"nothing")
    with pytest.raises(ArtifactError, match=r"users\.parquet: not a Parquet file"):
        UserStore.load(path, features=["age"], num_items=4)
