"""Guesses what a log's columns are: by their names first, and by what is in them.

Every guess comes with its reason, in words for the recipe's comments; an option overrides it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from recsys.data.recipes import TimeUnit
from recsys.errors import DataError
from recsys.init.columns import Column, Table

_WORDS = {
    "user": (
        "user", "customer", "client", "member", "visitor", "household", "account", "reader", "person", "reviewer",
        "buyer", "listener", "player", "session", "uid", "userid", "customerid",
    ),
    "item": (
        "item", "product", "movie", "film", "book", "article", "song", "track", "sku", "asin", "isbn", "game",
        "business", "place", "poi", "listing", "content", "video", "recipe", "artist", "news", "iid", "itemid",
        "productid", "movieid",
    ),
    "time": ("timestamp", "time", "datetime", "date", "ts", "at", "when", "created", "day"),
    "order": ("seq", "sequence", "order", "position", "step"),
    "rating": ("rating", "ratings", "stars", "score", "hours", "playtime", "plays", "quantity", "count", "weight"),
}  # fmt: skip
_IDS = ("integer", "string")
_UNITS: tuple[tuple[TimeUnit, int], ...] = (("s", 1), ("ms", 1_000), ("us", 1_000_000))
_FROM_S, _TO_S = 315_532_800, 4_102_444_800  # 1980 to 2100
_MAX_DISTINCT_SHARE = 0.98


@dataclass(frozen=True, kw_only=True)
class Roles:
    """Which column is what, and why: ``reasons`` by role."""

    user: str
    item: str
    time: str | None
    time_unit: TimeUnit | None
    rating: str | None
    reasons: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Given:
    """Columns that the user named."""

    user: str | None = None
    item: str | None = None
    time: str | None = None
    time_unit: TimeUnit | None = None
    rating: str | None = None


def words_of(name: str) -> list[str]:
    """Split a column's name into lower-case words: at punctuation, and where upper case begins."""
    return re.findall(r"[a-z]+|\d+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower())


def is_log(table: Table) -> bool:
    """Whether a table has a column for users and another one for items, by their names."""
    return bool(_named(table, "user", _IDS) and _named(table, "item", _IDS))


def guess_roles(table: Table, given: Given) -> Roles:
    """Give a log's columns their roles.

    Raises:
        DataError: a named column is missing, or no column is plausible for users or items; the message says what there
            is and which options name them.
    """
    reasons = {}
    chosen: dict[str, str | None] = {}
    for role in ("user", "item", "time", "rating"):
        column = getattr(given, role)
        if column is not None and column not in table.by_name:
            raise DataError(f"{table.given}: --{role}-column: got {column!r}, expected one of {list(table.by_name)}")
        chosen[role], reasons[role] = column, f"as --{role}-column says"
    taken = {column for column in chosen.values() if column}
    unit = given.time_unit
    if chosen["time"] is None:
        chosen["time"], unit, reasons["time"] = _time(table, taken)
        unit = given.time_unit or unit
    elif unit is None:
        unit = time_unit(table.by_name[chosen["time"]])
    taken |= {chosen["time"]} if chosen["time"] else set()
    for role in ("user", "item"):
        if chosen[role] is None:
            chosen[role], reasons[role] = _id(table, role, taken)
            taken.add(chosen[role] or "")
    if chosen["rating"] is None:
        found = [one for one in _named(table, "rating", ("integer", "float")) if one not in taken]
        chosen["rating"], reasons["rating"] = (found[0], "by its name") if found else (None, "")
    if missing := [role for role in ("user", "item") if chosen[role] is None]:
        raise DataError(_nothing_plausible(table, missing))
    user, item = chosen["user"], chosen["item"]
    assert user is not None
    assert item is not None
    return Roles(
        user=user, item=item, time=chosen["time"], time_unit=unit, rating=chosen["rating"], reasons=reasons
    )  # fmt: skip


def time_unit(column: Column) -> TimeUnit | None:
    """Return the unit that makes instants of our time of a column's integers; ``order`` where none does."""
    if column.kind != "integer" or column.low is None or column.high is None:
        return None
    for unit, ticks in _UNITS:
        if _FROM_S * ticks <= column.low and column.high <= _TO_S * ticks:
            return unit
    return "order"


def _time(table: Table, taken: set[str]) -> tuple[str | None, TimeUnit | None, str]:
    """Return the column of times or of a user's order, its unit, and why."""
    columns = [column for column in table.columns if column.name not in taken]
    instants = [one for one in columns if one.kind == "time"]
    epochs = [one for one in columns if one.kind == "integer" and time_unit(one) != "order"]
    named = set(_named(table, "time", ("time", "integer", "string")))
    for found in (
        [one for one in (*instants, *epochs) if one.name in named],
        instants,
        epochs,
    ):
        if found:
            unit = time_unit(found[0])
            why = "its values are times" if unit is None else f"its integers are {unit} since 1970"
            return found[0].name, unit, why
    orders = [*_named(table, "order", ("integer",)), *_named(table, "time", ("integer",))]
    if orders := [name for name in orders if name not in taken]:
        return orders[0], "order", "it numbers events; when they were is not known"
    return None, None, "no column holds times"


def _id(table: Table, role: str, taken: set[str]) -> tuple[str | None, str]:
    named = [name for name in _named(table, role, _IDS) if name not in taken]
    if named:
        return named[0], "by its name"
    if table.file.header:
        return None, ""
    # No names at all: logs without a header begin with user and item.
    place = ("user", "item").index(role)
    column = table.columns[place] if place < len(table.columns) else None
    if column is None or column.name in taken or column.kind not in _IDS or not _repeats(table, column):
        return None, ""
    return column.name, f"the file names no columns; the {('first', 'second')[place]} one looks like ids"


def _named(table: Table, role: str, kinds: Sequence[str]) -> list[str]:
    """Return the columns whose names speak of a role: those that say id first, then in the order of the words."""
    found = []
    for place, column in enumerate(table.columns):
        words = words_of(column.name)
        hits = [_WORDS[role].index(word) for word in words if word in _WORDS[role]]
        plural = [_WORDS[role].index(word[:-1]) for word in words if word.endswith("s") and word[:-1] in _WORDS[role]]
        if (hits or plural) and column.kind in kinds:
            says_id = "id" in words or words[-1] in _WORDS[role]
            found.append((not hits, not says_id, len(words), min(hits + plural), place, column.name))
    return [name for *_, name in sorted(found)]


def _repeats(table: Table, column: Column) -> bool:
    return 1 < column.num_distinct <= max(2, _MAX_DISTINCT_SHARE * len(table.sample))


def _nothing_plausible(table: Table, roles: Sequence[str]) -> str:
    lines = [
        f"{table.given}: got no column that looks like {' or '.join(f'{role} ids' for role in roles)}, expected an "
        f"interaction log: one row per event of a user with an item. What is there, in {table.num_rows:,} rows:"
    ]
    for one in table.columns:
        examples = ", ".join(one.examples)
        lines.append(f"  {one.name}: {one.kind}, {one.num_distinct:,} different in the sample, such as {examples}")
    flags = " and ".join(f"--{role}-column NAME" for role in roles)
    lines.append(f"Name the right ones with {flags}.")
    return "\n".join(lines)
