"""The losses against the losses as the papers write them: width by width, in float64."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loss_batches import assert_same_gradients, naive_loss, problems, samples, settings, weighted
from torch.nn.functional import log_softmax

from recsys.config import LEAST_TEMPERATURE, LossConfig
from recsys.errors import ConfigError
from recsys.model.losses.matryoshka import MatryoshkaLoss
from recsys.widths import WidthLadder


@given(problem=problems())
def test_value_and_gradient_equal_the_naive_loss(problem):
    temperatures, weights = settings(problem)
    ours, theirs = problem.leaves(), problem.leaves()
    config = LossConfig(temperature=temperatures, weights=weights)
    loss, loss_L = MatryoshkaLoss(problem.widths, config)(**ours, samples=problem.samples)
    expected_L = naive_loss(problem, **theirs, temperatures=temperatures)
    loss.backward()
    weighted(expected_L, weights).backward()
    torch.testing.assert_close(loss_L, expected_L.detach(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(loss, weighted(expected_L, weights), rtol=1e-9, atol=1e-9)
    assert_same_gradients(ours, theirs)


@given(problem=problems())
def test_every_width_has_the_naive_gradient(problem):
    """One width at a time: a sum over widths could hide errors that cancel."""
    temperatures, _ = settings(problem)
    for place in range(len(problem.widths)):
        ours, theirs = problem.leaves(), problem.leaves()
        config = LossConfig(temperature=temperatures, weights=tuple(np.eye(len(problem.widths))[place]))
        MatryoshkaLoss(problem.widths, config)(**ours, samples=problem.samples)[0].backward()
        naive_loss(problem, **theirs, temperatures=temperatures)[place].backward()
        assert_same_gradients(ours, theirs)


@given(problem=problems())
def test_learned_temperatures_get_the_naive_gradient(problem):
    start, _ = settings(problem)
    loss = MatryoshkaLoss(problem.widths, LossConfig(temperature=start, learn_temperature=True)).double()
    (parameter,) = loss.parameters()
    parameter.data = torch.from_numpy(np.log(np.array(start) - LEAST_TEMPERATURE))
    assert loss.temperature == pytest.approx(start)
    theirs = parameter.detach().clone().requires_grad_()
    expected = naive_loss(problem, **problem.vectors, temperatures=LEAST_TEMPERATURE + theirs.exp()).mean()
    value, _ = loss(**problem.vectors, samples=problem.samples)
    value.backward()
    expected.backward()
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(parameter.grad, theirs.grad, rtol=1e-7, atol=1e-9)


def test_a_learned_temperature_never_reaches_zero():
    loss = MatryoshkaLoss(WidthLadder([2, 4]), LossConfig(temperature=(0.1, 0.2), learn_temperature=True))
    assert loss.temperature == pytest.approx((0.1, 0.2))
    loss.log_excess_L.data.fill_(-1000)
    assert loss.temperature == pytest.approx((LEAST_TEMPERATURE, LEAST_TEMPERATURE))


def naive_distillation(problem, user_VU, item_SD, *, temperatures):
    """By width, each pair's vector's cross-entropy to the full width's softmax over its positives and its negatives."""
    by_width = []
    for pairs in problem.naive_logits(user_VU, item_SD, temperatures):
        own = [[pairs[other][0] for other in np.flatnonzero(problem.row == row)] for row in problem.row]
        by_width.append(
            [torch.cat([torch.stack(ones), negatives]) for ones, (_, negatives) in zip(own, pairs, strict=True)]
        )
    teachers = [logits.detach().softmax(dim=0) for logits in by_width[-1]]
    # Draws of the same item are one event, whose probability is that of all of them together.
    copies = []
    for row in problem.row:
        own = problem.item[problem.row == row]
        drawn = [one for one in problem.negative if one not in own]
        copies.append(torch.tensor([1] * len(own) + [drawn.count(one) for one in drawn], dtype=torch.float64))
    losses = []
    for logits in by_width[:-1]:
        shares = [log_softmax(one, dim=0) + num.log() for one, num in zip(logits, copies, strict=True)]
        losses.append(-sum((teacher * share).sum() for teacher, share in zip(teachers, shares, strict=True)))
    return torch.stack([*losses, user_VU.new_zeros(())]) / len(teachers)


def naive_penalty(vector_ND, *, widths, decay):
    total = vector_ND.new_zeros(())
    for vector in vector_ND:
        for low, high in itertools.pairwise(widths.widths):
            held = vector[:low].square().sum() / vector[:high].square().sum()
            asked = (1 - (1 - low / widths.full) ** decay) / (1 - (1 - high / widths.full) ** decay)
            total = total + torch.relu(asked - held) ** 2 / len(vector_ND)
    return total


