"""The bundle: everything a server needs to answer, in one folder that is either whole or not there.

::

    root/
      CURRENT                 one line: the version that is served
      PREVIOUS                one line: the version before, for `rollback`
      20260131T094500.123456Z-1f2e3d4c/
        towers.safetensors    both towers and their tables
        towers.json           their layout
        item_vectors.safetensors   full-width unit vectors of all items, mapped, never copied
        items.parquet         row i is item row i: id and the catalogue's own columns
        history_items.parquet row i is row i of the towers' item table: its id; only where that is another order or set,
                              because the catalogue was changed since the dataset was prepared
        users.parquet         row i is user row i: id, history, seen, features
        user_vectors.safetensors   what the user tower makes of each of them, mapped; unless publishing left it out
        index/                indexes.json and what it lists: indexes, cells, stores, norms of prefixes
        ladder.json           the measured rungs
        manifest.json         model and index ids, and the SHA-256 of every other file; written last

A server opens only a bundle whose every byte is as it was published: a flipped bit in an index can make FAISS read
memory that is not its own, and vectors of another model give answers that look fine and are wrong.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float

from recsys import artifact
from recsys.current import KIND, current_version, rollback, set_current
from recsys.data.dataset import titles_of
from recsys.data.schema import FeatureSpec
from recsys.errors import ArtifactError
from recsys.ids import UNKNOWN, Vocabulary
from recsys.index.files import load_searcher
from recsys.index.rungs import Ladder
from recsys.index.searcher import Searcher
from recsys.index.store import map_vectors
from recsys.item_values import ItemValues
from recsys.model.exported import LAYOUT, WEIGHTS, ExportedTowers
from recsys.texts import Texts
from recsys.users import UserStore
from recsys.widths import WidthLadder

__all__ = [
    "Bundle",
    "current_version",
    "open_current",
    "read_names",
    "rollback",
    "set_current",
]

VECTORS, ITEMS, HISTORY_ITEMS, USERS, USER_VECTORS, INDEX, LADDER = (
    "item_vectors.safetensors",
    "items.parquet",
    "history_items.parquet",
    "users.parquet",
    "user_vectors.safetensors",
    "index",
    "ladder.json",
)


class Bundle:
    """An opened bundle. Make one with `Bundle.open`; nothing in it changes afterwards.

    Attributes:
        path: its folder.
        manifest: what it is made of and from.
        towers: the user and item towers.
        ladder: the measured rungs.
        searcher: the indexes.
        items: item ids to rows.
        history_items: ids to rows of the towers' item table, which histories are made of: ``items`` itself, unless the
            catalogue was changed since the dataset was prepared.
        item_frame: ids and the catalogue's own columns, by item row.
        item_values: which items have which value, by the name of each feature of items that has values (all kinds but
            numbers and text).
        users: what is known about each user.
        user_vectors: ``(users, query size)`` float32 unit queries, mapped, read-only; None where none were kept.
        item_vectors: ``(items, full width)`` float32 unit rows, mapped from disk, read-only.
    """

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest
        self.towers = ExportedTowers.load(path)
        self.widths: WidthLadder = self.towers.widths
        self.item_vectors, notes = map_vectors(path / VECTORS)
        self.item_frame = _read_items(path / ITEMS)
        self.items = Vocabulary(self.item_frame["id"].to_list())
        self.history_items = self.items
        if HISTORY_ITEMS in manifest["files"]:
            self.history_items = Vocabulary(_read_items(path / HISTORY_ITEMS)["id"].to_list())
        self._check(notes)
        self.item_values = _item_values(path / ITEMS, self.item_frame, self.towers.specs)
        names = [spec.name for spec in self.towers.specs if spec.side == "user"]
        self.users = UserStore.load(
            path / USERS,
            features=names,
            num_items=len(self.items),
            num_history_items=len(self.history_items),
            with_times=self.towers.layout.config.time_bias,
        )
        self.user_vectors = self._map_user_vectors()
        self.searcher: Searcher = load_searcher(path / INDEX, self.item_vectors, widths=self.widths)
        self.ladder = Ladder.load(path / LADDER)
        self._check_ladder()

    @classmethod
    def open(cls, path: Path, *, verify: bool = True) -> Bundle:
        """Check a bundle, then load it.

        Args:
            path: ``root/VERSION``.
            verify: compare every file's SHA-256 with the manifest first (reads all of them once). Without it, ids,
                shapes and widths are still compared.

        Raises:
            ArtifactError: a file is missing, unexpected, damaged, or belongs to another bundle; the message names it.
        """
        manifest = artifact.read_manifest(path, KIND)
        if verify:
            artifact.verify(path, manifest)
        _check_ids(path, manifest)
        return cls(path, manifest)

    @cached_property
    def version(self) -> str:
        """The version: the folder's name."""
        return self.path.name

    @property
    def mask_seen(self) -> bool:
        """Whether items that a user has seen are left out by default, as the dataset's protocol has it."""
        return bool(self.manifest["mask_seen"])

    @cached_property
    def item_ids(self) -> Texts:
        """The items' ids, row by row, for whoever writes some of them down."""
        return Texts.of(self.items.ids(range(len(self.items))))

    @cached_property
    def titles(self) -> list[str] | None:
        """A title per item row, the id where one has none; None where the catalogue has no titles."""
        return titles_of(self.item_frame)

    def _map_user_vectors(self) -> Float[np.ndarray, "users query"] | None:
        if USER_VECTORS not in self.manifest["files"]:
            return None
        user_UQ, notes = map_vectors(self.path / USER_VECTORS)
        expected = (len(self.users), self.widths.query_size)
        if user_UQ.shape != expected or notes.get("model_id") != self.manifest["model_id"]:
            got = f"{user_UQ.shape} of model {notes.get('model_id')}"
            wanted = f"{expected} of model {self.manifest['model_id']}"
            raise ArtifactError(f"{self.path / USER_VECTORS}: got {got}, expected {wanted}")
        return user_UQ

    def _check(self, notes: Mapping[str, Any]) -> None:
        manifest, num_items = self.manifest, len(self.item_vectors)
        for name, what, got, expected in (
            (LAYOUT, "widths", list(self.widths), manifest["widths"]),
            (LAYOUT, "norm", self.widths.norm, manifest.get("norm")),
            (LAYOUT, "head", self.widths.head, manifest.get("head")),
            (VECTORS, "items", num_items, manifest["num_items"]),
            (VECTORS, "width", self.item_vectors.shape[1], self.widths.full),
            (VECTORS, "model id", notes.get("model_id"), manifest["model_id"]),
            (ITEMS, "items", len(self.item_frame), manifest["num_items"]),
            (LAYOUT, "items", self.towers.layout.num_items, len(self.history_items)),
        ):
            if got != expected:
                raise ArtifactError(f"{self.path / name}: {what}: got {got}, expected {expected}")

    def _check_ladder(self) -> None:
        path = self.path / LADDER
        if (got := self.ladder.measured.get("index_id")) != self.manifest["index_id"]:
            raise ArtifactError(f"{path}: index id: got {got}, expected {self.manifest['index_id']}")
        if not self.ladder.steps:
            raise ArtifactError(f"{path}: got no rung that requests can climb, expected at least one")
        for rung in self.ladder.rungs:
            if rung.width not in self.widths or not self.searcher.supports(rung):
                raise ArtifactError(f"{path}: rung {rung.name}: the bundle has no index for it")


