"""Which version of a folder of bundles is served: two one-line files that move atomically.

``CURRENT`` names the version that servers open, ``PREVIOUS`` the one before it, for `rollback`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from recsys import artifact
from recsys.errors import ArtifactError

KIND = "bundle"
CURRENT = "CURRENT"
PREVIOUS = "PREVIOUS"

_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.\-]*")


def current_version(root: Path) -> str:
    """Return the version that is served, or raise `ArtifactError` if none was published."""
    return _read_pointer(root, CURRENT)


def set_current(root: Path, version: str) -> None:
    """Move CURRENT to a version, atomically, and keep the one before in PREVIOUS.

    A reader sees the old version or the new one, never anything else; a crash leaves one of the two.

    Raises:
        ArtifactError: there is no such version, or its manifest is missing or altered.
    """
    _check_name(root, version)
    artifact.read_manifest(root / version, KIND)
    with artifact.locked(root):
        before = _read_pointer(root, CURRENT) if (root / CURRENT).exists() else None
        if before == version:
            return
        if before is not None:
            _write_pointer(root, PREVIOUS, before)
        _write_pointer(root, CURRENT, version)


def rollback(root: Path) -> str:
    """Move CURRENT back to the version before and return it; a second rollback undoes the first.

    Raises:
        ArtifactError: there is no version before, or it is gone.
    """
    if not (root / PREVIOUS).exists():
        raise ArtifactError(f"{root}: no {PREVIOUS}: only one version was ever served, so there is none to go back to")
    before = _read_pointer(root, PREVIOUS)
    if before == current_version(root):
        # A publisher died between the two pointers: what was served before is no longer known.
        raise ArtifactError(f"{root / PREVIOUS}: names the current version {before}; choose one with set_current")
    set_current(root, before)
    return before


def _check_name(root: Path, version: str) -> None:
    if not _VERSION.fullmatch(version) or not (root / version).is_dir():
        raise ArtifactError(f"{root}: got version {version!r}, expected the name of a bundle folder in it")


def _read_pointer(root: Path, name: str) -> str:
    path = root / name
    try:
        version = path.read_text().strip()
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: no such file: nothing was published there") from error
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{path}: not text: {error}") from error
    _check_name(root, version)
    return version


def _write_pointer(root: Path, name: str, version: str) -> None:
    temporary = root / f".{name}-{os.getpid()}"
    temporary.write_text(version + "\n")
    artifact.sync_path(temporary)
    temporary.replace(root / name)
    artifact.sync_path(root)
