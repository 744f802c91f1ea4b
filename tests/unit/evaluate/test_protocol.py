"""The protocol: every width by hand, masking, overlap, baselines of a small dataset, refusals."""

import re
from math import log2

import numpy as np
import pytest
import torch

from recsys.data.dataset import Queries
from recsys.errors import ConfigError, DataError, WidthError
from recsys.evaluate.protocol import evaluate_baselines, evaluate_vectors, measure
from recsys.ragged import Ragged
from recsys.widths import WidthLadder

WIDTHS = WidthLadder((1, 2))
ITEM_ND = np.array([[0.6, 0.8], [0.8, -0.6], [-0.1, 0.9], [1.0, 0.1]])
USER_QD = np.array([[0.6, 0.8], [-0.6, 0.8]])
# At width 1 an item is +1 or -1: user 0 sees 0, 1, 3 tied, then 2; user 1 sees 2, then 0, 1, 3 tied.
# At width 2 user 0 sees 0, 2, 3, 1 (1, .73, .68, 0) and user 1 sees 2, 0, 3, 1 (.86, .28, -.52, -.96).


def queries_of(history, target, *, mask_seen=True):
    users = np.arange(len(history))
    return Queries(
        user=users, history=Ragged.from_lists(history), target=Ragged.from_lists(target), mask_seen=mask_seen
    )


def test_each_width_by_hand():
    queries = queries_of([[], []], [[2], [0, 1]])
    found = evaluate_vectors(queries, USER_QD, ITEM_ND, WIDTHS, ks=(2, 3))
    assert list(found) == [1, 2]
    narrow, full = found[1], found[2]
    assert (narrow.name, narrow.width, full.name, full.width) == ("width 1", 1, "width 2", 2)
    np.testing.assert_allclose(narrow.per_query["recall@2"], [0, 1 / 2])
    np.testing.assert_allclose(narrow.per_query["recall@3"], [0, 1])
    np.testing.assert_allclose(full.per_query["recall@2"], [1, 1 / 2])
    ideal = 1 + 1 / log2(3)
    np.testing.assert_allclose(full.per_query["ndcg@2"], [1 / log2(3), (1 / log2(3)) / ideal])
    np.testing.assert_allclose(narrow.per_query["mrr@2"], [0, 1 / 2])
    assert full.mean("mrr@2") == 1 / 2
    assert full.coverage == {"coverage@2": 2 / 4}
    np.testing.assert_allclose(narrow.per_query["overlap@3"], [2 / 3, 2 / 3])
    np.testing.assert_allclose(full.per_query["overlap@3"], [1, 1])


def test_seen_items_are_masked_at_every_width_and_in_the_overlap():
    queries = queries_of([[0], [2, 0]], [[1], [1]])
    found = evaluate_vectors(queries, USER_QD, ITEM_ND, WIDTHS, ks=(1,))
    assert found[1].per_query["recall@1"].tolist() == [1, 1]  # 1 and 3 tie, the lower row first
    assert found[2].per_query["recall@1"].tolist() == [0, 0]  # of user 0 item 2 comes first, of user 1 item 3
    assert found[1].per_query["overlap@1"].tolist() == [0, 0]


def test_seen_items_are_ranked_where_the_queries_allow_it():
    queries = queries_of([[0], [2, 0]], [[0], [2]], mask_seen=False)
    assert evaluate_vectors(queries, USER_QD, ITEM_ND, WIDTHS, ks=(1,))[2].mean("recall@1") == 1


def test_the_lengths_of_vectors_do_not_matter():
    queries = queries_of([[1], []], [[3], [0, 1]])
    scale_N1 = np.array([[5.0], [0.1], [3.0], [0.01]])
    here = evaluate_vectors(queries, USER_QD, ITEM_ND, WIDTHS)
    there = evaluate_vectors(queries, 7 * USER_QD, scale_N1 * ITEM_ND, WIDTHS)
    for width in WIDTHS:
        for name, value_Q in here[width].per_query.items():
            np.testing.assert_array_equal(there[width].per_query[name], value_Q, err_msg=name)


