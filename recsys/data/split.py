"""Which events are trained on, which are history only, and which are to be found: the four protocols.

A protocol decides for whole users at a time, on events in the dataset's fixed order (user, then time, then place in the
log), so a log is split piece by piece without ever being in memory at once. Each event goes to exactly one split.
Under a protocol with an order, a user's events of an earlier split never come after those of a later one.

Nothing is dropped because it is new: users and items first seen in the test period stay in the vocabularies and among
the targets, since leaving them out would report a system that never meets anything new. Such a user's query has an
empty history; such an item was never trained on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import numpy as np
import polars as pl

from recsys.data.counting import count_values
from recsys.data.schema import SPLITS, TICKS_PER_SECOND
from recsys.errors import ConfigError, DataError

TRAIN, FOLD_IN, VALIDATION, TEST = range(len(SPLITS))

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class GlobalTime:
    """Two instants cut the log: training, then validation, then test, as time passes for a deployed system.

    Events at an instant belong to the later side. The history of a target is all of the user's events before the split.
    """

    name: Literal["global-time"] = "global-time"
    """Tells protocols apart."""
    validation_fraction: float = 0.1
    """Share of events that are validation, where no instants are given."""
    test_fraction: float = 0.1
    """Share of events that are test, where no instants are given."""
    validation_from: str | int | None = None
    """Validation's first instant: an integer in the log's unit, or ISO 8601 (UTC unless it says otherwise)."""
    test_from: str | int | None = None
    """Test's first instant, likewise."""

    def __post_init__(self) -> None:
        _check_fraction("validation_fraction", self.validation_fraction)
        _check_fraction("test_fraction", self.test_fraction)
        if self.validation_fraction + self.test_fraction >= 1:
            raise ConfigError(
                f"protocol: validation_fraction + test_fraction: got {self.validation_fraction} + "
                f"{self.test_fraction}, expected less than 1, so that something is left to train on"
            )
        if (self.validation_from is None) != (self.test_from is None):
            raise ConfigError("protocol: got one of validation_from and test_from, expected both or none")


@dataclass(frozen=True, kw_only=True)
class LeaveLastOut:
    """Each user's last event is test, the one before it validation; users with fewer than three events only train."""

    name: Literal["leave-last-out"] = "leave-last-out"
    """Tells protocols apart."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """Train and test are given files; validation is one event of each user with enough of them, cut from train.

    It is the user's last one where events have an order, else a seeded random one.
    """

    name: Literal["published"] = "published"
    """Tells protocols apart."""
    validation_min_events: int = 5
    """Users with fewer training events keep all of them."""

    def __post_init__(self) -> None:
        if self.validation_min_events < 2:
            raise ConfigError(f"protocol: validation_min_events: got {self.validation_min_events}, expected 2 or more")


@dataclass(frozen=True, kw_only=True)
class StrongGeneralization:
    """Some users are never trained on; a part of their events is folded in as history, the rest is to be found.

    Half of them are validation, half test. Source: Liang et al., *Variational Autoencoders for Collaborative
    Filtering*, WWW 2018 (arXiv 1802.05814). The folded-in part is the oldest where events have an order, else random.
    """

    name: Literal["strong-generalization"] = "strong-generalization"
    """Tells protocols apart."""
    held_out_fraction: float = 0.2
    """Share of users held out, drawn among those with at least two events."""
    fold_in_fraction: float = 0.8
    """Share of a held-out user's events that is history: at least one event, and at least one is left to find."""

    def __post_init__(self) -> None:
        _check_fraction("held_out_fraction", self.held_out_fraction)
        _check_fraction("fold_in_fraction", self.fold_in_fraction)


ProtocolConfig = GlobalTime | LeaveLastOut | Published | StrongGeneralization


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """All events of some users, in the dataset's order.

    Args:
        user: ``(n,)`` user rows, non-decreasing.
        time: ``(n,)`` int64, or None where events have no order.
        published_test: ``(n,)`` bool, whether the event comes from a published test file; None under other protocols.
    """

    user: np.ndarray
    time: np.ndarray | None = None
    published_test: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class LogFacts:
    """What a protocol may know about the whole log before it decides.

    Args:
        user_lengths: ``(users,)`` events per user row.
        times: one ``time`` column, a row per event; None where events have no time that users share.
        time_unit: of ``times``.
        max_rows: how many times may be in memory at once.
    """

    user_lengths: np.ndarray
    times: pl.LazyFrame | None = field(repr=False, default=None)
    time_unit: str | None = None
    max_rows: int = 8_000_000


@dataclass(frozen=True, kw_only=True)
class Split:
    """A protocol that knows its log.

    Args:
        assign: gives each event of a chunk its split, as an index into ``SPLITS`` (uint8). Chunks must come in the
            order of the users, each user in exactly one: then the answer does not depend on where chunks end.
        facts: what was found out on the way, for the manifest.
    """

    assign: Callable[[Chunk], np.ndarray]
    facts: dict[str, Any]


def plan(protocol: ProtocolConfig, facts: LogFacts, *, seed: int) -> Split:
    """Prepare a protocol for a log.

    Raises:
        ConfigError: an instant is not one, or the two are not in order.
        DataError: too many events share one time, or too few users can be held out.
    """
    rng = np.random.default_rng(seed)
    match protocol:
        case GlobalTime():
            return _global_time(protocol, facts)
        case LeaveLastOut():
            return Split(assign=_leave_last_out, facts={})
        case Published():
            return _published(protocol, facts, rng)
        case StrongGeneralization():
            return _strong_generalization(protocol, facts, rng)


