"""The full-width vectors on disk: one matrix in a safetensors file, mapped so that pages load as they are read.

Shapes: ``store_ND`` is ``(items, full width)``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from recsys.errors import ArtifactError

_NAME = "item_vectors"
_LENGTH_BYTES = 8


def save_vectors(store_ND: Float[np.ndarray, "items full"], path: Path, *, metadata: dict[str, str]) -> None:
    """Write float32 vectors, with notes about them in the file's header."""
    save_file({_NAME: np.ascontiguousarray(store_ND, dtype=np.float32)}, path, metadata=metadata)


def map_vectors(path: Path) -> tuple[Float[np.ndarray, "items full"], dict[str, str]]:
    """Map what `save_vectors` wrote: a read-only array whose pages are read on demand and shared between processes.

    Returns:
        the vectors and the header's notes.

    Raises:
        ArtifactError: the file is missing or is not one float32 matrix of that name.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            names = list(file.keys())
            if names != [_NAME]:
                raise ArtifactError(f"{path}: tensors: got {names}, expected {[_NAME]}")
            described = file.get_slice(_NAME)
            shape, dtype = described.get_shape(), described.get_dtype()
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"{path}: not a safetensors file: {error}") from error
    if dtype != "F32" or len(shape) != 2 or 0 in shape:
        raise ArtifactError(f"{path}: {_NAME}: got {dtype} of shape {shape}, expected a float32 matrix")
    # The format (checked above by its own library): the header's length in 8 bytes, the header, then the only tensor.
    with path.open("rb") as file:
        start = _LENGTH_BYTES + int.from_bytes(file.read(_LENGTH_BYTES), "little")
    return np.asarray(np.memmap(path, dtype="<f4", mode="r", offset=start, shape=tuple(shape))), metadata
