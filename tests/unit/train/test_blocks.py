"""Checkpoints and towers of large tables: what they hold, and what memory making them takes."""

from __future__ import annotations

import gc
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed._shard.sharded_tensor import ShardedTensor

from benchmarks._harness import status_bytes
from recsys.config import LossConfig, ModelConfig, TrainConfig
from recsys.data.dataset import Dataset
from recsys.model.exported import ExportedTowers
from recsys.model.layout import Layout
from recsys.train.blocks import BLOCK_BYTES, BlockPlanner
from recsys.train.checkpoint import export_towers, load_checkpoint, save_checkpoint
from recsys.train.noise import silenced
from recsys.train.plan import plan_tables
from recsys.train.process import joined
from recsys.train.run_folder import Progress
from recsys.train.sharding import shard

CONFIG = TrainConfig(
    model=ModelConfig(widths=(4, 8), embedding_dim=8, hidden=(16,), history_windows=(1, 5), user_id=True),
    loss=LossConfig(num_uniform_negatives=16),
    device="cpu",
)


@pytest.fixture
def process():
    with silenced(), joined("cpu") as joined_process:
        yield joined_process


def sharded_as(layout, config, process, **settings):
    return shard(layout, config, process, plan_tables(layout, config, process), **settings)


def layout_of(dataset, config, **sizes):
    given = {"num_items": dataset.num_items, "num_users": dataset.num_users, "specs": dataset.specs} | sizes
    return Layout(config=config.model, **given)


def local(tensors):
    return {
        name: value.local_tensor() if isinstance(value, ShardedTensor) else value for name, value in tensors.items()
    }


def test_a_checkpoint_of_blocks_holds_what_was_written(simulated, process, tmp_path):
    layout, config = layout_of(Dataset(simulated), CONFIG), replace(CONFIG, averaged_epochs=2)
    written = sharded_as(layout, config, process)
    written.dense_optimizer.init_state()
    with torch.no_grad():
        for value in local(written.tensors()).values():
            value.copy_(torch.rand(value.shape))
    # 7 rows of 8 float32, so that the last block of a table is a smaller one.
    dcp.save(written.tensors(), checkpoint_id=tmp_path, planner=BlockPlanner(7 * 8 * 4))
    found = dcp.FileSystemReader(tmp_path).read_metadata().state_dict_metadata
    sizes = {name: [tuple(chunk.sizes) for chunk in one.chunks] for name, one in found.items()}
    assert Counter(sizes["model/tables.embedding_bags.item.weight"]) == {(7, 8): 8, (4, 8): 1}
    read = sharded_as(layout, config, process, initial=False)
    read.dense_optimizer.init_state()
    assert not local(read.tensors())["model/tables.embedding_bags.item.weight"].any()
    dcp.load(read.tensors(), checkpoint_id=tmp_path)
    expected = local(written.tensors())
    for name, value in local(read.tensors()).items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("history", ["mean", "attention"])
def test_towers_of_a_lone_process_share_its_tables(simulated, process, tmp_path, history):
    config, dataset = replace(CONFIG, model=replace(CONFIG.model, history=history)), Dataset(simulated)
    layout = layout_of(dataset, config)
    sharded = sharded_as(layout, config, process)
    towers = export_towers(layout, sharded, process, dataset.feature_lists("item"))
    tables = local(sharded.kept)
    for name in layout.tables:
        weight = towers.get_parameter(f"tables.{name}.weight")
        assert weight.data_ptr() == tables[f"tables.embedding_bags.{name}.weight"].data_ptr()
        assert not weight.requires_grad
    towers.save(tmp_path)
    apart, queries, items = ExportedTowers.load(tmp_path), dataset.queries("test"), np.arange(layout.num_items)
    for features in (dataset.feature_lists("user"), {}):
        taken = {name: lists.take(queries.user) for name, lists in features.items()}
        vectors = [one.encode_users(queries.history, taken, queries.user) for one in (towers, apart)]
        np.testing.assert_array_equal(*vectors)
    vectors = [one.encode_items(items, dataset.feature_lists("item")) for one in (towers, apart)]
    np.testing.assert_array_equal(*vectors)


def peak_growth(work):
    """Return by how many bytes the resident set grows at most during some work."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = status_bytes("VmRSS")
    work()
    return status_bytes("VmHWM") - before


@pytest.mark.deep
def test_writing_reading_and_exporting_hold_no_second_table(simulated, process, tmp_path):
    config = replace(CONFIG, model=replace(CONFIG.model, embedding_dim=64, user_id=False))
    layout = layout_of(Dataset(simulated), config, num_items=2_000_000, specs=())
    table_bytes = 2_000_000 * 64 * 4
    sharded = sharded_as(layout, config, process)
    sharded.dense_optimizer.init_state()
    progress = Progress(total_steps=1)
    work = {
        "write": lambda: save_checkpoint(tmp_path / "run", sharded, progress, process),
        "read": lambda: load_checkpoint(tmp_path / "run", sharded),
        "export": lambda: export_towers(layout, sharded, process).save(tmp_path),
    }
    grown = {name: peak_growth(one) for name, one in work.items()}
    assert max(grown.values()) < 3 * BLOCK_BYTES < table_bytes / 2, grown
