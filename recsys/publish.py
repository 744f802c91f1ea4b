"""Publish a trained run: from its best towers to a bundle that a server can open."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table

from recsys.bundle import PublishOptions, write_bundle
from recsys.index.rungs import Ladder
from recsys.model.best import load_towers_and_dataset


@dataclass(frozen=True, kw_only=True)
class PublishRunOptions:
    """What to publish, where to, and how its ladder is measured."""

    run: Path
    """Run folder that `recsys train` wrote; its best towers are published."""
    dataset: Path
    """Folder that `recsys prepare` wrote, the one that the run was trained on."""
    out: Path
    """Folder of bundles; a new version is added to it, and CURRENT moved."""
    publish: Annotated[PublishOptions, tyro.conf.arg(name="")] = field(default_factory=PublishOptions)
    """How the ladder is measured."""


def publish_run(options: PublishRunOptions, *, progress: Callable[[str, float], None] | None = None) -> Path:
    """Write a bundle of the run's best towers and return its folder; see `recsys.bundle.write_bundle`.

    Raises:
        ArtifactError: the run or the dataset is missing or damaged, or the towers were trained on another dataset.
    """
    towers, dataset, _ = load_towers_and_dataset(options.run, options.dataset)
    return write_bundle(options.out, towers=towers, dataset=dataset, options=options.publish, progress=progress)


def ladder_table(ladder: Ladder) -> Table:
    """Return the rungs that requests will meet most, cheapest first: the steps (*), and the best rung of each width."""
    widest = max(ladder.rungs[0].overlap)
    best = {width: ladder.best_of_width(width, k=widest) for width in ladder.widths}
    shown = [rung for rung in ladder.rungs if rung.on_ladder or rung is best[rung.width]]
    table = Table()
    for column in ("step", "rung", "width", f"overlap@{widest}", "p50 ms", "p99 ms", "MiB"):
        table.add_column(column, justify="left" if column in ("step", "rung") else "right")
    for rung in shown:
        table.add_row(
            "*" if rung.on_ladder else "",
            rung.name,
            str(rung.width),
            f"{rung.overlap[widest]:.4f}",
            f"{rung.latency_p50_ms:.3f}",
            f"{rung.latency_p99_ms:.3f}",
            f"{rung.size_bytes / 2**20:.2f}",
        )
    return table