@given(
    problem=problems(), weight=st.floats(0.1, 10), decay=st.floats(1, 9), done=st.floats(0, 1), everywhere=st.booleans()
)
def test_what_is_added_equals_the_naive_additions(problem, weight, decay, done, everywhere):
    temperatures, weights = settings(problem)
    asked = WidthLadder(range(1, problem.widths.full + 1)) if everywhere else problem.widths
    ours, theirs = problem.leaves(), problem.leaves()
    config = LossConfig(
        temperature=temperatures,
        weights=weights,
        distillation=weight,
        energy_weight=2 * weight,
        energy_decay=decay,
        energy_parts=problem.widths.full if everywhere else 1,
        energy_ramp=0.5,
    )
    loss, own_L = MatryoshkaLoss(problem.widths, config)(**ours, samples=problem.samples, done=done)
    expected_L = naive_loss(problem, **theirs, temperatures=temperatures)
    expected_L = expected_L + weight * naive_distillation(problem, **theirs, temperatures=temperatures)
    expected = weighted(expected_L, weights)
    for vector in (theirs["user_VU"][:, -problem.widths.full :], theirs["item_SD"]):
        penalty = naive_penalty(vector, widths=asked, decay=decay)
        expected = expected + 2 * weight * min(1, done / 0.5) * penalty
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)
    assert_same_gradients(ours, theirs)
    # What is shown of each width stays comparable whatever is added.
    plain = MatryoshkaLoss(problem.widths, LossConfig(temperature=temperatures, weights=weights))
    assert torch.equal(own_L, plain(**problem.vectors, samples=problem.samples)[1])


@given(problem=problems())
def test_the_scale_of_vectors_does_not_matter(problem):
    loss = MatryoshkaLoss(problem.widths, LossConfig(temperature=(0.1,)))
    scaled = problem.vectors | {"user_VU": problem.vectors["user_VU"] * problem.random.uniform(0.5, 2)}
    torch.testing.assert_close(
        loss(**problem.vectors, samples=problem.samples)[0], loss(**scaled, samples=problem.samples)[0]
    )


@given(problem=problems())
def test_negatives_may_come_in_any_order(problem):
    order = torch.from_numpy(problem.random.permutation(len(problem.samples.negative_N)))
    shuffled = replace(
        problem.samples,
        negative_N=problem.samples.negative_N[order],
        count_N=problem.samples.count_N[order],
        log_weight_N=problem.samples.log_weight_N[order],
    )
    loss = MatryoshkaLoss(problem.widths, LossConfig(temperature=(0.1,)))
    torch.testing.assert_close(
        loss(**problem.vectors, samples=problem.samples)[0], loss(**problem.vectors, samples=shuffled)[0]
    )


@given(problem=problems())
def test_learned_weights_get_the_naive_gradient(problem):
    temperatures, start = settings(problem)
    config = LossConfig(temperature=temperatures, weights=start, learn_weights=True)
    loss = MatryoshkaLoss(problem.widths, config).double()
    (parameter,) = loss.parameters()
    assert loss.weights == pytest.approx(start)
    value, own_L = loss(**problem.vectors, samples=problem.samples)
    value.backward()
    weight_L = torch.tensor(start, dtype=torch.float64)
    torch.testing.assert_close(value, (weight_L * own_L - weight_L.log()).mean(), rtol=1e-6, atol=1e-6)
    # Rest is where each weight is one over its loss.
    torch.testing.assert_close(parameter.grad, (1 - weight_L * own_L) / len(start), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["temperature", "weights"])
def test_wrong_number_of_settings_is_refused(name):
    with pytest.raises(ConfigError, match=f"{name}: got 2 values, expected 1 or 3"):
        MatryoshkaLoss(WidthLadder([1, 2, 3]), LossConfig(**{name: (1.0, 1.0)}))


def test_zero_vectors_give_a_finite_loss_and_gradient():
    user = torch.zeros(2, 4, requires_grad=True)
    item = torch.zeros(3, 4, requires_grad=True)
    config = LossConfig(temperature=(0.1,), distillation=1.0, energy_weight=1.0)
    both = samples(row=[0, 1], positive=[0, 1], negative=[0, 1, 2], log_weight=[0.0] * 3, num_samples=3)
    loss, _ = MatryoshkaLoss(WidthLadder([2, 4]), config)(user, item, both)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(user.grad).all()
