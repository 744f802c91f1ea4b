"""Distillation: what the teacher shares, and what it costs to agree."""

from __future__ import annotations

import torch
from hypothesis import given
from loss_batches import problems, shifts

from recsys.model.losses.distillation import distillation, log_total
from recsys.model.losses.samples import Logits


def random_logits(problem, shift_VN):
    positive, negative = (
        torch.from_numpy(problem.random.normal(size=size)) for size in (len(problem.row), shift_VN.shape)
    )
    return positive.requires_grad_(), negative.requires_grad_()


def distilled(by_width, samples):
    """Distillation from logits that are written out: of the pairs, and of all vectors and negatives."""
    logits = [Logits(positive, negative.logsumexp(dim=1)) for positive, negative in by_width]
    share_VN = (by_width[-1][1] - log_total(logits[-1], samples.row_P)[:, None]).detach().exp()
    expected = [(share_VN * negative).sum(dim=1) for _, negative in by_width[:-1]]
    return distillation(logits, expected, samples)


@given(problem=problems())
def test_the_teacher_learns_nothing_from_distillation(problem):
    shift_VN = shifts(problem.samples)
    leaves = [random_logits(problem, shift_VN) for _ in problem.widths]
    distilled_L = distilled([(positive, negative + shift_VN) for positive, negative in leaves], problem.samples)
    assert distilled_L[-1] == 0
    # One width alone is its own teacher: there is nothing to learn and nothing to differentiate.
    if len(problem.widths) > 1:
        distilled_L.sum().backward()
        assert all(torch.isfinite(leaf.grad).all() for pair in leaves[:-1] for leaf in pair)
    assert all(leaf.grad is None for leaf in leaves[-1])


@given(problem=problems())
def test_distillation_is_least_where_widths_agree(problem):
    """Cross-entropy is at least the teacher's entropy, and that much where the student equals the teacher."""
    row_P, shift_VN = problem.samples.row_P, shifts(problem.samples)
    teacher, student = (
        (positive.detach(), negative.detach() + shift_VN)
        for positive, negative in (random_logits(problem, shift_VN) for _ in range(2))
    )
    equal, other, _ = distilled([teacher, student, teacher], problem.samples)
    entropies = []
    for row in problem.row:
        logits = torch.cat([teacher[0][row_P == row], teacher[1][row]])
        entropies.append(torch.special.entr(logits.softmax(dim=0)).sum())
    torch.testing.assert_close(equal, torch.stack(entropies).mean())
    assert other >= equal - 1e-12
