"""Exact search: by hand, against a plain sort, and what it promises about ties, masks and missing items."""

import gc
import re

import numpy as np
import pytest
import torch

from recsys.errors import ConfigError, DataError, WidthError
from recsys.index import exact, store
from recsys.index.exact import NOTHING, exact_top_k, select_top_k
from recsys.ragged import Ragged

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")),
]
INF = np.inf


def by_sorting(score_QN, k):
    """The reference: one stable sort of everything, best first, so that ties stay in row order."""
    order_QN = np.argsort(-score_QN, axis=1, kind="stable")[:, :k]
    best_QN = np.take_along_axis(score_QN, order_QN, axis=1)
    order_QN = np.where(best_QN == -INF, NOTHING, order_QN)
    pad = ((0, 0), (0, k - order_QN.shape[1]))
    return np.pad(best_QN, pad, constant_values=-INF), np.pad(order_QN, pad, constant_values=NOTHING)


def test_three_items_by_hand():
    item_ND = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]], dtype=np.float32)
    query_QD = np.array([[1.0, 0.0], [0.0, 2.0]], dtype=np.float32)
    score_Qk, row_Qk = exact_top_k(query_QD, item_ND, k=2)
    np.testing.assert_array_equal(row_Qk, [[0, 2], [1, 2]])
    np.testing.assert_allclose(score_Qk, [[1.0, 0.6], [2.0, 1.6]], rtol=1e-6)
    assert (score_Qk.dtype, row_Qk.dtype) == (np.float32, np.int64)


def test_masked_items_are_left_out_and_missing_ones_padded():
    item_ND = np.array([[3.0], [2.0], [1.0]], dtype=np.float32)
    masked = Ragged.from_lists([[], [0], [2, 0], [0, 1, 2]])
    score_Qk, row_Qk = exact_top_k(np.ones((4, 1), dtype=np.float32), item_ND, k=2, masked=masked)
    np.testing.assert_array_equal(row_Qk, [[0, 1], [1, 2], [1, NOTHING], [NOTHING, NOTHING]])
    np.testing.assert_array_equal(score_Qk, [[3, 2], [2, 1], [2, -INF], [-INF, -INF]])


def test_k_beyond_the_catalogue_is_padded():
    score_Qk, row_Qk = exact_top_k(np.ones((1, 1)), np.array([[1.0], [2.0]]), k=4)
    np.testing.assert_array_equal(row_Qk, [[1, 0, NOTHING, NOTHING]])
    np.testing.assert_array_equal(score_Qk, [[2, 1, -INF, -INF]])


@pytest.mark.parametrize("num_values", [1, 2, 5, 1000])
@pytest.mark.parametrize("k", [1, 7, 49, 50, 60])
def test_ties_go_to_the_lower_row_inside_the_answer_and_at_its_end(num_values, k):
    rng = np.random.default_rng(k * num_values)
    score_QN = rng.integers(0, num_values, size=(40, 50)).astype(np.float32)
    score_QN[rng.random(score_QN.shape) < 0.3] = -INF
    score_Bk, row_Bk = select_top_k(torch.from_numpy(score_QN.copy()), k)
    expected_Qk, expected_row_Qk = by_sorting(score_QN, k)
    np.testing.assert_array_equal(row_Bk.numpy(), expected_row_Qk)
    np.testing.assert_array_equal(score_Bk.numpy(), expected_Qk)


def test_minus_zero_and_zero_tie():
    _, row_Bk = select_top_k(torch.tensor([[-0.0, 0.0, -0.0, 0.0]]), 3)
    assert row_Bk.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("chunk_bytes", "few"), [(1, 1), (1, 16), (4 * 300 * 7, 1), (2**30, 1)])
def test_chunks_change_nothing(monkeypatch, device, chunk_bytes, few):
    """Small whole numbers make products exact, so answers can be compared to the last bit, ties and all."""
    rng = np.random.default_rng(0)
    query_QD = rng.integers(-3, 4, size=(23, 8)).astype(np.float32)
    item_ND = rng.integers(-3, 4, size=(300, 8)).astype(np.float32)
    lengths = rng.integers(0, 290, size=23)
    lengths[5] = 300
    masked = Ragged.from_lists([rng.permutation(300)[:length] for length in lengths])
    score_QN = query_QD @ item_ND.T
    score_QN[masked.row_of_values(), masked.values] = -INF
    monkeypatch.setattr(exact, "_CHUNK_BYTES_CPU", chunk_bytes)
    monkeypatch.setattr(exact, "_CHUNK_BYTES_DEVICE", chunk_bytes)
    monkeypatch.setattr(exact, "_FEW", few)
    score_Qk, row_Qk = exact_top_k(query_QD, torch.from_numpy(item_ND).to(device), k=20, masked=masked)
    expected_Qk, expected_row_Qk = by_sorting(score_QN, 20)
    np.testing.assert_array_equal(row_Qk, expected_row_Qk)
    np.testing.assert_array_equal(score_Qk, expected_Qk)


