"""The item vectors as files and as what a rerank reads: mapped safetensors, whose pages load as they are read.

The full-width vectors are kept as they were encoded, float32. Beside them a bundle may have a smaller copy to rerank
from: halves, or bytes with one scale per column.

Shapes: ``store_ND`` and ``code_ND`` are ``(items, full width)``, ``scale_D`` is ``(full width,)``, ``norm_N``
``(items,)``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from recsys.errors import ArtifactError
from recsys.index.specs import StoreCode
from recsys.widths import WidthLadder, truncate

_NAME = "item_vectors"
_LENGTH_BYTES = 8
_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "U16": np.dtype("<u2"),
    "I8": np.dtype("i1"),
    "I64": np.dtype("<i8"),
}
_LARGEST_BYTE = 127
_PAGE = 1 << 16
_STORE_TOLERANCE = 1 / _LARGEST_BYTE


@dataclass(frozen=True, kw_only=True)
class Store:
    """A copy of the full-width vectors that candidates are scored from.

    Args:
        code_ND: float32; or uint16, the bits of halves; or int8, to be multiplied by the scale of their column.
        scale_D: float32 scales of int8 codes.
        norm_of: by width narrower than the full one, the float32 norms of the items' prefixes; none with norm ``full``,
            which never divides by them.
    """

    code_ND: np.ndarray
    scale_D: np.ndarray | None = None
    norm_of: Mapping[int, np.ndarray] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """Bytes of the codes."""
        return self.code_ND.nbytes + (0 if self.scale_D is None else self.scale_D.nbytes)


def pages(num: int) -> Iterator[slice]:
    """Yield the places of so many rows, some at a time: what is made of all at once takes memory for all."""
    for start in range(0, num, _PAGE):
        yield slice(start, min(start + _PAGE, num))


def prefixes(
    store_ND: Float[np.ndarray, "items full"], width: int, widths: WidthLadder
) -> Float[np.ndarray, "items width"]:
    """Return what unit vectors are at a width (`truncate`), contiguously; at the full one, themselves."""
    if width == widths.full:
        return store_ND
    prefix_Nw = np.empty((len(store_ND), width), dtype=np.float32)
    for page in pages(len(store_ND)):
        prefix_Nw[page] = truncate(store_ND[page], width, widths)
    return prefix_Nw


def make_store(
    store_ND: Float[np.ndarray, "items full"], code: StoreCode, *, norm_of: Mapping[int, np.ndarray]
) -> Store:
    """Encode float32 vectors, whose prefixes have these norms."""
    if code == "float32":
        return Store(code_ND=store_ND, norm_of=norm_of)
    if code == "fp16":
        half_ND = np.empty(store_ND.shape, dtype=np.float16)
        for page in pages(len(store_ND)):
            half_ND[page] = store_ND[page]
        return Store(code_ND=half_ND.view(np.uint16), norm_of=norm_of)
    # A column of zeros keeps any scale.
    scale_D = np.full(store_ND.shape[1], np.finfo(np.float32).tiny, dtype=np.float32)
    for page in pages(len(store_ND)):
        np.maximum(scale_D, np.abs(store_ND[page]).max(axis=0), out=scale_D)
    scale_D /= _LARGEST_BYTE
    byte_ND = np.empty(store_ND.shape, dtype=np.int8)
    for page in pages(len(store_ND)):
        byte_ND[page] = np.rint(store_ND[page] / scale_D)
    return Store(code_ND=byte_ND, scale_D=scale_D, norm_of=norm_of)


def save_store(store: Store, path: Path) -> None:
    """Write codes, and scales where there are any; not the norms."""
    save_tensors({"codes": store.code_ND} | ({} if store.scale_D is None else {"scales": store.scale_D}), path)


def load_store(
    path: Path, code: StoreCode, store_ND: Float[np.ndarray, "items full"], *, norm_of: Mapping[int, np.ndarray]
) -> Store:
    """Map what `save_store` wrote of these vectors, or raise `ArtifactError`."""
    tensors, _ = map_tensors(path, names=["codes", "scales"] if code == "sq8" else ["codes"])
    store = Store(code_ND=tensors["codes"], scale_D=tensors.get("scales"), norm_of=norm_of)
    wanted = make_store(store_ND[:1], code, norm_of={})
    if (store.code_ND.shape, store.code_ND.dtype) != (store_ND.shape, wanted.code_ND.dtype):
        got = f"{store.code_ND.dtype} of {store.code_ND.shape}"
        raise ArtifactError(f"{path}: codes: got {got}, expected {wanted.code_ND.dtype} of {store_ND.shape}")
    rows = np.unique(np.linspace(0, len(store_ND) - 1, num=8, dtype=np.int64))
    if not np.allclose(decoded(store, rows), store_ND[rows], atol=_STORE_TOLERANCE):
        raise ArtifactError(f"{path}: codes: not those of the item vectors")
    return store


def decoded(store: Store, rows: np.ndarray | slice) -> np.ndarray:
    """Return what the codes of some rows stand for."""
    code_RD: np.ndarray = store.code_ND[rows]
    if code_RD.dtype == np.uint16:
        code_RD = code_RD.view(np.float16)
    return code_RD if store.scale_D is None else np.multiply(code_RD, store.scale_D)


def prefix_norms(store_ND: Float[np.ndarray, "items full"], widths: WidthLadder) -> dict[int, np.ndarray]:
    """Return what `Store.norm_of` holds for these vectors."""
    if widths.norm == "full":
        return {}
    norm_of = {width: np.empty(len(store_ND), dtype=np.float32) for width in widths.widths[:-1]}
    for width, norm_N in norm_of.items():
        for page in pages(len(store_ND)):
            norm_N[page] = np.linalg.norm(store_ND[page, :width], axis=1)
    return norm_of


def save_norms(norm_of: Mapping[int, np.ndarray], path: Path) -> None:
    """Write the norms of prefixes."""
    save_tensors({str(width): norm_N for width, norm_N in norm_of.items()}, path)


def load_norms(path: Path, store_ND: Float[np.ndarray, "items full"], widths: WidthLadder) -> dict[int, np.ndarray]:
    """Map what `save_norms` wrote of these vectors, or raise `ArtifactError`."""
    tensors, _ = map_tensors(path, names=[str(width) for width in widths.widths[:-1]])
    for name, norm_N in tensors.items():
        if norm_N.shape != (len(store_ND),) or norm_N.dtype != np.float32:
            got = f"{norm_N.dtype} of {norm_N.shape}"
            raise ArtifactError(f"{path}: {name}: got {got}, expected float32 of {(len(store_ND),)}")
    return {int(name): norm_N for name, norm_N in tensors.items()}


NOTES = "notes"
"""The header's only entry, JSON: several would be written in no fixed order, and the file differ from run to run."""


