"""What ``recsys prepare`` can be told, and how one's own data becomes a `Recipe` like any other."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from recsys.data.recipes import Deduplicate, Recipe, TimeUnit, load_recipe
from recsys.errors import ConfigError

_COMMON = {"out", "recipe", "source", "verify_checksums", "seed", "overwrite", "max_rows_in_memory"}


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """Prepare a dataset: with a recipe, or one's own interactions and the columns they are in."""

    out: Path
    """The dataset folder to write."""
    recipe: str | None = None
    """A recipe's name, such as ml-100k, or the path of a TOML file."""
    source: Path | None = None
    """The folder that holds the recipe's files, where the recipe does not name it; else the environment variable
    RECSYS_DATASETS does."""
    verify_checksums: bool = True
    """Compare the recipe's files with its SHA-256 sums."""

    interactions: str | None = None
    """Your log, instead of a recipe: a CSV or Parquet file, or a glob in quotes. One row is one event."""
    test_interactions: str | None = None
    """Published protocol: the events to be found, likewise."""
    user_column: str | None = None
    """The log's and the user table's column of user ids (user_id where not given)."""
    item_column: str | None = None
    """The log's and the item table's column of item ids (item_id where not given)."""
    time_column: str | None = None
    """The log's column of times: integers, Datetime, Date or ISO 8601 strings."""
    time_unit: TimeUnit | None = None
    """Unit of integer times (s where not given). ``order``: a number that only orders each user's own events; or,
    without a time column, the rows are in order as they stand."""
    rating_column: str | None = None
    """The log's column that --min-rating looks at."""
    min_rating: float | None = None
    """Drop events rated below."""
    deduplicate: Deduplicate | None = None
    """``exact``: one event per user, item and time; ``pairs``: each user's first event with an item; ``none``: keep
    all (where not given)."""
    min_user_events: int | None = None
    """Drop users with fewer events."""
    min_item_events: int | None = None
    """Drop items with fewer events."""
    k_core: bool | None = None
    """Repeat the last two filters until nothing more is dropped."""
    items: Path | None = None
    """A table of items, one row each."""
    users: Path | None = None
    """A table of users, one row each."""
    title_column: str | None = None
    """The item table's column for people to read."""
    item_features: tuple[str, ...] = ()
    """The item table's columns for the model, as NAME:KIND or NAME:KIND:ARGUMENT. Kinds: categorical; multi_hot (a
    list, or text with the separator ARGUMENT); hashed (values that are many or still to come; ARGUMENT: how many
    buckets they share, else 65536); bucketed (numbers; ARGUMENT: edges such as 18,25,35, else deciles); text."""
    user_features: tuple[str, ...] = ()
    """The user table's columns for the model, likewise."""
    protocol: Literal["global-time", "leave-last-out", "published", "strong-generalization"] | None = None
    """How to split; beside a recipe, instead of how it says. global-time: by two instants. leave-last-out: each user's
    last event is test, the one before it validation. published: test events are given. strong-generalization: some
    users are never trained on."""
    validation_fraction: float | None = None
    """global-time: share of events for validation (0.1)."""
    test_fraction: float | None = None
    """global-time: share of events for test (0.1)."""
    validation_from: str | None = None
    """global-time: validation's first instant, instead of shares: an integer in the log's unit, or ISO 8601."""
    test_from: str | None = None
    """global-time: test's first instant, likewise."""
    validation_min_events: int | None = None
    """published: cut one validation event from each user with this many training events (5)."""
    held_out_fraction: float | None = None
    """strong-generalization: share of users held out (0.2), half for validation, half for test."""
    fold_in_fraction: float | None = None
    """strong-generalization: share of their events that is history (0.8)."""
    mask_seen: bool | None = None
    """Leave items that a user has already seen out of the ranking (yes where not given)."""

    seed: int = 0
    """Fixes every random choice of the split."""
    overwrite: bool = False
    """Replace the folder if it is there."""
    max_rows_in_memory: int = 8_000_000
    """Events that are sorted at a time; peak memory grows with it, about 0.2 kB per event."""

    def __post_init__(self) -> None:
        if (self.recipe is None) == (self.interactions is None):
            got = "both" if self.recipe else "neither"
            raise ConfigError(f"prepare: got {got} of --recipe and --interactions, expected one of them")
        either = _COMMON | {"protocol", *_PROTOCOL_SETTINGS}
        own = [one.name for one in fields(self) if one.name not in either and getattr(self, one.name) not in (None, ())]
        if self.recipe is not None and own:
            raise ConfigError(
                f"prepare: got {_flag(own[0])} beside --recipe, which says it already; copy the recipe's TOML file, "
                "change it there, and give its path as --recipe"
            )
        if self.recipe is None and self.source is not None:
            raise ConfigError("prepare: got --source without --recipe, expected full paths in --interactions")
        if self.recipe is None and self.protocol is None:
            raise ConfigError("prepare: got no --protocol, expected one beside --interactions")
        if self.max_rows_in_memory < 1:
            raise ConfigError(f"prepare: --max-rows-in-memory: got {self.max_rows_in_memory}, expected 1 or more")

    def to_recipe(self) -> Recipe:
        """Return the recipe that was named, or the one that the options describe.

        Raises:
            ConfigError: it cannot be read, or options contradict each other.
        """
        if self.recipe is not None:
            return self._with_protocol(load_recipe(self.recipe))
        assert self.interactions is not None
        user, item = self.user_column or "user_id", self.item_column or "item_id"
        content = {
            "name": Path(self.interactions).name.split(".")[0].strip("*") or "log",
            "mask_seen": self.mask_seen,
            "log": {
                "files": [self.interactions],
                "test_files": None if self.test_interactions is None else [self.test_interactions],
                "user": user,
                "item": item,
                "time": self.time_column,
                "time_unit": self.time_unit,
                "rating": self.rating_column,
            },
            "filters": {name: getattr(self, name) for name in _FILTERS},
            "protocol": {"name": self.protocol} | {name: getattr(self, name) for name in _PROTOCOL_SETTINGS},
            "items": _table(self.items, item, self.item_features, "items", title=self.title_column),
            "users": _table(self.users, user, self.user_features, "users"),
        }
        if self.title_column is not None and self.items is None:
            raise ConfigError("prepare: got --title-column without --items, expected the table that has it")
        return Recipe.from_mapping(_without_none(content), where="prepare")

    def folder(self, recipe: Recipe) -> Path | None:
        """Return where the recipe's files are, as far as these options and the recipe say."""
        if self.recipe is None:
            return Path()
        if self.source is None and recipe.folder is not None:
            return Path(self.recipe).parent / recipe.folder
        return self.source

    def _with_protocol(self, recipe: Recipe) -> Recipe:
        """Return the recipe, split in another way where the options say so."""
        given = {name: getattr(self, name) for name in _PROTOCOL_SETTINGS if getattr(self, name) is not None}
        if self.protocol is None and not given:
            return recipe
        content = _without_none(recipe.to_json())
        own = content["protocol"] if self.protocol in (None, content["protocol"]["name"]) else {"name": self.protocol}
        return Recipe.from_mapping(content | {"protocol": own | given}, where="prepare")


