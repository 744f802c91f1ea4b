"""For tests of what is built on this project: small worlds, and Hypothesis strategies (which need hypothesis).

The worlds are a dataset and a bundle made in a second, with known ids. Nothing in them is real: items belong to a few
genres, users prefer one of them, towers have random weights. Both manifests say ``"simulated": true``. Use them to test
what is built around a bundle, never to judge recommendations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import polars as pl
import torch
from hypothesis import strategies as st

from recsys import artifact
from recsys.bundle_writer import PublishOptions, write_bundle
from recsys.config import ModelConfig
from recsys.data.dataset import Dataset
from recsys.data.event_files import SUFFIX, write_events
from recsys.data.schema import FEATURE_PREFIX, FeatureSpec
from recsys.data.shards import ROW_GROUPS, describe_row_groups
from recsys.index.rungs import Ladder, Rung, climbable
from recsys.index.space import LadderSpace
from recsys.index.specs import Engine
from recsys.model.exported import ExportedTowers
from recsys.model.layout import Layout
from recsys.widths import Head, Norm, WidthLadder

_GENRES = ("comedy", "drama", "horror", "musical", "western")
_GROUPS = ("young", "old")


def small_dataset(path: Path, *, num_users: int = 60, num_items: int = 80, seed: int = 1) -> Path:
    """Write a prepared dataset of simulated users who mostly like one genre: leave-last-out, with times and features.

    Ids are ``u0``, ``u1``, ... and ``i0``, ``i1``, ...; every user has 5 to 20 distinct items.

    Args:
        path: the folder to make.
        num_users: users.
        num_items: items, at least 40.
        seed: fixes everything.

    Returns:
        ``path``.
    """
    assert num_items >= 40, f"num_items: got {num_items}, expected at least 40"
    random = np.random.default_rng(seed)
    genre_N = random.integers(len(_GENRES), size=num_items)
    events = _events(random, num_users=num_users, genre_N=genre_N)
    specs = (
        FeatureSpec(name="genre", side="item", kind="multi_hot", values=_GENRES),
        FeatureSpec(name="title", side="item", kind="text", num_buckets=32),
        FeatureSpec(name="group", side="user", kind="categorical", values=_GROUPS),
    )
    titles = [f"A {_GENRES[genre]} called {item}" for item, genre in enumerate(genre_N)]
    items: dict[str, list[Any]] = {"title": titles, "genre": [[_GENRES[genre]] for genre in genre_N]}
    users: dict[str, list[Any]] = {
        "group": [_GROUPS[choice] for choice in random.integers(len(_GROUPS), size=num_users)]
    }
    with artifact.staged(path) as folder:
        from_last = pl.col("user").cum_count(reverse=True).over("user")
        splits = {"train": from_last > 2, "fold_in": pl.lit(value=False), "validation": from_last == 2}
        for name, chosen in {**splits, "test": from_last == 1}.items():
            write_events(folder / f"{name}{SUFFIX}", [events.filter(chosen)])
        _table("i", items, [spec for spec in specs if spec.side == "item"]).write_parquet(folder / "items.parquet")
        _table("u", users, [spec for spec in specs if spec.side == "user"]).write_parquet(folder / "users.parquet")
        content = {
            "name": "small-world",
            "simulated": True,
            "protocol": "leave-last-out",
            "seed": seed,
            "ordered": True,
            "mask_seen": True,
            "time_unit": "s",
            "counts": {"events": len(events), "users": num_users, "items": num_items},
            "features": [spec.to_json() for spec in specs],
            ROW_GROUPS: describe_row_groups(folder),
        }
        artifact.seal(folder, "dataset", content)
    return path


def small_towers(dataset: Dataset, *, seed: int = 1, **settings: Any) -> ExportedTowers:
    """Return towers with random weights that fit a dataset; ``settings`` are those of `ModelConfig` to change."""
    small: dict[str, Any] = {"widths": (4, 8, 16), "embedding_dim": 8, "hidden": (16,), "history_windows": (1, 5)}
    config = ModelConfig(**(small | settings))
    torch.manual_seed(seed)
    layout = Layout(config=config, num_items=dataset.num_items, num_users=dataset.num_users, specs=dataset.specs)
    return ExportedTowers(layout, dataset.feature_lists("item"))


def small_bundle(root: Path, *, num_users: int = 60, num_items: int = 80, seed: int = 1, **settings: Any) -> Path:
    """Publish a bundle of simulated data and random towers under ``root`` and make it current.

    IVF rungs exist from 624 items on (`recsys.index.build.MIN_ITEMS_FOR_IVF`). The dataset is left beside the
    versions, as ``root/dataset-SEED-USERS-ITEMS``, for the next call with the same arguments.

    Args:
        root: folder of bundles.
        num_users: users.
        num_items: items, at least 40.
        seed: fixes everything.
        settings: of the model, as in `small_towers`.

    Returns:
        ``root/VERSION``, for `recsys.bundle.Bundle.open`.
    """
    folder = root / f"dataset-{seed}-{num_users}-{num_items}"
    if not folder.exists():
        small_dataset(folder, num_users=num_users, num_items=num_items, seed=seed)
    dataset = Dataset(folder)
    # Few of the rungs on offer: with a thousand items all of them take seconds to measure.
    space = LadderSpace(max_trials=150)
    options = PublishOptions(num_queries=16, repeats=1, space=space, seed=seed)
    return write_bundle(root, towers=small_towers(dataset, seed=seed, **settings), dataset=dataset, options=options)


def _events(random: np.random.Generator, *, num_users: int, genre_N: np.ndarray) -> pl.DataFrame:
    """Draw each user's distinct items, those of the favourite genre nine times as likely as others."""
    favourite_U = random.integers(len(_GENRES), size=num_users)
    weight_UN = np.where(favourite_U[:, None] == genre_N, 9.0, 1.0)
    # Gumbel top-k draws without replacement for all users at once.
    order_UN = np.argsort(-(np.log(weight_UN) + random.gumbel(size=weight_UN.shape)), axis=1)
    length_U = random.integers(5, 21, size=num_users)
    user = np.repeat(np.arange(num_users), length_U)
    place = np.arange(len(user)) - np.repeat(np.cumsum(length_U) - length_U, length_U)
    return pl.DataFrame(
        {
            "user": user.astype(np.uint32),
            "item": order_UN[user, place].astype(np.uint32),
            "time": 1_700_000_000 + 3_600 * place.astype(np.int64),
        }
    )