def save_vectors(store_ND: Float[np.ndarray, "items full"], path: Path, *, metadata: dict[str, Any]) -> None:
    """Write float32 vectors, with notes about them in the file's header."""
    notes = {NOTES: json.dumps(metadata, sort_keys=True)}
    save_tensors({_NAME: np.ascontiguousarray(store_ND, dtype=np.float32)}, path, metadata=notes)


def map_vectors(path: Path) -> tuple[Float[np.ndarray, "items full"], dict[str, Any]]:
    """Map what `save_vectors` wrote: a read-only array whose pages are read on demand and shared between processes.

    Returns:
        the vectors and the header's notes.

    Raises:
        ArtifactError: the file is missing or is not one float32 matrix of that name.
    """
    tensors, metadata = map_tensors(path, names=[_NAME])
    store_ND = tensors[_NAME]
    if store_ND.dtype != np.float32 or store_ND.ndim != 2 or 0 in store_ND.shape:
        raise ArtifactError(f"{path}: {_NAME}: got {store_ND.dtype} of {store_ND.shape}, expected a float32 matrix")
    return store_ND, json.loads(metadata.get(NOTES, "{}"))


def save_tensors(tensors: Mapping[str, np.ndarray], path: Path, *, metadata: dict[str, str] | None = None) -> None:
    """Write arrays and notes about them as a safetensors file."""
    save_file(dict(tensors), path, metadata=metadata)


def map_tensors(path: Path, *, names: list[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Map every tensor of a safetensors file, read-only, without reading it.

    Returns:
        the arrays by name, and the header's notes.

    Raises:
        ArtifactError: the file is missing, is damaged, or holds tensors of other names or kinds.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata, got = file.metadata() or {}, sorted(file.keys())
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"{path}: not a safetensors file: {error}") from error
    if got != sorted(names):
        raise ArtifactError(f"{path}: tensors: got {got}, expected {sorted(names)}")
    # The format, which its own library has checked: the header's length in 8 bytes, the header as JSON, the tensors.
    with path.open("rb") as content:
        length = int.from_bytes(content.read(_LENGTH_BYTES), "little")
        header = json.loads(content.read(length))
    tensors = {}
    for name in names:
        entry = header[name]
        if entry["dtype"] not in _DTYPES:
            raise ArtifactError(f"{path}: {name}: got {entry['dtype']}, expected one of {sorted(_DTYPES)}")
        tensors[name] = _map(path, _LENGTH_BYTES + length, entry)
    return tensors, metadata


def _map(path: Path, start: int, entry: dict[str, Any]) -> np.ndarray:
    dtype, shape = _DTYPES[entry["dtype"]], tuple(entry["shape"])
    if 0 in shape:
        return np.empty(shape, dtype=dtype)
    offset = start + entry["data_offsets"][0]
    return np.asarray(np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape))
