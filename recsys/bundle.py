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
        index/                indexes.json and what it lists: indexes, cells, stores, norms of prefixes
        ladder.json           the measured rungs
        manifest.json         model and index ids, and the SHA-256 of every other file; written last

A server opens only a bundle whose every byte is as it was published: a flipped bit in an index can make FAISS read
memory that is not its own, and vectors of another model give answers that look fine and are wrong.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recsys import artifact
from recsys.catalogue import CatalogueItems, catalogue_items
from recsys.changes import Changes
from recsys.current import KIND, current_version, rollback, set_current
from recsys.data.dataset import Dataset, titles_of
from recsys.data.schema import SPLITS, FeatureSpec
from recsys.errors import ArtifactError, ConfigError, DataError
from recsys.ids import Vocabulary
from recsys.index.build import build_for
from recsys.index.calibrate import calibrate, usable_ks
from recsys.index.files import load_searcher, write_indexes
from recsys.index.rungs import Ladder
from recsys.index.searcher import Searcher
from recsys.index.space import LadderSpace
from recsys.index.specs import RungSpec
from recsys.index.store import map_vectors, save_vectors
from recsys.item_values import ItemValues
from recsys.model.exported import LAYOUT, WEIGHTS, ExportedTowers
from recsys.settings import to_mapping
from recsys.users import UserStore, distinct
from recsys.widths import WidthLadder

__all__ = [
    "Bundle",
    "PublishOptions",
    "current_version",
    "open_current",
    "read_names",
    "rollback",
    "set_current",
    "write_bundle",
]

_VECTORS, _ITEMS, _HISTORY_ITEMS, _USERS, _INDEX, _LADDER = (
    "item_vectors.safetensors",
    "items.parquet",
    "history_items.parquet",
    "users.parquet",
    "index",
    "ladder.json",
)


