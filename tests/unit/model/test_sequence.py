from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from recsys.config import ModelConfig
from recsys.model.elapsed import UNKNOWN_TIME
from recsys.model.sequence import SequenceEncoder

CONFIG = ModelConfig(history="sequence", embedding_dim=8, sequence_length=12, num_blocks=2, num_heads=2)


@pytest.fixture
def encoder():
    torch.manual_seed(1)
    encoder = SequenceEncoder(CONFIG).eval().requires_grad_(requires_grad=False)
    for block in encoder.blocks:
        block.distance_bias.copy_(torch.randn_like(block.distance_bias))
    return encoder


def encode(encoder, *lists):
    lengths = torch.tensor([len(one) for one in lists])
    states = encoder(torch.cat(lists), lengths)
    return states.split((lengths + 1).tolist())


def test_one_state_more_than_items_and_one_for_nothing(encoder):
    some, none = encode(encoder, torch.randn(3, 8), torch.zeros(0, 8))
    assert some.shape == (4, 8)
    assert none.shape == (1, 8)
    # What stands after the start alone does not depend on what follows.
    torch.testing.assert_close(some[0], none[0])


def test_batches_without_any_item(encoder):
    (alone,) = encode(encoder, torch.zeros(0, 8))
    assert alone.shape == (1, 8)
    assert encode(encoder, torch.zeros(0, 8), torch.zeros(0, 8))[1].allclose(alone)


@pytest.mark.parametrize("changed", range(6))
def test_a_later_item_changes_no_earlier_state_and_every_later_one(encoder, changed):
    items = torch.randn(6, 8)
    (before,) = encode(encoder, items)
    items[changed] = torch.randn(8)
    (after,) = encode(encoder, items)
    torch.testing.assert_close(after[: changed + 1], before[: changed + 1], rtol=0, atol=1e-6)
    assert ((after - before)[changed + 1 :].abs().amax(dim=1) > 1e-3).all()


def test_a_list_is_encoded_alike_whatever_stands_beside_it(encoder):
    short, long = torch.randn(4, 8), torch.randn(12, 8)
    (alone,) = encode(encoder, short)
    _, beside, _ = encode(encoder, long, short, torch.zeros(0, 8))
    torch.testing.assert_close(beside, alone, rtol=0, atol=1e-6)


def test_gradients_come_from_states_before_and_none_from_padding():
    torch.manual_seed(1)
    encoder = SequenceEncoder(CONFIG).eval()
    items = torch.randn(9, 8, requires_grad=True)
    states = encoder(items, torch.tensor([3, 6]))
    (states[1] @ torch.randn(8)).backward()
    assert items.grad[0].abs().max() > 1e-3
    assert items.grad[1:].abs().max() == 0


def naive_block(block, token_LE):
    """HSTU's block as the paper writes it, one position at a time, in float64."""
    block = block.double()
    x_LE = token_LE.double()
    dim, heads = x_LE.shape[1], block.num_heads
    projected = torch.nn.functional.silu(block.gate_value_query_key(block.norm(x_LE)))
    gate, value, query, key = projected.split(dim, dim=1)
    rows = []
    for i in range(len(x_LE)):
        read = []
        for head in range(heads):
            part = slice(head * dim // heads, (head + 1) * dim // heads)
            weights = [
                torch.nn.functional.silu(query[i, part] @ key[j, part] + block.distance_bias[head, i - j]) / (i + 1)
                for j in range(i + 1)
            ]
            read.append(sum(weight * value[j, part] for j, weight in enumerate(weights)))
        rows.append(x_LE[i] + block.out(gate[i] * block.attention_norm(torch.cat(read))))
    return torch.stack(rows)


def test_blocks_are_gated_pointwise_attention(encoder):
    items = torch.randn(5, 8)
    (states,) = encode(encoder, items)
    token_LE = torch.cat([encoder.start_E[None], items]) * 8**0.5
    for block in encoder.blocks:
        token_LE = naive_block(block, token_LE)
    torch.testing.assert_close(states.double(), encoder.norm.double()(token_LE), rtol=0, atol=1e-5)


def test_times_count_only_as_far_as_they_are_known():
    torch.manual_seed(1)
    encoder = SequenceEncoder(replace(CONFIG, time_bias=True)).eval().requires_grad_(requires_grad=False)
    for block in encoder.blocks:
        block.time_bias.copy_(torch.randn_like(block.time_bias))
    items, lengths, times = torch.randn(5, 8), torch.tensor([2, 3]), torch.tensor([0, 100, 7, 8, 9])
    states = encoder(items, lengths, times)
    # A clock that is set otherwise tells the same times apart; another distance changes the states from there on.
    torch.testing.assert_close(encoder(items, lengths, times + 1000), states)
    later = encoder(items, lengths, times + torch.tensor([0, 0, 0, 0, 5000]))
    changed = (later - states).abs().amax(dim=1) > 1e-3
    assert changed.tolist() == [False] * 6 + [True]
    unknown = encoder(items, lengths)
    torch.testing.assert_close(encoder(items, lengths, torch.full((5,), UNKNOWN_TIME)), unknown)
    assert ((unknown - states)[[2, 4, 5, 6]].abs().amax(dim=1) > 1e-3).all()


def test_training_hides_the_times_of_some_histories():
    torch.manual_seed(1)
    encoder = SequenceEncoder(replace(CONFIG, time_bias=True, dropout=0.0)).requires_grad_(requires_grad=False)
    for block in encoder.blocks:
        block.time_bias.copy_(torch.randn_like(block.time_bias))
    items, lengths, times = torch.randn(4000, 8), torch.full((1000,), 4), torch.arange(4000) ** 2
    trained = encoder(items, lengths, times).view(1000, -1)
    known, unknown = (encoder.eval()(items, lengths, given).view(1000, -1) for given in (times, None))
    is_hidden = (trained == unknown).all(dim=1)
    torch.testing.assert_close(trained, torch.where(is_hidden[:, None], unknown, known), rtol=0, atol=0)
    assert is_hidden.float().mean().item() == pytest.approx(0.1, abs=0.03)


def test_a_history_longer_than_the_encoder_reads_has_no_bias(encoder):
    with pytest.raises(IndexError):
        encode(encoder, torch.randn(13, 8))
