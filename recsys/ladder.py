"""Measure a ladder for any vectors: those of another system, say, before deciding on widths.

Shapes: ``vector_ND`` (items, full width), ``query_QD`` (queries, full width).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from recsys import artifact
from recsys.errors import ArtifactError, ConfigError, DataError, WidthError
from recsys.index.build import build_for
from recsys.index.calibrate import MIN_QUERIES, calibrate
from recsys.index.cells import MIN_ITEMS_FOR_IVF
from recsys.index.files import write_indexes
from recsys.index.learned_cells import MAX_LEARNED_FROM, num_learned_from
from recsys.index.rungs import Ladder
from recsys.index.space import LadderSpace
from recsys.index.store import NOTES, pages
from recsys.matrix import read_matrix
from recsys.settings import to_mapping
from recsys.widths import Norm, WidthLadder, truncate

KIND, INDEX, LADDER = "ladder", "index", "ladder.json"


@dataclass(frozen=True, kw_only=True)
class LadderOptions:
    """Which vectors, at which widths, and how long to look for rungs."""

    vectors: Path
    """Item vectors: a matrix in an .npy file, or the only tensor of a .safetensors file. Any scale."""
    queries: Path
    """Query vectors of the same width, of users that are typical; the same formats."""
    widths: tuple[int, ...]
    """Widths that the vectors were trained at, narrowest first, the last one their full width."""
    out: Path
    """Folder for ladder.json and the indexes of its rungs; must not exist yet."""
    norm: Norm = "prefix"
    """What is scaled to unit length: ``prefix``, the prefix of every width, or ``full``, the full vector alone."""
    ks: tuple[int, ...] = (10, 100)
    """The k of each measured overlap; latency is measured at the largest."""
    num_queries: int = 512
    """Queries to measure with: a seeded draw where there are more. From the others, if they are 512 or more, it is
    learned which cells hold what queries look for."""
    repeats: int = 5
    """Most passes through the queries."""
    budget_s: float = 600.0
    """Seconds that calibration should take, building indexes apart."""
    seed: int = 1
    """Fixes the queries, their order, and all that is random in indexes."""
    space: Annotated[LadderSpace, tyro.conf.arg(name="space")] = field(default_factory=LadderSpace)
    """The rungs on offer."""

    def __post_init__(self) -> None:
        if not self.ks or min(self.ks) < 1:
            raise ConfigError(f"ks: got {list(self.ks)}, expected positive numbers of items")
        if self.num_queries < MIN_QUERIES:
            raise ConfigError(f"num_queries: got {self.num_queries}, expected at least {MIN_QUERIES} to calibrate on")
        if self.repeats < 1 or not self.budget_s > 0:
            got = f"{self.repeats} and {self.budget_s}"
            raise ConfigError(f"repeats, budget_s: got {got}, expected at least one pass and seconds above 0")


def make_ladder(options: LadderOptions, *, progress: Callable[[str, float], None] | None = None) -> Ladder:
    """Build, calibrate, and write ``ladder.json`` with the indexes of its rungs.

    Raises:
        ArtifactError: a file is missing or holds no matrix, or ``out`` exists.
        DataError: there are fewer items than the largest k or than any cells need, or too few queries.
        WidthError: a vector is not finite or has no direction at a width; widths do not fit the vectors; the file says
            that others were trained.
    """
    tell = progress or (lambda _stage, _share: None)
    if options.out.exists():
        raise ArtifactError(f"{options.out}: exists already, expected a folder to make")
    tell("read", 0.0)
    widths = WidthLadder(options.widths, norm=options.norm)
    vector_ND, query_QD = (_read(path, widths) for path in (options.vectors, options.queries))
    _check_numbers(vector_ND, query_QD, options)
    store_ND = _unit(vector_ND, options.vectors, widths)
    specs = options.space.specs(widths, num_items=len(store_ND), k=max(options.ks), seed=options.seed)
    num_more = MAX_LEARNED_FROM if any(spec.engine == "ivf" for spec in specs) else 0
    order = np.random.default_rng(options.seed).permutation(len(query_QD))[: options.num_queries + num_more]
    drawn_QU = _unit(query_QD[order], options.queries, widths)
    query_QU, learn_from = drawn_QU[: options.num_queries], drawn_QU[options.num_queries :]
    tell("build indexes", 0.0)
    searcher = build_for(store_ND, specs, widths=widths, seed=options.seed, learn_from=learn_from)
    ladder = calibrate(
        searcher,
        query_QU,
        specs=specs,
        ks=options.ks,
        repeats=options.repeats,
        seed=options.seed,
        budget_s=options.budget_s,
        progress=lambda share: tell("measure the ladder", share),
    )
    learned_from = num_learned_from(len(learn_from), num_items=len(store_ND))
    noted = {"space": to_mapping(options.space), "cells_learned_from": learned_from}
    ladder = replace(ladder, measured=ladder.measured | noted)
    with artifact.staged(options.out) as folder:
        (folder / INDEX).mkdir()
        write_indexes(searcher.only(ladder.rungs), folder / INDEX)
        ladder.save(folder / LADDER)
        artifact.seal(folder, KIND, {"vectors": artifact.sha256(options.vectors), "widths": list(widths)})
    return ladder


def _read(path: Path, widths: WidthLadder) -> np.ndarray:
    vector_ND, notes = read_matrix(path)
    trained = json.loads(notes.get(NOTES, "{}")).get("widths")
    if vector_ND.shape[1] != widths.full:
        raise WidthError(f"widths: got {list(widths)}, expected the last to be {path}'s width {vector_ND.shape[1]}")
    if trained is not None and not set(widths) <= set(trained):
        raise WidthError(f"widths: got {list(widths)}, expected some of {trained}, which {path} says were trained")
    return vector_ND


def _check_numbers(vector_ND: np.ndarray, query_QD: np.ndarray, options: LadderOptions) -> None:
    num_items, k = len(vector_ND), max(options.ks)
    if num_items < k:
        raise DataError(f"{options.vectors}: got {num_items} items, expected at least k = {k}")
    if "ivf" in options.space.engines and num_items < MIN_ITEMS_FOR_IVF:
        raise DataError(
            f"{options.vectors}: got {num_items} items, expected at least {MIN_ITEMS_FOR_IVF} to make cells of "
            "(or a space without the engine ivf)"
        )
    if len(query_QD) < MIN_QUERIES:
        raise DataError(f"{options.queries}: got {len(query_QD)} queries, expected at least {MIN_QUERIES}")


def _unit(vector_ND: np.ndarray, path: Path, widths: WidthLadder) -> np.ndarray:
    """Return unit rows, having checked every row at the narrowest width that is scaled; name the first at fault."""
    narrowest = widths.widths[0] if widths.norm == "prefix" else widths.full
    unit_ND = np.empty(vector_ND.shape, dtype=np.float32)
    for page in pages(len(vector_ND)):
        some_PD = vector_ND[page].astype(np.float32, copy=False)
        finite_P = np.isfinite(some_PD).all(axis=1)
        if not finite_P.all():
            row = page.start + int(np.argmin(finite_P))
            raise WidthError(f"{path}: row {row}: got NaN or infinity, expected finite numbers")
        zero_P = ~some_PD[:, :narrowest].any(axis=1)
        if zero_P.any():
            row = page.start + int(np.argmax(zero_P))
            raise WidthError(f"{path}: row {row}: got {narrowest} zeros, expected a direction (norm above 0)")
        unit_ND[page] = truncate(some_PD, widths.full, widths)
    return unit_ND
