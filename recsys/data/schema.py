"""What a prepared dataset holds: its files, its events, and how a feature's raw value becomes embedding rows.

A dataset folder::

    train.arrow          user, item (UInt32 rows) and, where the log has it, time (Int64); in order of (user, time,
                         place); uncompressed, in one record batch: see `recsys.data.event_files`
    fold_in.arrow        the same columns: events of held-out users that are only ever history (empty but for
                         strong generalization)
    validation.arrow     target events, same columns and order
    test.arrow           target events, same columns and order
    items.parquet        row i describes item row i: id (String), the recipe's raw columns (title, ...), and one
    users.parquet        `feature:NAME` List(UInt32) column per feature: the rows that `FeatureSpec.encode` gives
    manifest.json        recipe, protocol, seed, counts after each filter, features, checksums, versions
"""

from __future__ import annotations

import bisect
import re
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

from recsys.errors import ConfigError, DataError

SPLITS = ("train", "fold_in", "validation", "test")
FEATURE_PREFIX = "feature:"
TICKS_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000}
"""By the unit of a log's times."""
SECONDS_PER_DAY = 86_400

Side = Literal["user", "item"]
Kind = Literal["categorical", "multi_hot", "hashed", "bucketed", "text"]
SEVERAL: tuple[Kind, ...] = ("multi_hot", "hashed")
"""Kinds of which somebody or something may have several values."""
_HASHED: tuple[Kind, ...] = ("hashed", "text")

_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """How one column of users or items becomes rows of an embedding table.

    Args:
        name: the feature's and the raw column's name.
        side: whose column it is.
        kind: ``categorical`` (one of ``values``), ``multi_hot`` (any of ``values``), ``hashed`` (any values, of an open
            vocabulary, hashed into ``num_buckets``), ``bucketed`` (a number, by ``edges``), or ``text`` (lower-cased
            words, hashed likewise).
        values: the known values, in row order (categorical, multi_hot).
        edges: increasing inner boundaries; a number ``x`` goes to row ``#{edge <= x}`` (bucketed).
        num_buckets: size of the hash space (hashed, text).
    """

    name: str
    side: Side
    kind: Kind
    values: tuple[str, ...] = ()
    edges: tuple[float, ...] = ()
    num_buckets: int = 0

    def __post_init__(self) -> None:
        if self.name == "id" or "." in self.name:
            # `id` is the column of ids and the input of every table of ids; torch allows no dot in a module's name.
            raise ConfigError(
                f"feature {self.name}: name: got {self.name!r}, expected one without dots, other than 'id'"
            )
        needs: dict[Kind, object] = {"categorical": self.values, "multi_hot": self.values, "bucketed": self.edges}
        needs |= dict.fromkeys(_HASHED, self.num_buckets)
        if self.kind not in needs:
            raise ConfigError(f"feature {self.name}: kind: got {self.kind!r}, expected one of {list(needs)}")
        if not needs[self.kind]:
            raise ConfigError(
                f"feature {self.name}: a {self.kind} feature needs its values, edges or buckets; got none"
            )

    @property
    def num_rows(self) -> int:
        """Rows of the feature's embedding table."""
        if self.is_hashed:
            return self.num_buckets
        return len(self.edges) + 1 if self.kind == "bucketed" else len(self.values)

    @property
    def is_hashed(self) -> bool:
        """Whether rows are buckets, which any value has, also one that was never seen."""
        return self.kind in _HASHED

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {value: row for row, value in enumerate(self.values)}

    def encode(self, value: str | float | Sequence[str] | None) -> list[int]:
        """Return a raw value's embedding rows; a missing or unknown value gives none (an empty bag)."""
        if value is None:
            return []
        if self.kind == "text":
            return [hash_word(word, self.num_buckets) for word in words(str(value))]
        if self.kind == "bucketed":
            number = float(value)  # type: ignore[arg-type]
            return [] if number != number else [bisect.bisect_right(self.edges, number)]
        several = [str(value)] if isinstance(value, str | int | float) else [str(one) for one in value]
        if self.kind == "hashed":
            return [hash_word(one, self.num_buckets) for one in several]
        return [self._row_of[one] for one in several if one in self._row_of]

    def encode_values(self, values: Sequence[str]) -> list[int]:
        """Do what `encode` does to strings, as requests and changes of the catalogue give them.

        Args:
            values: any number for a multi-hot or hashed feature, else at most one; a number is written in decimal; none
                means missing.

        Raises:
            DataError: there are several where one is read, or it is no number where a number is read.
        """
        if self.kind in SEVERAL:
            return self.encode(values)
        if len(values) > 1:
            raise DataError(f"got {len(values)} values, expected at most one for a {self.kind} feature")
        try:
            return self.encode(values[0] if values else None)
        except ValueError as error:
            raise DataError(f"got {values[0][:60]!r}, expected a number") from error

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form kept in manifests."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> FeatureSpec:
        """Read the form that `to_json` gives."""
        return cls(**{**content, "values": tuple(content["values"]), "edges": tuple(content["edges"])})


def words(text: str) -> list[str]:
    """Split a title into lower-cased words: runs of letters or digits in any script."""
    return _WORD.findall(text.lower())


def hash_word(word: str, num_buckets: int) -> int:
    """Return a word's bucket: CRC-32 of its UTF-8, the same on every machine and in every process."""
    return zlib.crc32(word.encode()) % num_buckets


@dataclass(frozen=True, kw_only=True)
class Events:
    """Interactions in the dataset's fixed order: by user, then time, then place in the log.

    Args:
        user: ``(n,)`` int64 rows.
        item: ``(n,)`` int64 rows.
        time: ``(n,)`` int64 in the manifest's ``time_unit``, or None where the log has no order.
    """

    user: Any = field(repr=False)
    item: Any = field(repr=False)
    time: Any = field(repr=False, default=None)

    def __len__(self) -> int:
        return len(self.user)
