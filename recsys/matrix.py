"""Vectors in files of other systems: a matrix in an .npy file, or the only tensor of a .safetensors file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from recsys.errors import ArtifactError


def read_matrix(path: Path) -> tuple[np.ndarray, dict[str, str]]:
    """Return a file's matrix of floating point numbers, mapped where that can be, and what its header says.

    Raises:
        ArtifactError: it is no such file, or holds something else.
    """
    matrix, notes = _load(path)
    if matrix.ndim != 2 or not np.issubdtype(matrix.dtype, np.floating):
        got = f"{matrix.dtype} of shape {matrix.shape}"
        raise ArtifactError(f"{path}: got {got}, expected one matrix of floating point numbers")
    return matrix, notes


def _load(path: Path) -> tuple[np.ndarray, dict[str, str]]:
    try:
        if path.suffix == ".npy":
            mapped: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
            return mapped, {}
        with safe_open(path, framework="numpy") as file:
            names, notes = list(file.keys()), file.metadata() or {}
            matrix = file.get_tensor(names[0]) if len(names) == 1 else None
    except (OSError, ValueError, SafetensorError) as error:
        raise ArtifactError(f"{path}: neither an .npy nor a .safetensors file: {error}") from error
    if matrix is None:
        raise ArtifactError(f"{path}: tensors: got {names}, expected one")
    return matrix, notes
