"""Measure every stage of a call on the machine that serves, in some seconds, before the first call comes.

A ladder was measured well, but where it was published. A few searches here say how much slower or faster this machine
is at each rung, by medians; the ladder's own spread, from many more searches, then gives the p99.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from recsys.bundle import Bundle
from recsys.index.filtered import search_filtered
from recsys.index.item_set import ItemSet
from recsys.widths import as_queries
from serving import profiles
from serving.budget import Budget
from serving.latency import LatencyModel
from serving.query import Answer, Call, Query, User
from serving.settings import Limits

Recommend = Callable[[Query, Call], Answer]

_KS = (10, 100, 1000)
_HISTORIES = (16, 256, 4096)
_SEARCH_S = 2.0
_SEARCHES = 32
"""Most searches per rung; fewer where the time is up first, but at least three, of which the median forgets one."""
_LEAST_SEARCHES = 3
_ROUNDS = 3
_CALLS = 100
_LONG_CALLS = 10
_STAGES_S = 0.5
"""What the calls of one size may take; where it is up, the rest of them is left out, but for one call in ten."""
_CHEAPEST = Budget(min_overlap=1e-9)


def measure(
    bundle: Bundle, recommend: Recommend, *, limits: Limits, finish: Callable[[Answer], object]
) -> LatencyModel:
    """Return what calls take here.

    Args:
        bundle: what is searched.
        recommend: answers a question.
        limits: the largest question that is answered.
        finish: what is done with an answer before it is sent; its time counts.
    """
    users = _sample_users(bundle)
    # What is made at the first call, such as columns of ids and titles, is no part of those to come.
    finish(recommend(Query(user=users[0], k=1, budget=_CHEAPEST, include_titles=True), Call.now()))
    search_ms, rerank_shares = _search_ms(bundle, users, limits)
    encode_ms, after_ms = {}, {}
    for k in sorted({min(k, limits.max_k) for k in _KS}):
        encode_ms[1], after_ms[k] = _around_search_ms(recommend, users, k, finish)
    # Towers that read no history have no vector for a user who comes with one.
    lengths = () if bundle.towers.layout.config.history == "none" else _HISTORIES
    for length in sorted({min(length, limits.max_history) for length in lengths}):
        rows = np.arange(length) % len(bundle.items)
        user = User(history=bundle.items.ids(rows.tolist()))
        encode_ms[1 + length], _ = _around_search_ms(recommend, [user] * _LONG_CALLS, 1, finish)
    return LatencyModel(
        bundle.ladder, search_ms=search_ms, rerank_shares=rerank_shares, encode_ms=encode_ms, after_ms=after_ms
    )


def _search_ms(bundle: Bundle, users: Sequence[User], limits: Limits) -> tuple[list[float], list[float]]:
    """Return the p99 of each rung, and what of it is scoring candidates again.

    The p99 is the ladder's, times how much longer half of the searches take here.
    """
    for rung in bundle.ladder.rungs:  # touches the indexes, and all that they read from
        bundle.searcher.search(as_queries(bundle.item_vectors[:1], bundle.widths), k=limits.max_k, rung=rung)
    found = [profiles.resolve(bundle, user, path="user") for user in users[:: max(1, len(users) // _SEARCHES)]]
    query_BU = profiles.encode(bundle, found)
    nothing = np.zeros(0, dtype=np.int64)
    allowed = [ItemSet.all_but(each.seen if bundle.mask_seen else nothing, len(bundle.items)) for each in found]
    spent_ms: list[list[tuple[float, float]]] = [[] for _ in bundle.ladder.rungs]
    started_s = time.perf_counter()
    for place in range(min(_SEARCHES, len(found))):
        # In turns, so that a burst of other work hits a search or two of every rung and not all of one.
        for rung, so_far in zip(bundle.ladder.rungs, spent_ms, strict=True):
            result = search_filtered(
                bundle.searcher,
                query_BU[place : place + 1],
                k=min(limits.max_k, rung.largest_k),
                rung=rung,
                allowed=allowed[place],
            )
            so_far.append((result.scan_ms, result.rerank_ms))
        if place + 1 >= _LEAST_SEARCHES and time.perf_counter() - started_s > _SEARCH_S:
            break
    search_ms, rerank_shares = [], []
    for rung, some in zip(bundle.ladder.rungs, spent_ms, strict=True):
        whole_ms, rerank_ms = float(np.median(np.sum(some, axis=1))), float(np.median(some, axis=0)[1])
        search_ms.append(rung.latency_p99_ms * whole_ms / rung.latency_p50_ms)
        rerank_shares.append(min(1.0, rerank_ms / whole_ms))
    return search_ms, rerank_shares


def _sample_users(bundle: Bundle) -> list[User]:
    vocabulary = bundle.users.vocabulary
    if not len(vocabulary):
        return [User(history=())] * _CALLS
    rows = np.linspace(0, len(vocabulary) - 1, _CALLS).astype(int)
    return [User(id=vocabulary.id(row)) for row in rows.tolist()]


def _around_search_ms(
    recommend: Recommend, users: Sequence[User], k: int, finish: Callable[[Answer], object]
) -> tuple[float, float]:
    """Return the p99 of what comes before the search and of what comes after it.

    Of several rounds, the calmest: a burst of other work must not make all later calls look short of time.
    """
    started_s = time.perf_counter()
    rounds: list[np.ndarray] = []
    for _ in range(_ROUNDS):
        spent_ms = []
        for place, user in enumerate(users):
            late = time.perf_counter() - started_s > _STAGES_S
            if late and (rounds or place >= len(users) / 10):
                break
            call = Call.now()
            answer = recommend(Query(user=user, k=k, budget=_CHEAPEST, include_titles=True), call)
            finish(answer)
            timings = answer.timings
            after_ms = call.elapsed_ms() - timings.encode_ms - timings.scan_ms - timings.rerank_ms
            spent_ms.append((timings.encode_ms, after_ms))
        if len(spent_ms) == len(users) or not rounds:
            rounds.append(np.percentile(np.array(spent_ms), 99, axis=0))
    before_ms, after_ms = np.min(rounds, axis=0).tolist()
    return before_ms, after_ms
