from __future__ import annotations

import numpy as np
import pytest
import torch
from loss_batches import alone

from recsys.config import LossConfig
from recsys.model.losses.matryoshka import MatryoshkaLoss
from recsys.model.losses.negatives import MASKED
from recsys.model.losses.queue import NegativeQueue
from recsys.model.losses.samples import accidental_hits, samples_of
from recsys.widths import WidthLadder

NUM_ITEMS, NUM_DRAWN, POSITIVE = 12, 10, 3
PROBABILITY = np.random.default_rng(0).dirichlet(np.full(NUM_ITEMS, 5.0))
LOG_EXPECTED = np.log(NUM_DRAWN * PROBABILITY)
VECTORS = torch.from_numpy(np.random.default_rng(1).normal(size=(NUM_ITEMS, 4)))


def batch(random):
    """One user with one positive, and negatives drawn by their probability."""
    drawn = random.choice(NUM_ITEMS, p=PROBABILITY, size=NUM_DRAWN)
    nobody = np.zeros(1, dtype=np.int64)
    samples = samples_of(alone(nobody, nobody, np.array([POSITIVE]), drawn), LOG_EXPECTED, user_V=nobody)
    return VECTORS[samples.item_S], samples


def test_an_empty_queue_changes_nothing():
    item, samples = batch(np.random.default_rng(2))
    user = torch.from_numpy(np.random.default_rng(3).normal(size=(1, 4)))
    with_queue, without = (
        MatryoshkaLoss(WidthLadder([2, 4]), LossConfig(queue_size=size)).double() for size in (20, 0)
    )
    torch.testing.assert_close(with_queue(user, item, samples), without(user, item, samples))


def test_negatives_come_back_with_the_vectors_they_had_and_learn_nothing():
    random, user = np.random.default_rng(2), torch.randn(1, 4, dtype=torch.float64)
    loss = MatryoshkaLoss(WidthLadder([2, 4]), LossConfig(queue_size=100)).double()
    (first, first_samples), (second, second_samples) = batch(random), batch(random)
    first.requires_grad_()
    before = loss(user, first, first_samples)[0]
    joined, samples = loss.queue.join(second, second_samples)
    kept = samples.item_S[len(second) :]
    num = len(first_samples.negative_N)
    assert sorted(kept[kept >= 0].tolist()) == first_samples.item_S[first_samples.negative_N].tolist()
    torch.testing.assert_close(joined[len(second) :][:num], VECTORS[kept[:num]])
    before.backward()
    grown = first.grad.clone()
    loss(user, second, second_samples)
    assert torch.equal(first.grad, grown)
    assert not loss.queue.vector_QD.requires_grad


def test_the_oldest_go_first_and_evaluation_adds_nothing():
    random, queue = np.random.default_rng(2), NegativeQueue(15, 4).double()
    pushed = []
    for number in range(6):
        item, samples = batch(random)
        queue.push(item + 100 * number, samples)
        pushed += [number] * len(samples.negative_N)
    kept = (queue.vector_QD.mean(dim=1) / 100).round().int().tolist()
    assert sorted(kept) == pushed[-15:]
    loss = MatryoshkaLoss(WidthLadder([4]), LossConfig(queue_size=15)).double().eval()
    loss(torch.ones(1, 4, dtype=torch.float64), *batch(random))
    assert (loss.queue.item_Q == -1).all()


@pytest.mark.parametrize("size", [5, 25, 60])
def test_batch_and_queue_together_stand_for_the_catalogue(size):
    """The mean of the corrected sum is the sum over all items but the positive, whatever part of a batch is left."""
    torch.manual_seed(1)
    random, queue = np.random.default_rng(4), NegativeQueue(size, 4).double()
    # Rising with the item's row, so that it shows if rows at one end stay longer than others.
    logit, sums, weights = np.linspace(-2, 2, NUM_ITEMS), [], []
    for _ in range(2000):
        item, samples = batch(random)
        _, joined = queue.join(item, samples)
        shift_N = joined.log_weight_N.clone()
        shift_N[accidental_hits(joined)[1]] = MASKED
        logit_N = torch.from_numpy(logit)[joined.item_S[joined.negative_N]]
        sums.append(float((logit_N + shift_N).exp().sum()))
        weights.append(int((shift_N > MASKED / 2).sum()))
        queue.push(item, samples)
    assert weights[-1] > weights[0]
    # Neighbouring sums share the queue's negatives: compare by stretches that hardly do.
    stretches = np.array(sums).reshape(40, -1).mean(axis=1)
    error = stretches.std() / np.sqrt(len(stretches))
    assert abs(stretches.mean() - np.delete(np.exp(logit), POSITIVE).sum()) < 4 * error
