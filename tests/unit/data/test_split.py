"""Protocols on logs small enough to split by hand."""

import numpy as np
import polars as pl
import pytest

from recsys.data.split import (
    FOLD_IN,
    TEST,
    TRAIN,
    VALIDATION,
    Chunk,
    GlobalTime,
    LeaveLastOut,
    LogFacts,
    Published,
    StrongGeneralization,
    plan,
)
from recsys.errors import ConfigError, DataError

USER = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2])


def facts(user: np.ndarray, time: np.ndarray | None = None, unit: str | None = "s") -> LogFacts:
    times = None if time is None else pl.LazyFrame({"time": time})
    return LogFacts(user_lengths=np.bincount(user), times=times, time_unit=None if time is None else unit)


def test_leave_last_out() -> None:
    time = np.arange(len(USER))
    split = plan(LeaveLastOut(), facts(USER, time, "order"), seed=0).assign(Chunk(user=USER, time=time))
    assert split.tolist() == [TRAIN, TRAIN, VALIDATION, TEST, TRAIN, TRAIN, TRAIN, VALIDATION, TEST]


def test_global_time_by_shares_gives_equal_times_to_the_later_side() -> None:
    time = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 8])
    user = np.zeros(10, dtype=np.int64)
    made = plan(GlobalTime(validation_fraction=0.2, test_fraction=0.1), facts(user, time), seed=0)
    assert made.facts == {"validation_from": 7, "test_from": 8}
    assert made.assign(Chunk(user=user, time=time)).tolist() == [TRAIN] * 7 + [VALIDATION, TEST, TEST]


@pytest.mark.parametrize(
    ("validation_from", "test_from", "unit", "expected"),
    [
        (5, "7", "s", (5, 7)),
        ("1970-01-01T00:00:05", "1970-01-01T01:00:07+01:00", "s", (5, 7)),
        ("1970-01-01 00:00:05", "1970-01-02", "ms", (5_000, 86_400_000)),
        ("1970-01-01T00:00:00.000005", "1970-01-02", "us", (5, 86_400_000_000)),
    ],
)
def test_global_time_by_instants(
    validation_from: str | int, test_from: str, unit: str, expected: tuple[int, int]
) -> None:
    protocol = GlobalTime(validation_from=validation_from, test_from=test_from)
    made = plan(protocol, facts(USER, np.arange(9), unit), seed=0)
    assert (made.facts["validation_from"], made.facts["test_from"]) == expected


@pytest.mark.parametrize(("first", "second"), [("yesterday", "2024-01-01"), ("2024-02-01", "2024-01-01"), (5, 5)])
def test_global_time_refuses_instants_out_of_order(first: str | int, second: str | int) -> None:
    with pytest.raises(ConfigError, match="validation_from: got"):
        plan(GlobalTime(validation_from=first, test_from=second), facts(USER, np.arange(9)), seed=0)


def test_global_time_needs_distinct_times() -> None:
    with pytest.raises(DataError, match="got 2 distinct times over 9 events"):
        plan(GlobalTime(), facts(USER, np.array([0] * 8 + [1])), seed=0)


def test_published_keeps_the_test_file_and_takes_one_of_each_large_user() -> None:
    user = np.repeat([0, 1], [8, 3])
    test = np.array([False] * 6 + [True] * 2 + [False] * 2 + [True])
    protocol = Published(validation_min_events=5)
    split = plan(protocol, facts(user), seed=3).assign(Chunk(user=user, published_test=test))
    assert (split == TEST).tolist() == test.tolist()
    assert (split[user == 0] == VALIDATION).sum() == 1
    assert (split[user == 1] == VALIDATION).sum() == 0
    ordered = plan(protocol, facts(user, np.arange(11)), seed=3)
    chosen = ordered.assign(Chunk(user=user, published_test=test, time=np.arange(11)))
    assert np.flatnonzero(chosen == VALIDATION).tolist() == [5]


def test_published_draws_every_place_with_the_seed() -> None:
    user, test = np.zeros(5, dtype=np.int64), np.zeros(5, dtype=bool)
    drawn = {
        int(np.flatnonzero(plan(Published(), facts(user), seed=seed).assign(Chunk(user=user, published_test=test)))[0])
        for seed in range(60)
    }
    assert drawn == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("ordered", [True, False])
def test_strong_generalization(ordered: bool) -> None:
    user = np.repeat(np.arange(20), 5)
    time = np.arange(100) if ordered else None
    protocol = StrongGeneralization(held_out_fraction=0.5, fold_in_fraction=0.6)
    split = plan(protocol, facts(user, time), seed=1).assign(Chunk(user=user, time=time)).reshape(20, 5)
    held_out = split[(split != TRAIN).any(axis=1)]
    assert len(held_out) == 10
    assert ((held_out == FOLD_IN).sum(axis=1) == 3).all()
    assert sorted(row.max() for row in held_out) == [VALIDATION] * 5 + [TEST] * 5
    oldest_first = (held_out[:, :3] == FOLD_IN).all()
    assert oldest_first if ordered else not oldest_first


def test_strong_generalization_never_holds_out_users_without_a_target() -> None:
    user = np.array([0, 1, 2, 3, 3, 4, 4])
    made = plan(StrongGeneralization(held_out_fraction=0.9), facts(user), seed=0)
    assert made.assign(Chunk(user=user))[:3].tolist() == [TRAIN] * 3
    assert made.facts == {"held_out_users": 2}
    with pytest.raises(DataError, match="got 1 users to hold out"):
        plan(StrongGeneralization(held_out_fraction=0.5), facts(np.array([0, 1, 1])), seed=0)


@pytest.mark.parametrize("protocol", [LeaveLastOut(), Published(), StrongGeneralization(held_out_fraction=0.5)])
@pytest.mark.parametrize("cut", [0, 5, 50, 95])
def test_where_chunks_end_does_not_matter(protocol: object, cut: int) -> None:
    user, test = np.repeat(np.arange(20), 5), np.tile([False] * 4 + [True], 20)

    def run(*pieces: slice) -> list[int]:
        made = plan(protocol, facts(user), seed=7)
        return np.concatenate([made.assign(Chunk(user=user[one], published_test=test[one])) for one in pieces]).tolist()

    assert run(slice(cut), slice(cut, None)) == run(slice(None))


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (GlobalTime, {"validation_fraction": 0.5, "test_fraction": 0.5}),
        (GlobalTime, {"test_fraction": 0}),
        (GlobalTime, {"test_from": 3}),
        (Published, {"validation_min_events": 1}),
        (StrongGeneralization, {"fold_in_fraction": 1.0}),
    ],
)
def test_settings_out_of_range(kind: type, settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="protocol: "):
        kind(**settings)
