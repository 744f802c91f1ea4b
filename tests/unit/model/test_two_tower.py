from __future__ import annotations

import numpy as np
import pytest
import torch

from recsys.config import ModelConfig
from recsys.data.schema import FeatureSpec
from recsys.ids import UNKNOWN
from recsys.model.layout import Layout
from recsys.model.two_tower import TwoTower, make_batch
from recsys.ragged import Ragged
from recsys.train.initial import initialise_tables

SPECS = (FeatureSpec(name="genre", side="item", kind="categorical", values=("a", "b")),)
HISTORY = Ragged.from_lists([[3, 1, 3], [], [900, 3]])


def model_and_batch(items, **settings):
    config = ModelConfig(widths=(4, 8), embedding_dim=8, hidden=(), dropout=0.0, **settings)
    layout = Layout(config=config, num_items=1000, num_users=3, specs=SPECS)
    torch.manual_seed(1)
    model = TwoTower(layout, device=torch.device("cpu"))
    initialise_tables({name: table.weight for name, table in model.tables.embedding_bags.items()}, seed=1)
    features = {"genre": Ragged.from_lists([[item % 2] for item in range(len(items))])}
    return model, make_batch(layout, layout.user_bags(HISTORY, {}, np.arange(3)), layout.item_bags(items, features))


def test_the_share_of_items_that_loses_its_id_is_as_asked_and_the_rest_is_untouched():
    items = np.arange(1000)
    model, batch = model_and_batch(items, item_id_dropout=0.3)
    _, cold = model_and_batch(np.full_like(items, UNKNOWN))
    known_SD, cold_SD = (model.eval()(one)[1] for one in (batch, cold))
    dropped_SD = model.train()(batch)[1]
    is_cold_S = (dropped_SD == cold_SD).all(dim=1)
    torch.testing.assert_close(dropped_SD, torch.where(is_cold_S[:, None], cold_SD, known_SD), rtol=0, atol=0)
    assert is_cold_S.float().mean().item() == pytest.approx(0.3, abs=0.06)


@pytest.mark.parametrize("history", ["attention", "sequence"])
def test_a_history_is_read_whole_even_where_ids_of_items_are_hidden(history):
    model, batch = model_and_batch(np.arange(1000), item_id_dropout=0.9, history=history)
    user_VD = model.eval()(batch)[0]
    assert user_VD.shape == ((8, 8) if history == "sequence" else (3, 8))
    torch.testing.assert_close(model.train()(batch)[0], user_VD, rtol=0, atol=0)


@pytest.mark.parametrize("history", ["attention", "sequence"])
def test_the_distinct_items_of_histories_are_looked_up_once(history):
    _, batch = model_and_batch(np.array([5]), history=history, history_windows=())
    assert batch.features["history"].values().tolist() == [1, 3, 900]
    assert batch.histories.place_T.tolist() == [1, 0, 1, 2, 1]
    assert batch.histories.length_B.tolist() == [3, 0, 2]


def test_a_row_learns_from_every_place_it_is_read_at():
    model, batch = model_and_batch(np.array([3]), history="sequence")
    user_VD, item_SD = model(batch)
    (user_VD.square().sum() + item_SD.square().sum()).backward()
    touched = model.tables.embedding_bags["item"].weight.grad.abs().sum(dim=1).nonzero()[:, 0]
    assert touched.tolist() == [1, 3, 900]
