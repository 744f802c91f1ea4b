"""The exported towers give what the trained, sharded model gives: the same vectors, and so the same ranking."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recsys.config import ModelConfig, TrainConfig
from recsys.data.dataset import Dataset
from recsys.model.exported import ExportedTowers
from recsys.model.layout import Layout
from recsys.model.two_tower import make_batch
from recsys.train.checkpoint import export_towers
from recsys.train.noise import silenced
from recsys.train.process import joined
from recsys.train.sharding import shard
from recsys.widths import truncate


@pytest.mark.parametrize("hidden", [(), (24,), (24, 12)])
@pytest.mark.parametrize(("history", "user_id"), [("mean", False), ("mean", True), ("none", True)])
@pytest.mark.parametrize("num_items", [60, 20])
def test_exported_vectors_equal_the_sharded_models(simulated, tmp_path, device, hidden, history, user_id, num_items):
    dataset = Dataset(simulated)
    config = ModelConfig(widths=(4, 12), embedding_dim=8, hidden=hidden, history_windows=(1, 4), user_id=user_id)
    layout = Layout(config=config, num_items=len(dataset.items), num_users=len(dataset.users), specs=dataset.specs)
    queries, items = dataset.queries("test"), np.arange(len(dataset.items))
    # An empty history and an unknown user are encoded too.
    history, users = queries.history.take(np.arange(50)), queries.user[:50].copy()
    user_features = {name: lists.take(users) for name, lists in dataset.feature_lists("user").items()}
    users[7] = -1
    with silenced(), joined(device.type) as process:
        sharded = shard(layout, TrainConfig(model=config), process)
        sharded.model.eval()
        batch = make_batch(
            layout,
            layout.user_bags(history, user_features, users),
            layout.item_bags(items, dataset.feature_lists("item")),
        )
        with torch.no_grad():
            user_BD, item_ND = (vector.cpu() for vector in sharded.model(batch.to(process.device)))
        export_towers(layout, sharded, process).save(tmp_path)
    towers = ExportedTowers.load(tmp_path)
    unit_user_BD, unit_item_ND = (truncate(vector, 12, towers.widths).numpy() for vector in (user_BD, item_ND))
    np.testing.assert_allclose(towers.encode_users(history, user_features, users), unit_user_BD, atol=1e-5)
    np.testing.assert_allclose(towers.encode_items(items, dataset.feature_lists("item")), unit_item_ND, atol=1e-5)
