"""New items are placed by their features, if training hid ids now and then."""

from __future__ import annotations

import numpy as np

from recsys.config import LossConfig, ModelConfig, TrainConfig
from recsys.data.dataset import Dataset
from recsys.evaluate.towers import item_vectors, query_vectors
from recsys.model.best import load_towers
from recsys.train.trainer import TrainOptions, train

CONFIG = TrainConfig(
    model=ModelConfig(widths=(8, 16), embedding_dim=8, hidden=(16,), history_windows=(1, 20), item_id_dropout=0.5),
    loss=LossConfig(num_uniform_negatives=32, temperature=(0.1,)),
    batch_size=64,
    epochs=6,
    patience=6,
    dense_learning_rate=5e-3,
    device="cpu",
)


def place_of_targets(towers, dataset, *, known):
    """Return the share of items that each query ranks before its target: .5 by chance."""
    queries = dataset.queries("test")
    item_ND = item_vectors(towers, dataset.feature_lists("item"), known=known)
    score_QN = query_vectors(towers, queries, dataset.feature_lists("user")) @ item_ND.T
    target_Q = score_QN[np.arange(len(queries)), queries.target.values]
    return ((score_QN > target_Q[:, None]) + (score_QN == target_Q[:, None]) / 2).mean(axis=1)


def test_items_without_an_id_are_found_by_their_features(simulated, tmp_path):
    towers, _ = load_towers(train(TrainOptions(dataset=simulated, out=tmp_path / "run", config=CONFIG)))
    place_Q = place_of_targets(towers, Dataset(simulated), known=False)
    margin = 4 * place_Q.std() / np.sqrt(len(place_Q))
    assert place_Q.mean() < 0.5 - margin, f"{place_Q.mean():.3f}, {margin:.3f}"
