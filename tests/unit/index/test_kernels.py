import numpy as np
import pytest

from recsys.index.kernels import nearest_centres


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
