"""Damage to a dataset is named down to the row group."""

from __future__ import annotations

import shutil

import polars as pl
import pytest

from recsys.data import shards
from recsys.data.dataset import Dataset
from recsys.data.event_files import write_events
from recsys.data.shards import describe_row_groups, find_damage
from recsys.errors import ArtifactError


@pytest.fixture(params=["train.parquet", "train.arrow"])
def path(request, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "_GROUP", 300)
    frame = pl.DataFrame({"user": range(1000), "item": [row % 7 for row in range(1000)], "time": range(1000)})
    frame = frame.cast({"user": pl.UInt32, "item": pl.UInt32})
    if request.param.endswith("parquet"):
        frame.write_parquet(tmp_path / request.param, row_group_size=300)
    else:
        write_events(tmp_path / request.param, [frame[:650], frame[650:]])
    frame.head(5).write_parquet(tmp_path / "zebra.parquet")
    return tmp_path / request.param


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_every_byte_of_a_row_group_is_in_its_checksum(path):
    described = describe_row_groups(path.parent)
    assert [group["num_rows"] for group in described[path.name]] == [300, 300, 300, 100]
    assert find_damage(path.parent, described) is None
    for number, group in enumerate(described[path.name]):
        for place in group["places"]:
            for byte in (place["offset"], place["offset"] + place["size_bytes"] - 1):
                flip(path, byte)
                last = min(300 * number + 299, 999)
                expected = f"row group {number} of {path.name} (4 in all), rows {300 * number:,} to {last:,}"
                assert find_damage(path.parent, described) == expected
                flip(path, byte)
    assert find_damage(path.parent, described) is None


def test_a_file_that_ends_early_or_is_gone_is_damaged_where_it_ends(path):
    described = describe_row_groups(path.parent)
    path.write_bytes(path.read_bytes()[: described[path.name][2]["places"][0]["offset"] + 1])
    # The columns of an Arrow file lie one behind the other, so all that come later are gone.
    number = 2 if path.suffix == ".parquet" else 0
    assert f"row group {number} of {path.name}" in find_damage(path.parent, described)
    path.unlink()
    assert f"row group 0 of {path.name}" in find_damage(path.parent, described)


def test_a_damaged_dataset_is_refused_by_file_and_row_group(simulated, tmp_path):
    dataset = shutil.copytree(simulated, tmp_path / "dataset")
    place = describe_row_groups(dataset)["train.arrow"][0]["places"][1]
    flip(dataset / "train.arrow", place["offset"] + place["size_bytes"] // 2)
    with pytest.raises(ArtifactError, match=r"train\.arrow: SHA-256: got .*; what is damaged is row group 0 of train"):
        Dataset(dataset)
    # Damage outside of the row groups is the file's own.
    shutil.rmtree(dataset)
    shutil.copytree(simulated, dataset)
    flip(dataset / "train.arrow", -1)
    with pytest.raises(ArtifactError, match=r"train\.arrow: SHA-256: got [0-9a-f]*, expected [0-9a-f]*$"):
        Dataset(dataset)
