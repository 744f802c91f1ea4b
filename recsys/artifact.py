"""Folders that are either whole or not there: how datasets, runs and bundles are written and checked.

A folder is built beside its final place under a temporary name, every file is synced, the manifest with the SHA-256 of
every other file is written last, the folder is renamed and its parent synced. A crash at any moment leaves
the old state, and a temporary folder that the next writer there removes: its maker held a lock on it that died with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import json
import os
import platform
import shutil
import uuid
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from recsys.errors import ArtifactError

MANIFEST = "manifest.json"
FORMAT = 1
_STAGING_PREFIX = ".staging-"


@contextlib.contextmanager
def staged(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``target`` if the block ends well and vanishes if it raises.

    The block must end by calling `seal`. With ``replace`` an existing ``target`` is swapped out; without, that is an
    error.

    Raises:
        ArtifactError: ``target`` exists (and ``replace`` is false), or is a file.
    """
    if target.exists() and (not replace or not target.is_dir()):
        raise ArtifactError(f"{target}: already exists; remove it, choose another place, or pass --overwrite")
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = target.parent / f"{_STAGING_PREFIX}{target.name}-{uuid.uuid4().hex[:8]}"
    with contextlib.ExitStack() as held:
        try:  # from before the folder is made: Ctrl-C may come between any two steps
            _claim(staging, held)
            yield staging
            assert (staging / MANIFEST).exists(), "a staged folder must be sealed"
            _sync_tree(staging)
            if target.exists():
                _exchange(staging, target)
                shutil.rmtree(staging, ignore_errors=True)
            else:
                staging.rename(target)
            sync_path(target.parent)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise


def seal(folder: Path, kind: str, content: dict[str, Any]) -> dict[str, Any]:
    """Write the manifest: ``content`` plus kind, format, versions, and size and SHA-256 of every file beside it.

    Its ``fingerprint`` is the SHA-256 of everything else in it, so it names the folder's whole content.
    """
    manifest = {"kind": kind, "format": FORMAT, **content, "versions": versions()}
    manifest["files"] = {
        str(path.relative_to(folder)): {"sha256": sha256(path), "size_bytes": path.stat().st_size}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    manifest = {"fingerprint": _fingerprint(manifest), **manifest}
    (folder / MANIFEST).write_text(_dump(manifest))
    return manifest


def read_manifest(folder: Path, kind: str) -> dict[str, Any]:
    """Return a folder's manifest after checking its own fingerprint, kind and format.

    Raises:
        ArtifactError: there is no folder or manifest, it is not JSON, was altered, or is of another kind or format.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ArtifactError(f"{folder}: got no {MANIFEST} there, expected a {kind} folder")
    try:
        text = path.read_text()
        manifest: dict[str, Any] = json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(manifest, dict) or manifest.get("kind") != kind:
        got = manifest.get("kind") if isinstance(manifest, dict) else type(manifest).__name__
        raise ArtifactError(f"{path}: kind: got {got!r}, expected {kind!r}")
    if manifest.get("format") != FORMAT:
        raise ArtifactError(
            f"{path}: format: got {manifest.get('format')!r}, expected {FORMAT} (made by another version)"
        )
    if (expected := _fingerprint(manifest)) != manifest.get("fingerprint"):
        raise ArtifactError(
            f"{path}: fingerprint: got {manifest.get('fingerprint')!r}, expected {expected!r} (altered)"
        )
    if _dump(manifest) != text:
        raise ArtifactError(f"{path}: means what it meant but is not written as it was (altered)")
    return manifest


def verify(folder: Path, manifest: dict[str, Any]) -> None:
    """Check every file against the manifest.

    Raises:
        ArtifactError: a file is missing, unexpected, or differs in size or SHA-256; the message names it.
    """
    recorded: dict[str, dict[str, Any]] = manifest["files"]
    present = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {MANIFEST}
    if missing := sorted(recorded.keys() - present):
        raise ArtifactError(f"{folder}: file missing: {missing[0]}")
    if unexpected := sorted(present - recorded.keys()):
        raise ArtifactError(f"{folder}: file not in the manifest: {unexpected[0]}")
    for name, entry in recorded.items():
        size = (folder / name).stat().st_size
        if size != entry["size_bytes"]:
            raise ArtifactError(f"{folder / name}: size: got {size} bytes, expected {entry['size_bytes']}")
        if (digest := sha256(folder / name)) != entry["sha256"]:
            raise ArtifactError(f"{folder / name}: SHA-256: got {digest}, expected {entry['sha256']}")


def write_whole(path: Path, text: str) -> None:
    """Write a text file that is never seen half-written; its folder is made if missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        staging.write_text(text)
        sync_path(staging)
        staging.replace(path)
    finally:
        staging.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Return a file's SHA-256 as lower-case hex, reading it in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed libraries that shape a result."""
    found = {"python": platform.python_version()}
    for name in ("matryoshka-recsys", "torch", "torchrec", "polars", "faiss-cpu", "faiss-gpu", "numpy"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let one process at a time into the block; the kernel frees the lock of one that dies."""
    descriptor = _lock(folder)
    try:
        yield
    finally:
        os.close(descriptor)


def sync_path(path: Path) -> None:
    """Flush a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _claim(staging: Path, held: contextlib.ExitStack) -> None:
    """Make a temporary folder and lock it for as long as ``held``, after removing those beside it whose makers died."""
    with locked(staging.parent):  # so that nobody finds the new folder before it has its own lock
        for left in staging.parent.glob(f"{_STAGING_PREFIX}*"):
            _remove_abandoned(left)
        staging.mkdir()
        held.callback(os.close, _lock(staging))


def _remove_abandoned(folder: Path) -> None:
    try:
        lock = _lock(folder, wait=False)
    except (BlockingIOError, FileNotFoundError):
        return  # its maker is alive, or has just finished
    try:
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


def _lock(folder: Path, *, wait: bool = True) -> int:
    """Lock a folder until the returned descriptor is closed or the process dies."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _exchange(new: Path, old: Path) -> None:
    """Swap two folders' names in one step where the system can, else with a moment in which ``old`` is not there."""
    at_cwd, rename_exchange = -100, 2
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        code = errno.ENOSYS
    else:
        if renameat2(at_cwd, os.fsencode(new), at_cwd, os.fsencode(old), rename_exchange) == 0:
            return
        code = ctypes.get_errno()
    if code not in (errno.ENOSYS, errno.EINVAL):
        raise OSError(code, os.strerror(code), str(old))
    aside = old.parent / f".replaced-{old.name}-{uuid.uuid4().hex[:8]}"
    old.rename(aside)
    new.rename(old)
    aside.rename(new)


def _dump(manifest: dict[str, Any]) -> str:
    return json.dumps(manifest, indent=2) + "\n"


def _fingerprint(manifest: dict[str, Any]) -> str:
    content = {key: value for key, value in manifest.items() if key != "fingerprint"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _sync_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        sync_path(path)
    sync_path(folder)