def test_neither_input_is_changed():
    rng = np.random.default_rng(1)
    query_QD, item_ND = rng.normal(size=(3, 4)), rng.normal(size=(9, 4))
    before = query_QD.copy(), item_ND.copy()
    exact_top_k(query_QD, item_ND, k=3, masked=Ragged.from_lists([[0], [1], [2]]))
    np.testing.assert_array_equal(query_QD, before[0])
    np.testing.assert_array_equal(item_ND, before[1])


def test_float64_items_are_scored_in_float64():
    """Two items that float32 cannot tell apart."""
    item_ND = np.array([[1.0], [1.0 + 1e-12]])
    score_Qk, row_Qk = exact_top_k(np.ones((1, 1)), item_ND, k=1)
    assert row_Qk.tolist() == [[1]]
    assert score_Qk.dtype == np.float64


def test_half_precision_items_are_scored_in_float32():
    """1 + 2**-10 squared is no float16."""
    item_ND = torch.tensor([[1 + 2**-10]], dtype=torch.float16)
    score_Qk, _ = exact_top_k(item_ND, item_ND, k=1)
    assert score_Qk.dtype == np.float32
    assert score_Qk[0, 0] == np.float32((1 + 2**-10) ** 2)


def test_read_only_arrays_are_read_where_they_lie(tmp_path):
    np.save(tmp_path / "items.npy", np.eye(3, dtype=np.float32))
    item_ND = np.load(tmp_path / "items.npy", mmap_mode="r")
    assert exact._tensor(item_ND).data_ptr() == item_ND.ctypes.data
    assert exact._tensor(item_ND[:, 1:]).tolist() == item_ND[:, 1:].tolist()
    assert exact_top_k(item_ND, item_ND, k=1)[1].tolist() == [[0], [1], [2]]


@pytest.mark.filterwarnings("error")
def test_a_read_only_array_lives_as_long_as_it_is_read():
    item_ND = np.random.default_rng(1).standard_normal((1000, 8))
    item_ND.setflags(write=False)
    expected = item_ND.tolist()
    lent = exact._tensor(item_ND)
    del item_ND
    gc.collect()
    assert lent.tolist() == expected


def test_what_is_not_finite_is_found_in_any_page(monkeypatch):
    monkeypatch.setattr(store, "_PAGE", 3)
    item_ND = np.ones((10, 2))
    item_ND[7, 1] = np.nan
    with pytest.raises(WidthError, match="item vectors: row 7: got NaN"):
        exact_top_k(np.ones((1, 2)), item_ND, k=1)


def test_no_queries_give_no_answers():
    score_Qk, row_Qk = exact_top_k(np.zeros((0, 2)), np.ones((3, 2)), k=2, masked=Ragged.empty(0))
    assert score_Qk.shape == row_Qk.shape == (0, 2)


def test_an_empty_catalogue_gives_nothing():
    score_Qk, row_Qk = exact_top_k(np.ones((2, 3)), np.zeros((0, 3)), k=2)
    assert row_Qk.tolist() == [[NOTHING, NOTHING]] * 2
    assert (score_Qk == -INF).all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"k": 0}, ConfigError, "k: got 0, expected at least 1"),
        ({"query_QD": np.ones((2, 3))}, WidthError, "vectors: got queries (2, 3) and items (4, 2)"),
        ({"query_QD": np.ones(2)}, WidthError, "vectors: got queries (2,) and items (4, 2)"),
        ({"query_QD": np.array([[1.0, 1.0], [1.0, np.nan]])}, WidthError, "query vectors: row 1: got NaN or infinity"),
        ({"item_ND": np.array([[np.inf, 1.0]])}, WidthError, "item vectors: row 0: got NaN or infinity"),
        ({"masked": Ragged.empty(3)}, DataError, "masked: got 3 lists, expected one per query (2)"),
        ({"masked": Ragged.from_lists([[4], []])}, DataError, "expected item rows from 0 to 3"),
        ({"masked": Ragged.from_lists([[0], [-1]])}, DataError, "masked: got rows from -1 to 0"),
    ],
)
def test_what_cannot_be_searched_is_refused(change, error, message):
    arguments = {"query_QD": np.ones((2, 2)), "item_ND": np.ones((4, 2)), "k": 1, "masked": None} | change
    with pytest.raises(error, match=re.escape(message)):
        exact_top_k(arguments["query_QD"], arguments["item_ND"], k=arguments["k"], masked=arguments["masked"])
