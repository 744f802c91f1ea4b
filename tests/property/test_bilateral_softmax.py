"""The bilateral softmax against the paper."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loss_batches import assert_same_gradients, problems, samples, settings

from recsys.config import LossConfig
from recsys.model.losses.bilateral_softmax import bilateral_softmax
from recsys.model.losses.matryoshka import MatryoshkaLoss
from recsys.model.losses.samples import Logits


def naive_bilateral(problem, user_VU, item_SD, *, temperatures, ratio, weight):
    """Width by width and user by user, as in arXiv 2312.12882, divided by the temperature of the negatives."""
    losses, users = [], problem.user[problem.row]
    for pairs in problem.naive_logits(user_VU, item_SD, temperatures):
        total = user_VU.new_zeros(())
        for user, (_, negatives) in zip(users, pairs, strict=True):
            if len(negatives) == 0:
                continue
            positives = torch.stack([pairs[same][0] for same in np.flatnonzero(users == user)])
            total = total + weight * negatives.exp().sum().log() - ratio * (positives / ratio).exp().mean().log()
        losses.append(total / len(pairs))
    return torch.stack(losses)


@given(problem=problems(), ratio=st.floats(0.3, 3), weight=st.floats(0.5, 2))
def test_bilateral_softmax_equals_the_paper(problem, ratio, weight):
    temperatures, _ = settings(problem)
    ours, theirs = problem.leaves(), problem.leaves()
    config = LossConfig(
        kind="bilateral_softmax", temperature=temperatures, positive_ratio=ratio, negative_weight=weight
    )
    loss, own_L = MatryoshkaLoss(problem.widths, config)(**ours, samples=problem.samples)
    expected_L = naive_bilateral(problem, **theirs, temperatures=temperatures, ratio=ratio, weight=weight)
    torch.testing.assert_close(own_L, expected_L.detach(), rtol=1e-9, atol=1e-9)
    loss.backward()
    if expected_L.requires_grad:
        expected_L.mean().backward()
    assert_same_gradients(ours, theirs)


def test_a_positive_that_scores_low_is_pulled_less_the_lower_the_temperature_of_positives():
    same_user = samples(row=[0, 1], positive=[0, 1], negative=[2], log_weight=[0], user=[0, 0], num_samples=3)
    pulls = []
    for ratio in (0.1, 1.0, 1000.0):
        positive = torch.tensor([3.0, 1.0], requires_grad=True)
        logits = Logits(positive, torch.ones(2))
        bilateral_softmax([logits], same_user, positive_ratio=ratio, negative_weight=1).sum().backward()
        pulls.append(float(-positive.grad[1]))
    assert 0 <= pulls[0] < pulls[1] < pulls[2]
    assert pulls[2] == pytest.approx(0.5, abs=1e-2)
