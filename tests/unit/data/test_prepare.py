"""`prepare` on small logs in real files."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from recsys import artifact
from recsys.data.dataset import Dataset
from recsys.data.prepare import PrepareOptions, prepare
from recsys.data.schema import FEATURE_PREFIX
from recsys.data.synthetic import SimulatedWorld
from recsys.errors import ArtifactError, ConfigError, DataError

WORLD = SimulatedWorld(num_users=30, num_items=20, num_events=400, seed=5)


def own(folder: Path, interactions: Path | str, **options: Any) -> Dataset:
    given = {"time_column": "timestamp", "protocol": "leave-last-out", **options}
    return Dataset(
        prepare(PrepareOptions(out=folder / "dataset", interactions=str(interactions), overwrite=True, **given))
    )


def write(path: Path, log: pl.DataFrame) -> Path:
    if path.suffix == ".csv":
        log.write_csv(path)
    else:
        log.write_parquet(path)
    return path


def sequences(dataset: Dataset) -> dict[str, list[str]]:
    """Return each user's item ids over all splits, in order."""
    every = dataset.histories("train", "fold_in", "validation", "test")
    return {id_: dataset.items.ids(every[row]) for row, id_ in enumerate(dataset.users.ids(range(len(dataset.users))))}


def small_log(**columns: Any) -> pl.DataFrame:
    base = {"user_id": [7, 7, 7, 10, 10, 10], "item_id": [1, 2, 3, 3, 2, 1], "timestamp": [3, 1, 2, 5, 5, 5]}
    return pl.DataFrame(base).with_columns(**{name: pl.Series(values) for name, values in columns.items()})


def test_csv_and_parquet_give_the_same_dataset(tmp_path: Path) -> None:
    log = WORLD.events().with_columns(pl.col("user_id", "item_id").str.slice(1).cast(pl.Int64))
    frames = []
    for name in ("log.csv", "log.parquet"):
        dataset = own(tmp_path, write(tmp_path / name, log))
        assert dataset.manifest["time_unit"] == "s"
        frames.append(
            [pl.read_ipc(dataset.path / f"{part}.arrow") for part in ("train", "test")]
            + [pl.read_parquet(dataset.path / f"{part}.parquet") for part in ("items", "users")]
        )
    assert all(one.equals(other) for one, other in zip(*frames, strict=True))


def test_integer_ids_are_in_numeric_order_and_others_in_that_of_their_text(tmp_path: Path) -> None:
    log = small_log()
    assert own(tmp_path, write(tmp_path / "a.csv", log)).users.ids([0, 1]) == ["7", "10"]
    named = log.with_columns(pl.format("u{}", "user_id").alias("user_id"))
    assert own(tmp_path, write(tmp_path / "b.csv", named)).users.ids([0, 1]) == ["u10", "u7"]
    zeros = log.with_columns(pl.col("user_id").cast(pl.String).str.zfill(4))
    assert own(tmp_path, write(tmp_path / "c.csv", zeros)).users.ids([0, 1]) == ["0007", "0010"]


def test_ties_go_by_file_name_then_row(tmp_path: Path) -> None:
    tied = {"user_id": ["u"] * 3, "timestamp": [5, 5, 1]}
    write(tmp_path / "part-2.parquet", pl.DataFrame({**tied, "item_id": ["a", "b", "c"]}))
    write(tmp_path / "part-10.parquet", pl.DataFrame({**tied, "item_id": ["x", "y", "z"]}))
    dataset = own(tmp_path, tmp_path / "part-*.parquet")
    assert sequences(dataset) == {"u": ["z", "c", "x", "y", "a", "b"]}
    assert pl.read_ipc(dataset.path / "test.arrow")["time"].to_list() == [5]


def test_rows_in_order_need_no_time_column(tmp_path: Path) -> None:
    dataset = own(tmp_path, write(tmp_path / "log.csv", small_log()), time_column=None, time_unit="order")
    assert sequences(dataset) == {"7": ["1", "2", "3"], "10": ["3", "2", "1"]}
    assert dataset.ordered


