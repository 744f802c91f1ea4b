"""Look at somebody's log, write a recipe for it, and say what comes next and what it will cost."""

from __future__ import annotations

import glob
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import polars as pl
import tyro

from recsys import artifact
from recsys.config import TrainConfig
from recsys.data.options import PrepareOptions
from recsys.data.recipes import FileRecipe, Recipe, TimeUnit
from recsys.data.sources import scan
from recsys.errors import ArtifactError, ConfigError, DataError
from recsys.init.columns import Table, look
from recsys.init.costs import Costs, estimate_costs
from recsys.init.facts import Facts, find_facts
from recsys.init.features import Described, describe, table_id
from recsys.init.proposal import choose, write_recipe
from recsys.init.roles import Given, Roles, guess_roles, is_log
from recsys.init.sniff import sniff
from recsys.init.training import write_training
from recsys.progress import Tell, tell_nobody
from recsys.settings import field_values

_GENERIC = {"interactions", "ratings", "events", "log", "logs", "train", "data", "clicks", "*"}
_ROWS = {"text": 4_096, "hashed": 65_536}
_MOST_ROWS = 4_096


@dataclass(frozen=True, kw_only=True)
class InitOptions:
    """What to look at, and what is known of it already: an option counts more than a guess."""

    files: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="LOG...")]
    """The log: CSV or Parquet files, or globs in quotes. Tables of items and users may stand beside it."""
    out: Path = Path("recipe.toml")
    """The recipe to write."""
    overwrite: bool = False
    """Replace it if it is there."""
    items: str | None = None
    """The table of items, where it is not among the files or not found there."""
    users: str | None = None
    """The table of users, likewise."""
    user_column: str | None = None
    """The log's column of user ids."""
    item_column: str | None = None
    """The log's column of item ids."""
    time_column: str | None = None
    """The log's column of times."""
    time_unit: TimeUnit | None = None
    """Unit of integer times; ``order`` for numbers that only order a user's own events."""
    rating_column: str | None = None
    """The log's column that says how much an event counts."""
    min_rating: float | None = None
    """Count only events rated as high."""
    title_column: str | None = None
    """The item table's column for people to read."""
    protocol: Literal["global-time", "leave-last-out", "strong-generalization"] | None = None
    """How to split."""
    sample_rows: int = 1_000_000
    """Rows that are looked at together; everything that is only counted is counted over all rows."""

    def __post_init__(self) -> None:
        if not self.files:
            raise ConfigError("init: got no file, expected a log: recsys init LOG.csv")
        if self.sample_rows < 1:
            raise ConfigError(f"init: --sample-rows: got {self.sample_rows}, expected 1 or more")


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """What was seen and proposed.

    Args:
        recipe: the file that was written.
        text: what is in it.
        training: the file of settings for training, where the defaults do not suit the log.
        table: the log, looked at.
        roles: its columns.
        facts: it in numbers.
        described: ``items`` and ``users``, those that there are.
        costs: estimates.
        remarks: what could not be used, and why, in sentences.
    """

    recipe: Path
    text: str
    training: Path | None
    table: Table = field(repr=False)
    roles: Roles
    facts: Facts
    described: dict[str, Described] = field(repr=False)
    costs: Costs
    remarks: list[str]

    def commands(self) -> list[str]:
        """Return what to type next, up to recommendations."""
        user = self.table.sample[self.roles.user].drop_nulls()[0]
        settings = "" if self.training is None else f"--config-file {self.training} "
        return [
            f"recsys prepare --recipe {self.recipe} --out work/dataset",
            f"recsys train {settings}--dataset work/dataset --out work/run",
            "recsys evaluate --run work/run --dataset work/dataset",
            "recsys publish --run work/run --dataset work/dataset --out work/bundles",
            "recsys report --run work/run --dataset work/dataset --bundles work/bundles --out work/report.html",
            "recsys explore --bundles work/bundles    # a web page; for programs there is a server:",
            "recsys-serve --bundles work/bundles    # and in another terminal:",
            f"recsys recommend --user {user} --budget-ms 5",
        ]

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        columns = [{**asdict(one), "examples": list(one.examples)} for one in self.table.columns]
        return {
            "recipe": str(self.recipe),
            "training": None if self.training is None else str(self.training),
            "columns": columns,
            "roles": asdict(self.roles),
            "facts": asdict(self.facts),
            "estimates": asdict(self.costs),
            "remarks": self.remarks,
            "next": self.commands(),
        }


