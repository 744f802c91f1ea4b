"""Bundles for load: given vectors published as they are, and the same bundle with one rung of its ladder alone.

The towers of such a bundle are plain tables (no projection, users by id), so that its items and users have exactly the
vectors that were given: those of a trained model, or a catalogue that was grown from it (`benchmarks._catalogue`).
Everything else, indexes, calibration, files, is what `recsys publish` does.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float

from recsys import artifact
from recsys.bundle_writer import PublishOptions, write_bundle
from recsys.config import ModelConfig
from recsys.current import KIND, set_current
from recsys.data.dataset import Dataset
from recsys.data.event_files import SUFFIX, write_events
from recsys.data.schema import SPLITS
from recsys.index.rungs import Ladder, Rung
from recsys.model.exported import ExportedTowers
from recsys.model.layout import ITEM_TABLE, USER_TABLE, Layout
from recsys.widths import WidthLadder

_LADDER = "ladder.json"


def publish_vectors(
    root: Path,
    *,
    item_ND: Float[np.ndarray, "items full"],
    user_UD: Float[np.ndarray, "users full"],
    widths: WidthLadder,
    options: PublishOptions,
    num_held_out: int | None = None,
) -> Path:
    """Publish vectors as a bundle of items ``i0``, ``i1``, ... and users ``u0``, ``u1``, ...; nobody has seen anything.

    Args:
        root: folder of bundles.
        item_ND: unit vectors.
        user_UD: the same, of users; tied heads only.
        widths: the trained widths.
        options: how the ladder is measured.
        num_held_out: how many of the users, the first, it is measured with; cells are learned from the others. None for
            all.

    Returns:
        ``root/VERSION``.
    """
    assert widths.head == "tied", "a user is one row of a table"
    num_held_out = len(user_UD) if num_held_out is None else num_held_out
    dataset = _dataset(root / "dataset", num_items=len(item_ND), num_users=len(user_UD), num_held_out=num_held_out)
    config = ModelConfig(
        widths=widths.widths,
        norm=widths.norm,
        embedding_dim=widths.full,
        hidden=(),
        projection=False,
        history="none",
        user_id=True,
    )
    towers = ExportedTowers(Layout(config=config, num_items=len(item_ND), num_users=len(user_UD), specs=()))
    for table, vector_TD in ((ITEM_TABLE, item_ND), (USER_TABLE, user_UD)):
        towers.get_parameter(f"tables.{table}.weight").copy_(torch.from_numpy(np.array(vector_TD)))
    return write_bundle(root, towers=towers, dataset=dataset, options=options)


def with_rung_alone(bundle: Path, rung: Rung, root: Path) -> Path:
    """Write a bundle that differs only in its ladder, which has one rung; its other files are those of the first."""
    manifest = artifact.read_manifest(bundle, KIND)
    ladder = Ladder.load(bundle / _LADDER)
    with artifact.staged(root / bundle.name) as folder:
        for path in sorted(bundle.rglob("*")):
            if path.is_file() and path.name not in (_LADDER, artifact.MANIFEST):
                (folder / path.relative_to(bundle)).parent.mkdir(exist_ok=True)
                os.link(path, folder / path.relative_to(bundle))
        replace(ladder, rungs=(replace(rung, on_ladder=True),)).save(folder / _LADDER)
        made_by_seal = ("fingerprint", "kind", "format", "versions", "files")
        artifact.seal(folder, KIND, {name: value for name, value in manifest.items() if name not in made_by_seal})
    set_current(root, bundle.name)
    return root


def _dataset(path: Path, *, num_items: int, num_users: int, num_held_out: int) -> Dataset:
    """Write a dataset of ids and one event for each user, so that the ladder may be measured with those held out."""
    if not path.exists():
        with artifact.staged(path) as folder:
            for name, prefix, num in (("items", "i", num_items), ("users", "u", num_users)):
                pl.DataFrame({"id": [f"{prefix}{row}" for row in range(num)]}).write_parquet(folder / f"{name}.parquet")
            events = pl.DataFrame({"user": np.arange(num_users), "item": np.arange(num_users) % num_items})
            events = events.cast(pl.UInt32)
            parts = {"test": events[:num_held_out], "train": events[num_held_out:]}
            for split in SPLITS:
                write_events(folder / f"{split}{SUFFIX}", [parts.get(split, events[:0])])
            content: dict[str, Any] = {
                "name": "vectors",
                "simulated": True,
                "protocol": "leave-last-out",
                "ordered": False,
                "mask_seen": False,
                "time_unit": None,
                "features": [],
            }
            artifact.seal(folder, "dataset", content)
    return Dataset(path)
