"""Whatever the log: no event is lost or leaks, the order is the stated one, and a seed gives the same bytes."""

from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from recsys.data.dataset import Dataset
from recsys.data.prepare import PrepareOptions, prepare
from recsys.data.schema import SPLITS
from recsys.errors import DataError

Event = tuple[int, int, int]
ORDERED: dict[str, dict[str, Any]] = {
    "global-time": {"protocol": "global-time", "validation_fraction": 0.2, "test_fraction": 0.2},
    "leave-last-out": {"protocol": "leave-last-out"},
    "strong-generalization": {"protocol": "strong-generalization", "held_out_fraction": 0.5},
}
QUICK = settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)

logs = st.lists(st.tuples(st.integers(0, 6), st.integers(-2, 12), st.integers(0, 15)), min_size=30, max_size=80)
"""Lists of (user, item, time) in the order of the log, with many equal times and repeated pairs."""


def write(folder: Path, log: list[Event], *, num_files: int, timed: bool) -> str:
    frame = pl.DataFrame(log, schema=["user_id", "item_id", "time"], orient="row")
    frame = frame if timed else frame.drop("time")
    size = -(-len(log) // num_files)
    for number in range(num_files):
        frame[number * size : (number + 1) * size].write_parquet(folder / f"part-{number}.parquet")
    return str(folder / "part-*.parquet")


def prepared(folder: Path, interactions: str, **options: Any) -> Dataset:
    """Prepare, or give up on the example where some split has nobody to ask: that is an error by design."""
    try:
        return Dataset(
            prepare(PrepareOptions(out=folder / "dataset", interactions=interactions, overwrite=True, **options))
        )
    except DataError:
        return reject()


def rows(dataset: Dataset, split: str) -> list[tuple[int, ...]]:
    """Return a split's events with external ids, as (user, item) or (user, item, time), in the file's order."""
    frame = pl.read_ipc(dataset.path / f"{split}.arrow")
    users, items = dataset.users.ids(frame["user"]), dataset.items.ids(frame["item"])
    times = [frame["time"].to_list()] if "time" in frame.columns else []
    return list(zip(map(int, users), map(int, items), *times, strict=True))


@pytest.mark.parametrize("protocol", ORDERED)
@given(log=logs, num_files=st.integers(1, 3), max_rows=st.sampled_from([1, 7, 1000]))
@QUICK
def test_with_an_order_the_splits_of_a_user_laid_end_to_end_are_the_sorted_log(
    protocol: str, log: list[Event], num_files: int, max_rows: int
) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        interactions = write(folder, log, num_files=num_files, timed=True)
        dataset = prepared(folder, interactions, time_column="time", max_rows_in_memory=max_rows, **ORDERED[protocol])
        by_split = {split: rows(dataset, split) for split in SPLITS}
        end_to_end = sorted((event for split in SPLITS for event in by_split[split]), key=lambda event: event[0])
        place_breaks_ties = sorted(log, key=lambda event: (event[0], event[2]))
        assert end_to_end == place_breaks_ties
        for split in SPLITS:
            assert by_split[split] == sorted(by_split[split], key=lambda event: (event[0], event[2]))
        if protocol == "global-time":
            assert max(event[2] for event in by_split["validation"]) < min(event[2] for event in by_split["test"])
            assert max(event[2] for event in by_split["train"]) < min(event[2] for event in by_split["validation"])


@pytest.mark.parametrize("protocol", ORDERED)
@given(log=logs)
@QUICK
def test_a_query_sees_nothing_at_or_after_its_targets(protocol: str, log: list[Event]) -> None:
    unique = [(user, place, time) for place, (user, _, time) in enumerate(log)]
    with TemporaryDirectory() as name:
        folder = Path(name)
        dataset = prepared(
            folder, write(folder, unique, num_files=1, timed=True), time_column="time", **ORDERED[protocol]
        )
        for split in ("validation", "test"):
            queries = dataset.queries(split)
            for number, user in enumerate(dataset.users.ids(queries.user)):
                history = [int(one) for one in dataset.items.ids(queries.history[number])]
                target = [int(one) for one in dataset.items.ids(queries.target[number])]
                assert target
                assert all(log[place][0] == int(user) for place in history + target)
                before, after = ([(log[place][2], place) for place in places] for places in (history, target))
                assert before == sorted(before)
                assert not before or before[-1] < min(after)


@given(log=logs, fold_in=st.floats(0.1, 0.9), max_rows=st.sampled_from([1, 1000]))
@QUICK
def test_without_an_order_nothing_is_lost_and_held_out_users_are_never_trained_on(
    log: list[Event], fold_in: float, max_rows: int
) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        interactions = write(folder, log, num_files=2, timed=False)
        options = {"protocol": "strong-generalization", "held_out_fraction": 0.6, "fold_in_fraction": fold_in}
        dataset = prepared(folder, interactions, max_rows_in_memory=max_rows, **options)
        by_split = {split: rows(dataset, split) for split in SPLITS}
        assert Counter(event for events in by_split.values() for event in events) == Counter(
            (user, item) for user, item, _ in log
        )
        users = {split: {event[0] for event in events} for split, events in by_split.items()}
        assert users["train"].isdisjoint(users["fold_in"])
        assert users["fold_in"] == users["validation"] | users["test"]
        assert users["validation"].isdisjoint(users["test"])


@given(log=logs, cut=st.integers(10, 25), min_events=st.integers(2, 4))
@QUICK
def test_published_test_events_are_the_file_and_validation_is_cut_from_train(
    log: list[Event], cut: int, min_events: int
) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "test").mkdir()
        train = write(folder, log[cut:], num_files=1, timed=False)
        test = write(folder / "test", log[:cut], num_files=1, timed=False)
        options = {"protocol": "published", "test_interactions": test, "validation_min_events": min_events}
        dataset = prepared(folder, train, **options)
        pairs = [(user, item) for user, item, _ in log]
        assert rows(dataset, "test") == sorted(pairs[:cut], key=lambda event: event[0])
        assert Counter(rows(dataset, "train") + rows(dataset, "validation")) == Counter(pairs[cut:])
        large = {user for user, number in Counter(user for user, _ in pairs[cut:]).items() if number >= min_events}
        assert [user for user, _ in rows(dataset, "validation")] == sorted(large)


@pytest.mark.parametrize("timed", [True, False])
@given(log=logs, seed=st.integers(0, 5))
@settings(QUICK, max_examples=4)
def test_the_same_seed_gives_the_same_bytes_and_chunks_do_not_matter(timed: bool, log: list[Event], seed: int) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        interactions = write(folder, log, num_files=2, timed=timed)
        options = {"protocol": "strong-generalization", "held_out_fraction": 0.5, "seed": seed}
        options |= {"time_column": "time"} if timed else {}
        first = prepared(folder, interactions, **options).manifest
        second = prepared(folder, interactions, **options)
        assert second.manifest == first
        whole = [rows(second, split) for split in SPLITS]
        chunked = prepared(folder, interactions, max_rows_in_memory=3, **options)
        assert [rows(chunked, split) for split in SPLITS] == whole
