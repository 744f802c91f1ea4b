"""Publish a trained run: from its best towers to a bundle that a server can open."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table

from recsys.bundle_writer import PublishOptions, write_bundle
from recsys.changes import read_changes
from recsys.index.calibrate import MIN_QUERIES
from recsys.index.rungs import Ladder
from recsys.model.best import load_towers_and_dataset
from recsys.verbs import make_callable

make_callable(__name__)


@dataclass(frozen=True, kw_only=True)
class PublishRunOptions:
    """What to publish, where to, and how its ladder is measured."""

    run: Path
    """Run folder that `recsys train` wrote; its best towers are published."""
    dataset: Path
    """Folder that `recsys prepare` wrote, the one that the run was trained on."""
    out: Path
    """Folder of bundles; a new version is added to it, and CURRENT moved."""
    catalogue: Path | None = None
    """Folder of the changes that `recsys-serve --catalogue` keeps: what was put in, replaced or deleted since the
    dataset was prepared is done to the published items."""
    publish: Annotated[PublishOptions, tyro.conf.arg(name="")] = field(default_factory=PublishOptions)
    """How the ladder is measured."""


def publish_run(options: PublishRunOptions, *, progress: Callable[[str, float], None] | None = None) -> Path:
    """Write a bundle of the run's best towers and return its folder; see `recsys.bundle_writer.write_bundle`.

    Raises:
        ArtifactError: the run, the dataset or the log of changes is missing or damaged, or the towers were trained on
            another dataset.
    """
    towers, dataset, _ = load_towers_and_dataset(options.run, options.dataset)
    changes = None if options.catalogue is None else read_changes(options.catalogue)
    return write_bundle(
        options.out, towers=towers, dataset=dataset, options=options.publish, changes=changes, progress=progress
    )


def ladder_table(ladder: Ladder) -> Table:
    """Return the rungs, cheapest first, marking the steps (*)."""
    widest = max(ladder.rungs[0].overlap)
    table = Table()
    for column in ("step", "rung", "width", f"overlap@{widest}", "p50 ms", "p99 ms", "MiB"):
        table.add_column(column, justify="left" if column in ("step", "rung") else "right")
    for rung in ladder.rungs:
        table.add_row(
            "*" if rung.on_ladder else "" if rung.on_frontier else "(off)",
            rung.name,
            str(rung.width),
            f"{rung.overlap[widest]:.4f}",
            f"{rung.latency_p50_ms:.3f}",
            f"{rung.latency_p99_ms:.3f}",
            f"{rung.size_bytes / 2**20:.2f}",
        )
    return table


def ladder_notes(ladder: Ladder) -> list[str]:
    """Return what has to be said about a calibrated ladder, in sentences."""
    measured = ladder.measured
    notes = [
        f"{len(ladder.rungs)} rungs of {len(measured['trials'][0])} tried in {measured['calibration_seconds']:.0f} s, "
        "one query at a time on one thread. Time budgets choose among the steps (*); requests that name a width or an "
        "overlap, among all."
    ]
    if off := measured["widths_on_no_frontier"]:
        notes.append(
            f"On no frontier: width(s) {', '.join(map(str, off))}. Other rungs are at least as fast, small and close "
            "to the exact answer, so no request climbs there; only one that names the width is answered at it (off)."
        )
    if measured["num_queries"] < MIN_QUERIES:
        notes.append(
            f"Measured with {measured['num_queries']} queries only: too few to tell rungs apart reliably (from "
            f"{MIN_QUERIES} on)."
        )
    return notes
