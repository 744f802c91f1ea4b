"""The exported towers give what the trained, sharded model gives: the same vectors, and so the same ranking."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recsys.config import LossConfig, ModelConfig, TrainConfig
from recsys.data.dataset import Dataset
from recsys.model.exported import ExportedTowers
from recsys.model.layout import Layout
from recsys.model.padding import last_places
from recsys.model.two_tower import make_batch
from recsys.ragged import gather_ranges
from recsys.train.checkpoint import export_towers
from recsys.train.noise import silenced
from recsys.train.plan import plan_tables
from recsys.train.process import joined
from recsys.train.sharding import shard
from recsys.widths import truncate


def assert_exported_as_sharded(dataset, folder, device, config, *, num_items):
    """Check that a sharded model and its exported towers encode users and items alike."""
    layout = Layout(config=config, num_items=len(dataset.items), num_users=len(dataset.users), specs=dataset.specs)
    # Fewer items than users, and more: either side of the lookup may be the longer one.
    queries, items = dataset.queries("test"), np.arange(num_items)
    # An empty history and an unknown user are encoded too.
    kept = np.where(np.arange(50) == 3, 0, queries.history.lengths[:50])
    history, times = (
        gather_ranges(lists.values, lists.offsets[:50], lists.offsets[:50] + kept)
        for lists in (queries.history, queries.time)
    )
    users = queries.user[:50].copy()
    user_features = {name: lists.take(users) for name, lists in dataset.feature_lists("user").items()}
    all_item_features = dataset.feature_lists("item")
    item_features = {name: lists.take(items) for name, lists in all_item_features.items()}
    users[7] = -1
    with silenced(), joined(device.type) as process:
        settings = TrainConfig(model=config, loss=LossConfig(num_batch_negatives=0))
        sharded = shard(layout, settings, process, plan_tables(layout, settings, process))
        with torch.no_grad():
            for name, parameter in sharded.model.named_parameters():
                if name.endswith("bias"):
                    parameter.add_(torch.randn_like(parameter))  # some start at zero
        sharded.model.eval()
        batch = make_batch(
            layout,
            layout.user_bags(history, user_features, users, times, item_features=all_item_features),
            layout.item_bags(items, item_features),
        )
        with torch.no_grad():
            user_VD, item_SD = (vector.cpu() for vector in sharded.model(batch.to(process.device)))
        export_towers(layout, sharded, process, all_item_features).save(folder)
    if config.history == "sequence":
        user_VD = user_VD[last_places(torch.from_numpy(history.last(config.sequence_length).lengths))]
    towers = ExportedTowers.load(folder)
    unit_user_BD, unit_item_SD = (truncate(vector, 12, towers.widths).numpy() for vector in (user_VD, item_SD))
    np.testing.assert_allclose(towers.encode_users(history, user_features, users, times), unit_user_BD, atol=1e-5)
    np.testing.assert_allclose(towers.encode_items(items, item_features), unit_item_SD, atol=1e-5)


@pytest.mark.parametrize("hidden", [(), (24,), (24, 12)])
@pytest.mark.parametrize(("history", "user_id"), [("mean", False), ("mean", True), ("none", True)])
@pytest.mark.parametrize("num_items", [60, 20])
def test_exported_vectors_equal_the_sharded_models(simulated, tmp_path, device, hidden, history, user_id, num_items):
    settings = {"hidden": hidden, "history": history, "history_windows": (1, 4), "user_id": user_id}
    config = ModelConfig(widths=(4, 12), embedding_dim=8, **settings)
    assert_exported_as_sharded(Dataset(simulated), tmp_path, device, config, num_items=num_items)


@pytest.mark.parametrize(
    "settings",
    [
        {"history": "attention", "history_windows": ()},
        {"history": "attention", "history_windows": (1, 4), "user_id": True},
        {"history": "attention", "history_windows": (), "history_features": (2,)},
        {"history": "mean", "history_windows": (1,), "history_features": (1, 9), "user_id": True},
        {"history": "sequence"},
        {"history": "sequence", "time_bias": True, "user_id": True, "num_heads": 4},
        {"history": "sequence", "sequence_length": 3, "num_blocks": 1},
    ],
    ids=str,
)
def test_exported_towers_encode_histories_as_the_sharded_model(simulated, tmp_path, device, settings):
    config = ModelConfig(widths=(4, 12), embedding_dim=8, hidden=(24,), **settings)
    assert_exported_as_sharded(Dataset(simulated), tmp_path, device, config, num_items=30)
