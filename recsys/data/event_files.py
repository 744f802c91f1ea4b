"""A split's events as one Arrow file, written piece by piece and read where it lies.

Columns are uncompressed and each lies in one place (a single record batch), so that they are arrays over the mapped
file: opening it reads nothing, and what is read is the operating system's to keep or to drop. Any library that reads
Arrow IPC (Feather V2) files reads them.
"""

from __future__ import annotations

import contextlib
import mmap
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import polars as pl
import pyarrow as pa

from recsys.errors import ArtifactError

SUFFIX = ".arrow"
_TYPES: dict[str, np.dtype[Any]] = {
    "user": np.dtype(np.uint32),
    "item": np.dtype(np.uint32),
    "time": np.dtype(np.int64),
}


@dataclass(frozen=True, kw_only=True)
class EventColumns:
    """Events in the dataset's order, as read-only arrays over a mapped file.

    Args:
        user: ``(n,)`` uint32 rows, non-decreasing.
        item: ``(n,)`` uint32 rows.
        time: ``(n,)`` int64, or None where the log has none.
        mapping: of the file.
    """

    user: np.ndarray = field(repr=False)
    item: np.ndarray = field(repr=False)
    time: np.ndarray | None = field(repr=False)
    mapping: mmap.mmap = field(repr=False)

    def __len__(self) -> int:
        return len(self.user)

    def expect_random_reads(self) -> None:
        """Have the system read what is asked for and nothing around it, which it does for those who read in order."""
        self.mapping.madvise(mmap.MADV_RANDOM)


def write_events(path: Path, pieces: Iterable[pl.DataFrame]) -> None:
    """Write events, of which one piece at a time is in memory.

    Args:
        path: of the file to make.
        pieces: at least one, to be laid end to end; columns ``user``, ``item`` and, in all or none, ``time``.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".columns-") as folder, contextlib.ExitStack() as stack:
        num_rows, paths = 0, {}
        with contextlib.ExitStack() as writing:
            files: dict[str, IO[bytes]] = {}
            for piece in pieces:
                if not files:
                    paths = {name: Path(folder) / name for name in _TYPES if name in piece.columns}
                    files = {name: writing.enter_context(one.open("wb")) for name, one in paths.items()}
                num_rows += len(piece)
                for name, file in files.items():
                    piece[name].to_numpy().astype(_TYPES[name], casting="same_kind").tofile(file)
        arrays = []
        for name, one in paths.items():
            # An empty file cannot be mapped.
            source = stack.enter_context(pa.memory_map(str(one)) if num_rows else pa.BufferReader(b""))
            arrays.append(
                pa.Array.from_buffers(pa.from_numpy_dtype(_TYPES[name]), num_rows, [None, source.read_buffer()])
            )
        batch = pa.RecordBatch.from_arrays(arrays, names=list(paths))
        with pa.ipc.new_file(str(path), batch.schema, options=pa.ipc.IpcWriteOptions(allow_64bit=True)) as writer:
            writer.write_batch(batch)


def map_events(path: Path) -> EventColumns:
    """Map a file that `write_events` wrote.

    Raises:
        ArtifactError: it is not there, or not such a file.
    """
    try:
        with path.open("rb") as file:
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        batch = pa.ipc.open_file(pa.py_buffer(mapping)).get_batch(0)
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: missing: prepare the dataset again") from error
    except (pa.ArrowInvalid, ValueError) as error:
        raise ArtifactError(f"{path}: not an Arrow file of events ({error}): prepare the dataset again") from error
    columns = {name: batch.column(name).to_numpy() for name in batch.schema.names}
    return EventColumns(user=columns["user"], item=columns["item"], time=columns.get("time"), mapping=mapping)
