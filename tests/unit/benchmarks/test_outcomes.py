"""What became of calls, on replies that can be counted by hand."""

import math

import numpy as np
import pytest
from picked import picked

from benchmarks._k6 import Reply
from benchmarks._outcomes import K, Seen, Traffic
from recsys.index.truth import Truth
from serving.packed import pack


@pytest.fixture(scope="module")
def traffic():
    random = np.random.default_rng(1)
    vector_ND = random.standard_normal((302, 8)).astype(np.float32)
    vector_ND /= np.linalg.norm(vector_ND, axis=1, keepdims=True)
    return Traffic(truth=Truth.find(vector_ND[300:], vector_ND[:300], ks=[K]), budget_ms=(5.0, 20.0))


def answer(traffic, user, *, num=K):
    """The exact answer's first items, and none of it after those."""
    rows = traffic.truth.exact_QK[user][:num].tolist()
    others = [row for row in range(300) if row not in set(traffic.truth.exact_QK[user].tolist())][: K - num]
    return pack(picked([f"i{row}" for row in [*rows, *others]]), np.zeros(K, dtype=np.float32))


def test_late_shed_and_lost_answers_deliver_nothing(traffic):
    nothing = pack(picked([]), np.zeros(0, dtype=np.float32))
    replies = [
        Reply(0, 4.0, "OK", answer(traffic, 0)),
        Reply(1, 12.0, "OK", answer(traffic, 1, num=50)),
        Reply(2, 6.0, "OK", answer(traffic, 0)),  # late
        Reply(3, 1.0, "RESOURCE_EXHAUSTED", nothing),
        Reply(4, 21.0, "DEADLINE_EXCEEDED", nothing),
        Reply(5, math.inf, "OK", answer(traffic, 1)),  # its time was lost
    ]
    seen = Seen(np.array([0, 1, 0, 0, 1, 1]), np.array([5.0, 20.0, 5.0, 5.0, 20.0, 20.0]), replies, num_answered=4)
    figures = seen.figures(traffic, seconds=2.0)
    assert figures["calls"] == 6
    assert figures["goodput"] == 1
    assert figures["attainment_admitted"] == pytest.approx(2 / 4)
    assert figures["attainment_seen"] == pytest.approx(2 / 5)
    assert figures["shed_share"] == pytest.approx(1 - 4 / 6)
    assert figures["overlap_delivered"] == pytest.approx((1 + 0.5) / 6)
    assert figures["overlap_in_time"] == pytest.approx(0.75)
    assert figures["p50_ms"] == pytest.approx(6.0)


def test_rounds_add_up_and_each_reply_keeps_its_user_and_budget(traffic):
    first = Seen(np.array([0]), np.array([5.0]), [Reply(0, 4.0, "OK", answer(traffic, 0))], num_answered=1)
    second = Seen(np.array([1]), np.array([20.0]), [Reply(0, 19.0, "OK", answer(traffic, 1))], 1, num_unsent=3)
    both = Seen().and_then(first).and_then(second)
    assert both.num_unsent == 3
    assert both.figures(traffic, seconds=1.0)["overlap_delivered"] == pytest.approx(1)
    assert both.figures(traffic, seconds=1.0)["attainment_admitted"] == 1


def test_calls_are_those_of_their_seed(traffic):
    users, budgets, requests = traffic.calls(200, seed=3)
    again_users, again_budgets, again = traffic.calls(200, seed=3)
    assert (users == again_users).all()
    assert (budgets == again_budgets).all()
    assert requests == again
    assert set(budgets) == {5.0, 20.0}
    assert [request.user.id for request in requests[:3]] == [f"u{user}" for user in users[:3]]
    assert all(request.k == K for request in requests)
