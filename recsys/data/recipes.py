"""A recipe says all there is to know about preparing one dataset; reading one runs no code of its own.

The recipes that come with the project are TOML files in ``data/recipes``. One's own data, given on the command line,
becomes the same `Recipe`, so there is one way from a log to a dataset. `recsys.data.prepare` follows it.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib.resources
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal

from recsys.data.schema import Kind
from recsys.data.split import GlobalTime, LeaveLastOut, ProtocolConfig, Published, StrongGeneralization
from recsys.errors import ConfigError
from recsys.settings import from_mapping

TimeUnit = Literal["s", "ms", "us", "order"]
Deduplicate = Literal["none", "exact", "pairs"]


@dataclass(frozen=True, kw_only=True)
class FileRecipe:
    """How one file is checked and read."""

    sha256: str | None = None
    """Lower-case hex; not checked where missing."""
    columns: dict[str, str] = field(default_factory=dict)
    """Columns that must be there and their types: integer, float, string, boolean, time, list[...]. Where there is no
    header, all columns in their order."""
    format: Literal["csv", "parquet"] | None = None
    """By the file's name where missing."""
    header: bool = True
    """Whether a CSV file's first line names its columns; where it does not, ``columns`` does."""
    separator: str | None = None
    """Between a CSV file's fields; a tab for .tsv and a comma otherwise where missing."""
    encoding: Literal["utf-8", "latin-1"] = "utf-8"
    """Of a CSV file; latin-1 is read whole instead of in a stream."""

    def __post_init__(self) -> None:
        if not self.header and not self.columns:
            raise ConfigError(
                "files: header: got false without columns, expected the columns' names in the file's order"
            )


@dataclass(frozen=True, kw_only=True)
class LogRecipe:
    """Where the interactions are: one row is one event of a user with an item."""

    files: tuple[str, ...]
    """Paths or globs, relative to the source folder. A glob's files are read in the order of their names."""
    test_files: tuple[str, ...] = ()
    """Under the published protocol: the events to be found."""
    user: str
    """The user column: integers or strings."""
    item: str
    """The item column: integers or strings."""
    time: str | None = None
    """The time column: integers in ``time_unit``, Datetime, Date, or ISO 8601 strings; none means no order."""
    time_unit: TimeUnit | None = None
    """Of an integer time; seconds where missing. ``order`` is a number that only orders a user's own events; without
    a time column it says that the rows of the log are in order."""
    rating: str | None = None
    """The column that ``filters.min_rating`` looks at."""
    drop_unusable: bool = False
    """Drop rows in which one of these columns has no usable value, instead of refusing the log; they are counted."""

    @property
    def ordered(self) -> bool:
        """Whether a user's events have an order."""
        return self.time is not None or self.time_unit == "order"

    def __post_init__(self) -> None:
        if not self.files:
            raise ConfigError("log.files: got none, expected at least one file or glob")
        named = [column for column in (self.user, self.item, self.time, self.rating) if column is not None]
        if len(set(named)) < len(named):
            raise ConfigError(f"log: got the columns {named}, expected a different one for each role")
        if self.time is None and self.time_unit in ("s", "ms", "us"):
            raise ConfigError(f"log.time_unit: got {self.time_unit!r} without a time column, expected log.time too")


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Which events count; applied in this order."""

    min_rating: float | None = None
    """Drop events rated below."""
    deduplicate: Deduplicate = "none"
    """``exact``: one event per user, item and time; ``pairs``: each user's first event with an item; ``none``: all."""
    min_user_events: int = 1
    """Drop users with fewer events."""
    min_item_events: int = 1
    """Drop items with fewer events. Users and items are counted on the same events."""
    k_core: bool = False
    """Repeat the last two until nothing more is dropped."""

    def __post_init__(self) -> None:
        for name in ("min_user_events", "min_item_events"):
            if getattr(self, name) < 1:
                raise ConfigError(f"filters.{name}: got {getattr(self, name)}, expected 1 or more")
        if self.k_core and self.min_user_events == self.min_item_events == 1:
            raise ConfigError("filters.k_core: got true, but neither min_user_events nor min_item_events is above 1")


@dataclass(frozen=True, kw_only=True)
class FeatureRecipe:
    """One column of users or items that the model shall see; see `recsys.data.schema.FeatureSpec` for the kinds."""

    kind: Kind
    """``categorical``, ``multi_hot``, ``hashed``, ``bucketed`` or ``text``."""
    column: str | None = None
    """The column; the feature's name where missing."""
    columns: tuple[str, ...] = ()
    """Of a multi_hot feature: 0/1 columns, each named for one value."""
    separator: str | None = None
    """Of a multi_hot or hashed feature in one string column: what stands between the values."""
    edges: tuple[float, ...] = ()
    """Of a bucketed feature: increasing inner boundaries; where missing, quantiles of the values that occur."""
    num_buckets: int | None = None
    """Of a text or hashed feature: size of the hash space (4096 and 65536 where missing). Of a bucketed one without
    edges: buckets (10)."""

    def __post_init__(self) -> None:
        allowed = {
            "multi_hot": {"columns", "separator"},
            "hashed": {"separator", "num_buckets"},
            "bucketed": {"edges", "num_buckets"},
            "text": {"num_buckets"},
        }
        given = {name for name in ("columns", "separator", "edges", "num_buckets") if getattr(self, name)}
        if wrong := sorted(given - allowed.get(self.kind, set())):
            raise ConfigError(
                f"features: {wrong[0]}: got {getattr(self, wrong[0])!r}, but a {self.kind} feature has none"
            )
        if self.columns and (self.column or self.separator):
            raise ConfigError("features: got columns beside column or separator, expected 0/1 columns or one column")
        if any(low >= high for low, high in zip(self.edges, self.edges[1:], strict=False)):
            raise ConfigError(f"features: edges: got {list(self.edges)}, expected strictly increasing numbers")
        if self.num_buckets is not None and (self.edges or self.num_buckets < 2):
            raise ConfigError(
                f"features: num_buckets: got {self.num_buckets}, expected 2 or more, and no edges beside it"
            )


