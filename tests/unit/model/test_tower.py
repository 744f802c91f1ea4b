from __future__ import annotations

import pytest
import torch

from recsys.config import ModelConfig
from recsys.model.tower import Tower


def test_the_share_of_inputs_that_is_dropped_is_as_asked_and_only_in_training():
    tower = Tower(1, ModelConfig(widths=(4096,), embedding_dim=4096, hidden=(), input_dropout=0.3), side="item")
    torch.nn.init.eye_(tower.head.projection.weight)
    torch.nn.init.zeros_(tower.head.projection.bias)
    pooled = torch.rand(3, 4096) + 1
    torch.manual_seed(1)
    assert torch.equal(tower.eval()(pooled), pooled)
    dropped = tower.train()(pooled)
    kept = dropped != 0
    assert kept.float().mean().item() == pytest.approx(0.7, abs=0.02)
    torch.testing.assert_close(dropped[kept], (pooled / 0.7)[kept])


@pytest.mark.parametrize(("of_items", "is_dropped"), [(None, True), (0.0, False), (0.3, True)])
def test_inputs_of_items_may_be_dropped_otherwise_than_those_of_users(of_items, is_dropped):
    config = ModelConfig(widths=(512,), embedding_dim=512, hidden=(), input_dropout=0.3, item_input_dropout=of_items)
    for side, expected in (("user", True), ("item", is_dropped)):
        assert Tower(1, config, side=side).input_dropout.is_active is expected
    user_share, item_share = (Tower(1, config, side=side).input_dropout.share for side in ("user", "item"))
    assert (user_share, item_share) == (0.3, 0.3 if of_items is None else of_items)
