"""The sums over negatives of all widths, and their gradient, against autograd on logits that are written out."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loss_batches import samples

from recsys.config import LossConfig
from recsys.model.losses import compiled, partition
from recsys.model.losses.kernels import ROWS
from recsys.model.losses.matryoshka import MatryoshkaLoss
from recsys.model.losses.negatives import MASKED, Negatives
from recsys.model.losses.partition import log_sums
from recsys.model.losses.passes import Pairs, Scores, joined
from recsys.testing import width_ladders
from recsys.widths import WidthLadder

WAYS = {"compiled": compiled.log_sums, "operations of torch": partition._by_tile}


class Sums:
    """Random scores, hits, floors and weights, and what they come to when every logit is written out."""

    def __init__(self, random, *, widths, num_vectors, num_negatives, num_hardest=None, device="cpu"):
        self.widths, self.num_hardest = widths, num_hardest
        shapes = {
            "query_VU": (num_vectors, widths.query_size),
            "item_ND": (num_negatives, widths.full),
            "query_scale_LV": (len(widths), num_vectors),
            "item_scale_LN": (len(widths), num_negatives),
        }
        self.scores = {name: torch.from_numpy(random.normal(size=shape)).to(device) for name, shape in shapes.items()}
        for name in ("query_scale_LV", "item_scale_LN"):
            self.scores[name] = self.scores[name].abs() + 0.1
        is_hit_VN = torch.from_numpy(random.random((num_vectors, num_negatives)) < 0.2)
        log_weight_N = torch.from_numpy(random.normal(size=num_negatives))
        row_H, negative_H = is_hit_VN.nonzero(as_tuple=True)
        order_H = np.lexsort((random.random(len(row_H)), row_H))  # a vector's hits are in no order
        self.negatives = Negatives(
            log_weight_N.to(device), *(one[order_H].to(device) for one in (row_H, negative_H)), num_hardest
        )
        row_P = torch.from_numpy(np.sort(random.integers(num_vectors, size=num_vectors + 1))).to(device)
        floor_LP, weight_LP = (
            torch.from_numpy(random.normal(size=(len(widths), len(row_P)))).to(device) for _ in range(2)
        )
        self.pairs = Pairs(row_P, floor_LP, weight_LP)

    def leaves(self, dtype=torch.float64):
        return {name: value.to(dtype, copy=True).requires_grad_() for name, value in self.scores.items()}

    def naive(self, query_VU, item_ND, query_scale_LV, item_scale_LN):
        logits, start = [], 0
        for place, width in enumerate(self.widths):
            first = start if self.widths.head == "per_width" else 0
            start += width
            product = query_VU[:, first : first + width] @ item_ND[:, :width].T
            near = product * item_scale_LN[place]
            counts = torch.ones_like(near, dtype=torch.bool)
            counts[self.negatives.hit_row_H, self.negatives.hit_negative_H] = False
            if self.num_hardest is not None and self.num_hardest < near.shape[1]:
                reached = near.masked_fill(~counts, -torch.inf).topk(self.num_hardest, dim=1).values[:, -1:]
                counts &= near >= reached
            logit = near * query_scale_LV[place][:, None] + self.negatives.log_weight_N
            logits.append(torch.where(counts, logit, MASKED).logsumexp(dim=1).clamp_min(MASKED))
        return torch.stack(logits)

    def naive_loss(self, log_sum_LV):
        row_P, floor_LP, weight_LP = self.pairs
        return (weight_LP * torch.logaddexp(floor_LP, log_sum_LV[:, row_P])).sum()

    def ours(self, leaves):
        return log_sums(Scores(**leaves), self.negatives, self.widths, self.pairs)


@st.composite
def sums(draw):
    return Sums(
        np.random.default_rng(draw(st.integers(0, 2**32 - 1))),
        widths=draw(width_ladders(max_width=24)),
        num_vectors=draw(st.integers(1, 9)),
        num_negatives=draw(st.integers(1, 9)),
        num_hardest=draw(st.none() | st.integers(1, 9)),
    )


def gradients(leaves):
    return {name: leaf.grad for name, leaf in leaves.items()}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@given(one=sums())
def test_sums_and_gradients_equal_those_of_written_out_logits(way, one):
    ours, theirs = one.leaves(), one.leaves()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partition, "_way", lambda *_: way)
        found = one.ours(ours)
    expected_LV = one.naive(**theirs)
    torch.testing.assert_close(found.log_sum_LV, expected_LV.detach(), rtol=1e-9, atol=1e-9)
    assert found.carrier == 0
    (3 * found.carrier).backward()
    (3 * one.naive_loss(expected_LV)).backward()
    torch.testing.assert_close(gradients(ours), gradients(theirs), rtol=1e-7, atol=1e-9)


def assert_as_written_out(one, *, dtype=torch.float64, log_sum, gradient):
    """Compare sums with those of written-out logits in float64, and gradients, beside each part's largest."""
    ours, theirs = one.leaves(dtype), one.leaves()
    negatives = one.negatives
    one.negatives = replace(negatives, log_weight_N=negatives.log_weight_N.to(dtype))
    one.pairs = Pairs(one.pairs.row_P, *(values.to(dtype) for values in one.pairs[1:]))
    found, expected_LV = one.ours(ours), one.naive(**theirs)
    torch.testing.assert_close(found.log_sum_LV.double(), expected_LV.detach(), rtol=log_sum, atol=log_sum)
    found.carrier.backward()
    one.naive_loss(expected_LV).backward()
    for name, leaf in theirs.items():
        error = (ours[name].grad.double() - leaf.grad).abs().max() / leaf.grad.abs().max().clamp_min(1e-30)
        assert error < gradient, (name, error)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("num_hardest", [None, 7])
