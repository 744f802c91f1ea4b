"""Hard negatives: each width keeps those that are nearest under its own prefix."""

from __future__ import annotations

import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from loss_batches import assert_same_gradients, naive_scores, problems, samples, settings, shifts

from recsys.config import LossConfig
from recsys.model.losses.bilateral_softmax import bilateral_softmax
from recsys.model.losses.matryoshka import MatryoshkaLoss
from recsys.model.losses.negatives import MASKED
from recsys.model.losses.sampled_softmax import sampled_softmax
from recsys.model.losses.samples import Logits
from recsys.widths import WidthLadder


@given(problem=problems(), num=st.integers(1, 6), kind=st.sampled_from(["sampled_softmax", "bilateral_softmax"]))
def test_each_width_keeps_its_own_hardest_negatives(problem, num, kind):
    """The loss of every width is that of a batch in which only these negatives were drawn."""
    # In one dimension cosines are 1 or -1, and which of equals is kept says nothing.
    assume(problem.widths.widths[0] > 1)
    temperatures, _ = settings(problem)
    ours, theirs = problem.leaves(), problem.leaves()
    config = LossConfig(kind=kind, temperature=temperatures, num_hard_negatives=num)
    loss, own_L = MatryoshkaLoss(problem.widths, config)(**ours, samples=problem.samples)
    shift_VN = shifts(problem.samples)
    expected = []
    for width, temperature in zip(problem.widths, temperatures, strict=True):
        score = naive_scores(*theirs.values(), width, problem.widths)
        negative = torch.full((len(score), num), MASKED, dtype=torch.float64)
        for row in range(len(score)):
            left = torch.nonzero(shift_VN[row] > MASKED / 2)[:, 0]
            near = score[row, problem.samples.negative_N[left]].argsort(descending=True)[:num]
            column = left[near]
            values = score[row, problem.samples.negative_N[column]] / temperature + shift_VN[row, column]
            negative[row] = torch.cat([values, negative[row, len(column) :]])
        positive = score[problem.samples.row_P, problem.samples.positive_P] / temperature
        few = [Logits(positive, negative.logsumexp(dim=1))]
        expected.append(
            sampled_softmax(few, problem.samples)
            if kind == "sampled_softmax"
            else bilateral_softmax(few, problem.samples, positive_ratio=1, negative_weight=1)
        )
    expected_L = torch.cat(expected)
    torch.testing.assert_close(own_L, expected_L.detach(), rtol=1e-9, atol=1e-9)
    loss.backward()
    expected_L.mean().backward()
    assert_same_gradients(ours, theirs)


def test_what_is_hard_does_not_depend_on_how_it_was_drawn():
    """Where a near item has little weight and a far one much, the near one stays."""
    user, item = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.1], [1.0, 0.5], [-1.0, 0.0]])
    drawn = samples(row=[0], positive=[0], negative=[1, 2], log_weight=[-5.0, 9.0], num_samples=3)
    near = samples(row=[0], positive=[0], negative=[1], log_weight=[-5.0], num_samples=3)
    one, everything = (
        MatryoshkaLoss(WidthLadder([2]), LossConfig(num_hard_negatives=num)).double() for num in (1, None)
    )
    vectors = user.double(), item.double()
    torch.testing.assert_close(one(*vectors, drawn), everything(*vectors, near))


def test_an_item_that_was_drawn_more_than_once_takes_no_more_places_than_there_are():
    user, item = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.1], [1.0, 0.5], [-1.0, 0.0]])
    often = samples(row=[0], positive=[0], negative=[2, 1, 1, 1], log_weight=[0.0] * 4, num_samples=3)
    twice = samples(row=[0], positive=[0], negative=[1, 1], log_weight=[0.0] * 2, num_samples=3)
    two, everything = (
        MatryoshkaLoss(WidthLadder([2]), LossConfig(num_hard_negatives=num)).double() for num in (2, None)
    )
    vectors = user.double(), item.double()
    torch.testing.assert_close(two(*vectors, often), everything(*vectors, twice))
