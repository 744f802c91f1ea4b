"""``recsys prepare``: from interaction logs to a dataset folder that is either whole or not there.

A log is scanned and checked (`recsys.data.log`), coded and sorted (`recsys.data.events`), and split
(`recsys.data.split`); users and items are described by their features (`recsys.data.features`). What is written is said
in `recsys.data.schema`; the order of events, and so what counts as before and after, in `recsys.data.events`.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recsys import artifact
from recsys.data import split
from recsys.data.event_files import SUFFIX, write_events
from recsys.data.events import CodedLog, code_log
from recsys.data.features import encode_table
from recsys.data.log import open_log
from recsys.data.options import PrepareOptions
from recsys.data.recipes import Recipe, TableRecipe
from recsys.data.schema import SPLITS, FeatureSpec, Side
from recsys.data.shards import ROW_GROUPS, describe_row_groups
from recsys.data.sources import Sources
from recsys.errors import DataError
from recsys.progress import Tell, tell_nobody

__all__ = ["PrepareOptions", "prepare"]


def prepare(options: PrepareOptions, *, progress: Tell = tell_nobody) -> Path:
    """Write a dataset folder and return its path.

    The same files, recipe and seed give the same bytes. Nothing is left behind by a failure.

    Raises:
        ConfigError: options or the recipe's settings are unknown, out of range, or contradict each other.
        DataError: a file, column or value cannot be used, a checksum differs, or a filter or split leaves nothing.
        ArtifactError: the folder is there and ``overwrite`` is not set.
    """
    recipe = options.to_recipe()
    own_data = options.recipe is None
    sources = Sources(recipe, options.folder(recipe))
    with artifact.staged(options.out, replace=options.overwrite) as folder:
        if options.verify_checksums:
            progress("check the files' sums", 0.0)
            sources.verify()
        work = folder / "work"
        work.mkdir()
        log = open_log(sources.log_files(recipe.log.files), sources.log_files(recipe.log.test_files), recipe.log)
        progress("check the log", 0.0)
        num_usable = log.check()
        dropped = {"drop_unusable": num_usable} if recipe.log.drop_unusable else {}
        coded = code_log(
            log,
            filters=recipe.filters,
            folder=work,
            num_rows=num_usable,
            max_rows=options.max_rows_in_memory,
            progress=progress,
        )
        facts = _write_splits(
            coded, recipe=recipe, time_unit=log.time_unit, options=options, folder=folder, progress=progress
        )
        counts = _count_splits(coded.chunks)
        shutil.rmtree(work)
        progress("describe items and users", 0.0)
        described = {
            "items": _describe(sources, recipe.items, coded.item_ids, side="item", folder=folder),
            "users": _describe(sources, recipe.users, coded.user_ids, side="user", folder=folder),
        }
        content = {
            "name": recipe.name,
            "ordered": recipe.log.ordered,
            "time_unit": log.time_unit,
            "mask_seen": recipe.mask_seen,
            "num_users": len(coded.user_ids),
            "num_items": len(coded.item_ids),
            "protocol": recipe.protocol.name,
            "seed": options.seed,
            "split": facts,
            "counts": {
                "rows_read": log.num_read() if dropped else num_usable,
                "rows_after": dropped | coded.rows_after,
                **counts,
                "items_without_features": described["items"][1],
                "users_without_features": described["users"][1],
            },
            "features": [spec.to_json() for specs, _ in described.values() for spec in specs],
            "recipe": recipe.to_json(),
            "checksums_verified": options.verify_checksums and not own_data,
            ROW_GROUPS: describe_row_groups(folder),
        }
        artifact.seal(folder, "dataset", content)
    return options.out


def _write_splits(
    coded: CodedLog, *, recipe: Recipe, time_unit: str | None, options: PrepareOptions, folder: Path, progress: Tell
) -> dict[str, Any]:
    """Split chunk by chunk, then stream each split into its file; return what the protocol found out."""
    log_facts = split.LogFacts(
        user_lengths=coded.user_lengths,
        times=pl.scan_parquet(coded.chunks, glob=False).select("time") if time_unit is not None else None,
        time_unit=time_unit,
        max_rows=options.max_rows_in_memory,
    )
    planned = split.plan(recipe.protocol, log_facts, seed=options.seed)
    for number, path in enumerate(coded.chunks):
        progress("split", number / len(coded.chunks))
        frame = pl.read_parquet(path)
        chunk = split.Chunk(
            user=frame["user"].to_numpy().astype(np.int64),
            time=frame["time"].to_numpy() if time_unit is not None else None,
            published_test=frame["published_test"].to_numpy(),
        )
        assigned = pl.Series(planned.assign(chunk), dtype=pl.UInt8)
        frame.drop("published_test").with_columns(split=assigned).write_parquet(path, compression="lz4")
    for code, name in enumerate(SPLITS):
        chunks = map(pl.read_parquet, coded.chunks)
        write_events(folder / f"{name}{SUFFIX}", (frame.filter(pl.col("split") == code) for frame in chunks))
    return planned.facts


def _describe(
    sources: Sources, recipe: TableRecipe | None, ids: pl.Series, *, side: Side, folder: Path
) -> tuple[list[FeatureSpec], int | None]:
    """Write ``items.parquet`` or ``users.parquet``; return its features and how many ids have no row there."""
    table = None if recipe is None else sources.table(recipe.file, recipe.id)
    frame, specs, num_missing = encode_table(table, ids, recipe=recipe, side=side)
    frame.write_parquet(folder / f"{side}s.parquet")
    return specs, num_missing


def _count_splits(chunks: list[Path]) -> dict[str, dict[str, int]]:
    """Count each split's events and users, and what makes its targets hard or impossible to find.

    Args:
        chunks: of the split log.

    Raises:
        DataError: there is nothing to train on, or a split has no users to be asked for.
    """
    log = pl.scan_parquet(chunks, glob=False)
    scanned = {name: log.filter(pl.col("split") == code) for code, name in enumerate(SPLITS)}
    counts: dict[str, dict[str, int]] = {}
    for number, name in enumerate(SPLITS):
        totals = scanned[name].select(events=pl.len(), users=pl.col("user").n_unique()).collect(engine="streaming")
        counts[name] = totals.row(0, named=True)
        if not counts[name]["events"] and name != "fold_in":
            raise DataError(
                f"split {name}: got no users, expected some; choose other fractions or instants, another protocol, "
                "or a longer log"
            )
        if name in ("validation", "test"):
            history = pl.concat([scanned[before] for before in SPLITS[:number]])
            counts[name] |= _count_hard(scanned[name], history)
    return counts


def _count_hard(targets: pl.LazyFrame, history: pl.LazyFrame) -> dict[str, int]:
    known_users, known_items = (history.select(pl.col(one).unique()) for one in ("user", "item"))
    pairs = targets.select("user", "item").unique()
    found = pl.collect_all(
        [
            targets.select("user").unique().join(known_users, on="user", how="anti").select(pl.len()),
            targets.join(known_items, on="item", how="anti").select(pl.len()),
            history.select("user", "item").join(pairs, on=["user", "item"], how="semi").unique().select(pl.len()),
        ],
        engine="streaming",
    )
    names = ("users_without_history", "events_of_unseen_items", "pairs_seen_before")
    return {name: int(one.item()) for name, one in zip(names, found, strict=True)}
