"""From what was seen of a log to a recipe, a comment on each choice: the same log always gives the same text."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recsys.data.recipes import FileRecipe
from recsys.init.columns import Table
from recsys.init.facts import MIN_EVENTS, Facts, unit_setting
from recsys.init.features import Described
from recsys.init.roles import Roles

_RARE_LOSS = 0.05
_MIN_RETURNING, _MIN_TEST_USERS = 0.5, 100
_TICKS = {"s": 1, "ms": 1_000, "us": 1_000_000}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One choice of a recipe: a value, and why."""

    value: Any
    why: str


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What is not a matter of columns: by the recipe's names."""

    protocol: Setting
    mask_seen: Setting
    deduplicate: Setting
    min_user_events: Setting
    min_item_events: Setting
    min_rating: Setting


def choose(
    facts: Facts, roles: Roles, *, protocol: str | None, min_rating: float | None, has_features: bool
) -> Choices:
    """Choose protocol and filters.

    Args:
        facts: the log in numbers.
        roles: its columns.
        protocol: what the user said, if anything.
        min_rating: likewise.
        has_features: whether items are described by more than their ids.
    """
    chosen = _protocol(facts, roles) if protocol is None else Setting(value=protocol, why="As --protocol says.")
    return Choices(
        protocol=chosen,
        mask_seen=_mask_seen(facts),
        deduplicate=_deduplicate(facts, timed=roles.time is not None),
        min_user_events=_min_user_events(facts, chosen.value),
        min_item_events=_min_item_events(facts, has_features=has_features),
        min_rating=_min_rating(facts, roles, min_rating),
    )


def _protocol(facts: Facts, roles: Roles) -> Setting:
    if roles.time is None:
        why = (
            "Without times there is no before and after: the question is how well users are served who were never\n"
            "trained on, from a part of their items."
        )
        return Setting(value="strong-generalization", why=why)
    if facts.returning_users is None:
        return Setting(value="leave-last-out", why="Each user's events have an order, but no common clock to cut at.")
    seen = f"{facts.returning_users:.0%} of the users of the log's last tenth were there before"
    if facts.returning_users >= _MIN_RETURNING and facts.num_test_users >= _MIN_TEST_USERS:
        why = f"{seen}, so the log is cut at two instants, as time\npasses for a live system."
        return Setting(value="global-time", why=why)
    why = (
        f"Only {seen} (about {facts.num_test_users:,} users), too few to\n"
        "measure with if time were cut for all at once; so each user's last event is to be found."
    )
    return Setting(value="leave-last-out", why=why)


def _mask_seen(facts: Facts) -> Setting:
    if facts.again <= 0:
        return Setting(value=True, why="Nobody has an item twice: so what was seen is left out of the answers.")
    share = f"{_share(facts.again)} of events are a user's with an item that they had before"
    if facts.comes_again:
        return Setting(value=False, why=f"{share}: once more is an answer, not\nsomething to leave out.")
    return Setting(value=True, why=f"{share}: few, so what was seen\nis left out of the answers.")


def _deduplicate(facts: Facts, *, timed: bool) -> Setting:
    if facts.comes_again and timed:
        why = f"Of all events {_share(facts.exact_repeats)} repeat one at the same time, as double lines do."
        return Setting(value="exact" if facts.exact_repeats else "none", why=why)
    if facts.repeats:
        why = f"{_share(facts.repeats)} of events repeat a user's earlier one with the same item; the first counts."
        return Setting(value="pairs", why=why)
    return Setting(value="none", why="No event repeats another.")


def _min_user_events(facts: Facts, protocol: str) -> Setting:
    if protocol == "leave-last-out" and facts.short_users:
        why = f"{_share(facts.short_users)} of users have fewer than 3 events: nothing to train, validate and test on."
        return Setting(value=3, why=why)
    return Setting(value=1, why=f"Half of the users have {facts.user_events[1]:,} events or more; all of them count.")


def _min_item_events(facts: Facts, *, has_features: bool) -> Setting:
    for least in MIN_EVENTS:
        num, share = facts.rare_items[least]
        if num and share <= _RARE_LOSS and not has_features and facts.num_items - num >= 100:
            why = (
                f"{num:,} items have fewer than {least} events, {_share(share)} of all: too few to learn from, and no\n"
                "features to make up for it. With 1 they all stay."
            )
            return Setting(value=least, why=why)
    why = "Rare items stay: their features place them." if has_features else "Dropping rare items would cost too much."
    return Setting(value=1, why=why)


def _min_rating(facts: Facts, roles: Roles, given: float | None) -> Setting:
    if roles.rating is None:
        return Setting(value=None, why="No column says how much an event counts: every row is an interaction.")
    if given is not None:
        return Setting(value=given, why="As --min-rating says.")
    if facts.num_not_positive and facts.least_positive is not None:
        share = facts.num_not_positive / facts.num_rows
        why = f"{_share(share)} of rows have a {roles.rating} of 0 or less: no sign of interest."
        return Setting(value=facts.least_positive, why=why)
    why = (
        f"Every row is an interaction, whatever its {roles.rating}: who rates or uses something chose it. To count\n"
        f"only some, add `rating = {json.dumps(roles.rating)}` to [log] and `min_rating = ...` here."
    )
    return Setting(value=None, why=why)


