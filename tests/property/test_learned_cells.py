"""Whatever queries ask for, every item stays in one cell, and what nobody asks for where it was."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.index.learned_cells import learn_cells


def unit(random, num, width):
    vectors = random.standard_normal((num, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@given(
    num_items=st.integers(1, 60),
    num_queries=st.integers(1, 40),
    num_cells=st.integers(1, 12),
    width=st.integers(1, 9),
    popular=st.floats(0.0, 3.0),
    seed=st.integers(0, 99),
)
@settings(max_examples=25)
def test_items_that_nobody_asks_for_stay_and_all_others_are_in_a_cell(
    num_items, num_queries, num_cells, width, popular, seed
):
    random = np.random.default_rng(seed)
    share = np.arange(1, num_items + 1) ** -popular
    best = min(num_items, 7)
    rows = np.stack([random.choice(num_items, best, replace=False, p=share / share.sum()) for _ in range(num_queries)])
    cells = random.integers(num_cells, size=num_items)
    centres = unit(random, num_cells, width)
    routes, moved = learn_cells(
        unit(random, num_queries, width), rows, unit(random, num_items, width), cells, centres, seed=seed
    )
    assert routes.shape == centres.shape
    assert np.isfinite(routes).all()
    assert ((moved.cell_N >= 0) & (moved.cell_N < num_cells)).all()
    unasked = np.setdiff1d(np.arange(num_items), rows)
    assert (moved.cell_N[unasked] == cells[unasked]).all()
    assert ((moved.cell_T >= 0) & (moved.cell_T < num_cells)).all()
    assert (moved.cell_T != moved.cell_N[moved.twice_T]).all()
    assert (np.diff(moved.twice_T) > 0).all()
    assert not np.isin(moved.twice_T, unasked).any()
