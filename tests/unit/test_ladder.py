"""A ladder for any vectors: what is written, and how bad input is refused."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from recsys.errors import ArtifactError, ConfigError, DataError, WidthError
from recsys.index import store
from recsys.index.files import load_searcher
from recsys.index.rungs import Ladder
from recsys.index.space import LadderSpace
from recsys.index.store import save_vectors
from recsys.ladder import LadderOptions, make_ladder
from recsys.publish import ladder_notes, ladder_table
from recsys.widths import WidthLadder

SPACE = LadderSpace(max_trials=40)
SCANS = LadderSpace(engines=("exact",), levels=(0,), reranks=(0, 2))


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(1)
    np.save(tmp_path / "items.npy", rng.standard_normal((1000, 16)).astype(np.float32))
    save_file({"users": rng.standard_normal((64, 16)).astype(np.float32)}, tmp_path / "users.safetensors")
    return tmp_path


def options(folder, **settings):
    given = {"vectors": folder / "items.npy", "queries": folder / "users.safetensors", "widths": (4, 8, 16)}
    return LadderOptions(**given, **{"out": folder / "out", "repeats": 1, "ks": (5, 20), "space": SPACE, **settings})


def replaced(folder, change):
    vectors = np.load(folder / "items.npy")
    change(vectors)
    np.save(folder / "items.npy", vectors)


def test_a_ladder_and_its_indexes_are_written(folder):
    stages = []
    ladder = make_ladder(options(folder), progress=lambda stage, share: stages.append(stage))
    assert list(dict.fromkeys(stages)) == ["read", "build indexes", "measure the ladder"]
    saved = Ladder.load(folder / "out" / "ladder.json")
    assert saved.rungs == ladder.rungs
    assert saved.measured == json.loads(json.dumps(ladder.measured))
    vectors = np.load(folder / "items.npy")
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    searcher = load_searcher(folder / "out" / "index", unit, widths=WidthLadder((4, 8, 16)))
    assert all(searcher.supports(rung) for rung in ladder.rungs)
    measured = json.loads((folder / "out" / "ladder.json").read_text())["measured"]
    assert measured["space"]["max_trials"] == 40
    assert measured["threads"] == 1
    assert measured["versions"]
    assert len(measured["trials"][0]) == 40


def test_queries_that_are_not_measured_with_are_learned_from(folder):
    assert make_ladder(options(folder)).measured["cells_learned_from"] == 0
    users = np.random.default_rng(2).standard_normal((700, 16)).astype(np.float32)
    save_file({"users": users}, folder / "users.safetensors")
    ladder = make_ladder(options(folder, out=folder / "learned", num_queries=64))
    assert (ladder.measured["num_queries"], ladder.measured["cells_learned_from"]) == (64, 636)
    ladder = make_ladder(options(folder, out=folder / "scans", num_queries=64, space=SCANS))
    assert ladder.measured["cells_learned_from"] == 0


def test_the_table_and_the_notes_name_every_rung(folder):
    ladder = make_ladder(options(folder, space=SCANS))
    assert ladder_table(ladder).row_count == len(ladder.rungs)
    assert f"{len(ladder.rungs)} rungs of 9 tried" in ladder_notes(ladder)[0]


def nan(vectors):
    vectors[7, 3] = np.nan


def zero(vectors):
    vectors[9] = 0


def zero_prefix(vectors):
    vectors[11, :4] = 0


@pytest.mark.parametrize("page", [4, 10_000])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (nan, r"items\.npy: row 7: got NaN or infinity"),
        (zero, r"items\.npy: row 9: got 4 zeros, expected a direction"),
        (zero_prefix, r"items\.npy: row 11: got 4 zeros"),
    ],
)
def test_vectors_without_a_direction_are_named(folder, change, message, page, monkeypatch):
    monkeypatch.setattr(store, "_PAGE", page)
    replaced(folder, change)
    with pytest.raises(WidthError, match=message):
        make_ladder(options(folder))
    assert not (folder / "out").exists()


def test_a_zero_prefix_is_fine_where_prefixes_are_not_scaled(folder):
    replaced(folder, zero_prefix)
    ladder = make_ladder(options(folder, norm="full", space=SCANS))
    assert {rung.width for rung in ladder.rungs} == {4, 8, 16}
    assert all(0 <= rung.overlap[20] <= 1 for rung in ladder.rungs)
    assert max(rung.overlap[20] for rung in ladder.rungs if rung.width == 16) == 1


@pytest.mark.parametrize(
    ("num_items", "space", "message"),
    [(15, SPACE, "got 15 items, expected at least k = 20"), (300, SPACE, "expected at least 624 to make cells of")],
)
def test_too_few_items(folder, num_items, space, message):
    np.save(folder / "items.npy", np.load(folder / "items.npy")[:num_items])
    with pytest.raises(DataError, match=message):
        make_ladder(options(folder, space=space))


def test_few_items_are_enough_without_cells(folder):
    np.save(folder / "items.npy", np.load(folder / "items.npy")[:300])
    assert make_ladder(options(folder, space=SCANS)).steps


def test_too_few_queries(folder):
    np.save(folder / "few.npy", np.load(folder / "items.npy")[:31])
    with pytest.raises(DataError, match="got 31 queries, expected at least 32"):
        make_ladder(LadderOptions(**{**vars(options(folder)), "queries": folder / "few.npy"}))


def test_widths_that_do_not_fit(folder):
    with pytest.raises(WidthError, match=r"expected the last to be .*items\.npy's width 16"):
        make_ladder(LadderOptions(**{**vars(options(folder)), "widths": (4, 8)}))


def test_widths_that_were_not_trained(folder):
    vectors = np.load(folder / "items.npy")
    save_vectors(vectors, folder / "items.safetensors", metadata={"widths": [8, 16]})
    with pytest.raises(WidthError, match=r"expected some of \[8, 16\], which .* says were trained"):
        make_ladder(LadderOptions(**{**vars(options(folder)), "vectors": folder / "items.safetensors"}))


def test_files_that_hold_no_matrix(folder):
    for name, content in (("flat.npy", np.zeros(16)), ("whole.npy", np.zeros((40, 16), dtype=np.int64))):
        np.save(folder / name, content)
        with pytest.raises(ArtifactError, match="expected one matrix of floating point numbers"):
            make_ladder(LadderOptions(**{**vars(options(folder)), "queries": folder / name}))
    (folder / "text.safetensors").write_text("no")
    for name in ("text.safetensors", "missing.npy"):
        with pytest.raises(ArtifactError, match=name):
            make_ladder(LadderOptions(**{**vars(options(folder)), "queries": folder / name}))


def test_a_folder_that_exists_is_left_alone(folder):
    (folder / "out").mkdir()
    with pytest.raises(ArtifactError, match="exists already"):
        make_ladder(options(folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [({"ks": ()}, "ks: got"), ({"num_queries": 8}, "num_queries: got 8"), ({"repeats": 0}, "repeats, budget_s: got 0")],
)
def test_settings_that_cannot_be_right(folder, change, message):
    with pytest.raises(ConfigError, match=message):
        options(folder, **change)