def write_recipe(
    name: str,
    table: Table,
    roles: Roles,
    facts: Facts,
    choices: Choices,
    described: dict[str, Described],
    *,
    folder: Path,
) -> str:
    """Return the recipe as TOML.

    Args:
        name: of the dataset.
        table: the log.
        roles: its columns.
        facts: it in numbers.
        choices: filters and protocol.
        described: ``items`` and ``users``, those that there are.
        folder: the recipe's own folder; files inside it are named relative to it.
    """
    lines = [
        "# Proposed by `recsys init`, which looked at the files and guessed. Change what it got wrong, then:",
        "#   recsys prepare --recipe THIS-FILE --out work/dataset",
        "",
        f"name = {_toml(name)}",
        f"description = {_toml(_description(table, roles, facts))}",
        'folder = "."  # of this file; paths below are relative to it, or absolute',
        "",
        *_commented("mask_seen", choices.mask_seen),
        "",
        "[log]",
        f"files = {_toml([_path(one, folder) for one in table.names])}",
        *_log(table, roles, facts, choices),
        "",
        "[filters]",
        *(_comment(choices.min_rating.why) if choices.min_rating.value is None else []),
        *(_commented("min_rating", choices.min_rating) if choices.min_rating.value is not None else []),
        *_commented("deduplicate", choices.deduplicate),
        *_commented("min_user_events", choices.min_user_events),
        *_commented("min_item_events", choices.min_item_events),
        "",
        "[protocol]",
        *_commented("name", choices.protocol),
    ]
    for side, one in described.items():
        lines += ["", *_table(side, one, folder)]
    lines += _file(table, None, folder)
    for one in described.values():
        lines += _file(one.table, one, folder)
    return "\n".join(lines) + "\n"


def _description(table: Table, roles: Roles, facts: Facts) -> str:
    when = ""
    if roles.time is not None and roles.time_unit != "order":
        column = table.by_name[roles.time]
        ticks = _TICKS[roles.time_unit or "us"]
        low, high = (_day(value, ticks) for value in (column.low, column.high))
        when = f", {low} to {high}"
    return f"{facts.num_usable:,} events of {facts.num_users:,} users with {facts.num_items:,} items{when}"


def _day(value: float | None, ticks: int) -> str:
    assert value is not None, "a column of times has a range"
    return datetime.fromtimestamp(value / ticks, tz=UTC).strftime("%Y-%m-%d")


def _log(table: Table, roles: Roles, facts: Facts, choices: Choices) -> list[str]:
    def line(key: str, value: object, why: str) -> str:
        return f"{key} = {_toml(value)}  # {why}"

    lines = [line(role, getattr(roles, role), roles.reasons[role]) for role in ("user", "item")]
    if roles.time is None:
        lines.append(f"# no time: {roles.reasons['time']}")
    else:
        lines.append(line("time", roles.time, roles.reasons["time"]))
        if (unit := unit_setting(table, roles)) is not None:
            lines.append(f"time_unit = {_toml(unit)}")
    if choices.min_rating.value is not None:
        lines.append(line("rating", roles.rating, roles.reasons["rating"]))
    if unusable := facts.num_rows - facts.num_usable:
        lines.append(
            line(
                "drop_unusable",
                True,
                f"{unusable:,} of {facts.num_rows:,} rows lack a user, an item or a time that can be used",
            )
        )
    return lines


def _table(side: str, described: Described, folder: Path) -> list[str]:
    lines = [
        f"[{side}]",
        f"file = {_toml(_path(described.table.given, folder))}",
        f"id = {_toml(described.id)}",
        *([f"title = {_toml(described.title)}  # what people read"] if described.title else []),
        *(f"# {_toml(name)} is left out: {why}" for name, why in described.left_out.items()),
    ]
    if described.features:
        lines += ["", f"[{side}.features]"]
    for name, feature in described.features.items():
        settings = ", ".join(
            f"{key} = {_toml(value)}" for key, value in {"kind": feature.kind, **feature.settings}.items()
        )
        lines.append(f"{_key(name)} = {{ {settings} }}  # {feature.reason}")
    return lines


def _file(table: Table, described: Described | None, folder: Path) -> list[str]:
    """Say how a file is read, where that is not as its name says; and the types of a CSV table's features."""
    settings = {
        key: getattr(table.file, key)
        for key in ("format", "header", "separator", "encoding")
        if getattr(table.file, key) != getattr(FileRecipe(), key)
    }
    columns = dict(table.file.columns)
    if described and not columns and ".parquet" not in table.given:
        used = {str(one.settings.get("column", name)) for name, one in described.features.items()} | {described.title}
        columns = {one.name: one.kind for one in table.columns if one.name in used and one.kind != "boolean"}
    if not settings and not columns:
        return []
    told = [f"{key} = {_toml(value)}" for key, value in settings.items()]
    if columns:
        told.append(f"columns = {{ {', '.join(f'{_key(name)} = {_toml(kind)}' for name, kind in columns.items())} }}")
    return [line for name in table.names for line in ("", f"[files.{_toml(_path(name, folder))}]", *told)]


def _path(given: str, folder: Path) -> str:
    """Name a file relative to the recipe's folder where it is inside, else absolutely."""
    whole = Path(given).absolute()
    inside = folder.absolute()
    return str(whole.relative_to(inside)) if whole.is_relative_to(inside) else str(whole)


def _commented(key: str, setting: Setting) -> list[str]:
    return [*_comment(setting.why), f"{key} = {_toml(setting.value)}"]


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in text.splitlines()]


def _share(share: float) -> str:
    return "none" if share <= 0 else "under 0.1%" if share < 0.001 else f"{share:.1%}"


def _key(name: str) -> str:
    return name if name.isascii() and name.replace("_", "").replace("-", "").isalnum() else _toml(name)


def _toml(value: object) -> str:
    """Write a value as TOML does, whose strings and lists are JSON's."""
    return json.dumps(value, ensure_ascii=False)
