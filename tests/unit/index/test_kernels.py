import numpy as np
import pytest

from recsys.index.kernels import add_rows, keep_each_once


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
    some = rows_BC[::2].copy(), scores_BC[::2].copy()  # not all of their places are taken
    assert not keep_each_once(*some, 9, num)
    assert not keep_each_once(rows_BC.copy(), scores_BC.copy(), 1, num)
    asked_BC, scored_BC = rows_BC.tolist(), scores_BC.tolist()
    assert keep_each_once(rows_BC, scores_BC, 9, num)  # of eight
    for got, score, asked, scored in zip(rows_BC.tolist(), scores_BC.tolist(), asked_BC, scored_BC, strict=True):
        wanted = list(dict.fromkeys(row for row in asked if row >= 0))[:num]
        assert got == wanted + [-1] * (12 - len(wanted))
        assert score == [scored[asked.index(row)] for row in wanted] + [-np.inf] * (12 - len(wanted))