_FILTERS = ("min_rating", "deduplicate", "min_user_events", "min_item_events", "k_core")
_PROTOCOL_SETTINGS = (
    "validation_fraction",
    "test_fraction",
    "validation_from",
    "test_from",
    "validation_min_events",
    "held_out_fraction",
    "fold_in_fraction",
)


def _table(
    file: Path | None, id_: str, features: tuple[str, ...], side: str, *, title: str | None = None
) -> dict[str, Any] | None:
    if file is None:
        if features:
            raise ConfigError(f"prepare: got --{side[:-1]}-features without --{side}, expected the table that has them")
        return None
    parsed = dict(_feature(one) for one in features)
    return {"file": str(file), "id": id_, "title": title, "features": parsed}


def _feature(text: str) -> tuple[str, dict[str, Any]]:
    """Read ``NAME:KIND`` or ``NAME:KIND:ARGUMENT``."""
    name, _, rest = text.partition(":")
    kind, _, argument = rest.partition(":")
    if not name or not kind:
        raise ConfigError(
            f"prepare: feature: got {text!r}, expected NAME:KIND, such as title:text or genres:multi_hot:|"
        )
    feature: dict[str, Any] = {"kind": kind}
    try:
        if argument and kind == "bucketed":
            feature["edges"] = [float(edge) for edge in argument.split(",")]
        elif argument and kind in ("text", "hashed"):
            feature["num_buckets"] = int(argument)
        elif argument:
            feature["separator"] = argument
    except ValueError as error:
        raise ConfigError(f"prepare: feature {name}: got the argument {argument!r}, expected numbers") from error
    return name, feature


def _without_none(content: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, dict) else value
        for key, value in content.items()
        if value is not None
    }


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
