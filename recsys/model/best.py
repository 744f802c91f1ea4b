"""The best towers of a run: written by training, read by whoever evaluates or publishes, without torchrec."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recsys import artifact
from recsys.data.dataset import Dataset
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


def load_towers_and_dataset(run: Path, folder: Path) -> tuple[ExportedTowers, Dataset, dict[str, Any]]:
    """Return a run's best towers, the dataset that they were trained on, and the towers' manifest.

    Another dataset is refused even where its sizes agree: its rows may stand for other users and items.

    Raises:
        ArtifactError: one of the two is missing or damaged, or they do not belong together.
    """
    towers, manifest = load_towers(run)
    dataset = Dataset(folder)
    given, expected = dataset.manifest["fingerprint"], manifest["dataset_fingerprint"]
    if given != expected:
        raise ArtifactError(
            f"dataset: got {folder} with fingerprint {given[:12]}, expected {expected[:12]}, the one that {run} was "
            "trained on"
        )
    return towers, dataset, manifest