def init(options: InitOptions, *, progress: Tell = tell_nobody) -> Proposal:
    """Write a recipe that `recsys prepare` takes as it is.

    The same files and options give the same recipe; estimates depend on the machine and its load.

    Raises:
        DataError: a file cannot be read, or there is no plausible log among them; the message says what there is, and
            which options name the right columns.
        ArtifactError: ``out`` is there and ``overwrite`` is not set.
        ConfigError: options contradict what is in the files.
    """
    training_out = options.out.with_name(f"{options.out.stem}-train.toml")
    for path in (options.out, training_out):
        if path.exists() and not options.overwrite:
            raise ArtifactError(f"{path}: already exists; remove it, choose another --out, or pass --overwrite")
    progress("look at the files", 0.0)
    tables = _tables(options.files, sample_rows=options.sample_rows)
    table = _log(tables, options)
    given = Given(
        user=options.user_column,
        item=options.item_column,
        time=options.time_column,
        time_unit=options.time_unit,
        rating=options.rating_column,
    )
    roles = guess_roles(table, given)
    progress("count users and items", 0.0)
    facts = find_facts(table, roles, sample_rows=options.sample_rows)
    progress("look at items and users", 0.0)
    described, remarks = _describe(table, roles, [one for one in tables if one is not table], options)
    choices = choose(
        facts,
        roles,
        protocol=options.protocol,
        min_rating=options.min_rating,
        has_features="items" in described and bool(described["items"].features),
    )
    text = write_recipe(
        _name(table), table, roles, facts, choices, described, folder=options.out.parent
    )  # fmt: skip
    Recipe.from_mapping(tomllib.loads(text), where=str(options.out))
    training = write_training(facts)
    settings = field_values(TrainConfig, tomllib.loads(training or ""), where=str(training_out))
    costs = estimate_costs(
        TrainConfig(**settings),
        num_events=facts.num_usable,
        ordered=roles.time is not None,
        num_users=facts.num_users,
        num_items=facts.num_items,
        num_feature_rows=sum(_num_rows(one) for one in described.values()),
        pass_s=facts.pass_seconds,
        max_rows=PrepareOptions(recipe=str(options.out), out=Path("dataset")).max_rows_in_memory,
    )
    artifact.write_whole(options.out, text)
    if training is None:
        training_out.unlink(missing_ok=True)
    else:
        artifact.write_whole(training_out, training)
    return Proposal(
        recipe=options.out,
        text=text,
        training=None if training is None else training_out,
        table=table,
        roles=roles,
        facts=facts,
        described=described,
        costs=costs,
        remarks=remarks,
    )


def _tables(names: Sequence[str], *, sample_rows: int) -> list[Table]:
    """Look at all files, those of the same columns and format together."""
    groups: dict[Any, list[tuple[str, list[Path], FileRecipe]]] = {}
    for name in names:
        files = _files(name)
        file = sniff(files[0])
        columns = tuple(scan(files[0], file).collect_schema().items())
        groups.setdefault((columns, file.format, file.separator, file.encoding), []).append((name, files, file))
    return [
        look([name for name, _, _ in group], [path for _, files, _ in group for path in files], group[0][2],
             sample_rows=sample_rows)
        for group in groups.values()
    ]  # fmt: skip


def _files(name: str) -> list[Path]:
    path = Path(name)
    if path.is_dir():
        raise DataError(f"{path}: got a folder, expected files or a glob in quotes such as {str(path / '*.parquet')!r}")
    found = [Path(one) for one in sorted(glob.glob(name, recursive=True)) if Path(one).is_file()]  # noqa: PTH207
    if not (path.is_file() or found):
        raise DataError(f"{path}: no such file; check the path")
    return [path] if path.is_file() else found


def _log(tables: list[Table], options: InitOptions) -> Table:
    """Choose the log: the longest of the tables that look like one, or that has the columns named."""
    named = {column for column in (options.user_column, options.item_column) if column is not None}
    logs = [one for one in tables if (named <= one.by_name.keys() if named else is_log(one))]
    return max(logs or tables, key=lambda one: one.num_rows)


def _describe(
    log: Table, roles: Roles, others: list[Table], options: InitOptions
) -> tuple[dict[str, Described], list[str]]:
    """Give each table its side; say which could not be used, and why."""
    remarks: list[str] = []
    found: dict[str, Described] = {}
    for side, column, named in (("items", roles.item, options.items), ("users", roles.user, options.users)):
        known = log.sample[column].drop_nulls().unique()
        candidates = others if named is None else _tables([named], sample_rows=options.sample_rows)
        for table in candidates:
            taken = [one.table for one in found.values()]
            if table in taken or (named is None and is_log(table)):
                continue
            key = table_id(table, column, known)
            if key is None:
                continue
            if problem := _unusable(table, key, known):
                remarks.append(f"{table.given} is not used: {problem}")
                continue
            found[side] = describe(
                table, key, title=options.title_column if side == "items" else None, has_title=side == "items"
            )
            break
        if named is not None and side not in found:
            raise DataError(
                f"{named}: --{side}: " + (remarks[-1] if remarks else f"got no column with ids of {column!r}")
            )
    used = [log, *(one.table for one in found.values())]
    for table in others:
        if not any(table is one for one in used) and not any(one.startswith(table.given) for one in remarks):
            remarks.append(f"{table.given} is not used: it is neither the log nor a table with a row per item or user")
    return found, remarks


def _unusable(table: Table, key: str, known: pl.Series) -> str | None:
    """Say why a table cannot describe anybody: prepare wants an id in each row, and one row per id."""
    ids = table.sample[key]
    if len(table.sample) < table.num_rows:
        return f"it has {table.num_rows:,} rows, and tables of users and items are read whole; raise --sample-rows"
    if ids.null_count():
        return f"{ids.null_count():,} rows have no {key}, and each needs one"
    if ids.n_unique() < len(ids):
        return f"{len(ids) - ids.n_unique():,} rows repeat another row's {key}, and there may be one row per id"
    if not ids.cast(pl.String).is_in(known.cast(pl.String).implode()).any():
        return f"no {key} in it occurs in the log"
    return None


def _name(table: Table) -> str:
    path = Path(table.given).absolute()
    stem = path.name.split(".")[0]
    return path.parent.name if stem.lower() in _GENERIC and path.parent.name else stem.strip("*-_") or "log"


def _num_rows(described: Described) -> int:
    """Return about how many rows the tables of the features will have."""
    distinct = {one.name: one.num_distinct for one in described.table.columns}
    return sum(
        _ROWS.get(feature.kind) or min(distinct.get(name, _MOST_ROWS), _MOST_ROWS)
        for name, feature in described.features.items()
    )
