"""What holds of every metric, whatever the rankings and the targets."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recsys.evaluate.metrics import coverage, find_hits, mrr, ndcg, overlap, recall
from recsys.index.exact import NOTHING
from recsys.ragged import Ragged


@st.composite
def rankings_and_targets(draw, max_queries=5, max_items=12):
    """Rankings of one length that end in `NOTHING` anywhere, and at least one target for each."""
    num_items = draw(st.integers(1, max_items))
    depth = draw(st.integers(1, max_items + 2))
    num_queries = draw(st.integers(1, max_queries))
    ranked_QK = np.full((num_queries, depth), NOTHING, dtype=np.int64)
    targets = []
    for query in range(num_queries):
        items = draw(st.permutations(range(num_items)))[: draw(st.integers(0, depth))][:depth]
        ranked_QK[query, : len(items)] = items
        targets.append(draw(st.lists(st.integers(0, num_items - 1), min_size=1, unique=True)))
    return ranked_QK, Ragged.from_lists(targets), num_items


def all_metrics(ranked_QK, target, k):
    hit_QK = find_hits(ranked_QK, target)
    return {
        "recall": recall(hit_QK, target.lengths, k=k),
        "ndcg": ndcg(hit_QK, target.lengths, k=k),
        "mrr": mrr(hit_QK, k=k),
    }


cut_offs = st.integers(1, 15)


@given(rankings_and_targets())
def test_hits_are_membership(case):
    ranked_QK, target, _ = case
    expected = [[item in set(target[query].tolist()) for item in row] for query, row in enumerate(ranked_QK.tolist())]
    assert find_hits(ranked_QK, target).tolist() == expected


@given(rankings_and_targets(), cut_offs)
def test_all_lie_between_0_and_1(case, k):
    ranked_QK, target, num_items = case
    for value_Q in all_metrics(ranked_QK, target, k).values():
        assert (value_Q >= 0).all()
        assert (value_Q <= 1 + 1e-12).all()
    assert 0 <= coverage(ranked_QK, k=k, num_items=num_items) <= 1


@given(rankings_and_targets(), cut_offs)
def test_recall_mrr_and_coverage_never_fall_as_k_grows(case, k):
    """ndcg may: its ideal grows too."""
    ranked_QK, target, num_items = case
    here, there = all_metrics(ranked_QK, target, k), all_metrics(ranked_QK, target, k + 1)
    assert (there["recall"] >= here["recall"]).all()
    assert (there["mrr"] >= here["mrr"]).all()
    assert coverage(ranked_QK, k=k + 1, num_items=num_items) >= coverage(ranked_QK, k=k, num_items=num_items)


@given(rankings_and_targets())
def test_targets_first_is_perfect(case):
    _, target, num_items = case
    rankings = [
        [*items, *sorted(set(range(num_items)) - set(items))] for items in map(target.__getitem__, range(len(target)))
    ]
    for k in range(1, num_items + 2):
        found = all_metrics(np.array(rankings), target, k)
        np.testing.assert_allclose(found["ndcg"], 1)
        np.testing.assert_allclose(found["mrr"], 1)
        np.testing.assert_allclose(found["recall"], np.minimum(k / target.lengths, 1))


@given(rankings_and_targets(), cut_offs, st.randoms(use_true_random=False))
def test_the_order_of_queries_does_not_matter(case, k, random):
    ranked_QK, target, num_items = case
    order = list(range(len(ranked_QK)))
    random.shuffle(order)
    here, there = all_metrics(ranked_QK, target, k), all_metrics(ranked_QK[order], target.take(np.array(order)), k)
    for name, value_Q in here.items():
        np.testing.assert_array_equal(there[name], value_Q[order])
    assert coverage(ranked_QK[order], k=k, num_items=num_items) == coverage(ranked_QK, k=k, num_items=num_items)


@given(rankings_and_targets(), cut_offs, st.randoms(use_true_random=False))
def test_renaming_items_does_not_matter(case, k, random):
    ranked_QK, target, num_items = case
    new_row = list(range(num_items))
    random.shuffle(new_row)
    new_row = np.array([*new_row, NOTHING])  # index -1 keeps NOTHING what it is
    renamed = Ragged(new_row[target.values], target.offsets)
    here, there = all_metrics(ranked_QK, target, k), all_metrics(new_row[ranked_QK], renamed, k)
    for name in here:
        np.testing.assert_array_equal(there[name], here[name])


@given(rankings_and_targets(), cut_offs, st.data())
def test_moving_a_target_up_never_hurts(case, k, data):
    ranked_QK, target, _ = case
    query = data.draw(st.integers(0, len(ranked_QK) - 1))
    places = np.flatnonzero(find_hits(ranked_QK, target)[query])
    if not len(places) or places[-1] == 0:
        return
    place = int(places[-1])
    better_QK = ranked_QK.copy()
    better_QK[query, [place - 1, place]] = better_QK[query, [place, place - 1]]
    here, there = all_metrics(ranked_QK, target, k), all_metrics(better_QK, target, k)
    for name in here:
        assert there[name][query] >= here[name][query]


@given(rankings_and_targets(), cut_offs)
def test_a_ranking_overlaps_itself_wholly_and_overlap_ignores_order(case, k):
    ranked_QK, _, _ = case
    np.testing.assert_array_equal(overlap(ranked_QK, ranked_QK, k=k), 1)
    np.testing.assert_array_equal(overlap(ranked_QK[:, :k][:, ::-1], ranked_QK, k=k), 1)
