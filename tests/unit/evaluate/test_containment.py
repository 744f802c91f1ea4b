"""Containment: by hand, against sets, under a mask, refusals."""

import numpy as np
import pytest

from recsys.errors import ConfigError
from recsys.evaluate.containment import containment
from recsys.ragged import Ragged
from recsys.widths import WidthLadder, truncate

WIDTHS = WidthLadder((1, 2))
ITEM_ND = np.array([[0.6, 0.8], [0.8, -0.6], [-0.1, 0.9], [1.0, 0.1]])
USER_QD = np.array([[0.6, 0.8], [-0.6, 0.8]])
# At width 1 user 0 sees 0, 1, 3 tied, then 2; user 1 sees 2, then 0, 1, 3 tied.
# At width 2 user 0 sees 0, 2, 3, 1 and user 1 sees 2, 0, 3, 1.


def shares(**settings):
    found = containment(USER_QD, ITEM_ND, WIDTHS, **settings)
    return {width: {multiple: share.tolist() for multiple, share in one.items()} for width, one in found.items()}


def test_each_width_by_hand():
    assert shares(k=2, multiples=(1, 2)) == {1: {1: [0.5, 1.0], 2: [1.0, 1.0]}, 2: {1: [1.0, 1.0], 2: [1.0, 1.0]}}


def test_a_longer_answer_than_there_are_items_left_is_found_whole():
    everything_but_1 = Ragged.from_lists([[0, 2, 3], [0, 1, 2, 3]])
    assert shares(k=2, multiples=(1,), masked=everything_but_1)[1] == {1: [1.0, 1.0]}


def test_it_is_the_share_of_one_set_in_another():
    rng = np.random.default_rng(3)
    widths = WidthLadder((4, 16))
    user_QD, item_ND = (rng.standard_normal((rows, 16)).astype(np.float32) for rows in (20, 300))

    def best(width, k):
        score_QN = truncate(user_QD, width, widths) @ truncate(item_ND, width, widths).T
        return [set(row) for row in np.argsort(-score_QN, axis=1)[:, :k].tolist()]

    found = containment(user_QD, item_ND, widths, k=10, multiples=(2, 5))
    for multiple in (2, 5):
        expected = [len(full & prefix) / 10 for full, prefix in zip(best(16, 10), best(4, 10 * multiple), strict=True)]
        np.testing.assert_allclose(found[4][multiple], expected)
    assert found[4][2].mean() < found[4][5].mean() < 1


@pytest.mark.parametrize("multiples", [(), (0, 2)])
def test_refuses_multiples_that_are_no_list(multiples):
    with pytest.raises(ConfigError, match="multiples: got"):
        containment(USER_QD, ITEM_ND, WIDTHS, k=1, multiples=multiples)
