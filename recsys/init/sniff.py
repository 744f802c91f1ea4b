"""What kind of file this is: CSV or Parquet, its separator, encoding and header, from its first bytes."""

from __future__ import annotations

import csv
import gzip
import io
import re
from pathlib import Path
from typing import Literal

from recsys.data.recipes import FileRecipe
from recsys.errors import DataError

_READ_BYTES = 1 << 16
_LINES = 100
_SEPARATORS = (",", "\t", ";", "|")
_NUMBER = re.compile(r"^\s*[-+]?\d+([.,]\d+)?\s*$")
_GZIP, _PARQUET = b"\x1f\x8b", b"PAR1"


def sniff(path: Path) -> FileRecipe:
    """Say how a file is to be read; what `FileRecipe` would assume anyway is left out.

    Raises:
        DataError: the file is empty or binary.
    """
    with path.open("rb") as file:
        start = file.read(_READ_BYTES)
    if start.startswith(_PARQUET):
        return FileRecipe(format=None if {".parquet", ".pq"} & set(path.suffixes) else "parquet")
    if start.startswith(_GZIP):
        with gzip.open(path) as file:
            start = file.read(_READ_BYTES)
    if not start.strip():
        raise DataError(f"{path}: got an empty file, expected rows of CSV or Parquet")
    if b"\0" in start:
        raise DataError(f"{path}: got a binary file that is no Parquet, expected CSV or Parquet")
    text, encoding = _decode(start)
    separator = _separator(text)
    rows = list(csv.reader(io.StringIO(text), delimiter=separator))[:_LINES]
    has_header = not any(_NUMBER.match(cell) for cell in rows[0])
    assumed = "\t" if ".tsv" in path.suffixes else ","
    return FileRecipe(
        format=None if {".csv", ".tsv"} & set(path.suffixes) else "csv",
        separator=None if separator == assumed else separator,
        encoding=encoding,
        header=has_header,
        columns={} if has_header else {f"column_{number}": "string" for number in range(1, len(rows[0]) + 1)},
    )


def _decode(start: bytes) -> tuple[str, Literal["utf-8", "latin-1"]]:
    """Return whole lines, and what they are encoded in."""
    whole = start[: start.rfind(b"\n") + 1] if len(start) >= _READ_BYTES and b"\n" in start else start
    try:
        return whole.decode("utf-8-sig"), "utf-8"
    except UnicodeDecodeError:
        return whole.decode("latin-1"), "latin-1"


def _separator(text: str) -> str:
    """Return the separator that gives most rows the same number of fields, the more fields the better."""
    lines = text.splitlines()[:_LINES]

    def score(separator: str) -> tuple[int, int]:
        widths = [len(row) for row in csv.reader(lines, delimiter=separator)]
        usual = max(set(widths), key=lambda width: (widths.count(width), width))
        return (widths.count(usual) if usual > 1 else 0, usual)

    return max(_SEPARATORS, key=score)
