"""Metrics: values worked out by hand, agreement with pytrec_eval, refusals."""

import re
from math import log2, sqrt

import numpy as np
import pytest
import pytrec_eval

from recsys.errors import DataError
from recsys.evaluate.metrics import coverage, estimate, find_hits, mrr, ndcg, overlap, recall
from recsys.ragged import Ragged

RANKED_QK = np.array([[4, 2, 0, 1], [3, 1, 0, -1], [0, 1, 2, 3]])
TARGET = Ragged.from_lists([[0, 2, 9], [3], [4, 5]])
NUM_TARGETS_Q = TARGET.lengths
HIT_QK = find_hits(RANKED_QK, TARGET)


def test_hits_by_hand():
    assert HIT_QK.astype(int).tolist() == [[0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]


def test_recall_by_hand():
    np.testing.assert_allclose(recall(HIT_QK, NUM_TARGETS_Q, k=2), [1 / 3, 1, 0])
    np.testing.assert_allclose(recall(HIT_QK, NUM_TARGETS_Q, k=4), [2 / 3, 1, 0])


def test_recall_divides_by_all_targets_even_when_there_are_more_than_k():
    hit_QK = find_hits(np.array([[0]]), Ragged.from_lists([[0, 1, 2, 3]]))
    assert recall(hit_QK, np.array([4]), k=1).tolist() == [0.25]


def test_ndcg_by_hand():
    ideal = 1 + 1 / log2(3) + 1 / log2(4)
    np.testing.assert_allclose(ndcg(HIT_QK, NUM_TARGETS_Q, k=4), [(1 / log2(3) + 1 / log2(4)) / ideal, 1, 0])
    ideal_of_2 = 1 + 1 / log2(3)
    np.testing.assert_allclose(ndcg(HIT_QK, NUM_TARGETS_Q, k=2), [(1 / log2(3)) / ideal_of_2, 1, 0])


def test_mrr_by_hand():
    np.testing.assert_allclose(mrr(HIT_QK, k=4), [1 / 2, 1, 0])
    np.testing.assert_allclose(mrr(HIT_QK, k=1), [0, 1, 0])


def test_a_cut_off_beyond_the_ranking_counts_the_missing_places_as_misses():
    np.testing.assert_allclose(recall(HIT_QK, NUM_TARGETS_Q, k=100), [2 / 3, 1, 0])
    np.testing.assert_allclose(ndcg(HIT_QK, NUM_TARGETS_Q, k=100), ndcg(HIT_QK, NUM_TARGETS_Q, k=4))
    np.testing.assert_allclose(mrr(HIT_QK, k=100), [1 / 2, 1, 0])


def test_coverage_by_hand():
    assert coverage(RANKED_QK, k=1, num_items=10) == 3 / 10
    assert coverage(RANKED_QK, k=4, num_items=10) == 5 / 10
    assert coverage(np.full((2, 3), -1), k=3, num_items=10) == 0


def test_overlap_by_hand():
    reference_QK = np.array([[4, 1, 7], [0, 8, -1], [-1, -1, -1]])
    np.testing.assert_allclose(overlap(RANKED_QK, reference_QK, k=3), [1 / 3, 1 / 2, 1])
    np.testing.assert_allclose(overlap(RANKED_QK, reference_QK, k=2), [1 / 2, 0, 1])


def test_a_missing_item_never_hits():
    """With key = query * base + item, row -1 of a query would be the last item of the query before."""
    hit_QK = find_hits(np.array([[0], [-1]]), Ragged.from_lists([[5], [3]]))
    assert not hit_QK.any()


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_pytrec_eval(seed):
    rng = np.random.default_rng(seed)
    num_queries, num_items, depth = 50, 80, 30
    ranked_QK = rng.random((num_queries, num_items)).argsort(axis=1)[:, :depth]
    ranked_QK[rng.random(num_queries) < 0.3, depth // 2 :] = -1
    lists = [rng.permutation(num_items)[: rng.integers(1, 40)] for _ in range(num_queries)]
    target = Ragged.from_lists(lists)
    qrels = {f"q{q}": {f"d{item}": 1 for item in items} for q, items in enumerate(lists)}
    run = {
        f"q{q}": {f"d{item}": float(depth - place) for place, item in enumerate(items) if item >= 0}
        for q, items in enumerate(ranked_QK)
    }
    measures = {"recall.1,5,10,20,30,100", "ndcg_cut.1,5,10,20,30,100", "recip_rank"}
    theirs = pytrec_eval.RelevanceEvaluator(qrels, measures).evaluate(run)
    hit_QK = find_hits(ranked_QK, target)
    for k in (1, 5, 10, 20, 30, 100):
        expected_Q = [theirs[f"q{q}"][f"recall_{k}"] for q in range(num_queries)]
        np.testing.assert_allclose(recall(hit_QK, target.lengths, k=k), expected_Q)
        expected_Q = [theirs[f"q{q}"][f"ndcg_cut_{k}"] for q in range(num_queries)]
        np.testing.assert_allclose(ndcg(hit_QK, target.lengths, k=k), expected_Q)
    np.testing.assert_allclose(mrr(hit_QK, k=depth), [theirs[f"q{q}"]["recip_rank"] for q in range(num_queries)])


def test_estimate_by_hand():
    found = estimate(np.array([0.0, 1.0, 0.0, 1.0]))
    assert (found.mean, found.num_queries) == (0.5, 4)
    assert found.margin == pytest.approx(1.959964 * sqrt(1 / 3) / 2)


def test_one_query_has_no_interval():
    assert estimate(np.array([0.25])).margin is None


def test_the_interval_holds_the_true_mean_95_times_in_100():
    """2,000 samples of 400 queries that each succeed with probability 0.2: coverage is 95% give or take sampling."""
    samples = np.random.default_rng(0).random((2000, 400)) < 0.2
    estimates = [estimate(sample.astype(float)) for sample in samples]
    inside = np.mean([abs(one.mean - 0.2) <= one.margin for one in estimates])
    assert 0.93 < inside < 0.965


@pytest.mark.parametrize(
    ("ranked", "target", "message"),
    [
        ([[0], [1]], [[0]], "rankings: got 2, expected one per list of targets (1)"),
        ([[0, 1], [2, 2]], [[0], [1]], "rankings: query 1: got an item row twice"),
        ([[0, 1], [2, 3]], [[0], [6, 5, 6]], "targets: query 1: got item row 6 twice"),
    ],
)
def test_what_would_be_counted_wrongly_is_refused(ranked, target, message):
    with pytest.raises(DataError, match=re.escape(message)):
        find_hits(np.array(ranked), Ragged.from_lists(target))


def test_no_queries_have_no_mean():
    with pytest.raises(DataError, match="no queries"):
        estimate(np.zeros(0))
