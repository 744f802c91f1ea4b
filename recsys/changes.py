"""Changes of a catalogue between bundles, in a log that outlives the process that wrote it.

::

    folder/
      changes.log    line 0: what this is, and its own id; then one line per batch: CRC-32, a space, JSON

A batch is appended with one write and synced before anybody is told that it holds. What a crash leaves half-written at
the end was never acknowledged: readers stop before it, and the next writer cuts it off. A damaged line with others
after it is no such thing and is refused.

Any number of processes may read while one appends (`ChangeLog.writing`); they see only whole batches.
"""

from __future__ import annotations

import base64
import fcntl
import json
import logging
import os
import uuid
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from recsys import artifact
from recsys.errors import ArtifactError

LOG = "changes.log"
_KIND = "catalogue changes"
_LONGEST_HEADER = 4096
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class ChangedItem:
    """An item as it shall be from now on, new or in place of the one with its id.

    Args:
        id: its id.
        title: what people see.
        features: values by feature name, as `FeatureSpec.encode_values` takes them; a missing one is unknown.
        vector_D: float32 unit vector of full width, in place of what the item tower would make of the features.
    """

    id: str
    title: str | None = None
    features: Mapping[str, Sequence[str]] = field(default_factory=dict)
    vector_D: np.ndarray | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain values; `from_json` is the way back."""
        content: dict[str, Any] = {"id": self.id, "title": self.title}
        content["features"] = {name: list(values) for name, values in self.features.items()}
        if self.vector_D is not None:
            content["vector"] = base64.b64encode(self.vector_D.astype("<f4").tobytes()).decode()
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> ChangedItem:
        """Read what `to_json` gives."""
        vector_D = None
        if "vector" in content:
            vector_D = np.frombuffer(base64.b64decode(content["vector"]), dtype="<f4").astype(np.float32)
        return cls(id=content["id"], title=content["title"], features=content["features"], vector_D=vector_D)


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Changes that hold together, or not at all.

    Args:
        sequence: its number, one more than that of the batch before it; the first is 1.
        model_id: of the bundle that was served then; vectors mean nothing to another model.
        upserts: items as they shall be, no id twice.
        deletes: ids that shall be gone.
    """

    sequence: int
    model_id: str
    upserts: Sequence[ChangedItem] = ()
    deletes: Sequence[str] = ()

    def to_line(self) -> bytes:
        """Return the batch as a line of the log."""
        content = {"sequence": self.sequence, "model_id": self.model_id}
        upserts = [item.to_json() for item in self.upserts]
        return _line({**content, "upserts": upserts, "deletes": list(self.deletes)})


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What became of each id that a log speaks of: the last word on it.

    Args:
        log_id: whose.
        sequence: of the last batch, 0 where there is none.
        last: by id, in the order of their last change: the batch, and the item or None where it was deleted.
    """

    log_id: str
    sequence: int
    last: Mapping[str, tuple[Batch, ChangedItem | None]]


class ChangeLog:
    """The log in a folder; threads that share one must take turns.

    Args:
        folder: where it is; made, with an empty log, where it is missing.

    Raises:
        ArtifactError: there is another kind of file under its name.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / LOG
        with artifact.locked(folder):
            if not self.path.exists():
                _write_whole(self.path, _line({"kind": _KIND, "format": artifact.FORMAT, "log_id": uuid.uuid4().hex}))
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND)
        self.id, self.start = _header(self.path)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._descriptor)

    @property
    def size_bytes(self) -> int:
        """Bytes of the log now: more than where somebody's reading ended means that there is more to read."""
        return os.fstat(self._descriptor).st_size

    def read(self, start: int) -> tuple[list[Batch], int]:
        """Return the whole batches that begin at an offset, and the offset after them.

        Raises:
            ArtifactError: a line is damaged and not the last, or the batches are not numbered one by one.
        """
        return _read(self.path, start)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Let one process at a time append; the kernel frees the lock of one that dies."""
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def append(self, line: bytes, *, end: int) -> None:
        """Write a batch's line, and sync it; only within `writing`.

        Args:
            line: as `Batch.to_line` gives it.
            end: the offset after the last whole batch; what lies beyond it was never finished and is cut off.

        Raises:
            OSError: it cannot be written or synced; then it is not in the log.
        """
        self.cut(end)
        try:
            _write(self._descriptor, line)
            os.fsync(self._descriptor)
        except OSError:
            os.ftruncate(self._descriptor, end)
            raise

    def cut(self, end: int) -> None:
        """Cut off what a crash left half-written after the last whole batch; only within `writing`."""
        if (size := self.size_bytes) > end:
            _log.warning("%s: the last %d bytes were never finished; cut off", self.path, size - end)
            os.ftruncate(self._descriptor, end)


def read_changes(folder: Path) -> Changes:
    """Return what a log says, without taking part in its writing.

    Raises:
        ArtifactError: there is no log, or it is damaged.
    """
    path = folder / LOG
    log_id, start = _header(path)
    batches, _ = _read(path, start)
    return Changes(log_id=log_id, sequence=batches[-1].sequence if batches else 0, last=last_words(batches))


def last_words(batches: Iterable[Batch]) -> dict[str, tuple[Batch, ChangedItem | None]]:
    """Return, by id, the last batch that speaks of it and what it makes of it, in the order of these changes."""
    last: dict[str, tuple[Batch, ChangedItem | None]] = {}
    for batch in batches:
        changed: dict[str, ChangedItem | None] = {item.id: item for item in batch.upserts}
        for id_, item in (changed | dict.fromkeys(batch.deletes)).items():
            last.pop(id_, None)
            last[id_] = batch, item
    return last


def _read(path: Path, start: int) -> tuple[list[Batch], int]:
    batches: list[Batch] = []
    end, broken = start, False
    with path.open("rb") as file:
        file.seek(start)
        for line in file:
            if broken:
                raise ArtifactError(f"{path}: damaged at byte {end}, with more after it; put back a copy that is whole")
            if not line.endswith(b"\n"):
                break
            content = _content(line[:-1])
            if content is None:
                broken = True
                continue
            batches.append(_batch(content))
            if len(batches) > 1 and batches[-1].sequence != batches[-2].sequence + 1:
                got = f"batch {batches[-1].sequence} after {batches[-2].sequence}"
                raise ArtifactError(f"{path}: byte {end}: got {got}, expected them one by one")
            end += len(line)
    return batches, end


def _batch(content: Mapping[str, Any]) -> Batch:
    upserts = [ChangedItem.from_json(item) for item in content["upserts"]]
    return Batch(
        sequence=content["sequence"], model_id=content["model_id"], upserts=upserts, deletes=content["deletes"]
    )


def _header(path: Path) -> tuple[str, int]:
    """Return the log's id and the offset of its first batch."""
    try:
        with path.open("rb") as file:
            line = file.readline(_LONGEST_HEADER)
    except OSError as error:
        raise ArtifactError(f"{path}: got no log of changes there: {error.strerror}") from error
    content = _content(line[:-1])
    if content is None or content.get("kind") != _KIND or content.get("format") != artifact.FORMAT:
        raise ArtifactError(f"{path}: got another kind of file, or another version's, expected a log of {_KIND}")
    return content["log_id"], len(line)


def _line(content: Mapping[str, Any]) -> bytes:
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _content(line: bytes) -> dict[str, Any] | None:
    """Return what a line says, None where it is not as it was written."""
    checksum, _, text = line.partition(b" ")
    try:
        whole = int(checksum, 16) == zlib.crc32(text)
    except ValueError:
        return None
    return json.loads(text) if whole else None


def _write(descriptor: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]


def _write_whole(path: Path, content: bytes) -> None:
    staging = path.with_name(f".{path.name}.tmp")
    staging.write_bytes(content)
    artifact.sync_path(staging)
    staging.replace(path)
    artifact.sync_path(path.parent)