@dataclass(frozen=True, kw_only=True)
class TableRecipe:
    """A table that describes users or items, one row each."""

    file: str
    """Its path, relative to the source folder."""
    id: str
    """The column that holds the ids of the log."""
    title: str | None = None
    """The column that people shall read; kept as ``title``."""
    keep: tuple[str, ...] = ()
    """More columns to keep as they are."""
    features: dict[str, FeatureRecipe] = field(default_factory=dict)
    """What the model shall see, by name."""

    def __post_init__(self) -> None:
        named = ["id", *self.keep, *self.features]
        if self.title is not None and not ("title" in self.features and self._column("title") == self.title):
            named.append("title")
        if twice := sorted({name for name in named if named.count(name) > 1}):
            raise ConfigError(
                f"{self.file}: got the name {twice[0]!r} for two columns, expected another for one of them"
            )

    def _column(self, feature: str) -> str:
        return self.features[feature].column or feature


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that `recsys.data.prepare` needs to know about a dataset, except where its files are."""

    name: str
    """The dataset's name, kept in its manifest."""
    description: str = ""
    """What the data is, where it comes from, and what counts as an interaction."""
    licence: str = ""
    """The data's own terms, in a sentence."""
    folder: str | None = None
    """The folder of the files, absolute or relative to the recipe's own file; ``--source`` names another one."""
    distribution: str | None = None
    """An installed PyPI distribution that holds the files; without one they are looked for in the source folder."""
    missing: str = ""
    """What to do where the files are not found, said in the error."""
    mask_seen: bool = True
    """Whether items that a user has already seen are left out of the ranking."""
    log: LogRecipe
    """The interactions."""
    protocol: ProtocolConfig
    """How they are split."""
    filters: Filters = field(default_factory=Filters)
    """Which of them count."""
    items: TableRecipe | None = None
    """What describes the items."""
    users: TableRecipe | None = None
    """What describes the users."""
    files: dict[str, FileRecipe] = field(default_factory=dict)
    """How each file is checked and read."""

    def __post_init__(self) -> None:
        used = {*self.log.files, *self.log.test_files, *(table.file for table in (self.items, self.users) if table)}
        if unused := sorted(self.files.keys() - used):
            raise ConfigError(f"files: got {unused[0]!r}, which nothing reads; expected some of {sorted(used)}")
        protocol = self.protocol
        if isinstance(protocol, Published) != bool(self.log.test_files):
            raise ConfigError(
                f"log.test_files: got {list(self.log.test_files)} under the {protocol.name} protocol; "
                "the published protocol needs test files and no other has any"
            )
        if isinstance(protocol, Published) and self.filters != Filters():
            raise ConfigError("filters: the published protocol takes its files as they are; expected no filters")
        if isinstance(protocol, GlobalTime) and (not self.log.ordered or self.log.time_unit == "order"):
            raise ConfigError(
                "protocol: global-time needs instants that all users share; expected log.time with another "
                f"time_unit than {self.log.time_unit!r}, or another protocol"
            )
        if isinstance(protocol, LeaveLastOut) and not self.log.ordered:
            raise ConfigError(
                "protocol: leave-last-out needs an order of each user's events; expected log.time, or "
                'log.time_unit = "order" where the rows are in order'
            )

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form kept in manifests."""
        return dataclasses.asdict(self)

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any], *, where: str) -> Recipe:
        """Read a recipe from plain values (TOML, JSON); ``where`` opens every error.

        Raises:
            ConfigError: a key is missing, unknown (the nearest known one is named), of the wrong type, or two
                settings contradict each other.
        """
        return from_mapping(cls, content, where=where)


def load_recipe(name: str) -> Recipe:
    """Read the recipe with this name, or the TOML file at this path.

    Raises:
        ConfigError: there is none (the nearest known name is given), or it cannot be read.
    """
    if name.endswith(".toml"):
        path: Path | Traversable = Path(name)
        if not path.is_file():
            raise ConfigError(f"{path}: no such recipe file")
    else:
        known = recipe_names()
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1)
            hint = (
                f"did you mean {nearest[0]!r}?"
                if nearest
                else f"known: {', '.join(known)}, or the path of a .toml file"
            )
            raise ConfigError(f"recipe: got {name!r}; {hint}")
        path = _folder() / f"{name}.toml"
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    return Recipe.from_mapping(content, where=str(path))


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with the project, sorted."""
    return sorted(entry.name.removesuffix(".toml") for entry in _folder().iterdir() if entry.name.endswith(".toml"))


def _folder() -> Traversable:
    """Return where the recipes are: beside the package in a checkout, inside it where it is installed."""
    checkout = Path(__file__).resolve().parents[2] / "data" / "recipes"
    return checkout if checkout.is_dir() else importlib.resources.files("recsys.recipes")


__all__ = [
    "FeatureRecipe",
    "FileRecipe",
    "Filters",
    "GlobalTime",
    "LeaveLastOut",
    "LogRecipe",
    "Published",
    "Recipe",
    "StrongGeneralization",
    "TableRecipe",
    "load_recipe",
    "recipe_names",
]
