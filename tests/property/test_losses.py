"""The one-pass losses against the losses as the papers write them: width by width, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import log_softmax, normalize

from recsys.config import LEAST_TEMPERATURE, LossConfig
from recsys.errors import ConfigError
from recsys.model.losses.bilateral_softmax import bilateral_softmax
from recsys.model.losses.distillation import distillation
from recsys.model.losses.energy import energy_penalty, energy_profile
from recsys.model.losses.full_softmax import full_softmax
from recsys.model.losses.matryoshka import MatryoshkaLoss
from recsys.model.losses.sampled_softmax import sampling_shift
from recsys.testing import width_ladders
from recsys.widths import WidthLadder


def naive_loss(user_BD, item_SD, user_B, item_S, log_expected_S, *, widths, temperatures, weights):
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
        # Few different users and items, so that repeated users and accidental hits are common.
        "user_B": torch.from_numpy(random.integers(draw(st.integers(1, 8)), size=batch)),
        "item_S": torch.from_numpy(random.integers(draw(st.integers(1, 8)), size=batch + negatives)),
        "log_expected_S": torch.from_numpy(random.normal(size=batch + negatives)),
    }
    return widths, tensors, random


@given(problem=problems())
def test_value_and_gradient_equal_the_naive_loss(problem):
    widths, tensors, random = problem
    temperatures, weights = (tuple(random.uniform(low, 2, len(widths))) for low in (0.05, 0.1))
    ours = {name: tensors[name].clone().requires_grad_() for name in ("user_BD", "item_SD")}
    theirs = {name: tensors[name].clone().requires_grad_() for name in ("user_BD", "item_SD")}
    rest = {name: tensors[name] for name in ("user_B", "item_S", "log_expected_S")}
    loss, loss_L = MatryoshkaLoss(widths, LossConfig(temperature=temperatures, weights=weights))(**ours, **rest)
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
def test_learned_temperatures_get_the_naive_gradient(problem):
    widths, tensors, random = problem
    start = random.uniform(0.05, 2, len(widths))
    loss = MatryoshkaLoss(widths, LossConfig(temperature=tuple(start), learn_temperature=True)).double()
    (parameter,) = loss.parameters()
    parameter.data = torch.from_numpy(np.log(start - LEAST_TEMPERATURE))
    assert loss.temperature == pytest.approx(tuple(start))
    theirs = parameter.detach().clone().requires_grad_()
    expected = naive_loss(
        **tensors, widths=widths, temperatures=LEAST_TEMPERATURE + theirs.exp(), weights=[1] * len(widths)
    )
    value, _ = loss(**tensors)
    value.backward()
    expected.backward()
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(parameter.grad, theirs.grad, rtol=1e-7, atol=1e-9)


def test_a_learned_temperature_never_reaches_zero():
    loss = MatryoshkaLoss(WidthLadder([2, 4]), LossConfig(temperature=(0.1, 0.2), learn_temperature=True))
    assert loss.temperature == pytest.approx((0.1, 0.2))
    loss.log_excess_L.data.fill_(-1000)
    assert loss.temperature == pytest.approx((LEAST_TEMPERATURE, LEAST_TEMPERATURE))


def naive_distillation(user_BD, item_SD, user_B, item_S, log_expected_S, *, widths, temperatures, weights):
    """Each narrower width's cross-entropy to the full width's softmax over what is left of the samples, by user."""
    total = user_BD.new_zeros(())
    for user in range(len(user_BD)):
        others = torch.nonzero(item_S != item_S[user])[:, 0]
        left = torch.cat([torch.tensor([user]), others])
        correction = torch.cat([torch.zeros(1, dtype=torch.float64), log_expected_S[others]])
        log_shares = [
            log_softmax(
                normalize(user_BD[user, :width], dim=0) @ normalize(item_SD[left, :width], dim=1).T / temperature
                - correction,
                dim=0,
            )
            for width, temperature in zip(widths, temperatures, strict=True)
        ]
        teacher = log_shares[-1].detach().exp()
        for log_share, weight in zip(log_shares[:-1], weights[:-1], strict=True):
            total = total - weight * (teacher * log_share).sum() / len(user_BD)
    return total / sum(weights)


def naive_penalty(vector_ND, *, widths, alpha):
    total = vector_ND.new_zeros(())
    for vector in vector_ND:
        for width in widths.widths[:-1]:
            share = vector[:width].square().sum() / vector.square().sum()
            total = total + torch.relu((width / widths.full) ** alpha - share) ** 2 / len(vector_ND)
    return total


@given(problem=problems(), weight=st.floats(0.1, 10), alpha=st.floats(0.1, 1))
def test_what_is_added_equals_the_naive_additions(problem, weight, alpha):
    widths, tensors, random = problem
    temperatures, weights = (tuple(random.uniform(low, 2, len(widths))) for low in (0.05, 0.1))
    ours, theirs = ({name: tensors[name].clone().requires_grad_() for name in ("user_BD", "item_SD")} for _ in range(2))
    rest = {name: tensors[name] for name in ("user_B", "item_S", "log_expected_S")}
    settings = {"widths": widths, "temperatures": temperatures, "weights": weights}
    config = LossConfig(
        temperature=temperatures, weights=weights, distillation=weight, energy_weight=2 * weight, energy_alpha=alpha
    )
    loss, own_L = MatryoshkaLoss(widths, config)(**ours, **rest)
    expected = naive_loss(**theirs, **rest, **settings) + weight * naive_distillation(**theirs, **rest, **settings)
    for vector in theirs.values():
        expected = expected + 2 * weight * naive_penalty(vector, widths=widths, alpha=alpha)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)
    for name in ours:
        torch.testing.assert_close(ours[name].grad, theirs[name].grad, rtol=1e-7, atol=1e-9)
    # What is shown of each width stays comparable whatever is added.
    plain = LossConfig(temperature=temperatures, weights=weights)
    assert torch.equal(own_L, MatryoshkaLoss(widths, plain)(**tensors)[1])


@given(problem=problems())
def test_the_teacher_learns_nothing_from_distillation(problem):
    widths, tensors, random = problem
    shift = sampling_shift(tensors["item_S"], tensors["log_expected_S"], batch=len(tensors["user_BD"]))
    logits = [torch.from_numpy(random.normal(size=shift.shape)).requires_grad_() for _ in widths]
    distilled_L = distillation([logit + shift for logit in logits])
    assert distilled_L[-1] == 0
    # One width alone is its own teacher: there is nothing to learn and nothing to differentiate.
    if len(widths) > 1:
        distilled_L.sum().backward()
        assert all(torch.isfinite(logit.grad).all() for logit in logits[:-1])
    assert logits[-1].grad is None


@given(problem=problems())
def test_distillation_is_least_where_widths_agree(problem):
    """Cross-entropy is at least the teacher's entropy, and that much where the student equals the teacher."""
    _, tensors, random = problem
    shift = sampling_shift(tensors["item_S"], tensors["log_expected_S"], batch=len(tensors["user_BD"]))
    teacher, student = (torch.from_numpy(random.normal(size=shift.shape)) + shift for _ in range(2))
    equal, other, _ = distillation([teacher, student, teacher])
    share = teacher.softmax(dim=1)
    torch.testing.assert_close(equal, torch.special.entr(share).sum(dim=1).mean())
    assert other >= equal - 1e-12


