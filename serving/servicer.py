"""The service: decode, call the engine, encode; nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import grpc

from recsys.data.schema import Kind
from recsys.errors import RequestError
from recsys.index.rungs import Rung
from recsys.index.specs import Engine as RungEngine
from recsys.widths import Norm
from serving.admission import Priority
from serving.budget import Budget, Degraded
from serving.bundles import LiveBundle
from serving.engine import Engine
from serving.gate import Gate
from serving.interceptors import call_of
from serving.metrics import Metrics
from serving.packed import pack
from serving.query import Answer, Ask, BatchQuery, Call, Candidates, Filter, Query, SimilarQuery, User
from serving.v1 import candidates_pb2 as pb
from serving.v1.candidates_pb2_grpc import CandidateServiceServicer
from serving.wire import scored_items

_ENGINES: dict[RungEngine, pb.SearchEngine.ValueType] = {
    "exact": pb.SEARCH_ENGINE_EXACT,
    "ivf": pb.SEARCH_ENGINE_IVF,
    "hnsw": pb.SEARCH_ENGINE_HNSW,
    "certified": pb.SEARCH_ENGINE_CERTIFIED,
}
_NORMS: dict[Norm, pb.Norm.ValueType] = {"prefix": pb.NORM_PREFIX, "full": pb.NORM_FULL}
KINDS: dict[Kind, pb.FeatureKind.ValueType] = {
    "categorical": pb.FEATURE_KIND_CATEGORICAL,
    "multi_hot": pb.FEATURE_KIND_MULTI_HOT,
    "bucketed": pb.FEATURE_KIND_BUCKETED,
    "text": pb.FEATURE_KIND_TEXT,
    "hashed": pb.FEATURE_KIND_HASHED,
}
_REASONS: dict[Degraded, pb.DegradedReason.ValueType] = {
    Degraded.TIME_TOO_SHORT: pb.DEGRADED_REASON_TIME_TOO_SHORT,
    Degraded.CUT_SHORT: pb.DEGRADED_REASON_CUT_SHORT,
    Degraded.OVERLAP_OUT_OF_REACH: pb.DEGRADED_REASON_OVERLAP_OUT_OF_REACH,
    Degraded.OVERLOADED: pb.DEGRADED_REASON_OVERLOADED,
}

_PRIORITIES: dict[pb.Priority.ValueType, Priority] = {
    pb.PRIORITY_UNSPECIFIED: Priority.NORMAL,
    pb.PRIORITY_HIGH: Priority.HIGH,
    pb.PRIORITY_LOW: Priority.LOW,
}

_Request: TypeAlias = pb.RecommendRequest | pb.BatchRecommendRequest | pb.SimilarItemsRequest

_NO_FILTER, _NO_BUDGET = Filter(), Budget()
_NO_FEATURES: Mapping[str, Sequence[str]] = {}


class CandidateServicer(CandidateServiceServicer):
    """`CandidateService` over the live bundle: calls wait at a gate for their turn, and answers are counted."""

    WAITING = frozenset({"Recommend", "BatchRecommend", "SimilarItems"})
    """Methods whose calls wait."""

    def __init__(self, live: LiveBundle, gate: Gate, metrics: Metrics) -> None:
        self._live = live
        self._gate = gate
        self._metrics = metrics

    def Recommend(self, request: pb.RecommendRequest, context: grpc.ServicerContext) -> pb.RecommendResponse:  # noqa: N802
        """Items for one user."""
        call = call_of(context)
        query = Query(
            user=_user(request.user),
            k=request.k,
            exclude=request.exclude_item_ids,
            where=_filter(request),
            exclude_seen=request.exclude_seen if request.HasField("exclude_seen") else None,
            budget=_budget(request),
            include_titles=request.include_titles,
            priority=_priority(request.priority),
        )
        packed = _packed(request)
        engine = self._live.engine
        with self._gate.turn(engine.ticket(query, call), call, wanted=context.is_active) as call:
            answer = engine.recommend(query, call=call)
        response = recommend_response(answer, call, packed=packed)
        self._ready(context, engine, query, answer, call, method="Recommend")
        return response

    def BatchRecommend(  # noqa: N802
        self, request: pb.BatchRecommendRequest, context: grpc.ServicerContext
    ) -> pb.BatchRecommendResponse:
        """Items for several users."""
        call = call_of(context)
        query = BatchQuery(
            users=[_user(user) for user in request.users],
            k=request.k,
            exclude=request.exclude_item_ids,
            where=_filter(request),
            exclude_seen=request.exclude_seen if request.HasField("exclude_seen") else None,
            budget=_budget(request),
            include_titles=request.include_titles,
            priority=_priority(request.priority),
        )
        packed = _packed(request)
        engine = self._live.engine
        with self._gate.turn(engine.ticket(query, call), call, wanted=context.is_active) as call:
            answer = engine.recommend_batch(query, call=call)
        response = pb.BatchRecommendResponse()
        for each in answer.candidates:
            candidates = response.candidates.add(
                cold=each.cold, num_unknown_history_items=each.num_unknown_history_items
            )
            _put_items(candidates, each, packed=packed)
        _put_report(response.report, answer, call)
        self._ready(context, engine, query, answer, call, method="BatchRecommend")
        return response

    def SimilarItems(self, request: pb.SimilarItemsRequest, context: grpc.ServicerContext) -> pb.SimilarItemsResponse:  # noqa: N802
        """Items nearest to an item."""
        call = call_of(context)
        query = SimilarQuery(
            item_id=request.item_id,
            k=request.k,
            exclude=request.exclude_item_ids,
            where=_filter(request),
            budget=_budget(request),
            include_titles=request.include_titles,
            priority=_priority(request.priority),
        )
        packed = _packed(request)
        engine = self._live.engine
        with self._gate.turn(engine.ticket(query, call), call, wanted=context.is_active) as call:
            answer = engine.similar_items(query, call=call)
        response = pb.SimilarItemsResponse()
        _put_items(response, answer.candidates[0], packed=packed)
        _put_report(response.report, answer, call)
        self._ready(context, engine, query, answer, call, method="SimilarItems")
        return response

    def _ready(
        self, context: grpc.ServicerContext, engine: Engine, ask: Ask, answer: Answer, call: Call, *, method: str
    ) -> None:
        """See to it that an answer is counted and learned from once it is on its way: no client waits for that."""
        ready_ms = call.elapsed_ms()

        def ended(*, sent: bool = True) -> None:
            engine.finished(ask, answer, call, sent=sent)
            self._metrics.answered(method, answer, call, ready_ms=ready_ms, time_ms=ask.budget.time_ms)

        if not context.add_callback(ended):  # the client has left
            ended(sent=False)

    def Describe(self, request: pb.DescribeRequest, context: grpc.ServicerContext) -> pb.DescribeResponse:  # noqa: ARG002, N802
        """What is being served."""
        engine = self._live.engine
        bundle = engine.bundle
        return pb.DescribeResponse(
            bundle_version=bundle.version,
            widths=bundle.widths.widths,
            rungs=[_rung(rung) for rung in bundle.ladder.rungs],
            num_items=len(bundle.items),
            num_users=len(bundle.users.vocabulary),
            exclude_seen_by_default=bundle.mask_seen,
            user_features=[
                pb.UserFeature(name=spec.name, kind=KINDS[spec.kind], values=spec.values)
                for spec in bundle.towers.specs
                if spec.side == "user"
            ],
            item_features=[
                pb.ItemFeature(name=spec.name, kind=KINDS[spec.kind], values=bundle.item_values[spec.name].values)
                for spec in bundle.towers.specs
                if spec.side == "item" and spec.name in bundle.item_values
            ],
            limits=pb.RequestLimits(**vars(engine.limits)),
            overhead_p99_ms=engine.overhead_ms(100),
            norm=_NORMS[bundle.widths.norm],
        )


def recommend_response(answer: Answer, call: Call, *, packed: bool = False) -> pb.RecommendResponse:
    """Encode the answer for one user."""
    candidates = answer.candidates[0]
    response = pb.RecommendResponse()
    response.cold, response.num_unknown_history_items = candidates.cold, candidates.num_unknown_history_items
    _put_items(response, candidates, packed=packed)
    _put_report(response.report, answer, call)
    return response


def _user(message: pb.User) -> User:
    return User(
        id=message.id if message.HasField("id") else None,
        history=message.history.item_ids if message.HasField("history") else None,
        # To walk through a map is to make several objects, which most calls need not.
        features={name: values.values for name, values in message.features.items()}
        if message.features
        else _NO_FEATURES,
    )


def _budget(request: _Request) -> Budget:
    if not request.HasField("budget"):
        return _NO_BUDGET
    message = request.budget
    return Budget(
        time_ms=message.time_ms if message.HasField("time_ms") else None,
        width=message.width if message.HasField("width") else None,
        min_overlap=message.min_overlap if message.HasField("min_overlap") else None,
    )


def _filter(request: _Request) -> Filter:
    if not request.HasField("filter"):
        return _NO_FILTER
    message = request.filter
    return Filter(
        include_ids=message.include_item_ids,
        include={name: values.values for name, values in message.include.items()},
        exclude={name: values.values for name, values in message.exclude.items()},
    )


def _priority(value: pb.Priority.ValueType) -> Priority:
    priority = _PRIORITIES.get(value)
    if priority is None:
        raise RequestError("priority", f"got {value}, expected one of {pb.Priority.keys()}")
    return priority


def _packed(request: _Request) -> bool:
    if request.packed and request.include_titles:
        raise RequestError("include_titles", "got it with packed, expected one of the two: packed items have no titles")
    return request.packed


def _put_items(
    message: pb.RecommendResponse | pb.UserCandidates | pb.SimilarItemsResponse, candidates: Candidates, *, packed: bool
) -> None:
    if packed:
        message.packed_items.CopyFrom(pack(candidates.ids, candidates.scores))
        return
    message.MergeFromString(scored_items(candidates.ids, candidates.scores))
    if candidates.titles is not None:
        for item, title in zip(message.items, candidates.titles, strict=True):
            item.title = title


def _put_report(report: pb.SearchReport, answer: Answer, call: Call) -> None:
    rung, spent, timings = answer.rung, answer.timings, report.timings
    report.width, report.rung, report.engine = rung.width, rung.name, _ENGINES[rung.engine]
    report.expected_overlap, report.predicted_ms = answer.expected_overlap, answer.predicted_ms
    report.nprobe, report.rerank_depth = rung.nprobe, rung.rerank
    report.num_scored, report.probed_share = answer.num_scored, answer.probed_share
    report.num_unknown_filter_values = answer.num_unknown_filter_values
    report.bundle_version = answer.bundle_version
    if answer.degraded:
        report.degraded_reasons.extend(_REASONS[reason] for reason in answer.degraded)
    timings.queue_ms, timings.encode_ms = spent.queue_ms, spent.encode_ms
    timings.scan_ms, timings.rerank_ms = spent.scan_ms, spent.rerank_ms
    timings.total_ms = call.elapsed_ms()


def _rung(rung: Rung) -> pb.Rung:
    return pb.Rung(
        name=rung.name,
        engine=_ENGINES[rung.engine],
        width=rung.width,
        nprobe=rung.nprobe,
        rerank_depth=rung.rerank,
        overlaps=[pb.OverlapAtK(k=k, overlap=overlap) for k, overlap in sorted(rung.overlap.items())],
        latency_p50_ms=rung.latency_p50_ms,
        latency_p99_ms=rung.latency_p99_ms,
        size_bytes=rung.size_bytes,
        on_ladder=rung.on_ladder,
    )
