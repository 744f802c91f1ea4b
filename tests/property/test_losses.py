"""The one-pass losses against the losses as the papers write them: width by width, in float64.

The naive versions know nothing of distinct items and weights: they repeat an item as often as it is a positive or was
drawn, and a vector as often as it has positives.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.nn.functional import log_softmax, normalize

from recsys.config import LEAST_TEMPERATURE, LossConfig
from recsys.data.batches import Examples
from recsys.errors import ConfigError
from recsys.model.losses import partition
from recsys.model.losses.bilateral_softmax import bilateral_softmax
from recsys.model.losses.distillation import distillation, log_total
from recsys.model.losses.energy import energy_penalty, energy_profile
from recsys.model.losses.matryoshka import MatryoshkaLoss
from recsys.model.losses.partition import MASKED
from recsys.model.losses.sampled_softmax import sampled_softmax
from recsys.model.losses.samples import Logits, Samples, accidental_hits, samples_of, segment_logsumexp
from recsys.ragged import Ragged
from recsys.testing import width_ladders
from recsys.widths import WidthLadder


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
        examples = Examples(self.user, Ragged.empty(len(counts)), row, item, negative)
        self.samples = samples_of(examples, self.log_expected, user_V=self.user)
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


@given(problem=problems(), weight=st.floats(0.1, 10), decay=st.floats(1, 9), done=st.floats(0, 1))
def test_what_is_added_equals_the_naive_additions(problem, weight, decay, done):
    temperatures, weights = settings(problem)
    ours, theirs = problem.leaves(), problem.leaves()
    config = LossConfig(
        temperature=temperatures,
        weights=weights,
        distillation=weight,
        energy_weight=2 * weight,
        energy_decay=decay,
        energy_ramp=0.5,
    )
    loss, own_L = MatryoshkaLoss(problem.widths, config)(**ours, samples=problem.samples, done=done)
    expected_L = naive_loss(problem, **theirs, temperatures=temperatures)
    expected_L = expected_L + weight * naive_distillation(problem, **theirs, temperatures=temperatures)
    expected = weighted(expected_L, weights)
    for vector in (theirs["user_VU"][:, -problem.widths.full :], theirs["item_SD"]):
        penalty = naive_penalty(vector, widths=problem.widths, decay=decay)
        expected = expected + 2 * weight * min(1, done / 0.5) * penalty
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)
    assert_same_gradients(ours, theirs)
    # What is shown of each width stays comparable whatever is added.
    plain = MatryoshkaLoss(problem.widths, LossConfig(temperature=temperatures, weights=weights))
    assert torch.equal(own_L, plain(**problem.vectors, samples=problem.samples)[1])


def shifts(samples):
    """What is added to the logits of negatives, written out for every vector."""
    shift_VN = samples.log_weight_N.repeat(len(samples.user_V), 1)
    shift_VN[accidental_hits(samples)] = MASKED
    return shift_VN


def random_logits(problem, shift_VN):
    positive, negative = (
        torch.from_numpy(problem.random.normal(size=size)) for size in (len(problem.row), shift_VN.shape)
    )
    return positive.requires_grad_(), negative.requires_grad_()


def distilled(by_width, row_P):
    """Distillation from logits that are written out: of the pairs, and of all vectors and negatives."""
    logits = [Logits(positive, negative.logsumexp(dim=1)) for positive, negative in by_width]
    share_VN = (by_width[-1][1] - log_total(logits[-1], row_P)[:, None]).detach().exp()
    expected = [(share_VN * negative).sum(dim=1) for _, negative in by_width[:-1]]
    return distillation(logits, expected, row_P)


@given(problem=problems())
def test_the_teacher_learns_nothing_from_distillation(problem):
    row_P, shift_VN = problem.samples.row_P, shifts(problem.samples)
    leaves = [random_logits(problem, shift_VN) for _ in problem.widths]
    distilled_L = distilled([(positive, negative + shift_VN) for positive, negative in leaves], row_P)
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
    equal, other, _ = distilled([teacher, student, teacher], row_P)
    entropies = []
    for row in problem.row:
        logits = torch.cat([teacher[0][row_P == row], teacher[1][row]])
        entropies.append(torch.special.entr(logits.softmax(dim=0)).sum())
    torch.testing.assert_close(equal, torch.stack(entropies).mean())
    assert other >= equal - 1e-12


@given(problem=problems(), decay=st.floats(1, 9))
def test_vectors_that_meet_the_profile_pay_nothing(problem, decay):
    widths, item_SD = problem.widths, problem.vectors["item_SD"]
    profile = energy_profile(widths, decay=decay)
    # Each block holds exactly what the profile asks beyond the block before, whatever its direction.
    block_energies = np.diff([0.0, *profile])
    vector = torch.cat(
        [
            normalize(item_SD[:, block], dim=1) * (energy + 1e-12) ** 0.5
            for block, energy in zip(widths.blocks, block_energies, strict=True)
        ],
        dim=1,
    )
    assert energy_penalty(vector, widths, profile) < 1e-20
    front_loaded = vector * torch.linspace(2, 1, widths.full, dtype=torch.float64)
    assert energy_penalty(front_loaded, widths, profile) <= 1e-20
    if len(widths) > 1:
        back_loaded = torch.zeros_like(vector)
        back_loaded[:, -1] = 1
        assert energy_penalty(back_loaded, widths, profile) > 0


def test_what_a_narrow_prefix_lacks_does_not_drain_the_last_block():
    widths = WidthLadder([2, 4, 8])
    vector = torch.tensor([[0.1, 0.1, 3.0, 3.0, 0.5, 0.5, 0.5, 0.5]], dtype=torch.float64, requires_grad=True)
    energy_penalty(vector, widths, energy_profile(widths, decay=2)).backward()
    assert (vector.grad[:, :2] < 0).all()
    assert (vector.grad[:, 2:4] > 0).all()
    assert (vector.grad[:, 4:] == 0).all()


def test_a_steeper_profile_asks_for_more():
    widths = WidthLadder([2, 4, 8])
    assert energy_profile(widths, decay=1) == (0.25, 0.5, 1.0)
    assert energy_profile(widths, decay=2) == pytest.approx((1 - 0.75**2, 0.75, 1.0))


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


def samples(*, row, positive, negative, log_weight, user=None, num_samples):
    """Samples from plain lists, each drawn once; item rows are places."""
    integers = [torch.tensor(one, dtype=torch.int64) for one in (row, positive, negative, [1] * len(negative))]
    users = torch.tensor(user, dtype=torch.int64) if user is not None else torch.arange(max(row) + 1)
    log_weight_N = torch.tensor(log_weight, dtype=torch.float64)
    return Samples(*integers, log_weight_N, users, torch.arange(num_samples))


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


@given(
    problem=problems(),
    tile=st.integers(1, 30),
    kept=st.sampled_from([0, 1 << 24]),
    num_hard=st.none() | st.integers(1, 4),
)
def test_tiles_and_what_is_kept_of_them_change_nothing(problem, tile, kept, num_hard):
    temperatures, weights = settings(problem)
    several = len(problem.widths) > 1
    config = LossConfig(
        temperature=temperatures, weights=weights, distillation=1.0 * several, num_hard_negatives=num_hard
    )
    whole, tiled = problem.leaves(), problem.leaves()
    loss = MatryoshkaLoss(problem.widths, config)
    expected, expected_L = loss(**whole, samples=problem.samples)
    expected.backward()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partition, "_TILE", tile)
        patch.setattr(partition, "_KEPT", kept)
        found, found_L = loss(**tiled, samples=problem.samples)
        found.backward()
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found_L, expected_L, rtol=1e-9, atol=1e-9)
    for name in whole:
        torch.testing.assert_close(tiled[name].grad, whole[name].grad, rtol=1e-7, atol=1e-9)


def test_many_logits_are_not_kept_for_the_backward_pass(monkeypatch):
    num_users, num_items, widths = 300, 400, WidthLadder([2, 4])
    random = torch.Generator().manual_seed(1)
    user, item = (torch.randn(rows, 4, generator=random).requires_grad_() for rows in (num_users, num_items))
    everything = samples(
        row=range(num_users),
        positive=range(num_users),
        negative=range(num_items),
        log_weight=[0.0] * num_items,
        num_samples=num_items,
    )
    loss = MatryoshkaLoss(widths, LossConfig(kind="full_softmax", num_uniform_negatives=0, distillation=1.0))
    kept = []

    def keep(tensor):
        kept[-1] += tensor.numel()
        return tensor

    for most in (1 << 24, 0):
        monkeypatch.setattr(partition, "_KEPT", most)
        kept.append(0)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss(user, item, everything)
    # Of the two widths and of the teacher, or of nothing.
    assert kept[0] - kept[1] >= 3 * num_users * num_items > 2 * kept[1]


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


def test_an_accidental_hit_has_neither_probability_nor_gradient():
    loss = MatryoshkaLoss(WidthLadder([2, 4]), LossConfig(temperature=(0.1,)))
    generator = torch.Generator().manual_seed(1)
    user, item = (torch.randn(rows, 4, dtype=torch.float64, generator=generator).requires_grad_() for rows in (2, 4))
    # The first vector's positives are items 0 and 1, both of which are drawn as well.
    hit = samples(row=[0, 0, 1], positive=[0, 1, 3], negative=[0, 1, 2], log_weight=[0.5] * 3, num_samples=4)
    assert [one.tolist() for one in accidental_hits(hit)] == [[0, 0], [0, 1]]
    # Without the second vector nothing but the first's pairs is left.
    alone = replace(hit, row_P=hit.row_P[:2], positive_P=hit.positive_P[:2], user_V=hit.user_V[:1])
    only = {name: getattr(hit, name)[2:] for name in ("negative_N", "count_N", "log_weight_N")}
    fewer = replace(alone, **only)
    values, gradients = [], []
    for one in (alone, fewer):
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
        examples = Examples(nobody, Ragged.empty(1), nobody, np.array([positive]), drawn)
        found = samples_of(examples, log_expected, user_V=nobody)
        logit_N = torch.from_numpy(logit)[found.item_S[found.negative_N]]
        sums.append(float((logit_N + shifts(found)[0]).exp().sum()))
    error = np.std(sums) / np.sqrt(num_draws)
    assert abs(np.mean(sums) - np.delete(np.exp(logit), positive).sum()) < 4 * error


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
            sampled_softmax(few, problem.samples.row_P)
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