def _global_time(protocol: GlobalTime, facts: LogFacts) -> Split:
    assert facts.times is not None
    assert facts.time_unit is not None
    if protocol.validation_from is not None and protocol.test_from is not None:
        validation_from = _instant("validation_from", protocol.validation_from, facts.time_unit)
        test_from = _instant("test_from", protocol.test_from, facts.time_unit)
        if validation_from >= test_from:
            raise ConfigError(
                f"protocol: validation_from: got {protocol.validation_from!r}, expected an instant before "
                f"test_from ({protocol.test_from!r})"
            )
    else:
        validation_from, test_from = _cut(protocol, facts)

    def assign(chunk: Chunk) -> np.ndarray:
        assert chunk.time is not None
        late = np.where(chunk.time >= test_from, TEST, VALIDATION)
        return np.where(chunk.time >= validation_from, late, TRAIN).astype(np.uint8)

    return Split(assign=assign, facts={"validation_from": validation_from, "test_from": test_from})


def _cut(protocol: GlobalTime, facts: LogFacts) -> tuple[int, int]:
    """Find the instants of the fractions; memory grows with the number of distinct times."""
    assert facts.times is not None
    total = int(facts.user_lengths.sum())
    counted = count_values(facts.times, "time", num_rows=total, max_rows=facts.max_rows).sort("time")
    distinct, before = counted["time"].to_numpy(), np.cumsum(counted["len"].to_numpy().astype(np.int64))
    num_test = round(protocol.test_fraction * total)
    num_later = num_test + round(protocol.validation_fraction * total)
    validation_from, test_from = (
        int(distinct[min(int(np.searchsorted(before, total - later, side="right")), len(distinct) - 1)])
        for later in (num_later, num_test)
    )
    if not distinct[0] < validation_from < test_from:
        raise DataError(
            f"protocol global-time: got {len(distinct)} distinct times over {total} events, too few for three parts; "
            "expected finer times, other fractions, or validation_from and test_from"
        )
    return validation_from, test_from


def _instant(name: str, given: str | int, time_unit: str) -> int:
    if isinstance(given, int) or given.lstrip("-").isdigit():
        return int(given)
    try:
        moment = datetime.fromisoformat(given)
    except ValueError as error:
        raise ConfigError(
            f"protocol: {name}: got {given!r}, expected an integer or ISO 8601 such as 2024-05-31"
        ) from error
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) * TICKS_PER_SECOND[time_unit] // timedelta(seconds=1)


def _leave_last_out(chunk: Chunk) -> np.ndarray:
    place, length = _places(chunk.user)
    from_end = np.where(length >= 3, length - 1 - place, length)
    return np.select([from_end == 0, from_end == 1], [TEST, VALIDATION], TRAIN).astype(np.uint8)


def _published(protocol: Published, facts: LogFacts, rng: np.random.Generator) -> Split:
    draw_U = rng.random(len(facts.user_lengths))

    def assign(chunk: Chunk) -> np.ndarray:
        assert chunk.published_test is not None
        split = np.where(chunk.published_test, TEST, TRAIN).astype(np.uint8)
        train = np.flatnonzero(split == TRAIN)
        place, length = _places(chunk.user[train])
        chosen = length - 1 if chunk.time is not None else (draw_U[chunk.user[train]] * length).astype(np.int64)
        split[train[(place == chosen) & (length >= protocol.validation_min_events)]] = VALIDATION
        return split

    return Split(assign=assign, facts={})


def _strong_generalization(protocol: StrongGeneralization, facts: LogFacts, rng: np.random.Generator) -> Split:
    eligible = np.flatnonzero(facts.user_lengths >= 2)
    num_held_out = min(round(protocol.held_out_fraction * len(facts.user_lengths)), len(eligible))
    if num_held_out < 2:
        raise DataError(
            f"protocol strong-generalization: got {num_held_out} users to hold out ({len(eligible)} of "
            f"{len(facts.user_lengths)} have two events), expected at least 2; hold out more, or relax the filters"
        )
    held_out = rng.permutation(eligible)[:num_held_out]
    role_U = np.full(len(facts.user_lengths), TRAIN, dtype=np.uint8)
    role_U[held_out[: num_held_out // 2]] = VALIDATION
    role_U[held_out[num_held_out // 2 :]] = TEST

    def assign(chunk: Chunk) -> np.ndarray:
        place, length = _places(chunk.user)
        if chunk.time is None:
            by_chance = np.lexsort((rng.random(len(place)), chunk.user))
            place[by_chance] = place.copy()
        num_fold_in = np.clip(np.floor(length * protocol.fold_in_fraction).astype(np.int64), 1, length - 1)
        role = role_U[chunk.user]
        return np.where((role != TRAIN) & (place < num_fold_in), FOLD_IN, role).astype(np.uint8)

    return Split(assign=assign, facts={"held_out_users": num_held_out})


def _places(user: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each event's place among its user's (from 0) and how many events that user has, both int64."""
    start = np.flatnonzero(np.diff(user, prepend=-1))
    length = np.diff(start, append=len(user))
    return np.arange(len(user), dtype=np.int64) - np.repeat(start, length), np.repeat(length, length)


def _check_fraction(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ConfigError(f"protocol: {name}: got {value}, expected more than 0 and less than 1")
