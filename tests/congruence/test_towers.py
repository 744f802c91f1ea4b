"""The exported towers give what the trained, sharded model gives: the same vectors, and so the same ranking."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from recsys.config import ModelConfig, TrainConfig
from recsys.data.dataset import Dataset
from recsys.model.exported import ExportedTowers
from recsys.model.layout import Layout
from recsys.model.two_tower import make_batch
from recsys.train.checkpoint import export_towers
from recsys.train.noise import silenced
from recsys.train.process import joined
from recsys.train.sharding import shard


@pytest.mark.parametrize("hidden", [(), (24,), (24, 12)])
@pytest.mark.parametrize(
    ("history", "user_id", "norm", "head"),
    [("mean", False, "prefix", "tied"), ("mean", True, "full", "per_width"), ("none", True, "prefix", "per_width")],
)
@pytest.mark.parametrize("num_items", [60, 20])
def test_exported_vectors_equal_the_sharded_models(
    simulated, tmp_path, device, hidden, history, user_id, norm, head, num_items
):
    dataset = Dataset(simulated)
    model = {"hidden": hidden, "history": history, "user_id": user_id, "norm": norm, "head": head}
    config = ModelConfig(widths=(4, 12), embedding_dim=8, history_windows=(1, 4), **model)
    layout = Layout(config=config, num_items=len(dataset.items), num_users=len(dataset.users), specs=dataset.specs)
    queries, items = dataset.queries("test"), np.arange(num_items)
    # An empty history and an unknown user are encoded too.
    histories, users = queries.history.take(np.arange(50)), queries.user[:50].copy()
    user_features = {name: lists.take(users) for name, lists in dataset.feature_lists("user").items()}
    item_features = {name: lists.take(items) for name, lists in dataset.feature_lists("item").items()}
    users[7] = -1
    with silenced(), joined(device.type) as process:
        sharded = shard(layout, TrainConfig(model=config), process)
        sharded.model.eval()
        batch = make_batch(
            layout,
            layout.user_bags(histories, user_features, users),
            layout.item_bags(items, item_features),
        )
        with torch.no_grad():
            user_BU, item_ND = (vector.cpu() for vector in sharded.model(batch.to(process.device)))
        export_towers(layout, sharded, process).save(tmp_path)
    towers = ExportedTowers.load(tmp_path)
    encoded_BU = towers.encode_users(histories, user_features, users)
    encoded_ND = towers.encode_items(items, item_features)
    assert encoded_BU.shape == (50, 12 if head == "tied" else 4 + 12)
    np.testing.assert_allclose(encoded_ND, normalize(item_ND, dim=1), atol=1e-5)
    for block in towers.widths.query_blocks:
        np.testing.assert_allclose(encoded_BU[:, block], normalize(user_BU[:, block], dim=1), atol=1e-5)
