from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from recsys.config import LossConfig, ModelConfig, TrainConfig
from recsys.data.dataset import Dataset
from recsys.errors import ConfigError, DataError, TrainingError
from recsys.train.initial import initialise_tables
from recsys.train.pretrained import Pretrained, read_pretrained
from recsys.train.trainer import TrainOptions, train

CONFIG = TrainConfig(
    model=ModelConfig(widths=(4, 8), embedding_dim=8, hidden=(), history_windows=(5,)),
    loss=LossConfig(num_uniform_negatives=16),
    batch_size=200,
    epochs=1,
    table_learning_rate=1e-9,
    device="cpu",
)
IDS = ("i7", "i0", "i30")


def written(folder, vectors=None, ids=IDS):
    """Write vectors and ids, and return the settings that name them."""
    folder.mkdir(exist_ok=True)
    vectors = np.arange(8 * len(IDS), dtype=np.float16).reshape(-1, 8) if vectors is None else vectors
    np.save(folder / "items.npy", vectors)
    (folder / "ids.txt").write_text("".join(f"{id_}\n" for id_ in ids))
    return replace(CONFIG, pretrained_items=str(folder / "items.npy"), pretrained_ids=str(folder / "ids.txt"))


def item_rows(run):
    return load_file(run / "towers" / "towers.safetensors")["tables.item.weight"]


@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "adam"])
def test_items_start_with_their_vectors_and_others_as_usual(simulated, tmp_path, optimizer):
    config = replace(written(tmp_path / "vectors"), table_optimizer=optimizer)
    rows = item_rows(train(TrainOptions(dataset=simulated, out=tmp_path / "with", config=config)))
    plain = replace(CONFIG, table_optimizer=optimizer)
    others = item_rows(train(TrainOptions(dataset=simulated, out=tmp_path / "without", config=plain)))
    given_rows = Dataset(simulated).items.rows(IDS)
    np.testing.assert_allclose(rows[given_rows], np.arange(24).reshape(3, 8), atol=1e-5)
    rest = np.setdiff1d(np.arange(len(rows)), given_rows)
    np.testing.assert_allclose(rows[rest], others[rest], atol=1e-5)


@given(st.lists(st.integers(0, 99), unique=True), st.lists(st.integers(0, 100)), st.randoms(use_true_random=False))
def test_shards_together_have_the_rows_of_the_whole_table(rows, cuts, random):
    rows = sorted(rows)
    places = random.sample(range(len(rows)), len(rows))
    vectors = np.random.default_rng(1).normal(size=(len(rows), 4))
    pretrained = Pretrained(vectors, np.array(places, dtype=np.int64), np.array(rows, dtype=np.int64))
    whole = torch.zeros(100, 4)
    initialise_tables({"item": whole}, seed=1, pretrained=pretrained)
    for row, place in zip(rows, places, strict=True):
        torch.testing.assert_close(whole[row], torch.from_numpy(vectors[place]).float())
    untouched, parts = torch.zeros(100, 4), torch.zeros(100, 4)
    initialise_tables({"item": untouched}, seed=1)
    rest = np.setdiff1d(np.arange(100), rows)
    assert torch.equal(whole[rest], untouched[rest])
    parts.copy_(untouched)
    bounds = [0, *sorted(cuts), 100]
    for start, stop in itertools.pairwise(bounds):
        pretrained.fill(parts[start:stop], start)
    assert torch.equal(parts, whole)


def test_a_run_that_goes_on_does_not_read_them_again(simulated, tmp_path):
    config = written(tmp_path / "vectors")
    whole = train(TrainOptions(dataset=simulated, out=tmp_path / "whole", config=replace(config, epochs=2)))
    run = train(TrainOptions(dataset=simulated, out=tmp_path / "run", config=config))
    for file in (tmp_path / "vectors").iterdir():
        file.unlink()
    train(TrainOptions(dataset=simulated, out=run, config=replace(config, epochs=2), resume=True))
    np.testing.assert_array_equal(item_rows(run), item_rows(whole))
    other = replace(config, pretrained_items="other.npy", epochs=3)
    with pytest.raises(TrainingError, match=r"config\.pretrained_items: was .*, is \"other\.npy\""):
        train(TrainOptions(dataset=simulated, out=run, config=other, resume=True))


def test_a_safetensors_file_will_do(simulated, tmp_path):
    config = written(tmp_path)
    save_file({"any": np.ones((3, 8), dtype=np.float32)}, tmp_path / "items.safetensors")
    found = read_pretrained(replace(config, pretrained_items=str(tmp_path / "items.safetensors")), Dataset(simulated))
    assert found.vector_GE.sum() == 24


@pytest.mark.parametrize(
    ("vectors", "ids", "message"),
    [
        (np.ones((3, 6)), IDS, r"pretrained_items: got vectors of width 6 in .*, expected 8, which is model"),
        (np.ones((3, 8), dtype=np.int64), IDS, r"pretrained_items: .*got int64 of shape \(3, 8\)"),
        (np.array([[1.0] * 8, [np.nan] * 8, [1.0] * 8]), IDS, r"pretrained_items: .*not finite in row 1 of .* 'i0'"),
        (np.ones((3, 8)), IDS[:2], r"pretrained_ids: got 2 ids in .*, expected 3: one for each"),
        (np.ones((3, 8)), ("i0", "x", "y"), r"pretrained_ids: got 2 ids in .* has no items of, first 'x' in line 2"),
        (np.ones((3, 8)), ("i0", "i1", "i0"), r"pretrained_ids: got 'i0' again in line 3"),
    ],
)
def test_what_cannot_be_used_is_named_and_no_run_begun(simulated, tmp_path, vectors, ids, message):
    config = written(tmp_path, vectors, ids)
    with pytest.raises(DataError, match=message):
        train(TrainOptions(dataset=simulated, out=tmp_path / "run", config=config))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "other"), [("pretrained_items", "pretrained_ids"), ("pretrained_ids", "pretrained_items")]
)
def test_files_that_are_not_there(simulated, tmp_path, name, other):
    config = replace(written(tmp_path), **{name: str(tmp_path / "nowhere")})
    with pytest.raises(DataError, match=f"{name}: .*nowhere"):
        read_pretrained(config, Dataset(simulated))
    with pytest.raises(ConfigError, match=f"{other}: got None, expected a file of"):
        replace(CONFIG, **{name: "file"})
