"""What the loss for GPUs does before and after its kernels, which needs no GPU and no Triton."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys.model.losses.fused import _bits, _Chunks, compiled_for, supports
from recsys.model.losses.negatives import Negatives
from recsys.model.losses.passes import Scores
from recsys.testing import width_ladders
from recsys.widths import WidthLadder


@given(width_ladders(max_width=300))
def test_chunks_tile_every_block_and_change_no_product(widths):
    chunks = _Chunks.of(widths)
    edges = [(low, low + num * size) for low, num, size in zip(chunks.start, chunks.num, chunks.size, strict=True)]
    assert all(before[1] == after[0] for before, after in pairwise(edges))
    assert (edges[0][0], edges[-1][1]) == (0, chunks.columns)
    assert all(size in (16, 32, 64) for size in chunks.size)
    assert chunks.first == tuple(sum(chunks.num[:place]) for place in range(len(widths)))
    random = torch.Generator().manual_seed(1)
    one_ND, two_ND = (torch.randn(5, widths.full, generator=random, dtype=torch.float64) for _ in range(2))
    one_NX, two_NX = (chunks.fill(one, widths) for one in (one_ND, two_ND))
    torch.testing.assert_close(chunks.empty(one_NX, widths), one_ND, rtol=0, atol=0)
    for width, (_, stop) in zip(widths, edges, strict=True):
        expected_N = (one_ND[:, :width] * two_ND[:, :width]).sum(dim=1)
        torch.testing.assert_close((one_NX[:, :stop] * two_NX[:, :stop]).sum(dim=1), expected_N)


@given(st.integers(1, 5), st.integers(1, 100), st.integers(0, 2**32 - 1))
def test_a_bit_says_whether_a_pair_is_a_hit_however_often_it_is_named(num_rows, num_columns, seed):
    random = np.random.default_rng(seed)
    is_hit = random.random((num_rows, num_columns)) < 0.3
    row_H, column_H = (torch.from_numpy(np.repeat(one, 2)) for one in np.nonzero(is_hit))
    words = _bits(row_H, column_H, num_rows, num_columns).numpy().view(np.uint32)
    column = np.arange(num_columns)
    np.testing.assert_array_equal((words[:, column // 32] >> (column % 32).astype(np.uint32)) & 1, is_hit)


def test_kernels_are_compiled_for_tuples_of_numbers():
    assert compiled_for(WidthLadder([8, 24, 120]))["SIZE"] == (16, 16, 32)


@pytest.mark.parametrize(
    ("dtype", "head", "num_hardest", "expected"),
    [
        (torch.float32, "tied", None, True),
        (torch.bfloat16, "tied", None, True),
        (torch.float64, "tied", None, False),
        (torch.float32, "per_width", None, False),
        (torch.float32, "tied", 2, False),
    ],
)
def test_what_kernels_cannot_do_is_left_to_others(dtype, head, num_hardest, expected):
    widths = WidthLadder([2, 4], head=head)
    scores = Scores(*(torch.ones(shape, dtype=dtype) for shape in ((2, widths.query_size), (3, 4), (2, 2), (2, 3))))
    none = torch.zeros(0, dtype=torch.int64)
    assert supports(scores, Negatives(torch.zeros(3), none, none, num_hardest), widths) is expected