@given(problem=problems(), alpha=st.floats(0.1, 1))
def test_vectors_that_meet_the_profile_pay_nothing(problem, alpha):
    widths, tensors, _ = problem
    profile = energy_profile(widths, alpha=alpha)
    # Each block holds exactly what the profile asks beyond the block before, whatever its direction.
    block_energies = np.diff([0.0, *profile])
    vector = torch.cat(
        [
            normalize(tensors["user_BD"][:, block], dim=1) * (energy + 1e-12) ** 0.5
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


def test_a_steeper_profile_asks_for_more():
    widths = WidthLadder([2, 4, 8])
    assert energy_profile(widths, alpha=1) == (0.25, 0.5, 1.0)
    assert energy_profile(widths, alpha=0.5) == pytest.approx((0.5, 0.5**0.5, 1.0))


def naive_bilateral(user_BD, item_SD, user_B, item_S, log_expected_S, *, widths, temperatures, ratio):
    """Width by width and user by user, as in arXiv 2312.12882, divided by the temperature of the negatives."""
    losses = []
    for width, temperature in zip(widths, temperatures, strict=True):
        cosine_BS = normalize(user_BD[:, :width], dim=1) @ normalize(item_SD[:, :width], dim=1).T
        total, positive_temperature = user_BD.new_zeros(()), ratio * temperature
        for user in range(len(user_BD)):
            others = torch.nonzero(item_S != item_S[user])[:, 0]
            if len(others) == 0:
                continue
            same = torch.nonzero(user_B == user_B[user])[:, 0]
            positive = positive_temperature * (cosine_BS[same, same] / positive_temperature).exp().mean().log()
            negatives = (cosine_BS[user, others] / temperature - log_expected_S[others]).exp().sum()
            total = total + (temperature * negatives.log() - positive) / temperature / len(user_BD)
        losses.append(total)
    return torch.stack(losses)


@given(problem=problems(), ratio=st.floats(0.3, 3))
def test_bilateral_softmax_equals_the_paper(problem, ratio):
    widths, tensors, random = problem
    temperatures = tuple(random.uniform(0.05, 2, len(widths)))
    ours, theirs = ({name: tensors[name].clone().requires_grad_() for name in ("user_BD", "item_SD")} for _ in range(2))
    rest = {name: tensors[name] for name in ("user_B", "item_S", "log_expected_S")}
    config = LossConfig(kind="bilateral_softmax", temperature=temperatures, positive_ratio=ratio)
    loss, own_L = MatryoshkaLoss(widths, config)(**ours, **rest)
    expected_L = naive_bilateral(**theirs, **rest, widths=widths, temperatures=temperatures, ratio=ratio)
    torch.testing.assert_close(own_L, expected_L.detach(), rtol=1e-9, atol=1e-9)
    loss.backward()
    if expected_L.requires_grad:
        expected_L.mean().backward()
    for name in ours:
        expected = theirs[name].grad if theirs[name].grad is not None else torch.zeros_like(theirs[name])
        torch.testing.assert_close(ours[name].grad, expected, rtol=1e-7, atol=1e-9)


def test_a_positive_that_scores_low_is_pulled_less_the_lower_the_temperature_of_positives():
    users, pulls = torch.zeros(2, dtype=torch.int64), []
    for ratio in (0.1, 1.0, 1000.0):
        logit = torch.tensor([[3.0, 0.0, 1.0], [0.0, 1.0, 1.0]], requires_grad=True)
        bilateral_softmax([logit], users, positive_ratio=ratio).sum().backward()
        pulls.append(float(-logit.grad[1, 1]))
    assert 0 <= pulls[0] < pulls[1] < pulls[2]
    assert pulls[2] == pytest.approx(0.5, abs=1e-2)


@given(problem=problems(), chunk_size=st.integers(1, 9), distil=st.booleans())
def test_full_softmax_in_chunks_equals_the_whole(problem, chunk_size, distil):
    widths, tensors, random = problem
    temperatures = torch.from_numpy(random.uniform(0.05, 2, len(widths)))
    target = torch.from_numpy(random.integers(len(tensors["item_SD"]), size=len(tensors["user_BD"])))
    ours, theirs = (
        [one.clone().requires_grad_() for one in (tensors["user_BD"], tensors["item_SD"], temperatures)]
        for _ in range(2)
    )
    user, item, temperature = ours
    found = full_softmax(user, item, target, widths, (1 / temperature).unbind(), distil=distil, chunk_size=chunk_size)
    user, item, temperature = theirs
    shares = [
        log_softmax(normalize(user[:, :width], dim=1) @ normalize(item[:, :width], dim=1).T / one, dim=1)
        for width, one in zip(widths, temperature, strict=True)
    ]
    own = torch.stack([-share[torch.arange(len(user)), target].mean() for share in shares])
    teacher = shares[-1].detach().exp() * distil
    distilled = torch.stack([-(teacher * share).sum(dim=1).mean() for share in shares[:-1]] + [own.new_zeros(())])
    weight = torch.from_numpy(random.uniform(0.1, 1, (2, len(widths))))
    for one, expected in zip(found, (own, distilled), strict=True):
        torch.testing.assert_close(one, expected, rtol=1e-9, atol=1e-9)
    (torch.stack(found) * weight).sum().backward()
    (torch.stack([own, distilled]) * weight).sum().backward()
    for one, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, expected.grad, rtol=1e-7, atol=1e-9)


def test_the_full_softmax_keeps_no_logits_for_the_backward_pass():
    num_users, num_items, widths = 50, 400, WidthLadder([2, 4])
    random = torch.Generator().manual_seed(1)
    user, item = (torch.randn(rows, 4, generator=random).requires_grad_() for rows in (num_users, num_items))
    kept = []

    def keep(tensor):
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        full_softmax(user, item, torch.arange(num_users), widths, [10.0, 10.0], distil=True, chunk_size=40)
    assert 0 < sum(kept) < num_users * num_items / 2


def test_the_full_softmax_is_the_sampled_one_with_every_item_once():
    widths, random = WidthLadder([2, 4]), np.random.default_rng(5)
    rows = torch.tensor([2, 2, 0, *range(6)])
    item = torch.from_numpy(random.normal(size=(6, 4)))[rows]
    user, log_expected = torch.from_numpy(random.normal(size=(3, 4))), torch.zeros(9, dtype=torch.float64)
    # The other examples' items are in the catalogue already: counted as never expected, they must count nothing.
    log_expected[:3] = torch.inf
    users = torch.arange(3)
    sampled, full = (
        MatryoshkaLoss(widths, LossConfig(kind=kind, distillation=1.0, num_uniform_negatives=0))
        for kind in ("sampled_softmax", "full_softmax")
    )
    for one, other in zip(*(loss(user, item, users, rows, log_expected) for loss in (sampled, full)), strict=True):
        torch.testing.assert_close(one, other)


@given(problem=problems())
def test_the_scale_of_vectors_does_not_matter(problem):
    widths, tensors, random = problem
    loss = MatryoshkaLoss(widths, LossConfig(temperature=(0.1,)))
    scaled = tensors | {"user_BD": tensors["user_BD"] * random.uniform(0.5, 2)}
    torch.testing.assert_close(loss(**tensors)[0], loss(**scaled)[0])


@given(problem=problems())
def test_negatives_may_come_in_any_order(problem):
    widths, tensors, random = problem
    batch = len(tensors["user_BD"])
    order = np.concatenate([np.arange(batch), batch + random.permutation(len(tensors["item_SD"]) - batch)])
    shuffled = {name: tensors[name] if name.startswith("user") else tensors[name][order] for name in tensors}
    loss = MatryoshkaLoss(widths, LossConfig(temperature=(0.1,)))
    torch.testing.assert_close(loss(**tensors)[0], loss(**shuffled)[0])


def test_an_accidental_hit_has_neither_probability_nor_gradient():
    widths = WidthLadder([2, 4])
    user = torch.randn(1, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    item = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
    loss = MatryoshkaLoss(widths, LossConfig(temperature=(0.1,)))
    first = torch.zeros(1, dtype=torch.int64)
    hit = loss(user, item, first, torch.tensor([7, 7, 8]), torch.zeros(3, dtype=torch.float64))[0]
    hit.backward()
    assert item.grad is not None
    assert (item.grad[1] == 0).all()
    assert (item.grad[2] != 0).all()
    torch.testing.assert_close(
        hit, loss(user, item[[0, 2]], first, torch.tensor([7, 8]), torch.zeros(2, dtype=torch.float64))[0]
    )
    shift = sampling_shift(torch.tensor([7, 7, 8]), torch.full((3,), 0.5), batch=1)
    assert shift.tolist() == [[0.0, -torch.inf, -0.5]]


def test_with_every_item_sampled_once_the_loss_is_the_full_softmax():
    widths, num_items, temperature = WidthLadder([4]), 6, 0.2
    random = np.random.default_rng(5)
    user, item = torch.from_numpy(random.normal(size=(1, 4))), torch.from_numpy(random.normal(size=(num_items, 4)))
    # The positive, then the whole catalogue as negatives, each expected exactly once.
    rows = torch.tensor([2, *range(num_items)])
    loss, _ = MatryoshkaLoss(widths, LossConfig(temperature=(temperature,)))(
        user, item[rows], rows[:1], rows, torch.zeros(num_items + 1, dtype=torch.float64)
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
    with pytest.raises(ConfigError, match=f"{name}: got 2 values, expected 1 or 3"):
        MatryoshkaLoss(WidthLadder([1, 2, 3]), LossConfig(**{name: (1.0, 1.0)}))


def test_zero_vectors_give_a_finite_loss_and_gradient():
    user = torch.zeros(2, 4, requires_grad=True)
    item = torch.zeros(3, 4, requires_grad=True)
    config = LossConfig(temperature=(0.1,), distillation=1.0, energy_weight=1.0)
    loss, _ = MatryoshkaLoss(WidthLadder([2, 4]), config)(user, item, torch.arange(2), torch.arange(3), torch.zeros(3))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(user.grad).all()