@dataclass(frozen=True, kw_only=True)
class PublishOptions:
    """How a bundle's ladder is measured."""

    num_queries: int = 256
    """Users whose vectors the ladder is measured with; all of them where there are fewer (the table then says so where
    they are too few to rely on)."""
    ks: tuple[int, ...] = (10, 100)
    """The k of each measured overlap, where it is at most a quarter of the catalogue; latency is measured at the
    largest."""
    repeats: int = 5
    """Most passes through the queries, in each of which every rung that is left answers every query once."""
    budget_s: float = 600.0
    """Seconds that calibration should take, building indexes apart; what is measured less often for it is noted."""
    space: LadderSpace = field(default_factory=LadderSpace)
    """The rungs on offer."""
    seed: int = 1
    """Fixes the queries, their order, and the cells of the IVF indexes."""
    activate: bool = True
    """Whether CURRENT moves to the new version at once."""

    def __post_init__(self) -> None:
        for name in ("num_queries", "repeats"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: got {getattr(self, name)}, expected at least 1")
        if not self.ks or min(self.ks) < 1:
            raise ConfigError(f"ks: got {list(self.ks)}, expected positive numbers of items")
        if not self.budget_s > 0:
            raise ConfigError(f"budget_s: got {self.budget_s}, expected seconds above 0")


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
        item_values: which items have which value, by the name of each categorical or multi-hot feature of items.
        users: what is known about each user.
        item_vectors: ``(items, full width)`` float32 unit rows, mapped from disk, read-only.
    """

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest
        self.towers = ExportedTowers.load(path)
        self.widths: WidthLadder = self.towers.widths
        self.item_vectors, notes = map_vectors(path / _VECTORS)
        self.item_frame = _read_items(path / _ITEMS)
        self.items = Vocabulary(self.item_frame["id"].to_list())
        self.history_items = self.items
        if _HISTORY_ITEMS in manifest["files"]:
            self.history_items = Vocabulary(_read_items(path / _HISTORY_ITEMS)["id"].to_list())
        self._check(notes)
        self.item_values = _item_values(path / _ITEMS, self.item_frame, self.towers.specs)
        names = [spec.name for spec in self.towers.specs if spec.side == "user"]
        self.users = UserStore.load(
            path / _USERS,
            features=names,
            num_items=len(self.items),
            num_history_items=len(self.history_items),
            with_times=self.towers.layout.config.time_bias,
        )
        self.searcher: Searcher = load_searcher(path / _INDEX, self.item_vectors, widths=self.widths)
        self.ladder = Ladder.load(path / _LADDER)
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

    @property
    def version(self) -> str:
        """The version: the folder's name."""
        return self.path.name

    @property
    def mask_seen(self) -> bool:
        """Whether items that a user has seen are left out by default, as the dataset's protocol has it."""
        return bool(self.manifest["mask_seen"])

    @cached_property
    def titles(self) -> list[str] | None:
        """A title per item row, the id where one has none; None where the catalogue has no titles."""
        return titles_of(self.item_frame)

    def _check(self, notes: Mapping[str, Any]) -> None:
        manifest, num_items = self.manifest, len(self.item_vectors)
        for name, what, got, expected in (
            (LAYOUT, "widths", list(self.widths), manifest["widths"]),
            (LAYOUT, "norm", self.widths.norm, manifest.get("norm")),
            (LAYOUT, "head", self.widths.head, manifest.get("head")),
            (_VECTORS, "items", num_items, manifest["num_items"]),
            (_VECTORS, "width", self.item_vectors.shape[1], self.widths.full),
            (_VECTORS, "model id", notes.get("model_id"), manifest["model_id"]),
            (_ITEMS, "items", len(self.item_frame), manifest["num_items"]),
            (LAYOUT, "items", self.towers.layout.num_items, len(self.history_items)),
        ):
            if got != expected:
                raise ArtifactError(f"{self.path / name}: {what}: got {got}, expected {expected}")

    def _check_ladder(self) -> None:
        path = self.path / _LADDER
        if (got := self.ladder.measured.get("index_id")) != self.manifest["index_id"]:
            raise ArtifactError(f"{path}: index id: got {got}, expected {self.manifest['index_id']}")
        if not self.ladder.steps:
            raise ArtifactError(f"{path}: got no rung that requests can climb, expected at least one")
        for rung in self.ladder.rungs:
            if rung.width not in self.widths or not self.searcher.supports(rung):
                raise ArtifactError(f"{path}: rung {rung.name}: the bundle has no index for it")


def write_bundle(
    root: Path,
    *,
    towers: ExportedTowers,
    dataset: Dataset,
    options: PublishOptions,
    changes: Changes | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> Path:
    """Publish: encode the catalogue, index it, measure the ladder, write everything as one folder, move CURRENT.

    A crash at any moment leaves CURRENT and every earlier version as they were.

    Args:
        root: folder of versions; made if missing.
        towers: the trained towers.
        dataset: the dataset they were trained on; its catalogue, users and all of their events are published.
        options: how the ladder is measured.
        changes: what became of the catalogue since the dataset was prepared; done to its items, and noted in the
            manifest, so that a server that follows the same log knows what is already in.
        progress: called with a stage's name and the share of it that is done, 0 to 1.

    Returns:
        ``root/VERSION``.

    Raises:
        ArtifactError: the towers were not made for this dataset.
        DataError: no user has an event, so there is nothing to measure with; or the changes leave no item.
    """
    _check_same_catalogue(towers, dataset)
    tell = progress or (lambda _stage, _share: None)
    target = root / _new_version(towers, dataset, changes)
    with artifact.staged(target) as folder:
        towers.save(folder)
        model_id = _digest(folder, [WEIGHTS, LAYOUT])
        tell("encode items", 0.0)
        items = catalogue_items(towers, dataset, changes, model_id=model_id)
        item_ND, users = items.vector_ND, _users(towers, dataset, items)
        save_vectors(item_ND, folder / _VECTORS, metadata={"model_id": model_id, "widths": list(towers.widths)})
        items.frame.write_parquet(folder / _ITEMS)
        if not items.as_trained:
            dataset.item_frame.select("id").write_parquet(folder / _HISTORY_ITEMS)
        users.save(folder / _USERS)
        ks = usable_ks(options.ks, len(item_ND))
        specs = options.space.specs(towers.widths, num_items=len(item_ND), k=ks[-1], seed=options.seed)
        tell("build indexes", 0.0)
        searcher = build_for(item_ND, specs, widths=towers.widths, seed=options.seed)
        measure = partial(_measure, searcher, towers, dataset, users, options, specs, ks)
        ladder = measure(lambda share: tell("measure the ladder", share))
        (folder / _INDEX).mkdir()
        write_indexes(searcher.only(ladder.rungs), folder / _INDEX)
        index_id = _digest(folder, _index_files(folder), salt=model_id)
        replace(ladder, measured={**ladder.measured, "index_id": index_id}).save(folder / _LADDER)
        content = {
            "model_id": model_id,
            "index_id": index_id,
            "widths": list(towers.widths),
            "norm": towers.widths.norm,
            "head": towers.widths.head,
            "num_items": len(item_ND),
            "num_users": len(users),
            "mask_seen": dataset.mask_seen,
            "dataset": {"name": dataset.name, "fingerprint": dataset.manifest["fingerprint"]},
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "options": asdict(options),
        }
        if changes is not None:
            content["catalogue"] = {"log_id": changes.log_id, "sequence": changes.sequence}
        tell("write", 0.0)
        artifact.seal(folder, KIND, content)
    if options.activate:
        set_current(root, target.name)
    return target


def open_current(root: Path) -> Bundle:
    """Open the version that CURRENT names."""
    return Bundle.open(root / current_version(root))


def read_names(path: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Read what a bundle calls its items and users, without opening the rest of it.

    Args:
        path: ``root/VERSION``.

    Returns:
        Items (id and the catalogue's own columns, by item row) and users (id, and item rows as history and seen).

    Raises:
        ArtifactError: there is no bundle there, or its items or users cannot be read.
    """
    artifact.read_manifest(path, KIND)
    items = _read_items(path / _ITEMS)
    try:
        users = pl.read_parquet(path / _USERS, columns=["id", "history", "seen"])
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ArtifactError(f"{path / _USERS}: no table of users: {error}") from error
    return items, users


def _check_same_catalogue(towers: ExportedTowers, dataset: Dataset) -> None:
    layout = towers.layout
    wanted: list[tuple[str, object, object]] = [
        ("items", layout.num_items, len(dataset.items)),
        ("features", [spec.name for spec in layout.specs], [spec.name for spec in dataset.specs]),
    ]
    if layout.config.user_id:
        wanted.append(("users", layout.num_users, len(dataset.users)))
    for name, got, expected in wanted:
        if got != expected:
            raise ArtifactError(f"{dataset.path}: {name}: the towers have {got}, the dataset has {expected}")
    for have, given in zip(layout.specs, dataset.specs, strict=True):
        if have != given:
            raise ArtifactError(f"{dataset.path}: feature {have.name}: encoded otherwise than the towers were trained")


def _users(towers: ExportedTowers, dataset: Dataset, items: CatalogueItems) -> UserStore:
    """Gather what a live system knows: every event of every split, oldest first.

    Histories are rows of the towers' item table, seen items those of the catalogue: it may lack some by now.
    """
    lists, config = dataset.histories(*SPLITS), towers.layout.config
    times = dataset.history_times(*SPLITS) if config.time_bias else None
    return UserStore(
        dataset.user_frame["id"],
        histories=lists.last(config.longest_history),
        seen=distinct(items.rows_of(lists), len(items.frame)),
        features=dataset.feature_lists("user"),
        times=None if times is None else times.last(config.longest_history),
    )


def _measure(
    searcher: Searcher,
    towers: ExportedTowers,
    dataset: Dataset,
    users: UserStore,
    options: PublishOptions,
    specs: Sequence[RungSpec],
    ks: Sequence[int],
    progress: Callable[[float], None],
) -> Ladder:
    """Measure with the vectors of users that were held out, or of any with a history where none were."""
    for splits in (("test",), ("validation",), SPLITS):
        rows = np.unique(dataset.events(*splits).user)
        if len(rows):
            break
    else:
        raise DataError(f"{dataset.path}: no user has an event, so there is nobody to measure the ladder with")
    chosen = np.random.default_rng(options.seed).permutation(rows)[: options.num_queries]
    history, features, seen = users.batch(chosen)
    ladder = calibrate(
        searcher,
        towers.encode_users(history, features, chosen, users.times(chosen)),
        specs=specs,
        ks=ks,
        exclude=seen if dataset.mask_seen else None,
        repeats=options.repeats,
        seed=options.seed,
        budget_s=options.budget_s,
        progress=progress,
    )
    noted = {"query_split": splits[0] if len(splits) == 1 else "all", "space": to_mapping(options.space)}
    return replace(ladder, measured=ladder.measured | noted)


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
    wanted = {"categorical": pl.String(), "multi_hot": pl.List(pl.String)}
    found = {}
    for spec in specs:
        if spec.side == "item" and spec.kind in wanted:
            if frame.schema.get(spec.name) != wanted[spec.kind]:
                got = frame.schema.get(spec.name)
                raise ArtifactError(f"{path}: column {spec.name}: got {got}, expected {wanted[spec.kind]}")
            found[spec.name] = ItemValues.of(frame[spec.name])
    return found


def _index_files(folder: Path) -> list[str]:
    return [_VECTORS, *sorted(f"{_INDEX}/{path.name}" for path in (folder / _INDEX).iterdir())]


def _digest(folder: Path, names: list[str], *, salt: str = "") -> str:
    return _combine({name: artifact.sha256(folder / name) for name in names}, salt=salt)


def _combine(digests: Mapping[str, str], *, salt: str = "") -> str:
    lines = [salt, *(f"{name} {digest}" for name, digest in sorted(digests.items()))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _check_ids(path: Path, manifest: Mapping[str, Any]) -> None:
    """Compare the ids with the files they stand for: parts of two bundles under one manifest do not agree."""
    digests = {name: entry["sha256"] for name, entry in manifest["files"].items()}
    model = {name: digests.get(name, "") for name in (WEIGHTS, LAYOUT)}
    index = {name: digest for name, digest in digests.items() if name == _VECTORS or name.startswith(f"{_INDEX}/")}
    for name, expected in (
        ("model_id", _combine(model)),
        ("index_id", _combine(index, salt=str(manifest.get("model_id")))),
    ):
        if manifest.get(name) != expected:
            got = manifest.get(name)
            raise ArtifactError(f"{path / artifact.MANIFEST}: {name}: got {got}, expected {expected} from its files")


def _new_version(towers: ExportedTowers, dataset: Dataset, changes: Changes | None) -> str:
    """Name a version: when, in an order that sorts, and a hash of what it is made of."""
    made_of = hashlib.sha256(dataset.manifest["fingerprint"].encode())
    for name, value in towers.state_dict().items():
        made_of.update(name.encode() + value.numpy().tobytes())
    if changes is not None:
        made_of.update(f"{changes.log_id} {changes.sequence}".encode())
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{made_of.hexdigest()[:8]}"
