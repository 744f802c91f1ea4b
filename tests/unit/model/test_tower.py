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
