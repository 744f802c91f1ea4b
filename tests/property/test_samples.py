"""Samples stand for the catalogue, and accidental hits for nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from loss_batches import alone, samples, shifts
from torch.nn.functional import log_softmax, normalize

from recsys.config import LossConfig
from recsys.data.parts import Parts
from recsys.model.losses.matryoshka import MatryoshkaLoss
from recsys.model.losses.negatives import MASKED
from recsys.model.losses.samples import accidental_hits, samples_of, segment_logsumexp
from recsys.widths import WidthLadder


def test_the_full_softmax_is_the_sampled_one_with_every_item_once():
    widths, random = WidthLadder([2, 4]), np.random.default_rng(5)
    user, item = (torch.from_numpy(random.normal(size=(rows, 4))) for rows in (3, 6))
    everything = samples(
        row=[0, 1, 1, 2], positive=[2, 2, 5, 0], negative=range(6), log_weight=[0.0] * 6, num_samples=6
    )
    sampled, full = (
        MatryoshkaLoss(widths, LossConfig(kind=kind, distillation=1.0, num_uniform_negatives=0))
        for kind in ("sampled_softmax", "full_softmax")
    )
    for one, other in zip(sampled(user, item, everything), full(user, item, everything), strict=True):
        torch.testing.assert_close(one, other)


def test_an_accidental_hit_has_neither_probability_nor_gradient():
    loss = MatryoshkaLoss(WidthLadder([2, 4]), LossConfig(temperature=(0.1,)))
    generator = torch.Generator().manual_seed(1)
    user, item = (torch.randn(rows, 4, dtype=torch.float64, generator=generator).requires_grad_() for rows in (2, 4))
    # The first vector's positives are items 0 and 1, both of which are drawn as well.
    hit = samples(row=[0, 0, 1], positive=[0, 1, 3], negative=[0, 1, 2], log_weight=[0.5] * 3, num_samples=4)
    assert [one.tolist() for one in accidental_hits(hit)] == [[0, 0], [0, 1]]
    # Without the second vector nothing but the first's pairs is left.
    first = replace(
        hit, row_P=hit.row_P[:2], positive_P=hit.positive_P[:2], user_V=hit.user_V[:1], pairs=Parts.whole(2)
    )
    only = {name: getattr(hit, name)[2:] for name in ("negative_N", "count_N", "log_weight_N")}
    fewer = replace(first, **only)
    values, gradients = [], []
    for one in (first, fewer):
        value = loss(user[:1], item, one)[0]
        values.append(value)
        gradients.append(torch.autograd.grad(value, item)[0])
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*gradients)
    assert (gradients[0][3] == 0).all()


def test_a_vector_without_negatives_has_no_loss_and_no_gradient():
    widths, user = WidthLadder([2, 4]), torch.ones(1, 4, requires_grad=True)
    only = samples(row=[0], positive=[0], negative=[0], log_weight=[0.0], num_samples=1)
    for kind in ("sampled_softmax", "bilateral_softmax"):
        loss, loss_L = MatryoshkaLoss(widths, LossConfig(kind=kind))(user, torch.ones(1, 4), only)
        assert loss_L.tolist() == [0, 0]
        assert torch.autograd.grad(loss, user)[0].tolist() == [[0, 0, 0, 0]]


def test_log_sums_of_segments():
    value = torch.tensor([1.0, 2.0, -3.0])
    sums = segment_logsumexp(value, torch.tensor([0, 2, 0]), num_segments=3)
    assert sums[0] == pytest.approx(float(torch.logsumexp(value[[0, 2]], dim=0)))
    assert sums[2] == 2
    assert sums[1] < MASKED / 2


def test_with_every_item_sampled_once_the_loss_is_the_full_softmax():
    widths, num_items, temperature = WidthLadder([4]), 6, 0.2
    random = np.random.default_rng(5)
    user, item = torch.from_numpy(random.normal(size=(1, 4))), torch.from_numpy(random.normal(size=(num_items, 4)))
    everything = samples(row=[0], positive=[2], negative=range(6), log_weight=[0.0] * 6, num_samples=6)
    loss, _ = MatryoshkaLoss(widths, LossConfig(temperature=(temperature,)))(user, item, everything)
    logits = normalize(user, dim=1) @ normalize(item, dim=1).T / temperature
    torch.testing.assert_close(loss, -log_softmax(logits, dim=1)[0, 2])


def test_logq_makes_sampled_negatives_stand_for_the_catalogue():
    """The mean over many draws of the corrected sum is the sum over all items but the positive, popular or not."""
    random = np.random.default_rng(0)
    logit, probability = random.normal(size=20), random.dirichlet(np.ones(20))
    num_draws, num_samples, positive = 4000, 50, 3
    log_expected = np.log(num_samples * probability)
    nobody, sums = np.zeros(1, dtype=np.int64), []
    for _ in range(num_draws):
        drawn = random.choice(20, p=probability, size=num_samples)
        examples = alone(nobody, nobody, np.array([positive]), drawn)
        found = samples_of(examples, log_expected, user_V=nobody)
        logit_N = torch.from_numpy(logit)[found.item_S[found.negative_N]]
        sums.append(float((logit_N + shifts(found)[0]).exp().sum()))
    error = np.std(sums) / np.sqrt(num_draws)
    assert abs(np.mean(sums) - np.delete(np.exp(logit), positive).sum()) < 4 * error
