"""Writes what `recsys.bundle` opens: encode, index, measure, in one folder that appears whole."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from recsys import artifact
from recsys.bundle import HISTORY_ITEMS, INDEX, ITEMS, LADDER, USER_VECTORS, USERS, VECTORS, combined
from recsys.catalogue import CatalogueItems, catalogue_items
from recsys.changes import Changes
from recsys.current import KIND, set_current
from recsys.data.dataset import Dataset
from recsys.data.schema import SPLITS
from recsys.errors import ArtifactError, ConfigError, DataError
from recsys.index.build import build_for
from recsys.index.calibrate import calibrate, usable_ks
from recsys.index.files import write_indexes
from recsys.index.learned_cells import MAX_LEARNED_FROM, MIN_LEARNED_FROM, num_learned_from
from recsys.index.rungs import Ladder
from recsys.index.searcher import Searcher
from recsys.index.space import LadderSpace
from recsys.index.specs import RungSpec
from recsys.index.store import save_vectors
from recsys.model.exported import LAYOUT, WEIGHTS, ExportedTowers
from recsys.settings import to_mapping
from recsys.users import UserStore, distinct


@dataclass(frozen=True, kw_only=True)
class PublishOptions:
    """How a bundle's ladder is measured."""

    num_queries: int = 512
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
    user_vectors: bool = True
    """Whether a vector is kept for every user, as many bytes each as an item's take, so that asking for a known user
    needs no encoding."""
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
        save_vectors(item_ND, folder / VECTORS, metadata={"model_id": model_id, "widths": list(towers.widths)})
        items.frame.write_parquet(folder / ITEMS)
        if not items.as_trained:
            dataset.item_frame.select("id").write_parquet(folder / HISTORY_ITEMS)
        users.save(folder / USERS)
        if options.user_vectors:
            tell("encode users", 0.0)
            user_UQ = _queries(towers, users, np.arange(len(users)))
            save_vectors(user_UQ, folder / USER_VECTORS, metadata={"model_id": model_id, "widths": list(towers.widths)})
        ks = usable_ks(options.ks, len(item_ND))
        specs = options.space.specs(towers.widths, num_items=len(item_ND), k=ks[-1], seed=options.seed)
        tell("build indexes", 0.0)
        drawn = _draw(dataset, options, learn=any(spec.engine == "ivf" for spec in specs))
        # Not of nobody: encoders of histories take one user at least.
        learn_from = _queries(towers, users, drawn.learned_from) if len(drawn.learned_from) else None
        searcher = build_for(item_ND, specs, widths=towers.widths, seed=options.seed, learn_from=learn_from)
        measure = partial(_measure, searcher, towers, users, drawn, options, specs, ks, mask_seen=dataset.mask_seen)
        ladder = measure(progress=lambda share: tell("measure the ladder", share))
        (folder / INDEX).mkdir()
        write_indexes(searcher.only(ladder.rungs), folder / INDEX)
        index_id = _digest(folder, _index_files(folder), salt=model_id)
        replace(ladder, measured={**ladder.measured, "index_id": index_id}).save(folder / LADDER)
        tell("write", 0.0)
        content = _made_of(towers, dataset, changes) | {"model_id": model_id, "index_id": index_id}
        content |= {"num_items": len(item_ND), "num_users": len(users), "options": asdict(options)}
        artifact.seal(folder, KIND, content)
    if options.activate:
        set_current(root, target.name)
    return target


