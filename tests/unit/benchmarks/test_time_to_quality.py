"""Clocks stand still while vectors are evaluated; goals count on all users; who is compared with whom is told."""

import os
import time

import numpy as np
import pytest
from scipy import sparse

from benchmarks._course import METRIC, Course, Goal, held_to
from benchmarks._peers import PEERS, nearest_as_largest
from benchmarks.time_to_quality import compare
from recsys.data.dataset import Queries
from recsys.index.exact import exact_top_k
from recsys.ragged import Ragged

NUM_USERS, NUM_ITEMS, DIM = 60, 80, 8


@pytest.fixture
def vectors():
    random = np.random.default_rng(1)
    return tuple(random.standard_normal((size, DIM)).astype(np.float32) for size in (NUM_USERS, NUM_ITEMS))


@pytest.fixture
def goal(vectors):
    """Every user but the first five looks for the ten items that their vector ranks first, less one that was seen."""
    ranked_UK = exact_top_k(*vectors, k=10)[1][5:]
    queries = Queries(
        user=np.arange(5, NUM_USERS),
        history=Ragged.from_lists(ranked_UK[:, :1]),
        target=Ragged.from_lists(np.sort(ranked_UK[:, 1:])),
        mask_seen=True,
    )
    return Goal.of(0.9, queries, num_sampled=20)


def test_recall_is_of_each_users_own_vector_without_what_was_seen(goal, vectors):
    user_UD, item_ND = vectors
    for sampled in (False, True):
        assert goal.recall_of(user_UD, item_ND, sampled=sampled) == 1
        assert goal.recall_of(user_UD[::-1].copy(), item_ND, sampled=sampled) < 0.6


def test_the_clock_stands_still_in_checkpoints_and_the_goal_ends_training(goal, vectors):
    user_UD, item_ND = vectors
    steps = []

    def training(course):
        for step in range(10):
            steps.append(step)
            time.sleep(0.02)
            good = step == 3

            def slowly():
                time.sleep(0.2)
                return (user_UD if good else -user_UD), item_ND  # noqa: B023 - called at once

            course.checkpoint(slowly)

    found = Course(goal, limit_s=30).run(training)
    assert steps == [0, 1, 2, 3]
    assert found["reached"]
    assert 0.08 <= found["seconds"] < 0.2
    assert [point["num_users"] for point in found["curve"]] == [20, 20, 20, NUM_USERS - 5]
    assert found["best"] == found["curve"][-1] == {"seconds": found["seconds"], METRIC: 1.0, "num_users": 55}


def test_the_limit_ends_training_after_one_more_look_at_everybody(goal, vectors):
    user_UD, item_ND = vectors

    def training(course):
        while True:
            time.sleep(0.02)
            course.checkpoint(lambda: (-user_UD, item_ND))

    found = Course(goal, limit_s=0.05).run(training)
    assert not found["reached"]
    assert found["seconds"] >= 0.05
    assert found["curve"][-1]["num_users"] == NUM_USERS - 5


def test_a_trial_counts_on_its_sample(goal, vectors):
    found = Course(goal, limit_s=30, sampled=True).run(lambda course: course.checkpoint(lambda: vectors))
    assert found["reached"]
    assert found["curve"][-1]["num_users"] == 20


def test_processors_are_given_back():
    before = os.sched_getaffinity(0)
    with held_to(1):
        assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == before


def test_the_largest_product_is_the_nearest(vectors):
    user_UD, item_ND = vectors
    distance_UN = np.linalg.norm(user_UD[:, None] - item_ND[None], axis=2)
    nearest_UK = np.argsort(distance_UN, axis=1)[:, :5]
    assert (exact_top_k(*nearest_as_largest(user_UD, item_ND), k=5)[1] == nearest_UK).all()


def one(seconds, recall, *, reached):
    return {
        "seconds": seconds,
        "cpu_seconds": seconds / 2,
        "reached": reached,
        "best": {METRIC: recall, "seconds": 1.0},
    }


@pytest.mark.parametrize(
    ("ours", "peers", "ratio", "bound", "best"),
    [
        (one(50, 0.17, reached=True), {"a": one(150, 0.17, reached=True)}, 3, "exact", "a"),
        (one(50, 0.17, reached=True), {"a": one(101, 0.1, reached=False)}, 2, "lower", "a"),
        (one(101, 0.1, reached=False), {"a": one(50, 0.17, reached=True)}, 0.5, "upper", "a"),
        (one(101, 0.1, reached=False), {"a": one(101, 0.1, reached=False)}, None, None, "a"),
        (one(50, 0.17, reached=True), {}, None, None, None),
    ],
)
def test_the_ratio_says_what_it_is(ours, peers, ratio, bound, best):
    found = compare(ours, peers, limit_s=100)
    assert (found["time_to_quality_vs_best_peer"], found["bound"], found["best_peer"]) == (ratio, bound, best)


def test_who_got_there_is_ahead_of_who_did_not():
    peers = {"near": one(101, 0.169, reached=False), "slow": one(90, 0.17, reached=True)}
    assert compare(one(50, 0.17, reached=True), peers | {"fast": one(80, 0.17, reached=True)}, limit_s=100) == {
        "time_to_quality_vs_best_peer": 1.6,
        "by_cpu_seconds": 1.6,
        "bound": "exact",
        "best_peer": "fast",
        "best_peer_reached": True,
        "ours_reached": True,
    }


@pytest.mark.parametrize("kind", PEERS, ids=lambda kind: kind.name)
@pytest.mark.filterwarnings("ignore")
def test_a_peer_learns_what_is_plain_or_says_what_is_missing(kind, goal):
    peer = kind()
    if (reason := peer.missing()) is not None:
        assert "install" in reason
        pytest.skip(reason)
    # Users of two kinds, who chose some of their own half of the items: the other ten or so are to be found.
    random = np.random.default_rng(1)
    half_UN = np.arange(NUM_USERS)[:, None] % 2 == np.arange(NUM_ITEMS)[None] % 2
    chosen_UN = half_UN & (random.random(half_UN.shape) < 0.75)
    chosen_UN[:, :2] = half_UN[:, :2]
    queries = Queries(
        user=np.arange(NUM_USERS),
        history=Ragged.from_lists([np.flatnonzero(row_N) for row_N in chosen_UN]),
        target=Ragged.from_lists([np.flatnonzero(row_N) for row_N in half_UN & ~chosen_UN]),
        mask_seen=True,
    )
    settings = peer.settings()[0]
    chosen = sparse.csr_matrix(chosen_UN.astype(np.float32))
    course = Course(Goal.of(0.9, queries, num_sampled=NUM_USERS), limit_s=60)
    assert course.run(lambda course: peer.train(course, chosen, settings, num_threads=1))["reached"]
