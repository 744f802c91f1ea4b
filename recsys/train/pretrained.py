"""Vectors that items start with, from another system: of a language or image model, or of an earlier run.

Shapes: ``vector_GE`` (given vectors, embedding_dim), ``rows_RE`` consecutive rows of the item table.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recsys.config import TrainConfig
from recsys.data.dataset import Dataset
from recsys.errors import ArtifactError, DataError
from recsys.matrix import read_matrix

_BLOCK = 65_536
"""Vectors that are in memory at a time: files are mapped."""


@dataclass(frozen=True)
class Pretrained:
    """Vectors and whose they are.

    Args:
        vector_GE: ``(vectors, embedding_dim)``.
        place_G: ``(vectors,)`` places of vectors in the order of their items' rows.
        row_G: ``(vectors,)`` those rows, strictly increasing.
    """

    vector_GE: np.ndarray
    place_G: np.ndarray
    row_G: np.ndarray

    def fill(self, rows_RE: Tensor, start: int) -> None:
        """Overwrite those rows of a shard, in place, that there are vectors for.

        Args:
            rows_RE: ``(rows, embedding_dim)``.
            start: where the shard begins in the table.
        """
        first, stop = np.searchsorted(self.row_G, (start, start + len(rows_RE)))
        for block in range(first, stop, _BLOCK):
            some = slice(block, min(block + _BLOCK, stop))
            vector_BE = np.asarray(self.vector_GE[self.place_G[some]], dtype=np.float32)
            own_B = torch.from_numpy(self.row_G[some] - start).to(rows_RE.device)
            rows_RE[own_B] = torch.from_numpy(vector_BE).to(rows_RE)


def read_pretrained(config: TrainConfig, dataset: Dataset) -> Pretrained | None:
    """Return the vectors that the settings name; None where they name none.

    Raises:
        DataError: a file cannot be read; vectors have another width than tables or are not finite; ids are not as many,
            are not of the dataset's items, or come twice.
    """
    if config.pretrained_items is None or config.pretrained_ids is None:
        return None
    path = Path(config.pretrained_items)
    try:
        vector_GE, _ = read_matrix(path)
    except ArtifactError as error:
        raise DataError(f"pretrained_items: {error}") from error
    if vector_GE.shape[1] != config.model.embedding_dim:
        raise DataError(
            f"pretrained_items: got vectors of width {vector_GE.shape[1]} in {path}, expected "
            f"{config.model.embedding_dim}, which is model.embedding_dim"
        )
    ids = _read_ids(Path(config.pretrained_ids))
    if len(ids) != len(vector_GE):
        raise DataError(
            f"pretrained_ids: got {len(ids)} ids in {config.pretrained_ids}, expected {len(vector_GE)}: one for each "
            f"vector of {path}"
        )
    row_G = _known_rows(ids, dataset, config.pretrained_ids)
    for start in range(0, len(vector_GE), _BLOCK):
        is_bad_B = ~np.isfinite(vector_GE[start : start + _BLOCK]).all(axis=1)
        if is_bad_B.any():
            bad = start + int(is_bad_B.argmax())
            raise DataError(
                f"pretrained_items: got numbers that are not finite in row {bad} of {path}, of item {ids[bad]!r}, "
                "expected finite ones"
            )
    place_G = np.argsort(row_G)
    return Pretrained(vector_GE, place_G, row_G[place_G])


def _read_ids(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8") as lines:
            return [line.rstrip("\n") for line in lines]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"pretrained_ids: {path}: got no text file of ids there: {error}") from error


def _known_rows(ids: list[str], dataset: Dataset, path: str) -> np.ndarray:
    row_G = dataset.items.rows(ids)
    unknown = np.flatnonzero(row_G < 0)
    if len(unknown):
        raise DataError(
            f"pretrained_ids: got {len(unknown):,} ids in {path} that {dataset.path} has no items of, first "
            f"{ids[unknown[0]]!r} in line {unknown[0] + 1}; expected ids of its items"
        )
    _, first = np.unique(row_G, return_index=True)
    if len(first) < len(ids):
        again = np.setdiff1d(np.arange(len(ids)), first)[0]
        raise DataError(f"pretrained_ids: got {ids[again]!r} again in line {again + 1} of {path}, expected ids once")
    return row_G
