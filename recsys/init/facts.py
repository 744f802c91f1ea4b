"""What a log is like, as far as a recipe depends on it: how long histories are, what repeats, who comes back.

Users and items are counted over all rows, in memory that their ids take. Whatever needs several events of a user at
once is found out on a part of the users, all of whose rows are taken: all users where the log is small.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import polars as pl

from recsys.data.counting import count_values
from recsys.data.log import open_log
from recsys.data.recipes import LogRecipe
from recsys.data.sources import reading
from recsys.errors import DataError
from recsys.init.columns import Table, number
from recsys.init.roles import Roles

MIN_EVENTS = (5, 3, 2)
_TRAIN_SHARE, _TEST_SHARE = 0.8, 0.9
_ROWS_IN_MEMORY = 8_000_000
_MANY_REPEATS = 0.1


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A log in numbers.

    Args:
        num_rows: of all files.
        num_usable: rows with a user, an item and, where there is one, a time that can be used.
        num_users: in usable rows.
        num_items: likewise.
        user_events: least, median and greatest number of events of a user.
        item_events: of an item.
        short_users: share of users with fewer than three events.
        rare_items: by a number of events, how many items have fewer, and what share of all events those are.
        exact_repeats: share of events whose user, item and time were there before.
        repeats: share of events whose user and item were there before, at any time.
        returning_users: share of the users of the log's last tenth who were in its first eight; None without times.
        num_test_users: about how many users the last tenth has.
        sampled_users: share of users that the last four were found out on.
        num_not_positive: rows whose rating is 0 or less, and the least rating above 0.
        pass_seconds: how long one pass over all rows took here.
    """

    num_rows: int
    num_usable: int
    num_users: int
    num_items: int
    user_events: tuple[int, int, int]
    item_events: tuple[int, int, int]
    short_users: float
    rare_items: dict[int, tuple[int, float]]
    exact_repeats: float
    repeats: float
    returning_users: float | None
    num_test_users: int
    sampled_users: float
    num_not_positive: int
    least_positive: float | None
    pass_seconds: float

    @property
    def again(self) -> float:
        """Share of events that are a user's with an item that they had before, double lines left out."""
        return self.repeats - self.exact_repeats

    @property
    def comes_again(self) -> bool:
        """Whether users come back for the same items: once more is then an answer."""
        return self.again >= _MANY_REPEATS


def find_facts(table: Table, roles: Roles, *, sample_rows: int) -> Facts:
    """Count what `Facts` says.

    Raises:
        DataError: there are too few events to train and test on.
    """
    recipe = LogRecipe(
        files=table.names, user=roles.user, item=roles.item, time=roles.time, time_unit=unit_setting(table, roles),
        drop_unusable=True,
    )  # fmt: skip
    log = open_log([(path, table.file) for path in table.files], [], recipe)
    started = perf_counter()
    num_usable = log.check()
    pass_seconds = perf_counter() - started
    with reading(table.files[0]):
        users, items = (
            count_values(log.frame, role, num_rows=num_usable, max_rows=_ROWS_IN_MEMORY)["len"].to_numpy()
            for role in ("user", "item")
        )
        parts = -(-num_usable // sample_rows)
        wanted = ["user", "item", *(["time"] if roles.time else [])]
        sample = log.frame.select(wanted).filter(pl.col("user").hash(seed=0) % parts == 0).collect(engine="streaming")
        ratings = _ratings(table, roles)
    if min(len(users), len(items)) < 2 or num_usable < 10:
        raise DataError(
            f"{table.given}: got {num_usable} usable events of {len(users)} users (column {roles.user!r}) with "
            f"{len(items)} items ({roles.item!r}), expected at least 10 of 2 with 2; check the columns' roles"
        )
    rare = {least: (int((items < least).sum()), float(items[items < least].sum() / num_usable)) for least in MIN_EVENTS}
    return Facts(
        num_rows=table.num_rows,
        num_usable=num_usable,
        num_users=len(users),
        num_items=len(items),
        user_events=_spread(users),
        item_events=_spread(items),
        short_users=float((users < 3).mean()),
        rare_items=rare,
        exact_repeats=_repeats(sample, wanted),
        repeats=_repeats(sample, ["user", "item"]),
        **_returning(sample, parts, timed=roles.time is not None and roles.time_unit != "order"),
        sampled_users=sample["user"].n_unique() / len(users),
        **ratings,
        pass_seconds=pass_seconds,
    )


def unit_setting(table: Table, roles: Roles) -> Any:
    """Return what a recipe says of the unit: nothing where the times have one of their own."""
    return roles.time_unit if roles.time is not None and table.by_name[roles.time].kind == "integer" else None


def _ratings(table: Table, roles: Roles) -> dict[str, Any]:
    if roles.rating is None:
        return {"num_not_positive": 0, "least_positive": None}
    rating = number(roles.rating)
    found = table.scan().select(num_not_positive=(rating <= 0).sum(), least_positive=rating.filter(rating > 0).min())
    return found.collect(engine="streaming").row(0, named=True)


def _spread(counts: np.ndarray) -> tuple[int, int, int]:
    return int(counts.min()), int(np.median(counts)), int(counts.max())


def _repeats(sample: pl.DataFrame, columns: list[str]) -> float:
    return 1 - len(sample.select(columns).unique()) / max(len(sample), 1)


def _returning(sample: pl.DataFrame, parts: int, *, timed: bool) -> dict[str, Any]:
    if not timed or not len(sample):
        return {"returning_users": None, "num_test_users": 0}
    train_to, test_from = (sample["time"].quantile(share) for share in (_TRAIN_SHARE, _TEST_SHARE))
    late = sample.filter(pl.col("time") >= test_from)["user"].unique()
    early = sample.filter(pl.col("time") < train_to)["user"].unique()
    return {
        "returning_users": late.is_in(early.implode()).cast(pl.Float64).mean() or 0.0,
        "num_test_users": len(late) * parts,
    }
