import numpy as np
import pytest

from recsys.index.kernels import add_rows, keep_each_once, largest_products, products_with_bytes


@pytest.mark.parametrize("width", [1, 7, 8, 9, 31, 32, 33, 40, 63, 64, 100, 128, 136])
def test_bytes_are_multiplied_exactly_at_any_width(width):
    random = np.random.default_rng(width)
    code_Cr = random.integers(-127, 128, size=(50, width)).astype(np.int8)
    whole_Br = random.integers(-32_766, 32_767, size=(3, width))
    whole_Br[:, 0] = (
        32_767  # the largest of a query's weights becomes this whole number, and all others stay as they are
    )
    cell_BP, score_BP = np.empty((3, 50), dtype=np.int64), np.empty((3, 50), dtype=np.float32)
    largest_products(whole_Br.astype(np.float32), np.ones(width, dtype=np.float32), code_Cr, cell_BP, score_BP)
    product_BC = whole_Br @ code_Cr.astype(np.int64).T
    np.testing.assert_array_equal(cell_BP, np.argsort(-product_BC, axis=1, kind="stable"))
    np.testing.assert_array_equal(score_BP, -np.sort(-product_BC, axis=1).astype(np.float32))


@pytest.mark.parametrize("width", [1, 7, 32, 100])
def test_products_with_bytes_are_those_of_what_they_stand_for(width):
    random = np.random.default_rng(width)
    query_Bw = random.standard_normal((3, width)).astype(np.float32)
    scale_w = random.uniform(1e-3, 1, width).astype(np.float32)
    code_Cw = random.integers(-127, 128, (20, width)).astype(np.int8)
    rows_BP = random.integers(20, size=(3, 9))
    score_BP = np.empty(rows_BP.shape, dtype=np.float32)
    products_with_bytes(query_Bw, scale_w, code_Cw, rows_BP, score_BP)
    vector_BPw = (code_Cw.astype(np.float64) * scale_w)[rows_BP]
    np.testing.assert_allclose(score_BP, np.einsum("bw,bpw->bp", query_Bw, vector_BPw), rtol=1e-4, atol=1e-3)


def test_weighted_rows_are_added():
    random = np.random.default_rng(1)
    row_XD, weight_A = random.normal(size=(9, 37)).astype(np.float32), random.normal(size=20).astype(np.float32)
    place_A, end_M = random.integers(9, size=20), np.array([0, 3, 3, 20])
    sum_MD = random.normal(size=(3, 37)).astype(np.float32)
    wanted_MD = sum_MD.copy()
    for m, part in enumerate([slice(0, 3), slice(3, 3), slice(3, 20)]):
        wanted_MD[m] += weight_A[part] @ row_XD[place_A[part]]
    add_rows(row_XD, end_M, place_A, weight_A, sum_MD)
    np.testing.assert_allclose(sum_MD, wanted_MD, atol=1e-5)


@pytest.mark.parametrize("num", [1, 3, 40])
def test_what_came_before_is_left_out(num):
    random = np.random.default_rng(1)
    rows_BC = random.choice([3, 5, 2**33, 2**33 + 2**16, 70_000, 10**9, 8, 9], size=(20, 12)).astype(np.int64)
    rows_BC[::2, 9:] = -1
    scores_BC = -np.sort(-random.random((20, 12), dtype=np.float32), axis=1)
    rows_BK, scores_BK = np.empty((20, num), dtype=np.int64), np.empty((20, num), dtype=np.float32)
    some = rows_BC[::2].copy(), scores_BC[::2].copy()  # not all of their places are taken
    assert not keep_each_once(*some, 9, rows_BK[::2].copy(), scores_BK[::2].copy())
    assert not keep_each_once(rows_BC, scores_BC, 1, rows_BK, scores_BK)
    assert keep_each_once(rows_BC, scores_BC, 9, rows_BK, scores_BK)  # of eight
    arrays = rows_BK, scores_BK, rows_BC, scores_BC
    for got, score, asked, scored in zip(*map(np.ndarray.tolist, arrays), strict=True):
        wanted = list(dict.fromkeys(row for row in asked if row >= 0))[:num]
        assert got == wanted + [-1] * (num - len(wanted))
        assert score == [scored[asked.index(row)] for row in wanted] + [-np.inf] * (num - len(wanted))