def test_tensors_and_arrays_give_the_same():
    rng = np.random.default_rng(0)
    user_QD, item_ND = rng.normal(size=(20, 8)).astype(np.float32), rng.normal(size=(50, 8)).astype(np.float32)
    lists = [rng.permutation(50)[:12] for _ in range(20)]
    queries = queries_of([one[:6] for one in lists], [one[6:] for one in lists])
    widths = WidthLadder((2, 4, 8))
    here = evaluate_vectors(queries, user_QD, item_ND, widths)
    there = evaluate_vectors(queries, torch.from_numpy(user_QD), torch.from_numpy(item_ND), widths)
    for width in widths:
        for name, value_Q in here[width].per_query.items():
            np.testing.assert_allclose(there[width].per_query[name], value_Q, err_msg=name)


def test_default_metrics():
    found = evaluate_vectors(queries_of([[], []], [[3], [0]]), USER_QD, ITEM_ND, WIDTHS)
    cut = [f"{name}@{k}" for name in ("recall", "ndcg") for k in (10, 20, 50, 100)]
    assert list(found[1].per_query) == [*cut, "mrr@10", "overlap@100"]
    assert list(found[1].coverage) == ["coverage@10"]


def test_baselines_of_a_small_dataset_by_hand(make_dataset):
    """Test users 0, 2, 3 have seen 0 1 2, 1 3 and 4, and are to be given 3, 0 5 and 1.

    Train counts are 2 4 1 1 1 0, so popularity gives 3 4, then 0 2, then 1 0.
    In the last day of train (after day 9) only 3 and 4 were met: it gives 3 4, then 4 0, then 3 0.
    """
    popular, recent, item_item = evaluate_baselines(make_dataset(), "test", ks=(2,), recent_days=1)
    assert popular.per_query["recall@2"].tolist() == [1, 1 / 2, 1]
    assert popular.per_query["mrr@2"].tolist() == [1, 1, 1]
    assert popular.coverage == {"coverage@2": 5 / 6}
    assert recent.per_query["recall@2"].tolist() == [1, 1 / 2, 0]
    assert recent.per_query["mrr@2"].tolist() == [1, 1 / 2, 0]
    assert item_item.width is None
    # From 4 the filter reaches no other item, so user 3 gets what is popular: 1 with three users, before 0 with two.
    assert item_item.per_query["mrr@2"][2] == 1


def test_baselines_see_validation_events_only_as_history(make_dataset):
    """On validation, user 0 has not yet seen item 2, and is to be given it."""
    popular, *_ = evaluate_baselines(make_dataset(), "validation", ks=(1, 2))
    assert popular.per_query["recall@1"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"user_QD": USER_QD[:1]}, DataError, "user vectors: got 1, expected one per query (2)"),
        ({"ks": ()}, ConfigError, "ks: got []"),
        ({"ks": (10, 0)}, ConfigError, "ks: got [10, 0]"),
        ({"item_ND": ITEM_ND[:, :1]}, WidthError, "width: got 2 for vectors of width 1"),
        ({"queries": queries_of([[], []], [[0], []])}, DataError, "targets: query 1 has none"),
        ({"queries": queries_of([[], []], [[0], [4]])}, DataError, "targets: got item row 4"),
        ({"queries": queries_of([[], [4]], [[0], [1]])}, DataError, "masked: got rows from 4 to 4"),
    ],
)
def test_what_cannot_be_measured_is_refused(change, error, message):
    arguments = {
        "queries": queries_of([[], []], [[0], [1]]),
        "user_QD": USER_QD,
        "item_ND": ITEM_ND,
        "ks": (1,),
    } | change
    with pytest.raises(error, match=re.escape(message)):
        evaluate_vectors(arguments["queries"], arguments["user_QD"], arguments["item_ND"], WIDTHS, ks=arguments["ks"])


def test_measure_alone():
    quality = measure(np.array([[1, 0]]), queries_of([[]], [[0]]), name="mine", num_items=4, ks=(1, 2))
    assert (quality.mean("recall@1"), quality.mean("recall@2"), quality.coverage) == (0, 1, {"coverage@1": 1 / 4})