@pytest.mark.parametrize(
    "times",
    [
        [datetime(2024, 1, 1) + timedelta(microseconds=one) for one in range(6)],
        ["2024-01-01", "2024-01-01T00:00:00.000001", "2024-01-01 00:00:00.000002", "2024-01-01T01:00:00.000003+01:00",
         "2024-01-01T00:00:00.000004Z", "2024-01-01 00:00:00.000005"],
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["log.csv", "log.parquet"])
def test_dates_become_microseconds(tmp_path: Path, times: list[Any], name: str) -> None:
    dataset = own(tmp_path, write(tmp_path / name, small_log(timestamp=times)))
    assert dataset.manifest["time_unit"] == "us"
    assert dataset.events("train", "validation", "test").time.tolist() == [1_704_067_200_000_000 + k for k in range(6)]


def test_time_zones_are_converted(tmp_path: Path) -> None:
    times = pl.Series([datetime(2024, 1, 1, 1)] * 6).dt.replace_time_zone("Europe/Paris")
    dataset = own(tmp_path, write(tmp_path / "log.parquet", small_log(timestamp=times)))
    assert set(dataset.events("train").time.tolist()) == {1_704_067_200_000_000}


def test_filters_against_a_hand_count(tmp_path: Path) -> None:
    log = pl.DataFrame(
        {
            "user_id": list("aaaabbbbccccfffdde"),
            "item_id": list("wxyzwxyywxyzxwqwqw"),
            "timestamp": range(18),
            "stars": [5] * 17 + [1],
        }
    )
    path = write(tmp_path / "log.csv", log)
    options = {"rating_column": "stars", "min_rating": 2.0, "deduplicate": "pairs", "min_user_events": 3}
    once = own(tmp_path, path, min_item_events=3, **options)
    assert once.manifest["counts"]["rows_after"] == {"min_rating": 17, "deduplicate": 16, "min_events": 11}
    assert sequences(once) == {"a": list("wxy"), "b": list("wxy"), "c": list("wxy"), "f": list("xw")}
    core = own(tmp_path, path, min_item_events=3, k_core=True, **options)
    assert core.manifest["counts"]["rows_after"]["min_events"] == 9
    assert sequences(core) == {"a": list("wxy"), "b": list("wxy"), "c": list("wxy")}
    with pytest.raises(DataError, match="filter min_user_events = 3, min_item_events = 5, k_core: got no event left"):
        own(tmp_path, path, min_item_events=5, k_core=True, **options)


def test_exact_repeats_and_pairs(tmp_path: Path) -> None:
    log = pl.DataFrame({"user_id": [1] * 6, "item_id": list("aabcab"), "timestamp": [1, 1, 2, 3, 4, 5]})
    path = write(tmp_path / "log.parquet", log)
    assert sequences(own(tmp_path, path)) == {"1": list("aabcab")}
    assert sequences(own(tmp_path, path, deduplicate="exact")) == {"1": list("abcab")}
    assert sequences(own(tmp_path, path, deduplicate="pairs")) == {"1": list("abc")}


def test_tables_features_and_what_is_missing(tmp_path: Path) -> None:
    folder = WORLD.write(tmp_path / "world")
    items = write(tmp_path / "items.csv", WORLD.items().with_columns(pl.col("groups").list.join("|"))[5:])
    dataset = own(
        tmp_path,
        folder / "interactions.parquet",
        items=items,
        users=folder / "users.parquet",
        title_column="title",
        item_features=("title:text:64", "groups:multi_hot:|", "price:bucketed:10,20"),
        user_features=("segment:categorical",),
    )
    assert dataset.item_frame["title"].null_count() == dataset.manifest["counts"]["items_without_features"] > 0
    assert dataset.manifest["counts"]["users_without_features"] == 0
    assert [(spec.name, spec.side, spec.num_rows) for spec in dataset.specs] == [
        ("title", "item", 64), ("groups", "item", 4), ("price", "item", 3), ("segment", "user", 4),
    ]  # fmt: skip
    for spec in dataset.specs:
        frame = dataset.item_frame if spec.side == "item" else dataset.user_frame
        assert frame[FEATURE_PREFIX + spec.name].to_list() == [spec.encode(raw) for raw in frame[spec.name]]
        assert len(dataset.feature_lists(spec.side)[spec.name]) == len(frame)


def test_strange_ids_survive(tmp_path: Path) -> None:
    strange = ["", " ", "a,b", 'quo"te', "été", "0", "-0", "1" * 30, "line\nbreak"]
    log = pl.DataFrame({"user_id": ["u"] * 9, "item_id": strange, "timestamp": range(9)})
    assert sequences(own(tmp_path, write(tmp_path / "log.parquet", log))) == {"u": strange}


def test_huge_integer_ids_keep_their_order(tmp_path: Path) -> None:
    ids = pl.Series([2**64 - 1, 2**63, 5, 2**64 - 2, 7, 2**53 + 1], dtype=pl.UInt64)
    dataset = own(tmp_path, write(tmp_path / "log.parquet", small_log(item_id=ids)))
    assert dataset.items.ids(range(6)) == [str(one) for one in sorted(ids.to_list())]


def test_counts_say_what_cannot_be_found(tmp_path: Path) -> None:
    log = pl.DataFrame(
        {"user_id": list("aaaabbcdd"), "item_id": list("wxyzwxwwq"), "timestamp": [1, 2, 3, 4, 2, 5, 8, 9, 9]}
    )
    path = write(tmp_path / "log.csv", log)
    dataset = own(tmp_path, path, protocol="global-time", validation_from="5", test_from="8")
    assert dataset.manifest["split"] == {"validation_from": 5, "test_from": 8}
    assert dataset.manifest["counts"]["test"] == {
        "events": 3, "users": 2, "users_without_history": 2, "events_of_unseen_items": 1, "pairs_seen_before": 0,
    }  # fmt: skip
    queries = dataset.queries("test")
    assert dataset.users.ids(queries.user) == ["c", "d"]
    assert queries.history.lengths.tolist() == [0, 0]


def test_published_files(tmp_path: Path) -> None:
    train = write(tmp_path / "train.csv", pl.DataFrame({"user_id": [1] * 6 + [2], "item_id": list("abcdefa")}))
    test = write(tmp_path / "test.csv", pl.DataFrame({"user_id": [2, 1], "item_id": ["z", "g"]}))
    dataset = own(tmp_path, train, test_interactions=str(test), protocol="published", time_column=None)
    counts = dataset.manifest["counts"]
    assert [counts[split]["events"] for split in ("train", "fold_in", "validation", "test")] == [6, 0, 1, 2]
    assert not dataset.ordered
    assert [
        dataset.items.ids(target) for target in (dataset.queries("test").target[0], dataset.queries("test").target[1])
    ]
    assert dataset.events("test").item.tolist() == dataset.items.rows(["g", "z"]).tolist()


@pytest.mark.parametrize(
    ("name", "log", "options", "message"),
    [
        (
            "a.csv",
            small_log(),
            {"user_column": "who"},
            r"a.csv: column 'who': got none .* are \['user_id', 'item",
        ),
        (
            "a.parquet",
            small_log(user_id=[1.5] * 6),
            {},
            "column 'user_id': got type float .* expected integers or",
        ),
        ("a.parquet", small_log(timestamp=[0.5] * 6), {}, "column 'timestamp': got type float"),
        ("a.parquet", small_log(item_id=[1, None, 2, None, 3, 4]), {}, r"got 2 null .* the first in row 2 \(None\)"),
        ("a.csv", small_log(timestamp=["1", "2", "x", "4", "5", "6"]), {}, r"got 1 null .* the first in row 3 \('x'\)"),
        ("a.csv", small_log(timestamp=["2024-01-01"] * 5 + ["never"]), {}, r"first in row 6 \('never'\)"),
        (
            "a.csv",
            small_log(s=list("12345?")),
            {"rating_column": "s", "min_rating": 1.0},
            r"column 's'.* row 6",
        ),
        (
            "a.csv",
            small_log(s=range(6)),
            {"rating_column": "s", "min_rating": 9.0},
            r"min_rating = 9.0: got no event",
        ),
        ("a.csv", small_log()[:2], {}, "split validation: got no users"),
        ("a.csv", small_log()[:0], {}, "got no rows in 1 file"),
        ("a.txt", small_log(), {}, "got the suffix '.txt', expected .parquet, .csv or .tsv"),
    ],
)
def test_unusable_data_is_told_where(
    tmp_path: Path, name: str, log: pl.DataFrame, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        own(tmp_path, write(tmp_path / name, log), **options)
    assert sorted(one.name for one in tmp_path.iterdir()) == [name]


def test_the_first_bad_row_is_named_in_its_own_file(tmp_path: Path) -> None:
    write(tmp_path / "part-1.parquet", small_log())
    write(tmp_path / "part-2.parquet", small_log(item_id=[1, 2, None, 4, 5, 6]))
    with pytest.raises(DataError, match=r"part-2.parquet: column 'item_id': got 1 null .* row 3"):
        own(tmp_path, tmp_path / "part-*.parquet")


def test_files_of_other_types_and_damaged_ones(tmp_path: Path) -> None:
    write(tmp_path / "part-1.parquet", small_log())
    write(tmp_path / "part-2.parquet", small_log(user_id=list("abcdef")))
    with pytest.raises(DataError, match=r"part-2.parquet: got columns of the types"):
        own(tmp_path, tmp_path / "part-*.parquet")
    (tmp_path / "part-2.parquet").write_bytes(b"PAR1 this is no Parquet file PAR1")
    with pytest.raises(DataError, match=r"part-2.parquet: cannot be read"):
        own(tmp_path, tmp_path / "part-*.parquet")


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.csv: no such file"):
        own(tmp_path, tmp_path / "none.csv")
    with pytest.raises(DataError, match="no file matches this glob"):
        own(tmp_path, tmp_path / "*.csv")
    with pytest.raises(DataError, match="got a folder, expected a file or a glob"):
        own(tmp_path, tmp_path)


def test_a_late_failure_leaves_nothing_and_keeps_what_was_there(tmp_path: Path) -> None:
    folder = WORLD.write(tmp_path / "world")
    before = own(tmp_path, folder / "interactions.parquet").manifest["fingerprint"]
    with pytest.raises(DataError, match=r"items\.parquet: column 'name'"):
        own(tmp_path, folder / "interactions.parquet", items=folder / "items.parquet", title_column="name")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["dataset", "world"]
    assert Dataset(tmp_path / "dataset").manifest["fingerprint"] == before


def test_an_existing_folder_needs_overwrite(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", small_log())
    options = {
        "out": tmp_path / "out",
        "interactions": str(path),
        "protocol": "leave-last-out",
        "time_column": "timestamp",
    }
    prepare(PrepareOptions(**options))
    with pytest.raises(ArtifactError, match="already exists"):
        prepare(PrepareOptions(**options))


def toml_world(folder: Path) -> Path:
    WORLD.write(folder)
    path = folder / "world.toml"
    path.write_text(f"""
        name = "world"
        log = {{ files = ["interactions.parquet"], user = "user_id", item = "item_id", time = "timestamp" }}
        protocol = {{ name = "global-time" }}
        [files."interactions.parquet"]
        sha256 = "{artifact.sha256(folder / "interactions.parquet")}"
        columns = {{ user_id = "string", timestamp = "integer" }}
    """)
    return path


def test_a_recipe_file_its_source_and_its_checksums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = toml_world(tmp_path / "world")
    options = {"recipe": str(recipe), "out": tmp_path / "dataset", "overwrite": True}
    monkeypatch.delenv("RECSYS_DATASETS", raising=False)
    with pytest.raises(DataError, match="got no source folder, expected --source or the environment variable"):
        prepare(PrepareOptions(**options))
    monkeypatch.setenv("RECSYS_DATASETS", str(tmp_path / "world"))
    assert Dataset(prepare(PrepareOptions(**options))).name == "world"
    WORLD.events()[:300].write_parquet(tmp_path / "world" / "interactions.parquet")
    with pytest.raises(DataError, match=r"SHA-256: got \w{64}, expected \w{64}; .*verify-checksums"):
        prepare(PrepareOptions(**options))
    unchecked = Dataset(prepare(PrepareOptions(**options, verify_checksums=False)))
    assert unchecked.manifest["counts"]["rows_read"] == 300
    assert not unchecked.manifest["checksums_verified"]
    WORLD.events().with_columns(user_id=0).write_parquet(tmp_path / "world" / "interactions.parquet")
    with pytest.raises(DataError, match=r"column 'user_id': got type integer \(Int32\), expected string"):
        prepare(PrepareOptions(**options, verify_checksums=False))


def test_a_recipe_can_be_split_in_another_way() -> None:
    def protocol(**given: Any) -> dict[str, Any]:
        return PrepareOptions(out=Path("out"), recipe="ml-latest-small", **given).to_recipe().to_json()["protocol"]

    assert protocol()["name"] == "global-time"
    assert protocol(protocol="leave-last-out")["name"] == "leave-last-out"
    assert protocol(test_fraction=0.25) == protocol() | {"test_fraction": 0.25}
    with pytest.raises(ConfigError, match="held_out_fraction"):
        protocol(held_out_fraction=0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "got neither of --recipe and --interactions"),
        ({"recipe": "ml-1m", "interactions": "a.csv"}, "got both"),
        ({"recipe": "ml-1m", "min_user_events": 3}, "got --min-user-events beside --recipe"),
        ({"interactions": "a.csv"}, "got no --protocol"),
        ({"interactions": "a.csv", "protocol": "published", "source": Path()}, "got --source without --recipe"),
        ({"recipe": "ml-1m", "max_rows_in_memory": 0}, "expected 1 or more"),
    ],
)
def test_contradictory_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PrepareOptions(out=Path("x"), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "leave-last-out"}, "leave-last-out needs an order"),
        ({"protocol": "leave-last-out", "time_column": "t", "test_fraction": 0.1}, "unknown setting 'test_fraction'"),
        ({"protocol": "strong-generalization", "time_unit": "ms"}, "got 'ms' without a time column"),
        ({"protocol": "strong-generalization", "item_features": ("a:text",)}, "got --item-features without --items"),
        ({"protocol": "strong-generalization", "title_column": "t"}, "got --title-column without --items"),
        ({"protocol": "strong-generalization", "items": Path("i"), "item_features": ("a",)}, "expected NAME:KIND"),
        ({"protocol": "strong-generalization", "items": Path("i"), "item_features": ("a:word",)}, "kind: got 'word'"),
        ({"protocol": "strong-generalization", "users": Path("i"), "user_features": ("a:text:x",)}, "expected numbers"),
    ],
)
def test_options_that_make_no_recipe(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PrepareOptions(out=Path("x"), interactions="a.csv", **options).to_recipe()


def test_unit_beside_a_datetime_is_a_contradiction(tmp_path: Path) -> None:
    path = write(tmp_path / "log.parquet", small_log(timestamp=[datetime(2024, 1, 1)] * 6))
    with pytest.raises(ConfigError, match="expected no time_unit"):
        own(tmp_path, path, time_unit="s")
