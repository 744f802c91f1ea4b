"""Items beside an index: the merged answer is that of one exact search over all items that may be returned."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recsys.index.build import build_searcher
from recsys.index.delta import Delta, with_delta
from recsys.index.exact import NOTHING
from recsys.index.filtered import search_filtered
from recsys.index.item_set import ItemSet
from recsys.index.specs import RungSpec
from recsys.widths import WidthLadder

NUM_ITEMS, NUM_BESIDE = 30, 12
WIDTHS = WidthLadder([2, 4, 8])


def unit(vector_ND):
    return (vector_ND / np.linalg.norm(vector_ND, axis=1, keepdims=True)).astype(np.float32)


RANDOM = np.random.default_rng(5)
STORE_ND = unit(RANDOM.normal(size=(NUM_ITEMS, 8)))
BESIDE_MD = unit(RANDOM.normal(size=(NUM_BESIDE, 8)))
SEARCHER = build_searcher(STORE_ND, widths=WIDTHS, seed=1)
ROWS = st.sets(st.integers(0, NUM_ITEMS - 1))


@given(
    excluded=ROWS,
    deleted=ROWS,
    replaced=st.lists(st.integers(0, NUM_ITEMS - 1) | st.just(NOTHING), max_size=NUM_BESIDE),
    k=st.integers(1, NUM_ITEMS + NUM_BESIDE + 2),
    width=st.sampled_from(list(WIDTHS)),
    seed=st.integers(0, 99),
)
def test_the_answer_is_that_of_an_exact_search_over_everything_at_full_width(
    excluded, deleted, replaced, k, width, seed
):
    replaced = [row for place, row in enumerate(replaced) if row == NOTHING or row not in replaced[:place]]
    query_BD = unit(np.random.default_rng(seed).normal(size=(2, 8)))
    hidden = deleted | ({*replaced} - {NOTHING})
    delta = Delta(
        vector_MD=BESIDE_MD[: len(replaced)],
        replaced_M=np.array(replaced, dtype=np.int64),
        hidden=ItemSet.of(np.array(sorted(hidden), dtype=np.int64), NUM_ITEMS),
    )
    gone = ItemSet.of(np.array(sorted(excluded), dtype=np.int64), NUM_ITEMS)
    allowed = ItemSet.all_but(gone.rows, NUM_ITEMS)
    rung = RungSpec(engine="exact", width=width, rerank=0 if width == 8 else 2 * NUM_ITEMS)
    found = with_delta(
        SEARCHER,
        query_BD,
        search_filtered(SEARCHER, query_BD, k=k, rung=rung, allowed=allowed - delta.hidden),
        delta=delta,
        allowed=ItemSet.all_but(delta.replacing(gone).rows, len(delta)),
    )
    beside = [NUM_ITEMS + place for place, row in enumerate(replaced) if row not in excluded]
    left = [row for row in range(NUM_ITEMS) if row not in excluded | hidden] + beside
    everything_ND = np.concatenate([STORE_ND, delta.vector_MD])
    for place, query_D in enumerate(query_BD):
        score_N = everything_ND @ query_D
        best = sorted(left, key=lambda row: (-score_N[row], row))[:k]
        assert found.rows_BK[place, : len(best)].tolist() == best
        assert (found.rows_BK[place, len(best) :] == NOTHING).all()
        assert np.allclose(found.scores_BK[place, : len(best)], score_N[best], atol=1e-6)


@given(rows=ROWS, asked=st.lists(st.integers(-1, NUM_ITEMS - 1)))
def test_a_set_knows_what_it_holds(rows, asked):
    held = ItemSet.of(np.array(sorted(rows), dtype=np.int64), NUM_ITEMS).holds(np.array(asked, dtype=np.int64))
    assert held.tolist() == [row in rows for row in asked]
