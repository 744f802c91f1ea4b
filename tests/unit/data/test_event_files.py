"""Files of events: written in pieces, mapped, and read by others."""

from __future__ import annotations

import itertools

import numpy as np
import polars as pl
import pytest

from recsys.data.event_files import map_events, write_events
from recsys.errors import ArtifactError

EVENTS = pl.DataFrame(
    {"user": [0, 0, 1, 3, 3], "item": [5, 2, 2, 9, 2**32 - 1], "time": [-1, 2**40, 3, 3, 4]},
    schema={"user": pl.UInt32, "item": pl.UInt32, "time": pl.Int64},
)


@pytest.mark.parametrize("cuts", [[0, 5], [0, 1, 1, 4, 5], [0, 0, 5]])
@pytest.mark.parametrize("columns", [["user", "item"], ["user", "item", "time"]])
def test_pieces_are_one_file_that_others_read_too(tmp_path, cuts, columns):
    frame = EVENTS.select(columns)
    whole, path = tmp_path / "whole.arrow", tmp_path / "events.arrow"
    write_events(whole, [frame])
    write_events(path, (frame[start:stop].with_columns(other=1) for start, stop in itertools.pairwise(cuts)))
    assert path.read_bytes() == whole.read_bytes()
    assert pl.read_ipc(path).equals(frame)
    mapped = map_events(path)
    assert len(mapped) == 5
    for name in columns:
        np.testing.assert_array_equal(getattr(mapped, name), frame[name].to_numpy())
    assert (mapped.time is None) == ("time" not in columns)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["events.arrow", "whole.arrow"]


def test_there_may_be_no_events(tmp_path):
    write_events(tmp_path / "events.arrow", [EVENTS.clear()])
    mapped = map_events(tmp_path / "events.arrow")
    assert len(mapped) == len(mapped.item) == len(mapped.time) == 0


def test_columns_are_the_file_itself_and_read_only(tmp_path):
    write_events(tmp_path / "events.arrow", [EVENTS])
    mapped = map_events(tmp_path / "events.arrow")
    whole = np.frombuffer(mapped.mapping, dtype=np.uint8)
    assert all(np.shares_memory(whole, column) for column in (mapped.user, mapped.item, mapped.time))
    with pytest.raises(ValueError, match="read-only"):
        mapped.item[0] = 1


@pytest.mark.parametrize("content", [b"", b"ARROW1 this is none"])
def test_what_is_no_such_file_is_refused(tmp_path, content):
    (tmp_path / "events.arrow").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"events\.arrow: not an Arrow file of events"):
        map_events(tmp_path / "events.arrow")
    with pytest.raises(ArtifactError, match=r"other\.arrow: missing"):
        map_events(tmp_path / "other.arrow")