@pytest.mark.parametrize("head", ["tied", "per_width"])
@pytest.mark.parametrize("widths", [[3, 8, 24], [8, 16, 64], [40]])
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_many_tiles_of_many_chunks(way, widths, head, num_hardest, threads, monkeypatch):
    monkeypatch.setattr(partition, "_way", lambda *_: way)
    one = Sums(
        np.random.default_rng(7), widths=WidthLadder(widths, head=head), num_vectors=331, num_negatives=250,
        num_hardest=num_hardest,
    )  # fmt: skip
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert_as_written_out(one, log_sum=1e-11, gradient=1e-11)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_far_below_the_bound_and_rows_of_hits_alone(dtype):
    """An item along the vectors that counts for nobody leaves all others hundreds below what a logit could be."""
    one = Sums(np.random.default_rng(8), widths=WidthLadder([4, 12]), num_vectors=20, num_negatives=130)
    query_VU, item_ND = one.scores["query_VU"], one.scores["item_ND"]
    query_VU[:], item_ND[:, 0] = 0, 0
    query_VU[:, 0], item_ND[50, 0] = 300, 2
    query_VU[:, 1:3] = torch.randn(20, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    is_hit_VN = torch.zeros(20, 130, dtype=torch.bool)
    is_hit_VN[:, 50] = is_hit_VN[3] = is_hit_VN[19] = True
    one.negatives = Negatives(one.negatives.log_weight_N, *is_hit_VN.nonzero(as_tuple=True))
    exact = dtype == torch.float64
    assert_as_written_out(one, dtype=dtype, log_sum=1e-11 if exact else 3e-6, gradient=1e-11 if exact else 2e-5)


@given(logit=st.floats(-170, 170), other=st.floats(-170, 170), weight=st.floats(-20, 20), sign=st.sampled_from([-1, 1]))
def test_powers_in_float32_are_right_to_some_roundings(logit, other, weight, sign):
    """Two negatives of one vector: the sum and all gradients have a short form."""
    one = Sums(np.random.default_rng(9), widths=WidthLadder([1]), num_vectors=1, num_negatives=2)
    one.scores["query_VU"][:], one.scores["item_ND"][:] = 1, torch.tensor([[logit], [other]])
    one.scores["query_scale_LV"][:], one.scores["item_scale_LN"][:] = 1, 1
    nobody = torch.zeros(0, dtype=torch.int64)
    one.negatives = Negatives(torch.tensor([weight, 0.0], dtype=torch.float64), nobody, nobody)
    one.pairs = Pairs(torch.tensor([0]), *(torch.tensor([[value]], dtype=torch.float64) for value in (MASKED, sign)))
    # Logits of hundreds are themselves rounded to some 1e-5.
    assert_as_written_out(one, dtype=torch.float32, log_sum=1e-5, gradient=1e-4)


def test_on_a_device_as_written_out(device):
    one = Sums(
        np.random.default_rng(1), widths=WidthLadder([8, 24, 64]), num_vectors=70, num_negatives=90, device=device
    )
    ours, theirs = one.leaves(), one.leaves()
    found, expected_LV = one.ours(ours), one.naive(**theirs)
    torch.testing.assert_close(found.log_sum_LV, expected_LV.detach(), rtol=1e-9, atol=1e-9)
    found.carrier.backward()
    one.naive_loss(expected_LV).backward()
    torch.testing.assert_close(gradients(ours), gradients(theirs), rtol=1e-7, atol=1e-9)


@pytest.fixture(scope="module")
def fused():
    """The kernels for GPUs; where there is none, by Triton's interpreter (see conftest.py)."""
    pytest.importorskip("triton", reason="no Triton, which torch's builds for CUDA bring along")
    return importlib.import_module("recsys.model.losses.fused")


FUSED = [([16, 32, 64], 70, 90), ([8, 24, 100], 5, 3), ([1, 3], 65, 33), ([96, 192], 3, 70)]


@pytest.mark.parametrize(("widths", "num_vectors", "num_negatives"), FUSED)
def test_kernels_for_gpus_agree_with_written_out_logits(fused, widths, num_vectors, num_negatives):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = {"num_vectors": num_vectors, "num_negatives": num_negatives}
    one = Sums(np.random.default_rng(4), widths=WidthLadder(widths), device=device, **size)
    ours, theirs = one.leaves(torch.float32), one.leaves()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partition, "_way", lambda *_: fused.log_sums)
        found = one.ours(ours)
    expected_LV = one.naive(**theirs)
    torch.testing.assert_close(found.log_sum_LV.double(), expected_LV.detach(), rtol=1e-5, atol=1e-5)
    found.carrier.backward()
    one.naive_loss(expected_LV).backward()
    for name, leaf in theirs.items():
        # Sums of many terms of either sign: an error is to be small beside the largest.
        within = {"rtol": 0, "atol": 2e-5 * leaf.grad.abs().max().item()}
        torch.testing.assert_close(
            ours[name].grad.double(), leaf.grad, **within, msg=lambda said, n=name: f"{n}: {said}"
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_kernels_for_gpus_multiply_halves_and_add_up_in_float32(fused, dtype):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and dtype == torch.bfloat16:
        pytest.skip("Triton's interpreter multiplies no bfloat16")
    one = Sums(np.random.default_rng(5), widths=WidthLadder([16, 48]), num_vectors=9, num_negatives=40, device=device)
    for name in ("query_VU", "item_ND"):
        one.scores[name] = (one.scores[name] / 7).to(dtype).double()
    exact, halves = one.leaves(), Scores(**{name: value.to(dtype) for name, value in one.scores.items()})
    halves = Scores(halves.query_VU, halves.item_ND, *(one.scores[name].float() for name in list(one.scores)[2:]))
    log_sum_LV, gradients = fused.log_sums(halves, one.negatives, one.widths, one.pairs, learns=True)
    expected_LV = one.naive(**exact)
    torch.testing.assert_close(log_sum_LV.double(), expected_LV.detach(), rtol=1e-2, atol=1e-2)
    one.naive_loss(expected_LV).backward()
    for found, leaf in zip(gradients, exact.values(), strict=True):
        assert (found.double() - leaf.grad).abs().max() < 0.02 * leaf.grad.abs().max()


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from recsys.model.losses import fused, triton_kernels
from recsys.widths import WidthLadder

widths = WidthLadder([8, 16, 32, 64, 128, 256])
for kernel in (triton_kernels.find_sums, triton_kernels.find_slopes):
    known = {name: value for name, value in fused.compiled_for(widths).items() if name in kernel.arg_names}
    names = [name for name in kernel.arg_names if name not in known]
    kinds = {name: "i32" if name.startswith("num_") else "*i32" if name == "is_hit" else "*fp32" for name in names}
    kinds |= {name: "*bf16" for name in names if name in ("query", "item", "own", "other")}
    source = ASTSource(fn=kernel, signature=kinds | dict.fromkeys(known, "constexpr"), constexprs=known)
    for target in (80, 90):
        made = triton.compile(source, target=GPUTarget("cuda", target, 32), options=fused.OPTIONS)
        assert made.metadata.shared <= 99 * 1024, made.metadata.shared
        assert "st.local" not in made.asm["ptx"], "registers spilled"
        print(kernel.__name__, target, made.metadata.shared)
"""


@pytest.mark.deep
def test_kernels_compile_for_gpus_without_one(tmp_path):
    pytest.importorskip("triton", reason="no Triton, which torch's builds for CUDA bring along")
    finished = subprocess.run(
        [sys.executable, "-c", COMPILE], env=os.environ | {"TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    assert len(finished.stdout.splitlines()) == 4


@pytest.mark.parametrize("head", ["tied", "per_width"])
def test_gradients_are_those_of_differences(head):
    one = Sums(np.random.default_rng(2), widths=WidthLadder([1, 3, 4], head=head), num_vectors=3, num_negatives=4)

    def loss(*tensors):
        """The loss, where gradcheck expects the carrier's value to move with its gradient."""
        found = log_sums(Scores(*tensors), one.negatives, one.widths, one.pairs)
        return one.naive_loss(found.log_sum_LV) + found.carrier

    assert torch.autograd.gradcheck(loss, tuple(one.leaves().values()))


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_float32_is_as_exact_as_its_rounding(scale):
    """Also where exponentials underflow: logits here differ by up to hundreds."""
    one = Sums(np.random.default_rng(3), widths=WidthLadder([8, 24, 64]), num_vectors=40, num_negatives=500)
    one.scores["query_scale_LV"] *= scale / 8
    single, double = one.leaves(torch.float32), one.leaves()
    one.negatives = Negatives(one.negatives.log_weight_N.float(), one.negatives.hit_row_H, one.negatives.hit_negative_H)
    expected = log_sums(Scores(**double), one.negatives, one.widths, one.pairs)
    one.pairs = Pairs(one.pairs.row_P, one.pairs.floor_LP.float(), one.pairs.weight_LP.float())
    found = one.ours(single)
    torch.testing.assert_close(found.log_sum_LV.double(), expected.log_sum_LV, rtol=3e-6, atol=3e-6)
    found.carrier.backward()
    expected.carrier.backward()
    for name in single:
        largest = double[name].grad.abs().max()
        torch.testing.assert_close(single[name].grad.double() / largest, double[name].grad / largest, rtol=0, atol=1e-4)


@given(one=sums(), rows=st.integers(1, 4), threads=st.integers(1, 3))
def test_neither_tiles_nor_threads_change_a_thing(one, rows, threads):
    whole, tiled, again = one.leaves(), one.leaves(), one.leaves()
    expected = one.ours(whole)
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "_ROWS", rows)
        torch.set_num_threads(threads)
        try:
            found, repeated = one.ours(tiled), one.ours(again)
        finally:
            torch.set_num_threads(before)
    torch.testing.assert_close(found.log_sum_LV, expected.log_sum_LV, rtol=1e-12, atol=1e-12)
    for result in (expected, found, repeated):
        result.carrier.backward()
    torch.testing.assert_close(gradients(tiled), gradients(whole), rtol=1e-9, atol=1e-12)
    assert torch.equal(found.log_sum_LV, repeated.log_sum_LV)
    for name, gradient in gradients(tiled).items():
        assert torch.equal(gradient, again[name].grad)


