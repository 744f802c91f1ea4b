import numpy as np
import pytest

from recsys.index.kernels import best_candidates, nearest_centres

NONE = np.empty(0, dtype=np.float32)


@pytest.mark.parametrize("width", [1, 7, 8, 9, 31, 32, 33, 40, 63, 64, 100, 128, 136])
def test_bytes_are_multiplied_exactly_at_any_width(width):
    random = np.random.default_rng(width)
    code_Cr = random.integers(-127, 128, size=(50, width)).astype(np.int8)
    whole_Br = random.integers(-32_766, 32_767, size=(3, width))
    whole_Br[:, 0] = (
        32_767  # the largest of a query's weights becomes this whole number, and all others stay as they are
    )
    cell_BP, score_BP = np.empty((3, 50), dtype=np.int64), np.empty((3, 50), dtype=np.float32)
    nearest_centres(whole_Br.astype(np.float32), np.ones(width, dtype=np.float32), code_Cr, cell_BP, score_BP)
    product_BC = whole_Br @ code_Cr.astype(np.int64).T
    np.testing.assert_array_equal(cell_BP, np.argsort(-product_BC, axis=1, kind="stable"))
    np.testing.assert_array_equal(score_BP, -np.sort(-product_BC, axis=1).astype(np.float32))


@pytest.mark.parametrize("start", [0, 5, 32])
@pytest.mark.parametrize("width", [33, 40, 64, 100])
def test_scores_from_bytes_are_those_of_what_the_bytes_stand_for(width, start):
    random = np.random.default_rng(width)
    code_ND = random.integers(-127, 128, size=(60, 100)).astype(np.int8)
    scale_D = random.uniform(0.001, 0.01, size=100).astype(np.float32)
    query_BD = random.standard_normal((4, 100), dtype=np.float32)
    rows_BC = np.argsort(random.random((4, 60)), axis=1)
    known_BC = random.standard_normal((4, 60), dtype=np.float32)
    rows_BK, scores_BK = np.empty((4, 60), dtype=np.int64), np.empty((4, 60), dtype=np.float32)
    best_candidates(query_BD, code_ND, rows_BC, known_BC, start, width, scale_D, NONE, NONE, NONE, rows_BK, scores_BK)
    weight_BD, value_ND = query_BD[:, start:width].astype(np.float64), (code_ND * scale_D)[:, start:width]
    score_BN = weight_BD @ value_ND.astype(np.float64).T
    if start:
        score_BN += np.take_along_axis(known_BC, np.argsort(rows_BC, axis=1), axis=1)
    np.testing.assert_allclose(
        scores_BK, np.take_along_axis(score_BN, rows_BK, axis=1), atol=4e-3
    )  # a thirtieth of a step of the bytes
    assert (np.sort(rows_BK, axis=1) == np.arange(60)).all()
    assert (np.diff(scores_BK, axis=1) <= 0).all()
