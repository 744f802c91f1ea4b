from __future__ import annotations

import json
from dataclasses import replace

import pytest
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torchrec.distributed.types import ShardingPlan

from recsys.config import LossConfig, ModelConfig, TrainConfig
from recsys.data.dataset import Dataset
from recsys.errors import ConfigError
from recsys.model.layout import Layout
from recsys.train.memory import available_bytes
from recsys.train.noise import silenced
from recsys.train.plan import Plan, TablePlan, plan_tables
from recsys.train.process import joined
from recsys.train.sharding import shard
from recsys.train.trainer import TrainOptions, train

CONFIG = TrainConfig(
    model=ModelConfig(widths=(4, 8), embedding_dim=8, hidden=(16,), history_windows=(1, 5)),
    loss=LossConfig(num_uniform_negatives=16),
    batch_size=200,
    epochs=1,
    device="cpu",
)


@pytest.fixture
def process():
    with silenced(), joined("cpu") as joined_process:
        yield joined_process


def layout_of(simulated, **sizes):
    dataset = Dataset(simulated)
    given = {"num_items": len(dataset.items), "num_users": len(dataset.users), "specs": dataset.specs} | sizes
    return Layout(config=CONFIG.model, **given)


def _num_bytes(tensor):
    local = tensor.local_tensor() if isinstance(tensor, ShardedTensor) else tensor
    return local.numel() * local.element_size()


@pytest.mark.parametrize(
    ("optimizer", "precision", "averaged_epochs"),
    [
        ("rowwise_adagrad", "float32", 1),
        ("adagrad", "float32", 1),
        ("adam", "float32", 1),
        ("adam", "float32", 2),
        ("rowwise_adagrad", "fp16", 1),
        ("adagrad", "fp16", 2),
    ],
)
def test_a_plan_counts_what_is_then_held(simulated, process, optimizer, precision, averaged_epochs):
    config = replace(CONFIG, table_optimizer=optimizer, table_precision=precision, averaged_epochs=averaged_epochs)
    layout = layout_of(simulated)
    plan = plan_tables(layout, config, process)
    assert {name: table.num_rows for name, table in plan.tables.items()} == layout.tables
    sharded = shard(layout, config, process, plan)
    sharded.dense_optimizer.init_state()
    held = {name: _num_bytes(value) for name, value in sharded.tensors().items() if value.dim() > 0}
    tables, towers = (
        sum(size for name, size in held.items() if ("tables" in name) == of_tables) for of_tables in (True, False)
    )
    # What optimizers, weights and their means take; gradients are there in a step alone.
    with_gradients = 4 / 3 if averaged_epochs == 1 else 5 / 4
    planned = sum(table.size_bytes[0] for table in plan.tables.values())
    assert planned == round(tables * with_gradients) if optimizer == "adam" else planned == tables
    assert plan.towers_bytes == round(towers * with_gradients)
    # Plain towers are float32, and have trained tables that are so too as their own.
    plain = 4 * 8 * sum(layout.tables.values())
    assert plan.export_bytes == (0 if precision == "float32" else plain)


@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "adam"])
def test_tables_that_do_not_fit_are_refused_with_numbers(simulated, process, optimizer):
    layout = layout_of(simulated, num_items=10**11)
    before = available_bytes(process)
    expected = (
        r"embedding_dim: got 8, with which tables need (\S+) TB .*\(item 100,000,000,000 x 8: .*expected what fits"
    )
    with pytest.raises(ConfigError, match=expected.replace("TB", "GB")):
        plan_tables(layout, replace(CONFIG, table_optimizer=optimizer), process)
    assert available_bytes(process) > before / 2


def test_a_run_that_does_not_fit_leaves_nothing(simulated, tmp_path):
    model = replace(CONFIG.model, embedding_dim=4 * 10**9)
    with pytest.raises(
        ConfigError, match=r"spread over 1 process \(item 60 x 4000000000: 960\.0 GB; .* for the towers"
    ):
        train(TrainOptions(dataset=simulated, out=tmp_path / "run", config=replace(CONFIG, model=model)))
    assert not (tmp_path / "run").exists()


def test_the_plan_is_told_and_written_down(simulated, tmp_path, capsys):
    run = train(TrainOptions(dataset=simulated, out=tmp_path / "run", config=CONFIG))
    told, plan = capsys.readouterr().err, json.loads((run / "plan.json").read_text())
    assert told.index("memory planned: ") < told.index("table item") < told.index("epoch   1")
    assert plan["tables"]["item"]["num_rows"] == 60
    assert plan["tables"]["item"]["sharding"] in ("table_wise", "row_wise")
    assert plan["needed_bytes"][0] < plan["usable_bytes"][0]


def test_small_tables_are_told_of_together():
    sizes = {"item": 9_000, "user": 900, "age": 50, "sex": 50}
    tables = {
        name: TablePlan(num_rows=size, dim=1, sharding="replicated", size_bytes=(size,)) for name, size in sizes.items()
    }
    plan = Plan(tables=tables, towers_bytes=1, export_bytes=1, usable_bytes=(10**6,), sharding=ShardingPlan(plan={}))
    _, item, user, rest = plan.lines()
    assert "table item " in item
    assert "table user " in user
    assert rest == "  and 2 smaller ones, 0.1 kB together"
