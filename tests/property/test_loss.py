"""The one-pass loss against the loss as the papers write it: width by width, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import log_softmax, normalize

from recsys.errors import ConfigError
from recsys.model.loss import MatryoshkaSoftmax, sampling_shift
from recsys.testing import width_ladders
from recsys.widths import WidthLadder


def naive_loss(user_BD, item_SD, item_S, log_expected_S, *, widths, temperatures, weights):
    """One softmax per width and user: the positive as it is, every other sample corrected, accidental hits left out."""
    total = user_BD.new_zeros(())
    for width, temperature, weight in zip(widths, temperatures, weights, strict=True):
        cosine_BS = normalize(user_BD[:, :width], dim=1) @ normalize(item_SD[:, :width], dim=1).T
        for user in range(len(user_BD)):
            others = torch.nonzero(item_S != item_S[user])[:, 0]
            logits = torch.cat(
                [cosine_BS[user, [user]] / temperature, cosine_BS[user, others] / temperature - log_expected_S[others]]
            )
            total = total - weight * log_softmax(logits, dim=0)[0] / len(user_BD)
    return total / sum(weights)


@st.composite
def problems(draw):
    widths = draw(width_ladders(max_width=24))
    batch, negatives = draw(st.integers(1, 5)), draw(st.integers(0, 4))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = 10.0 ** draw(st.integers(-2, 2))
    tensors = {
        "user_BD": torch.from_numpy(random.normal(size=(batch, widths.full)) * scale),
        "item_SD": torch.from_numpy(random.normal(size=(batch + negatives, widths.full))),
        # Few different items, so that accidental hits are common.
        "item_S": torch.from_numpy(random.integers(draw(st.integers(1, 8)), size=batch + negatives)),
        "log_expected_S": torch.from_numpy(random.normal(size=batch + negatives)),
    }
    return widths, tensors, random


@given(problem=problems())
def test_value_and_gradient_equal_the_naive_loss(problem):
    widths, tensors, random = problem
    temperatures, weights = (random.uniform(low, 2, len(widths)).tolist() for low in (0.05, 0.1))
    ours = {name: tensors[name].clone().requires_grad_() for name in ("user_BD", "item_SD")}
    theirs = {name: tensors[name].clone().requires_grad_() for name in ("user_BD", "item_SD")}
    rest = {name: tensors[name] for name in ("item_S", "log_expected_S")}
    loss, loss_L = MatryoshkaSoftmax(widths, temperature=temperatures, weights=weights)(**ours, **rest)
    expected = naive_loss(**theirs, **rest, widths=widths, temperatures=temperatures, weights=weights)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        (loss_L * torch.tensor(weights, dtype=torch.float64)).sum() / sum(weights), expected.detach()
    )
    for name in ours:
        torch.testing.assert_close(ours[name].grad, theirs[name].grad, rtol=1e-7, atol=1e-9)


@given(problem=problems())
def test_the_scale_of_vectors_does_not_matter(problem):
    widths, tensors, random = problem
    loss = MatryoshkaSoftmax(widths, temperature=[0.1])
    scaled = tensors | {"user_BD": tensors["user_BD"] * random.uniform(0.5, 2)}
    torch.testing.assert_close(loss(**tensors)[0], loss(**scaled)[0])


@given(problem=problems())
def test_negatives_may_come_in_any_order(problem):
    widths, tensors, random = problem
    batch = len(tensors["user_BD"])
    order = np.concatenate([np.arange(batch), batch + random.permutation(len(tensors["item_SD"]) - batch)])
    shuffled = {name: tensors[name] if name == "user_BD" else tensors[name][order] for name in tensors}
    loss = MatryoshkaSoftmax(widths, temperature=[0.1])
    torch.testing.assert_close(loss(**tensors)[0], loss(**shuffled)[0])


def test_an_accidental_hit_has_neither_probability_nor_gradient():
    widths = WidthLadder([2, 4])
    user = torch.randn(1, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    item = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    loss = MatryoshkaSoftmax(widths, temperature=[0.1])
    hit = loss(user, item, torch.tensor([7, 7, 8]), torch.zeros(3, dtype=torch.float64))[0]
    hit.backward()
    assert item.grad is not None
    assert (item.grad[1] == 0).all()
    assert (item.grad[2] != 0).all()
    torch.testing.assert_close(
        hit, loss(user, item[[0, 2]], torch.tensor([7, 8]), torch.zeros(2, dtype=torch.float64))[0]
    )
    shift = sampling_shift(torch.tensor([7, 7, 8]), torch.full((3,), 0.5), batch=1)
    assert shift.tolist() == [[0.0, -torch.inf, -0.5]]


def test_with_every_item_sampled_once_the_loss_is_the_full_softmax():
    widths, num_items, temperature = WidthLadder([4]), 6, 0.2
    random = np.random.default_rng(5)
    user, item = torch.from_numpy(random.normal(size=(1, 4))), torch.from_numpy(random.normal(size=(num_items, 4)))
    # The positive, then the whole catalogue as negatives, each expected exactly once.
    rows = torch.tensor([2, *range(num_items)])
    loss, _ = MatryoshkaSoftmax(widths, temperature=[temperature])(
        user, item[rows], rows, torch.zeros(num_items + 1, dtype=torch.float64)
    )
    logits = normalize(user, dim=1) @ normalize(item, dim=1).T / temperature
    torch.testing.assert_close(loss, -log_softmax(logits, dim=1)[0, 2])


def test_logq_makes_sampled_negatives_stand_for_the_catalogue():
    """The mean over many draws of the corrected sum is the sum over all items but the positive, popular or not."""
    random = np.random.default_rng(0)
    logit, probability = random.normal(size=20), random.dirichlet(np.ones(20))
    num_draws, num_samples, positive = 4000, 50, 3
    log_expected = torch.from_numpy(np.log(num_samples * probability))
    sums = []
    for _ in range(num_draws):
        rows = torch.from_numpy(np.concatenate([[positive], random.choice(20, p=probability, size=num_samples)]))
        shift = sampling_shift(rows, log_expected[rows], batch=1)[0, 1:]
        sums.append(float((torch.from_numpy(logit)[rows[1:]] + shift).exp().sum()))
    error = np.std(sums) / np.sqrt(num_draws)
    assert abs(np.mean(sums) - np.delete(np.exp(logit), positive).sum()) < 4 * error


@pytest.mark.parametrize("name", ["temperature", "weights"])
def test_wrong_number_of_settings_is_refused(name):
    settings = {"temperature": [0.1], "weights": [1.0]} | {name: [1.0, 1.0]}
    with pytest.raises(ConfigError, match=f"{name}: got 2 values, expected 1 or 3"):
        MatryoshkaSoftmax(WidthLadder([1, 2, 3]), **settings)


def test_zero_vectors_give_a_finite_loss_and_gradient():
    user = torch.zeros(2, 4, requires_grad=True)
    item = torch.zeros(3, 4, requires_grad=True)
    loss, _ = MatryoshkaSoftmax(WidthLadder([2, 4]), temperature=[0.1])(user, item, torch.arange(3), torch.zeros(3))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(user.grad).all()
