"""What a load asks for, and what became of it: who was answered in time, and with how much of the exact answer.

Shapes: ``user_C`` and ``budget_C`` (calls,).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from benchmarks._k6 import Reply
from recsys.index.truth import Truth
from serving.client import unpack
from serving.v1 import candidates_pb2 as pb

K = 100
"""Items that every call asks for."""
_SHED = ("RESOURCE_EXHAUSTED", "UNAVAILABLE", "CANCELLED")


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Who asks, within which budgets, and what the exact answers are.

    Args:
        truth: by user.
        budget_ms: the mix, each as likely.
    """

    truth: Truth
    budget_ms: tuple[float, ...]

    def calls(self, num: int, *, seed: int) -> tuple[np.ndarray, np.ndarray, list[pb.RecommendRequest]]:
        """Return the users, budgets and requests of some calls."""
        random = np.random.default_rng(seed)
        user_C = random.integers(len(self.truth.exact_QK), size=num)
        budget_C = random.choice(self.budget_ms, size=num)
        requests = [
            pb.RecommendRequest(user=pb.User(id=f"u{user}"), k=K, packed=True, budget=pb.Budget(time_ms=budget))
            for user, budget in zip(user_C.tolist(), budget_C.tolist(), strict=True)
        ]
        return user_C, budget_C, requests

    def delivered(self, user: int, reply: Reply) -> float:
        """Return the overlap of an answer with the exact one."""
        item_ids, _ = unpack(reply.items)
        row_1K = np.array([[int(item_id[1:]) for item_id in item_ids]], dtype=np.int64)
        return float(self.truth.overlap(row_1K, k=K, queries=np.array([user]))[0])


@dataclass(frozen=True)
class Seen:
    """What became of calls.

    Args:
        user_C: who asked.
        budget_C: within which time.
        replies: each with its place in those.
        num_answered: how many the server says it answered.
        num_unsent: how many more there should have been.
    """

    user_C: np.ndarray = field(default_factory=partial(np.empty, 0, dtype=np.int64))
    budget_C: np.ndarray = field(default_factory=partial(np.empty, 0))
    replies: Sequence[Reply] = ()
    num_answered: int = 0
    num_unsent: int = 0

    def and_then(self, later: Seen) -> Seen:
        """Return both together."""
        return Seen(
            np.concatenate([self.user_C, later.user_C]),
            np.concatenate([self.budget_C, later.budget_C]),
            [*self.replies, *(reply._replace(place=len(self.user_C) + reply.place) for reply in later.replies)],
            self.num_answered + later.num_answered,
            self.num_unsent + later.num_unsent,
        )

    def figures(self, traffic: Traffic, *, seconds: float) -> dict[str, float]:
        """Return the figures of one server under one load that lasted so long."""
        user_C, budget_C, replies, num_answered = self.user_C, self.budget_C, self.replies, self.num_answered
        in_time = [reply for reply in replies if reply.code == "OK" and reply.latency_ms <= budget_C[reply.place]]
        shed = sum(reply.code in _SHED for reply in replies)
        delivered = [traffic.delivered(user_C[reply.place], reply) for reply in in_time]
        # k6 loses the sample of some answer at times; it counts as late.
        latency_ms = [each.latency_ms for each in replies if each.code == "OK" and math.isfinite(each.latency_ms)]
        p50_ms, p99_ms = np.percentile(latency_ms or [0.0], [50, 99]).tolist()
        return {
            "calls": len(replies),
            "attainment_admitted": len(in_time) / max(1, num_answered),
            "attainment_seen": len(in_time) / max(1, len(replies) - shed),
            "goodput": len(in_time) / seconds,
            "shed_share": 1 - num_answered / max(1, len(replies)),
            "overlap_delivered": sum(delivered) / max(1, len(replies)),
            "overlap_in_time": float(np.mean(delivered)) if delivered else 0.0,
            "p50_ms": p50_ms,
            "p99_ms": p99_ms,
        }