def open_current(root: Path) -> Bundle:
    """Open the version that CURRENT names."""
    return Bundle.open(root / current_version(root))


def read_names(path: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Read what a bundle calls its items and users, without opening the rest of it.

    Args:
        path: ``root/VERSION``.

    Returns:
        Items (id and the catalogue's own columns, by item row) and users (id, and rows of these items as history and
        seen).

    Raises:
        ArtifactError: there is no bundle there, or its items or users cannot be read.
    """
    files = artifact.read_manifest(path, KIND)["files"]
    items = _read_items(path / ITEMS)
    try:
        users = pl.read_parquet(path / USERS, columns=["id", "history", "seen"])
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ArtifactError(f"{path / USERS}: no table of users: {error}") from error
    if HISTORY_ITEMS not in files:
        return items, users
    # Histories are rows of another table, some of whose items the catalogue has lost since.
    now = Vocabulary(items["id"].to_list()).rows(_read_items(path / HISTORY_ITEMS)["id"].to_list())
    row = pl.element().replace_strict(pl.Series(np.arange(len(now))), pl.Series(now), return_dtype=pl.Int64)
    history = pl.col("history").list.eval(row.filter(row != UNKNOWN))
    return items, users.with_columns(history)


def _read_items(path: Path) -> pl.DataFrame:
    try:
        frame = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ArtifactError(f"{path}: not a Parquet file: {error}") from error
    if frame.schema.get("id") != pl.String:
        raise ArtifactError(f"{path}: column id: got {frame.schema.get('id')}, expected String")
    return frame


def _item_values(path: Path, frame: pl.DataFrame, specs: Sequence[FeatureSpec]) -> dict[str, ItemValues]:
    """Read the readable column beside each feature of items that has values, as `recsys.data.features` leaves it."""
    wanted = {"categorical": pl.String(), "multi_hot": pl.List(pl.String), "hashed": pl.List(pl.String)}
    found = {}
    for spec in specs:
        if spec.side == "item" and spec.kind in wanted:
            if frame.schema.get(spec.name) != wanted[spec.kind]:
                got = frame.schema.get(spec.name)
                raise ArtifactError(f"{path}: column {spec.name}: got {got}, expected {wanted[spec.kind]}")
            found[spec.name] = ItemValues.of(frame[spec.name])
    return found


def combined(digests: Mapping[str, str], *, salt: str = "") -> str:
    lines = [salt, *(f"{name} {digest}" for name, digest in sorted(digests.items()))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _check_ids(path: Path, manifest: Mapping[str, Any]) -> None:
    """Compare the ids with the files they stand for: parts of two bundles under one manifest do not agree."""
    digests = {name: entry["sha256"] for name, entry in manifest["files"].items()}
    model = {name: digests.get(name, "") for name in (WEIGHTS, LAYOUT)}
    index = {name: digest for name, digest in digests.items() if name == VECTORS or name.startswith(f"{INDEX}/")}
    for name, expected in (
        ("model_id", combined(model)),
        ("index_id", combined(index, salt=str(manifest.get("model_id")))),
    ):
        if manifest.get(name) != expected:
            got = manifest.get(name)
            raise ArtifactError(f"{path / artifact.MANIFEST}: {name}: got {got}, expected {expected} from its files")
