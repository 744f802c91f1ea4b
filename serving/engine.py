"""The data plane: from a question to an answer, without any transport.

A call goes through five stages: check it, encode its users, choose the rung that makes the best of the time left,
search, and turn rows into ids. Once an engine is warm, all that changes in it is what it knows of its own speed
(`serving.latency`) and the expected overlaps of its ladder, which are replaced as a whole, so any number of threads may
share it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from recsys.bundle import Bundle
from recsys.errors import RequestError
from recsys.ids import UNKNOWN
from recsys.index.deadline import Deadline
from recsys.index.delta import with_delta
from recsys.index.filtered import search_filtered
from recsys.index.item_set import ItemSet
from recsys.index.searcher import SearchResult
from recsys.widths import as_queries
from serving import filters, profiles
from serving.admission import Ticket
from serving.budget import Choice, Degraded, choose
from serving.calibration import Calibration
from serving.filters import Allowed
from serving.latency import LatencyModel, Predicted
from serving.query import Answer, Ask, BatchQuery, Call, Candidates, Query, SimilarQuery, Timings, User, shown
from serving.settings import Limits
from serving.shadow import Searched, Shadow
from serving.view import CatalogueView
from serving.warm_up import measure

_NO_ROWS = np.zeros(0, dtype=np.int64)
_PATIENCE_S = 1.0
"""A call without a limit waits behind those that are due within this time of its arrival, and so not for ever."""

_MEMORY = 0.05
"""How much each answer counts in the mean of what answers are worth."""


@dataclass(kw_only=True)
class _Target:
    """One vector to search for: what may be found, and what to say about it.

    Args:
        view: the catalogue.
        allowed: which of the bundle's items may be returned.
        beside: which of the items beside the bundle's may be.
        cold: nothing is known of the user's past.
        num_unknown: items of the request's history that are ignored.
    """

    view: CatalogueView
    allowed: ItemSet
    beside: ItemSet
    cold: bool = False
    num_unknown: int = 0


class _Found(NamedTuple):
    """What one search found, and what the rung took for it, where that says something of the rung."""

    result: SearchResult
    candidates: Candidates
    expected_overlap: float
    usual_ms: float | None


class Engine:
    """Answers questions from one bundle.

    Args:
        bundle: what to answer from.
        limits: the largest question that is answered.
        deadline_margin_ms: kept back of a call's deadline for the answer's way to the client.
        view: gives the bundle's items as they are by now; None where nobody changes them.

    Attributes:
        calibration: the bundle's ladder, its expected overlaps corrected by what live answers get.
        shadow: what measures a sample of the answers; None until it is set.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        limits: Limits | None = None,
        deadline_margin_ms: float = 0.0,
        view: Callable[[], CatalogueView] | None = None,
    ) -> None:
        self.bundle = bundle
        as_published = CatalogueView.of(bundle)
        self.view = view or (lambda: as_published)
        self.limits = limits or Limits()
        self.latency = LatencyModel(bundle.ladder)
        self._deadline_margin_ms = deadline_margin_ms
        self.calibration = Calibration(bundle.ladder)
        self.shadow: Shadow | None = None
        self._worth = 1.0  # of an answer to others that wait: the overlap that answers had lately

    def recommend(self, query: Query, *, call: Call | None = None) -> Answer:
        """Find items for one user.

        Raises:
            RequestError: the question cannot be answered as asked; it names the field.
        """
        return self._recommend(query, {"user": query.user}, query.exclude_seen, call or Call.now())

    def recommend_batch(self, query: BatchQuery, *, call: Call | None = None) -> Answer:
        """Find items for each of several users, all at one rung.

        Raises:
            RequestError: the question cannot be answered as asked; it names the field.
        """
        users = {f"users[{place}]": user for place, user in enumerate(query.users)}
        return self._recommend(query, users, query.exclude_seen, call or Call.now())

    def similar_items(self, query: SimilarQuery, *, call: Call | None = None) -> Answer:
        """Find the items nearest to an item.

        Raises:
            RequestError: the question cannot be answered as asked, or the item is unknown; it names the field.
        """
        call = call or Call.now()
        query.check(self.limits)
        view = self.view()
        vector_D = view.vector(query.item_id)
        if vector_D is None:
            raise RequestError("item_id", f"got {shown(query.item_id)}, expected an item of {self.bundle.version}")
        allowed = filters.allowed(view, query.where, exclude=[*query.exclude, query.item_id])
        query_BU = as_queries(vector_D[None], self.bundle.widths)
        return self._answer(query, query_BU, [_target(view, allowed)], call, allowed.num_unknown_values)

    def ticket(self, ask: Ask, call: Call) -> Ticket:
        """Return until when a call must be taken up to be answered in time.

        Raises:
            RequestError: the question is out of its limits, or names a width that was not trained.
        """
        ask.check(self.limits)
        limit_ms = min(self._limits_ms(ask, call), default=math.inf)
        deadline_ms, least_ms = self._deadline_ms(call), self._least_ms(ask, start=False)
        return Ticket(
            priority=ask.priority,
            arrived_s=call.arrived_s,
            due_s=call.arrived_s + min(limit_ms / 1e3, _PATIENCE_S),
            latest_s=call.arrived_s + (limit_ms - least_ms) / 1e3,
            useless_s=math.inf if deadline_ms is None else call.arrived_s + (deadline_ms - least_ms) / 1e3,
            hopeless=least_ms > limit_ms and self._least_ms(ask, start=True) > limit_ms,
        )

    def overhead_ms(self, k: int) -> float:
        """Return the p99 of what a call for ``k`` items spends after its search, at the slowest rung for that.

        0 before `warm_up`.
        """
        return max(self.latency.predict(k).after_ms)

    def finished(self, ask: Ask, answer: Answer, call: Call, *, sent: bool = True) -> None:
        """Learn what each stage took, once a call has ended: nobody waits for it then.

        The way of the answer into the network is in what came after the search; of an answer that was not ``sent``,
        since its client had left, nothing is learned of that stage.
        """
        spent = answer.timings
        after_ms = call.elapsed_ms() - spent.queue_ms - spent.encode_ms - spent.scan_ms - spent.rerank_ms
        if ask.num_encoded:
            self.latency.encoded(ask.num_encoded, ms=spent.encode_ms)
        for ms in answer.search_ms:
            self.latency.searched(answer.rung, k=ask.k, ms=ms)
        if sent:
            self.latency.finished(answer.rung, k=ask.k, ms=after_ms / len(answer.candidates))

    def warm_up(self, finish: Callable[[Answer], object] = lambda answer: answer) -> None:
        """Touch every rung, then measure every stage on this machine, in some seconds (`serving.warm_up`).

        Args:
            finish: what is done with an answer before it is sent; its time counts.
        """
        self.latency = measure(
            self.bundle, lambda query, call: self.recommend(query, call=call), limits=self.limits, finish=finish
        )

    def _recommend(
        self, query: Query | BatchQuery, users: Mapping[str, User], exclude_seen: bool | None, call: Call
    ) -> Answer:
        query.check(self.limits)
        view = self.view()
        allowed = filters.allowed(view, query.where, exclude=query.exclude)
        found = [profiles.resolve(self.bundle, user, path=path) for path, user in users.items()]
        mask_seen = self.bundle.mask_seen if exclude_seen is None else exclude_seen
        targets = [
            _target(
                view,
                allowed,
                seen=profile.seen if mask_seen else _NO_ROWS,
                seen_ids=user.history or () if mask_seen else (),
                cold=profile.cold,
                num_unknown=profile.num_unknown,
            )
            for profile, user in zip(found, users.values(), strict=True)
        ]
        return self._answer(query, profiles.encode(self.bundle, found), targets, call, allowed.num_unknown_values)

    def _answer(
        self,
        ask: Ask,
        query_BU: Float[np.ndarray, "batch query"],
        targets: Sequence[_Target],
        call: Call,
        num_unknown_filter_values: int,
    ) -> Answer:
        encoded_ms = call.elapsed_ms()
        predicted = self.latency.predict(ask.k)
        choice = self._choose(ask, call, predicted, elapsed_ms=encoded_ms, num_searches=len(targets))
        place = self.latency.place(choice.rung)
        search_ms = predicted.search_ms[place]
        until_s = self._until_s(ask, call, after_ms=len(targets) * predicted.after_ms[place])
        # One loop for all sums: most calls have one target, for which each generator costs more than what it adds up.
        candidates, usual_ms, num_scored = [], [], 0
        scan_ms = rerank_ms = overlap = probed = 0.0
        for number, target in enumerate(targets):
            deadline = self._deadline(choice, until_s, search_ms=search_ms, num_left=len(targets) - number)
            found = self._find(ask, query_BU[number : number + 1], target, choice, deadline=deadline)
            candidates.append(found.candidates)
            if found.usual_ms is not None:
                usual_ms.append(found.usual_ms)
            scan_ms, rerank_ms = scan_ms + found.result.scan_ms, rerank_ms + found.result.rerank_ms
            overlap, probed = overlap + found.expected_overlap, probed + found.result.done_share
            num_scored += found.result.num_scored
        expected_overlap, probed_share = overlap / len(targets), probed / len(targets)
        self._worth += _MEMORY * (expected_overlap - self._worth)
        degraded = () if choice.degraded is None else (choice.degraded,)
        queue_ms = call.queue_ms
        return Answer(
            candidates=candidates,
            rung=choice.rung,
            expected_overlap=expected_overlap,
            degraded=degraded if probed_share == 1 else (*degraded, Degraded.CUT_SHORT),
            timings=Timings(queue_ms=queue_ms, encode_ms=encoded_ms - queue_ms, scan_ms=scan_ms, rerank_ms=rerank_ms),
            search_ms=usual_ms,
            bundle_version=self.bundle.version,
            predicted_ms=encoded_ms + choice.ms,
            num_scored=num_scored,
            probed_share=probed_share,
            num_unknown_filter_values=num_unknown_filter_values,
        )

    def _find(
        self,
        ask: Ask,
        query_1U: Float[np.ndarray, "1 query"],
        target: _Target,
        choice: Choice,
        *,
        deadline: Deadline | None,
    ) -> _Found:
        """Search for one target, and offer what was found to be searched again exactly."""
        result = search_filtered(
            self.bundle.searcher, query_1U, k=ask.k, rung=choice.rung, allowed=target.allowed, deadline=deadline
        )
        # Scoring all that a filter leaves says nothing of the rung; where little is left, more cells are scanned.
        usual = not result.num_scored and 2 * len(target.allowed) > len(self.bundle.items)
        usual_ms = result.scan_ms / result.done_share + result.rerank_ms if usual else None
        expected_overlap = self._expected_overlap(result, choice, target, k=ask.k)
        if self.shadow is not None and self.shadow.chosen():
            self.shadow.offer(self._searched(query_1U, target, result, choice, expected_overlap))
        if len(delta := target.view.delta):
            # Its time counts to no stage but to what comes after the search.
            result = with_delta(self.bundle.searcher, query_1U, result, delta=delta, allowed=target.beside)
        candidates = self._candidates(result.rows_BK[0], result.scores_BK[0], ask=ask, target=target)
        return _Found(result, candidates, expected_overlap, usual_ms)

    def _until_s(self, ask: Ask, call: Call, *, after_ms: float) -> float | None:
        """Return when the last search has to have ended, on the clock of `time.perf_counter`; None: it may take long.

        Whoever names a width or an overlap gets it whatever it costs, but not after the call's deadline.
        """
        limits_ms = self._limits_ms(ask, call)
        if not limits_ms:
            return None
        return call.arrived_s + (min(limits_ms) - after_ms) / 1e3

    def _deadline(self, choice: Choice, until_s: float | None, *, search_ms: float, num_left: int) -> Deadline | None:
        """Return by when the next search has to have ended, so that as much is left for each of those after it."""
        if until_s is None:
            return None
        now_s = time.perf_counter()
        return Deadline(
            until_s=now_s + (until_s - now_s) / num_left,
            search_ms=search_ms,
            rerank_ms=self.latency.rerank_share(choice.rung) * search_ms,
        )

    def _deadline_ms(self, call: Call) -> float | None:
        return None if call.deadline_ms is None else call.deadline_ms - self._deadline_margin_ms

    def _expected_overlap(self, result: SearchResult, choice: Choice, target: _Target, *, k: int) -> float:
        """Return what to expect of one user's answer."""
        if result.done_share == 1:
            return 1.0 if result.num_scored else choice.expected_overlap
        if result.num_scored:
            return result.done_share
        expected = self.calibration.ladder.overlap_when_cut(choice.rung, share=result.done_share, k=k)
        num_found = int((result.rows_BK != UNKNOWN).sum())
        return min(expected, num_found / min(k, len(target.allowed)))

    def _limits_ms(self, ask: Ask, call: Call) -> list[float]:
        """Return the times from the call's arrival within which it is to be answered."""
        return [limit_ms for limit_ms in (ask.budget.time_ms, self._deadline_ms(call)) if limit_ms is not None]

    def _least_ms(self, ask: Ask, *, start: bool) -> float:
        """Return the p99 of a call at the cheapest rung that may answer it; ``start``: as it was at the start."""
        ladder, num_searches = self.calibration.ladder, ask.num_searches
        p99_ms = self.latency.predict(ask.k, start=start).answer_ms
        if ask.budget.width is None and ask.budget.min_overlap is None:
            least_ms = p99_ms[ladder.climb(ask.k)[0].place]  # predictions never fall along the steps
        else:
            least_ms = choose(ladder, ask.budget, k=ask.k, p99_ms=p99_ms).ms
        before_ms = self.latency.encode_ms(ask.num_encoded, start=start) if ask.num_encoded else 0.0
        return before_ms + num_searches * least_ms

    def _choose(self, ask: Ask, call: Call, predicted: Predicted, *, elapsed_ms: float, num_searches: int) -> Choice:
        return choose(
            self.calibration.ladder,
            ask.budget,
            k=ask.k,
            p99_ms=predicted.answer_ms,
            elapsed_ms=elapsed_ms,
            deadline_ms=self._deadline_ms(call),
            num_searches=num_searches,
            price=call.price.times(self._worth, pace=self.latency.slower(k=ask.k)),
        )

    def _searched(
        self,
        query_1U: Float[np.ndarray, "1 query"],
        target: _Target,
        result: SearchResult,
        choice: Choice,
        expected_overlap: float,
    ) -> Searched:
        by_rung_alone = not result.num_scored and result.done_share == 1
        return Searched(
            searcher=self.bundle.searcher,
            query_1U=query_1U,
            rows_1K=result.rows_BK,
            allowed=target.allowed,
            rung=choice.rung,
            expected_overlap=expected_overlap,
            calibration=self.calibration if by_rung_alone else None,
        )

    def _candidates(
        self, row_K: Int[np.ndarray, " k"], score_K: Float[np.ndarray, " k"], *, ask: Ask, target: _Target
    ) -> Candidates:
        if row_K[-1] == UNKNOWN:
            found = row_K != UNKNOWN
            row_K, score_K = row_K[found], score_K[found]
        return Candidates(
            ids=target.view.ids(row_K),
            scores=score_K,
            titles=target.view.titles(row_K.tolist()) if ask.include_titles else None,
            cold=target.cold,
            num_unknown_history_items=target.num_unknown,
        )


def _target(
    view: CatalogueView,
    allowed: Allowed,
    *,
    seen: Int[np.ndarray, " rows"] = _NO_ROWS,
    seen_ids: Sequence[str] = (),
    cold: bool = False,
    num_unknown: int = 0,
) -> _Target:
    """Return a target that may be given what is allowed, but for seen items: some of the bundle's, and some by id."""
    items, beside = allowed.items, allowed.beside
    if len(seen):
        items = items.without(seen)
        if len(beside):
            beside = beside - view.delta.replacing(ItemSet.of(seen, items.num_items))
    if len(seen_ids) and len(beside):
        beside = beside.without(view.items.rows(seen_ids))
    return _Target(view=view, allowed=items, beside=beside, cold=cold, num_unknown=num_unknown)
