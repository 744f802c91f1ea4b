import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from recsys.index.exact import NOTHING
from recsys.index.kernels import read_keys, write_keys

NONE = np.empty(0, dtype=np.float32)
FLOATS = st.floats(width=32, allow_nan=True, allow_subnormal=False)
SCORES = arrays(np.float32, st.integers(1, 30), elements=FLOATS | st.sampled_from([-1.0, -0.0, 0.0, 0.5, 0.5, 1.0]))


def keys_of(score_N: np.ndarray, rows_C: np.ndarray) -> np.ndarray:
    """The keys of candidates whose scores are the items' only coordinates."""
    key_BC = np.empty((1, len(rows_C)), dtype=np.int64)
    write_keys(
        np.ones((1, 1), dtype=np.float32),
        NONE,
        score_N[:, None],
        rows_C[None],
        np.zeros((1, len(rows_C)), dtype=np.float32),
        *(0, 1, NONE, NONE, NONE, key_BC),
    )
    return key_BC


@given(SCORES, st.data())
def test_sorted_keys_are_candidates_by_score_then_row(score_N, data):
    rows_C = np.array(data.draw(st.permutations(range(-1, len(score_N)))), dtype=np.int64)
    key_BK = np.sort(keys_of(score_N, rows_C), axis=1)
    rows_BK, scores_BK = np.empty(key_BK.shape, dtype=np.int64), np.empty(key_BK.shape, dtype=np.float32)
    read_keys(key_BK, rows_BK, scores_BK)

    there = sorted((row for row in rows_C if row >= 0 and not np.isnan(score_N[row])), key=lambda r: (-score_N[r], r))
    missing = len(rows_C) - len(there)
    assert rows_BK[0].tolist() == there + [NOTHING] * missing
    assert scores_BK[0].tolist() == [score_N[row] for row in there] + [-np.inf] * missing


def test_the_last_row_that_fits_into_a_key_comes_back():
    # A store of 4 billion items would not fit into a test, so the key is written by hand.
    row, score = 2**32 - 1, np.float32(-0.75)
    bits = int(score.view(np.int32))
    key = (~(bits ^ (2**31 - 1)) << 32) | row
    rows_BK, scores_BK = np.empty((1, 1), dtype=np.int64), np.empty((1, 1), dtype=np.float32)
    read_keys(np.array([[key]], dtype=np.int64), rows_BK, scores_BK)
    assert (rows_BK[0, 0], scores_BK[0, 0]) == (row, score)