def _table(prefix: str, raw: dict[str, list[Any]], specs: list[FeatureSpec]) -> pl.DataFrame:
    num = len(next(iter(raw.values())))
    columns = {"id": [f"{prefix}{row}" for row in range(num)], **raw}
    frame = pl.DataFrame(columns)
    encoded = [
        pl.Series(FEATURE_PREFIX + spec.name, [spec.encode(value) for value in raw[spec.name]], pl.List(pl.UInt32))
        for spec in specs
    ]
    return frame.with_columns(encoded)


@st.composite
def width_ladders(
    draw: st.DrawFn,
    *,
    max_width: int = 64,
    max_widths: int = 5,
    norms: tuple[Norm, ...] = get_args(Norm),
    heads: tuple[Head, ...] = get_args(Head),
) -> WidthLadder:
    """Hypothesis strategy: any ladder of trained widths, with any of these norms and heads."""
    widths = draw(st.sets(st.integers(1, max_width), min_size=1, max_size=max_widths))
    return WidthLadder(sorted(widths), norm=draw(st.sampled_from(norms)), head=draw(st.sampled_from(heads)))


def vectors(widths: WidthLadder, *, rows: int) -> st.SearchStrategy[np.ndarray]:
    """Hypothesis strategy: ``(rows, full width)`` float32 vectors, of any direction and scale, with no zero prefix."""
    return _with_directions(rows, widths.full, [slice(0, widths.widths[0])])


def queries(widths: WidthLadder, *, rows: int) -> st.SearchStrategy[np.ndarray]:
    """Hypothesis strategy: ``(rows, query size)`` float32 queries, of any direction and scale, with no zero prefix."""
    narrowest = widths.widths[0]
    starts = [slice(block.start, block.start + narrowest) for block in widths.query_blocks]
    return _with_directions(rows, widths.query_size, starts)


@st.composite
def _with_directions(draw: st.DrawFn, rows: int, columns: int, nonzero: Sequence[slice]) -> np.ndarray:
    # Most coordinates come of a seed and some are drawn: drawing every one would take most of a test's time.
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size, filled = draw(st.sampled_from([1.0, 100.0, 1e-4])), draw(st.sampled_from([1.0, 0.5, 0.1]))
    matrix = random.uniform(-size, size, (rows, columns)) * (random.random((rows, columns)) < filled)
    places = st.integers(0, rows * columns - 1)
    for place, value in draw(st.dictionaries(places, st.floats(-100, 100, width=32), max_size=10)).items():
        matrix.flat[place] = value
    matrix = np.where(np.abs(matrix) > 1e-6, matrix, 0).astype(np.float32)
    for block in nonzero:
        matrix[~matrix[:, block].any(axis=1), block.start] = size
    return matrix


@st.composite
def rungs(draw: st.DrawFn, *, widths: tuple[int, ...] = (16, 32, 64, 128), ks: tuple[int, ...] = (10, 100)) -> Rung:
    """Hypothesis strategy: a rung with any measurements, some of them so round that several rungs share them."""
    overlap = st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0]) | st.floats(0, 1)
    p99_ms = draw(st.sampled_from([0.5, 1.0, 1.05, 1.2, 4.0]) | st.floats(0.01, 1000))
    engine: Engine = draw(st.sampled_from(("exact", "ivf")))
    return Rung(
        engine=engine,
        width=draw(st.sampled_from(widths)),
        nprobe=draw(st.integers(1, 64)) if engine == "ivf" else 0,
        rerank=draw(st.sampled_from([0, 100, 400])),
        overlap={k: draw(overlap) for k in ks},
        latency_p50_ms=p99_ms / draw(st.floats(1, 5)),
        latency_p99_ms=p99_ms,
        size_bytes=draw(st.integers(1, 2**40)),
    )


@st.composite
def ladders(draw: st.DrawFn, *, max_rungs: int = 10) -> Ladder:
    """Hypothesis strategy: any measured rungs, with the steps that publishing would choose among them."""
    measured = draw(st.lists(rungs(), min_size=1, max_size=max_rungs))
    measured.sort(key=lambda rung: rung.latency_p99_ms)
    marked = [replace(rung, on_ladder=on) for rung, on in zip(measured, climbable(measured), strict=True)]
    return Ladder(rungs=tuple(marked), measured={})
