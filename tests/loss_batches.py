"""A batch as a step has it, and the same written out pair by pair, for the tests of losses.

The naive versions know nothing of distinct items and weights: they repeat an item as often as it is a positive or was
drawn, and a vector as often as it has positives.
"""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st
from torch.nn.functional import log_softmax, normalize

from recsys.data.batches import Examples
from recsys.data.parts import Parts
from recsys.model.losses.negatives import MASKED
from recsys.model.losses.samples import Samples, accidental_hits, samples_of
from recsys.ragged import Ragged
from recsys.testing import width_ladders


class Problem:
    """A batch of vectors and items as a step has them, and the same written out pair by pair."""

    def __init__(self, random, *, widths, counts, num_users, num_items, num_drawn, scale=1.0):
        """``counts``: positives of each vector."""
        self.widths, self.random = widths, random
        row = np.repeat(np.arange(len(counts)), counts)
        # Few different users and items, so that repeated users and accidental hits are common.
        self.user = random.integers(num_users, size=len(counts))
        # As in an epoch's batches, the batch's positives are among its negatives.
        item = random.integers(num_items, size=len(row))
        negative = np.concatenate([random.integers(num_items, size=num_drawn), item])
        self.log_expected = random.normal(size=num_items)
        self.samples = samples_of(alone(self.user, row, item, negative), self.log_expected, user_V=self.user)
        self.row, self.item, self.negative = row, item, negative
        self.vectors = {
            "user_VU": torch.from_numpy(random.normal(size=(len(counts), widths.query_size)) * scale),
            "item_SD": torch.from_numpy(random.normal(size=(len(self.samples.item_S), widths.full))),
        }

    def leaves(self):
        return {name: vector.clone().requires_grad_() for name, vector in self.vectors.items()}

    def naive_logits(self, user_VU, item_SD, temperatures):
        """By width: per pair, its positive's logit, and those of the vector's negatives, one for each draw."""
        place = {int(item): place for place, item in enumerate(self.samples.item_S)}
        for width, temperature in zip(self.widths, temperatures, strict=True):
            logit = naive_scores(user_VU, item_SD, width, self.widths) / temperature
            pairs = []
            for row, item in zip(self.row, self.item, strict=True):
                own = set(self.item[self.row == row])
                drawn = [one for one in self.negative if one not in own]
                corrections = torch.tensor([self.log_expected[one] for one in drawn], dtype=torch.float64)
                pairs.append((logit[row, place[item]], logit[row, [place[one] for one in drawn]] - corrections))
            yield pairs


def naive_scores(user_VU, item_SD, width, widths):
    """All scores at a width: normalised, then cut, or cut, then normalised."""
    whole = widths.norm == "full"
    item_Sw = normalize(item_SD, dim=1)[:, :width] if whole else normalize(item_SD[:, :width], dim=1)
    if widths.head == "per_width":
        before = sum(narrower for narrower in widths if narrower < width)
        user_Vw = normalize(user_VU[:, before : before + width], dim=1)
    else:
        user_Vw = normalize(user_VU, dim=1)[:, :width] if whole else normalize(user_VU[:, :width], dim=1)
    return user_Vw @ item_Sw.T


@st.composite
def problems(draw):
    vectors = draw(st.integers(1, 5))
    counts = [1] * vectors
    if draw(st.booleans()):
        counts = [draw(st.integers(0, 4)) for _ in counts]
        counts[draw(st.integers(0, vectors - 1))] += 1
    return Problem(
        np.random.default_rng(draw(st.integers(0, 2**32 - 1))),
        widths=draw(width_ladders(max_width=24)),
        counts=counts,
        num_users=draw(st.integers(1, 8)),
        num_items=draw(st.integers(1, 8)),
        num_drawn=draw(st.integers(0, 6)),
        scale=10.0 ** draw(st.integers(-2, 2)),
    )


def naive_loss(problem, user_VU, item_SD, *, temperatures):
    """By width, one softmax per pair: the positive as it is, every draw corrected, the vector's positives left out."""
    losses = []
    for pairs in problem.naive_logits(user_VU, item_SD, temperatures):
        logits = [torch.cat([positive[None], negatives]) for positive, negatives in pairs]
        losses.append(-torch.stack([log_softmax(one, dim=0)[0] for one in logits]).mean())
    return torch.stack(losses)


def weighted(loss_L, weights):
    return (loss_L * torch.tensor(weights, dtype=torch.float64)).sum() / sum(weights)


def assert_same_gradients(ours, theirs):
    for name in ours:
        expected = theirs[name].grad if theirs[name].grad is not None else torch.zeros_like(theirs[name])
        torch.testing.assert_close(ours[name].grad, expected, rtol=1e-7, atol=1e-9)


def settings(problem):
    return tuple(tuple(problem.random.uniform(low, 2, len(problem.widths))) for low in (0.05, 0.1))


def shifts(samples):
    """What is added to the logits of negatives, written out for every vector."""
    shift_VN = samples.log_weight_N.repeat(len(samples.user_V), 1)
    shift_VN[accidental_hits(samples)] = MASKED
    return shift_VN


def samples(*, row, positive, negative, log_weight, user=None, num_samples):
    """Samples from plain lists, each drawn once; item rows are places."""
    integers = [torch.tensor(one, dtype=torch.int64) for one in (row, positive, negative, [1] * len(negative))]
    users = torch.tensor(user, dtype=torch.int64) if user is not None else torch.arange(max(row) + 1)
    log_weight_N = torch.tensor(log_weight, dtype=torch.float64)
    return Samples(
        *integers,
        log_weight_N,
        users,
        torch.arange(num_samples),
        pairs=Parts.whole(len(row)),
        vectors=Parts.whole(len(users)),
        encoded=Parts.whole(num_samples),
    )


def alone(user, row, item, negative):
    """A batch without histories, of a process that shares it with none."""
    lists, pairs = Parts.whole(len(user)), Parts.whole(len(item))
    return Examples(user, Ragged.empty(len(user)), row, item, negative, lists=lists, vectors=lists, positives=pairs)