def _made_of(towers: ExportedTowers, dataset: Dataset, changes: Changes | None) -> dict[str, Any]:
    """Return what the manifest says of a bundle's origin."""
    content: dict[str, Any] = {
        "widths": list(towers.widths),
        "norm": towers.widths.norm,
        "head": towers.widths.head,
        "mask_seen": dataset.mask_seen,
        "dataset": {"name": dataset.name, "fingerprint": dataset.manifest["fingerprint"]},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if changes is not None:
        content["catalogue"] = {"log_id": changes.log_id, "sequence": changes.sequence}
    return content


def _check_same_catalogue(towers: ExportedTowers, dataset: Dataset) -> None:
    layout = towers.layout
    wanted: list[tuple[str, object, object]] = [
        ("items", layout.num_items, dataset.num_items),
        ("features", [spec.name for spec in layout.specs], [spec.name for spec in dataset.specs]),
    ]
    if layout.config.user_id:
        wanted.append(("users", layout.num_users, dataset.num_users))
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


def _queries(towers: ExportedTowers, users: UserStore, rows: np.ndarray) -> Float[np.ndarray, "users query"]:
    """Return what a search for each of these users asks."""
    history, features, _ = users.batch(rows)
    query_UQ: np.ndarray = towers.encode_users(history, features, rows, users.times(rows))
    return query_UQ


@dataclass(frozen=True)
class _Drawn:
    """Users by row, drawn at random: some to measure the ladder with, others to learn from, and where the first are of.

    Args:
        measured: users that were held out, or any with a history where none were.
        learned_from: others with a history; of those that were held out only where there are too few without. Nobody
            where there is nothing to learn.
        split: the part of the dataset that the first are of, or ``all``.
    """

    measured: np.ndarray
    learned_from: np.ndarray
    split: str


def _draw(dataset: Dataset, options: PublishOptions, *, learn: bool) -> _Drawn:
    everybody = np.unique(dataset.events(*SPLITS).user)
    if not len(everybody):
        raise DataError(f"{dataset.path}: no user has an event, so there is nobody to measure the ladder with")
    by_split = {split: np.unique(dataset.events(split).user) for split in ("test", "validation")} | {"all": everybody}
    split, held_out = next((split, rows) for split, rows in by_split.items() if len(rows))
    random = np.random.default_rng(options.seed)
    measured = random.permutation(held_out)[: options.num_queries]
    others = np.setdiff1d(everybody, held_out)
    if len(others) < MIN_LEARNED_FROM:
        others = np.setdiff1d(everybody, measured)
    return _Drawn(measured, random.permutation(others)[: MAX_LEARNED_FROM if learn else 0], split)


def _measure(
    searcher: Searcher,
    towers: ExportedTowers,
    users: UserStore,
    drawn: _Drawn,
    options: PublishOptions,
    specs: Sequence[RungSpec],
    ks: Sequence[int],
    *,
    mask_seen: bool,
    progress: Callable[[float], None],
) -> Ladder:
    _, _, seen = users.batch(drawn.measured)
    ladder = calibrate(
        searcher,
        _queries(towers, users, drawn.measured),
        specs=specs,
        ks=ks,
        exclude=seen if mask_seen else None,
        repeats=options.repeats,
        seed=options.seed,
        budget_s=options.budget_s,
        progress=progress,
    )
    noted = {
        "query_split": drawn.split,
        "space": to_mapping(options.space),
        "cells_learned_from": num_learned_from(len(drawn.learned_from), num_items=searcher.num_items),
    }
    return replace(ladder, measured=ladder.measured | noted)


def _index_files(folder: Path) -> list[str]:
    return [VECTORS, *sorted(f"{INDEX}/{path.name}" for path in (folder / INDEX).iterdir())]


def _digest(folder: Path, names: list[str], *, salt: str = "") -> str:
    return combined({name: artifact.sha256(folder / name) for name in names}, salt=salt)


def _new_version(towers: ExportedTowers, dataset: Dataset, changes: Changes | None) -> str:
    """Name a version: when, in an order that sorts, and a hash of what it is made of."""
    made_of = hashlib.sha256(dataset.manifest["fingerprint"].encode())
    for name, value in towers.state_dict().items():
        made_of.update(name.encode() + value.numpy().tobytes())
    if changes is not None:
        made_of.update(f"{changes.log_id} {changes.sequence}".encode())
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}-{made_of.hexdigest()[:8]}"
