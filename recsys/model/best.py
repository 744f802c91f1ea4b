"""The best towers of a run: written by training, read by whoever evaluates or publishes, without torchrec."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recsys import artifact
from recsys.errors import ArtifactError
from recsys.model.exported import ExportedTowers

TOWERS = "towers"
"""Their folder inside the run folder."""


def save_towers(run: Path, towers: ExportedTowers, content: dict[str, Any]) -> None:
    """Replace the run's best towers, all at once."""
    with artifact.staged(run / TOWERS, replace=True) as folder:
        towers.save(folder)
        artifact.seal(folder, "towers", content)


def load_towers(run: Path) -> tuple[ExportedTowers, dict[str, Any]]:
    """Return a run's best towers and their manifest, after checking both.

    Raises:
        ArtifactError: the run has none yet, or they are damaged.
    """
    if not run.is_dir():
        raise ArtifactError(f"{run}: no such run folder; train one with `recsys train`")
    manifest = artifact.read_manifest(run / TOWERS, "towers")
    artifact.verify(run / TOWERS, manifest)
    return ExportedTowers.load(run / TOWERS), manifest
