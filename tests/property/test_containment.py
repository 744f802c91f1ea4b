"""Containment, whatever the vectors: it grows with the list, and is whole at full width and in the whole catalogue."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recsys.evaluate.containment import containment
from recsys.testing import queries, vectors, width_ladders

NUM_ITEMS = 12


@given(st.data(), st.integers(1, 4))
def test_it_grows_to_the_whole(data, k):
    widths = data.draw(width_ladders(max_width=8, max_widths=3))
    user_QU, item_ND = data.draw(queries(widths, rows=3)), data.draw(vectors(widths, rows=NUM_ITEMS))
    found = containment(user_QU, item_ND, widths, k=k, multiples=(1, 2, 3, NUM_ITEMS))
    assert list(found) == list(widths)
    for share in found.values():
        by_multiple = np.stack(list(share.values()))
        assert (by_multiple >= 0).all()
        assert (np.diff(by_multiple, axis=0) >= 0).all()
        assert (by_multiple[-1] == 1).all()
    assert all((share == 1).all() for share in found[widths.full].values())