@given(one=sums(), other=st.integers(0, 99))
def test_losses_joined_are_the_sum_of_both(one, other):
    random = np.random.default_rng(other)
    row_P, floor_LP, _ = one.pairs
    second = Pairs(row_P, *(torch.from_numpy(random.normal(size=floor_LP.shape)) for _ in range(2)))
    apart, together = one.leaves(), one.leaves()
    for pairs in (one.pairs, second):
        log_sums(Scores(**apart), one.negatives, one.widths, pairs).carrier.backward()
    log_sums(Scores(**together), one.negatives, one.widths, joined(one.pairs, second)).carrier.backward()
    torch.testing.assert_close(gradients(together), gradients(apart), rtol=1e-9, atol=1e-12)


def test_what_is_kept_for_the_backward_pass_has_no_vectors_times_negatives():
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
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss(user, item, everything)
    assert kept
    assert max(kept) < num_users * num_items / 10


@pytest.mark.parametrize("num_threads", [1, 2, 7, 64])
@pytest.mark.parametrize("num_vectors", [1, 2, 100, 1000, 4096])
def test_every_thread_has_about_as_much_to_do(num_vectors, num_threads):
    tiles = compiled._tiles(num_vectors, 6 * 4096, num_threads)
    assert [one.start for one in tiles] == [0, *(one.stop for one in tiles[:-1])]
    assert tiles[-1].stop == num_vectors
    most = max(one.stop - one.start for one in tiles)
    assert most <= compiled._ROWS
    assert len(tiles) <= num_threads * -(-num_vectors // (compiled._ROWS * num_threads))
    assert sum(one.stop - one.start for one in tiles[::num_threads]) <= num_vectors / num_threads + len(tiles) * ROWS


def test_tiles_shrink_as_widths_and_negatives_grow():
    def rows(num_logits):
        return max(one.stop - one.start for one in compiled._tiles(4096, num_logits, 1))

    assert rows(6 * 4096) > rows(6 * 100_000) > rows(6 * 1_000_000)
    assert rows(6 * 1_000_000) * 6 * 1_000_000 <= compiled._TILE + 6 * 1_000_000 * ROWS
    assert rows(2_000_000_000) == 1


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_without_negatives_there_is_nothing_to_add_up_and_no_gradient(way, monkeypatch):
    monkeypatch.setattr(partition, "_way", lambda *_: way)
    one = Sums(np.random.default_rng(4), widths=WidthLadder([2, 4]), num_vectors=5, num_negatives=0)
    leaves = one.leaves()
    found = one.ours(leaves)
    assert (found.log_sum_LV == MASKED).all()
    found.carrier.backward()
    assert not any(leaf.grad.any() for leaf in leaves.values())


def test_without_a_gradient_asked_for_there_is_none():
    one = Sums(np.random.default_rng(4), widths=WidthLadder([2, 4]), num_vectors=5, num_negatives=6)
    with torch.no_grad():
        found = one.ours(one.leaves())
    assert not found.carrier.requires_grad
    torch.testing.assert_close(found.log_sum_LV, one.naive(**one.scores))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", ["query_VU", "item_ND", "query_scale_LV", "item_scale_LN"])
def test_what_is_not_finite_is_seen_in_the_sums(name, value):
    one = Sums(np.random.default_rng(4), widths=WidthLadder([2, 4]), num_vectors=5, num_negatives=6)
    one.scores[name][1, 1] = value
    assert one.ours(one.leaves()).log_sum_LV.isnan().any()
