"""A searcher's files: one per index, one per set of cells, one per extra store, and a list of what there is.

Vectors stay on disk until they are read. What was read is compared with what was expected; checksums are the bundle's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from recsys.errors import ArtifactError
from recsys.index.cells import Cells, Key, cells_key, file_name
from recsys.index.engines.certified import CertifiedIndex
from recsys.index.engines.flat import FlatIndex
from recsys.index.engines.hnsw import HnswIndex
from recsys.index.engines.ivf import IvfIndex
from recsys.index.engines.protocol import Index
from recsys.index.searcher import Searcher
from recsys.index.specs import IndexSpec, StoreCode, brief
from recsys.index.store import Store, load_norms, load_store, save_norms, save_store
from recsys.widths import WidthLadder

_LIST = "indexes.json"
_NORMS = "norms.safetensors"


def write_indexes(searcher: Searcher, folder: Path) -> None:
    """Write everything but the full-width vectors into an existing folder, and open it once, as a server will.

    Raises:
        ArtifactError: what was written cannot be read again.
    """
    for index in searcher.indexes.values():
        index.save(folder)
    cells = {index.cells.key: index.cells for index in searcher.indexes.values() if isinstance(index, IvfIndex)}
    for one in cells.values():
        one.save(folder)
    for code, store in searcher.stores.items():
        if code != "float32":
            save_store(store, folder / _store_file(code))
    if norm_of := searcher.stores["float32"].norm_of:
        save_norms(norm_of, folder / _NORMS)
    extra = sorted(code for code in searcher.stores if code != "float32")
    content = {"indexes": [{"name": spec.name, **brief(spec)} for spec in searcher.indexes], "stores": extra}
    (folder / _LIST).write_text(json.dumps(content, indent=2) + "\n")
    load_searcher(folder, searcher.store_ND, widths=searcher.widths)


def load_searcher(folder: Path, store_ND: np.ndarray, *, widths: WidthLadder) -> Searcher:
    """Open what `write_indexes` wrote for these vectors.

    Raises:
        ArtifactError: a file is missing, is not what the list says, or does not belong to these vectors; it is named.
    """
    specs, codes = _read_list(folder / _LIST)
    expected = expected_files(specs, codes, widths=widths, num_items=len(store_ND))
    for name in sorted(path.name for path in folder.iterdir()):
        if name not in expected:
            reason = f"not a file of the indexes that {_LIST} names (publish again if an earlier version wrote it)"
            raise ArtifactError(f"{folder / name}: {reason}")
    cells: dict[Key, Cells] = {}
    indexes = {spec: _load(folder, spec, store_ND, widths=widths, cells=cells) for spec in specs}
    norm_of = load_norms(folder / _NORMS, store_ND, widths) if _NORMS in expected else {}
    stores: dict[StoreCode, Store] = {"float32": Store(code_ND=store_ND, norm_of=norm_of)}
    for code in codes:
        stores[code] = load_store(folder / _store_file(code), code, store_ND, norm_of=norm_of)
    return Searcher(store_ND, widths=widths, indexes=indexes, stores=stores)


def expected_files(specs: list[IndexSpec], codes: list[StoreCode], *, widths: WidthLadder, num_items: int) -> set[str]:
    """Return the names of all files that indexes and extra stores have, their list included."""
    names = {_LIST, *(_store_file(code) for code in codes)}
    if widths.norm == "prefix" and len(widths) > 1:
        names.add(_NORMS)
    for spec in specs:
        if spec.engine == "ivf":
            names.add(file_name(cells_key(spec, num_items)))
        if spec.engine == "certified":
            names.add(f"{spec.name}.safetensors")
        elif (spec.engine, spec.width, spec.levels) != ("exact", widths.full, 0):
            names.add(f"{spec.name}.faiss")
    return names


def _load(
    folder: Path, spec: IndexSpec, store_ND: np.ndarray, *, widths: WidthLadder, cells: dict[Key, Cells]
) -> Index:
    if spec.engine == "exact":
        return FlatIndex.load(folder, spec, store_ND, widths=widths)
    if spec.engine == "hnsw":
        return HnswIndex.load(folder, spec, store_ND, widths=widths)
    if spec.engine == "certified":
        return CertifiedIndex.load(folder, spec, store_ND, widths=widths)
    key = cells_key(spec, len(store_ND))
    if key not in cells:
        cells[key] = Cells.load(folder, key)
    return IvfIndex.load(folder, spec, num_items=len(store_ND), cells=cells[key], widths=widths)


def _read_list(path: Path) -> tuple[list[IndexSpec], list[StoreCode]]:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        entries = [{key: value for key, value in entry.items() if key != "name"} for entry in content["indexes"]]
        return [IndexSpec(**entry) for entry in entries], list(content["stores"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{path}: not a list of indexes: {error!r}") from error


def _store_file(code: StoreCode) -> str:
    return f"store-{code}.safetensors"
