"""Where in a dataset's files the row groups are, so that damage can be named: a checksum for each of them.

A file's own checksum says that something is wrong; with a log of a billion events one wants to know what.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from recsys.data.event_files import SUFFIX, map_events

ROW_GROUPS = "row_groups"
"""Name in a dataset's manifest."""

_GROUP = 1 << 20
"""Events of one row group."""


def describe_row_groups(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return, by name of each file, where its row groups are, their rows and SHA-256.

    A group of a Parquet file lies in one place, a group of an Arrow file in one per column.
    """
    described = {}
    for path in sorted([*folder.glob("*.parquet"), *folder.glob(f"*{SUFFIX}")]):
        groups = _arrow_groups(path) if path.suffix == SUFFIX else _parquet_groups(path)
        described[path.name] = [
            {"num_rows": num_rows, "places": places, "sha256": _sha256(path, places)} for num_rows, places in groups
        ]
    return described


def find_damage(folder: Path, described: Mapping[str, list[dict[str, Any]]]) -> str | None:
    """Name the first row group that is not as described; None if all are.

    Args:
        folder: of the files.
        described: by `describe_row_groups`, while they were whole.
    """
    for name, groups in described.items():
        first = 0
        for number, group in enumerate(groups):
            if not (folder / name).is_file() or _sha256(folder / name, group["places"]) != group["sha256"]:
                last = first + group["num_rows"] - 1
                return f"row group {number} of {name} ({len(groups)} in all), rows {first:,} to {last:,}"
            first += group["num_rows"]
    return None


_Groups = Iterator[tuple[int, list[dict[str, int]]]]
"""For each group its rows, and the places of the file that it lies in."""


def _parquet_groups(path: Path) -> _Groups:
    metadata = pq.read_metadata(path)
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        columns = [group.column(place) for place in range(group.num_columns)]
        starts = [_start(column) for column in columns]
        stop = max(start + column.total_compressed_size for start, column in zip(starts, columns, strict=True))
        yield group.num_rows, [{"offset": min(starts), "size_bytes": stop - min(starts)}]


def _start(column: pq.ColumnChunkMetaData) -> int:
    """Return where a column's pages begin: with its dictionary, if it has one."""
    pages = [column.data_page_offset]
    if column.has_dictionary_page:
        pages.append(column.dictionary_page_offset)
    return int(min(pages))


def _arrow_groups(path: Path) -> _Groups:
    events = map_events(path)
    file = np.frombuffer(events.mapping, dtype=np.uint8).ctypes.data
    columns = [column for column in (events.user, events.item, events.time) if column is not None]
    for first in range(0, len(events), _GROUP):
        parts = [column[first : first + _GROUP] for column in columns]
        yield len(parts[0]), [{"offset": part.ctypes.data - file, "size_bytes": part.nbytes} for part in parts]


def _sha256(path: Path, places: list[dict[str, int]]) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for place in places:
            file.seek(place["offset"])
            digest.update(file.read(place["size_bytes"]))
    return digest.hexdigest()
