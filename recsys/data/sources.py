"""Where a recipe's files are, whether they are the right ones, and how each is scanned."""

from __future__ import annotations

import glob
import importlib.metadata
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from recsys import artifact
from recsys.data.recipes import FileRecipe, Recipe
from recsys.errors import DataError

SOURCE_VARIABLE = "RECSYS_DATASETS"
"""The environment variable that names the source folder where ``--source`` does not."""


class Sources:
    """A recipe's files, found.

    Args:
        recipe: says which files, and how each is read.
        folder: where they are; None means the recipe's distribution, or else the folder that `SOURCE_VARIABLE` names.

    Raises:
        DataError: the folder, the distribution or a file is not there.
    """

    def __init__(self, recipe: Recipe, folder: Path | None) -> None:
        self._recipe = recipe
        self._folder = folder or _default_folder(recipe)
        tables = [table.file for table in (recipe.items, recipe.users) if table]
        self._paths = {name: self._find(name) for name in (*recipe.log.files, *recipe.log.test_files, *tables)}

    def verify(self) -> None:
        """Check every file that has one against its SHA-256.

        Raises:
            DataError: one differs.
        """
        for name, file in self._recipe.files.items():
            for path in self._paths[name]:
                if file.sha256 is not None and (got := artifact.sha256(path)) != file.sha256:
                    raise DataError(
                        f"{path}: SHA-256: got {got}, expected {file.sha256}; get the recipe's own version of it, "
                        "or pass --no-verify-checksums to use this one"
                    )

    def log_files(self, names: Sequence[str]) -> list[tuple[Path, FileRecipe]]:
        """Return the files behind names and globs, in reading order, each with its recipe."""
        return [(path, self._file(name)) for name in names for path in self._paths[name]]

    def table(self, name: str, id_column: str) -> pl.DataFrame:
        """Read a table of users or items whole; in CSV, ids stay text and other types are inferred or as declared.

        Raises:
            DataError: it cannot be read, or a declared column is missing or of another type.
        """
        path, file = self._paths[name][0], self._file(name)
        with reading(path):
            if _format(path, file) == "parquet":
                table = pl.read_parquet(path, glob=False)
            else:
                declared = {column: _CSV_TYPES.get(kind, pl.String) for column, kind in file.columns.items()}
                table = pl.read_csv(
                    path,
                    has_header=file.header,
                    new_columns=None if file.header else list(file.columns),
                    schema_overrides={**declared, id_column: pl.String} if file.header else None,
                    infer_schema=file.header,
                    infer_schema_length=None,
                    separator=_separator(path, file),
                    encoding=_ENCODINGS[file.encoding],
                    glob=False,
                )
                table = table.cast(
                    {column: type_ for column, type_ in declared.items() if table.schema.get(column) == pl.String}
                )
        check_columns(path, file, table.schema)
        return table

    def _file(self, name: str) -> FileRecipe:
        return self._recipe.files.get(name, FileRecipe())

    def _find(self, name: str) -> list[Path]:
        path = self._folder / name
        if path.is_file():
            return [path]
        if path.is_dir():
            raise DataError(f"{path}: got a folder, expected a file or a glob such as {path / '*.parquet'}")
        if matches := [Path(one) for one in sorted(glob.glob(str(path), recursive=True)) if Path(one).is_file()]:  # noqa: PTH207
            return matches
        kind = "no file matches this glob" if glob.has_magic(name) else "no such file"
        advice = self._recipe.missing or "check the path"
        raise DataError(f"{path}: {kind}; {advice}")


def scan(path: Path, file: FileRecipe) -> pl.LazyFrame:
    """Scan a log file lazily; every column of a CSV file comes as text, so that no id loses its zeros.

    Raises:
        DataError: it cannot be read, or a declared column is missing or of another type.
    """
    with reading(path):
        if _format(path, file) == "parquet":
            frame = pl.scan_parquet(path, glob=False)
            check_columns(path, file, frame.collect_schema())
            return frame
        columns = None if file.header else list(file.columns)
        separator = _separator(path, file)
        if file.encoding == "latin-1":
            frame = pl.read_csv(
                path, has_header=file.header, new_columns=columns, infer_schema=False, separator=separator,
                encoding="latin-1", glob=False,
            ).lazy()  # fmt: skip
        else:
            frame = pl.scan_csv(
                path, has_header=file.header, new_columns=columns, infer_schema=False, separator=separator, glob=False
            )
        if missing := [column for column in file.columns if column not in frame.collect_schema()]:
            raise DataError(_no_column(path, missing[0], frame.collect_schema().names()))
        return frame


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what Polars says of a damaged or oddly typed file into a `DataError` that names the file."""
    try:
        yield
    except (pl.exceptions.PolarsError, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def check_columns(path: Path, file: FileRecipe, schema: pl.Schema) -> None:
    """Check that every declared column is there with its type.

    Raises:
        DataError: one is not.
    """
    for column, expected in file.columns.items():
        require_column(path, column, schema)
        if (got := type_name(schema[column])) != expected:
            raise DataError(f"{path}: column {column!r}: got type {got} ({schema[column]}), expected {expected}")


def require_column(path: Path, column: str, schema: pl.Schema) -> None:
    """Check that a column is there.

    Raises:
        DataError: it is not; the message lists those that are.
    """
    if column not in schema:
        raise DataError(_no_column(path, column, schema.names()))


def type_name(dtype: pl.DataType) -> str:
    """Name a column's type as recipes do: integer, float, string, boolean, time, list[...]."""
    if isinstance(dtype, pl.List):
        return f"list[{type_name(dtype.inner)}]"  # type: ignore[arg-type]
    if dtype.is_integer():
        return "integer"
    if dtype.is_float():
        return "float"
    if isinstance(dtype, pl.String | pl.Categorical | pl.Enum):
        return "string"
    if isinstance(dtype, pl.Datetime | pl.Date):
        return "time"
    return "boolean" if isinstance(dtype, pl.Boolean) else str(dtype)


_CSV_TYPES: dict[str, type[pl.DataType]] = {
    "integer": pl.Int64,
    "float": pl.Float64,
    "string": pl.String,
    "boolean": pl.Boolean,
}
_ENCODINGS = {"utf-8": "utf8", "latin-1": "latin-1"}


def _no_column(path: Path, column: str, present: list[str]) -> str:
    return f"{path}: column {column!r}: got none of that name, expected one; the columns there are {present}"


def _format(path: Path, file: FileRecipe) -> str:
    if file.format is not None:
        return file.format
    suffixes = path.suffixes
    if ".parquet" in suffixes or ".pq" in suffixes:
        return "parquet"
    if ".csv" in suffixes or ".tsv" in suffixes:
        return "csv"
    raise DataError(f"{path}: got the suffix {path.suffix!r}, expected .parquet, .csv or .tsv")


def _separator(path: Path, file: FileRecipe) -> str:
    return file.separator or ("\t" if ".tsv" in path.suffixes else ",")


def _default_folder(recipe: Recipe) -> Path:
    if recipe.distribution is not None:
        try:
            return Path(str(importlib.metadata.distribution(recipe.distribution).locate_file("")))
        except importlib.metadata.PackageNotFoundError as error:
            raise DataError(
                f"recipe {recipe.name}: the distribution {recipe.distribution!r} is not installed; {recipe.missing}"
            ) from error
    if named := os.environ.get(SOURCE_VARIABLE):
        return Path(named)
    raise DataError(
        f"recipe {recipe.name}: got no source folder, expected --source or the environment variable {SOURCE_VARIABLE} "
        f"to name the folder that holds {recipe.log.files[0]}"
    )
