from __future__ import annotations

import pytest
import torch

from recsys.config import ModelConfig
from recsys.model.attention import AttentionPooling

CONFIG = ModelConfig(history="attention", embedding_dim=8, sequence_length=6, num_heads=2)


@pytest.fixture
def pooling():
    torch.manual_seed(1)
    pooling = AttentionPooling(CONFIG).requires_grad_(requires_grad=False)
    pooling.recency_bias.copy_(torch.randn_like(pooling.recency_bias))
    return pooling


def test_each_head_is_a_softmax_over_the_start_and_the_items(pooling):
    lists = [torch.randn(4, 8), torch.zeros(0, 8), torch.randn(6, 8)]
    pooled = pooling(torch.cat(lists), torch.tensor([4, 0, 6]))
    for vector, items in zip(pooled, lists, strict=True):
        tokens = torch.cat([pooling.start_E[None], items]).double()
        expected = []
        for head in range(2):
            from_end = torch.arange(len(tokens) - 1, -1, -1)
            score = tokens @ pooling.query_EH[:, head].double() + pooling.recency_bias[from_end, head]
            expected.append(score.softmax(0) @ tokens @ pooling.value_HEe[head].double())
        torch.testing.assert_close(vector.double(), torch.cat(expected), rtol=0, atol=1e-5)


def test_an_empty_history_has_the_start_as_its_vector(pooling):
    (vector,) = pooling(torch.zeros(0, 8), torch.tensor([0]))
    torch.testing.assert_close(vector, (pooling.start_E @ pooling.value_HEe).flatten())


def test_recency_counts(pooling):
    items = torch.randn(5, 8)
    forwards, backwards = (pooling(order, torch.tensor([5])) for order in (items, items.flip(0)))
    assert (forwards - backwards).abs().max() > 1e-3
