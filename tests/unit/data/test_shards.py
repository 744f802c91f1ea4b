"""Damage to a dataset is named down to the row group."""

from __future__ import annotations

import shutil

import polars as pl
import pytest

from recsys.data.dataset import Dataset
from recsys.data.shards import describe_row_groups, find_damage
from recsys.errors import ArtifactError


@pytest.fixture
def folder(tmp_path):
    frame = pl.DataFrame({"user": range(1000), "item": [row % 7 for row in range(1000)]})
    frame.write_parquet(tmp_path / "train.parquet", row_group_size=300)
    frame.head(5).write_parquet(tmp_path / "test.parquet")
    return tmp_path


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_every_byte_of_a_row_group_is_in_its_checksum(folder):
    described = describe_row_groups(folder)
    assert [group["num_rows"] for group in described["train.parquet"]] == [300, 300, 300, 100]
    assert find_damage(folder, described) is None
    for number, group in enumerate(described["train.parquet"]):
        for place in (group["offset"], group["offset"] + group["size_bytes"] - 1):
            flip(folder / "train.parquet", place)
            last = min(300 * number + 299, 999)
            expected = f"row group {number} of train.parquet (4 in all), rows {300 * number:,} to {last:,}"
            assert find_damage(folder, described) == expected
            flip(folder / "train.parquet", place)
    assert find_damage(folder, described) is None


def test_a_file_that_ends_early_or_is_gone_is_damaged_where_it_ends(folder):
    described, path = describe_row_groups(folder), folder / "train.parquet"
    path.write_bytes(path.read_bytes()[: described["train.parquet"][2]["offset"] + 1])
    assert "row group 2 of train.parquet" in find_damage(folder, described)
    path.unlink()
    assert "row group 0 of train.parquet" in find_damage(folder, described)


def test_a_damaged_dataset_is_refused_by_file_and_row_group(simulated, tmp_path):
    dataset = shutil.copytree(simulated, tmp_path / "dataset")
    group = describe_row_groups(dataset)["train.parquet"][0]
    flip(dataset / "train.parquet", group["offset"] + group["size_bytes"] // 2)
    with pytest.raises(
        ArtifactError, match=r"train\.parquet: SHA-256: got .*; what is damaged is row group 0 of train"
    ):
        Dataset(dataset)
    # Damage outside of the row groups is the file's own.
    shutil.rmtree(dataset)
    shutil.copytree(simulated, dataset)
    flip(dataset / "train.parquet", -1)
    with pytest.raises(ArtifactError, match=r"train\.parquet: SHA-256: got [0-9a-f]*, expected [0-9a-f]*$"):
        Dataset(dataset)
