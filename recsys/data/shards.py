"""Where in a dataset's Parquet files the row groups are, so that damage can be named: a checksum for each of them.

A file's own checksum says that something is wrong; with a log of a billion events one wants to know what.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

ROW_GROUPS = "row_groups"
"""Name in a dataset's manifest."""


def describe_row_groups(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return, by name of each Parquet file, where its row groups are, their rows and SHA-256."""
    return {path.name: _groups(path) for path in sorted(folder.glob("*.parquet"))}


def find_damage(folder: Path, described: Mapping[str, list[dict[str, Any]]]) -> str | None:
    """Name the first row group that is not as described; None if all are.

    Args:
        folder: of the files.
        described: by `describe_row_groups`, while they were whole.
    """
    for name, groups in described.items():
        first = 0
        for number, group in enumerate(groups):
            if not (folder / name).is_file() or _sha256(folder / name, group) != group["sha256"]:
                last = first + group["num_rows"] - 1
                return f"row group {number} of {name} ({len(groups)} in all), rows {first:,} to {last:,}"
            first += group["num_rows"]
    return None


def _groups(path: Path) -> list[dict[str, Any]]:
    metadata = pq.read_metadata(path)
    groups = []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        columns = [group.column(place) for place in range(group.num_columns)]
        starts = [_start(column) for column in columns]
        stop = max(start + column.total_compressed_size for start, column in zip(starts, columns, strict=True))
        one = {"offset": min(starts), "size_bytes": stop - min(starts)}
        groups.append(one | {"num_rows": group.num_rows, "sha256": _sha256(path, one)})
    return groups


def _start(column: pq.ColumnChunkMetaData) -> int:
    """Return where a column's pages begin: with its dictionary, if it has one."""
    pages = [column.data_page_offset]
    if column.has_dictionary_page:
        pages.append(column.dictionary_page_offset)
    return int(min(pages))


def _sha256(path: Path, group: Mapping[str, Any]) -> str:
    with path.open("rb") as file:
        file.seek(group["offset"])
        return hashlib.sha256(file.read(group["size_bytes"])).hexdigest()
