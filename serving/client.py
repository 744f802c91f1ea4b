"""A client for Python programs.

::

    with Client("localhost:50051") as client:
        answer = client.recommend(user_id="196", k=10, budget_ms=5)
        for item in answer.items:
            print(item.item_id, item.score)
        print(answer.report.rung, answer.report.expected_overlap)

Filters say which items may be returned::

        client.recommend(user_id="196", k=10, where=items_where(include={"genre": ["Comedy", "Drama"]}))

With ``packed=True`` items come as flat bytes, which a program gets into arrays at once::

        item_ids, scores = unpack(client.recommend(user_id="196", k=1000, packed=True).packed_items)

Answers are the messages of ``protos/serving/v1/candidates.proto``, whose comments say what each field means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self, TypeVar, cast

import grpc
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from recsys.errors import RecsysError, RequestError
from serving.errors import ServingError
from serving.packed import unpack
from serving.security import ClientSecurity
from serving.v1 import candidates_pb2 as pb
from serving.v1.candidates_pb2_grpc import CandidateServiceStub

__all__ = [
    "Client",
    "ClientSecurity",
    "ServingError",
    "channel_options",
    "describe_report",
    "items_where",
    "to_json",
    "unpack",
    "user",
]

Response = TypeVar("Response")


class Connection:
    """A connection to one server; a context manager, and safe to share between threads. Reuse it: connecting is slow.

    Every call takes ``deadline_ms``, after which it gives up.

    Args:
        address: host and port.
        deadline_ms: for calls that do not say their own; None waits for ever.
        options: gRPC channel options beside `channel_options`.
        security: whom to trust, and what to prove oneself with; by default nothing is, in clear text.

    Raises:
        ConfigError: a file that ``security`` names cannot be used.
    """

    def __init__(
        self,
        address: str,
        *,
        deadline_ms: float | None = None,
        options: Sequence[tuple[str, int]] = (),
        security: ClientSecurity | None = None,
    ) -> None:
        self.address = address
        self._deadline_ms = deadline_ms
        options, security = [*channel_options(), *options], security or ClientSecurity()
        self._metadata = security.metadata()
        if (credentials := security.credentials()) is None:
            self._channel = grpc.insecure_channel(address, options=options)
        else:
            self._channel = grpc.secure_channel(address, credentials, options=options)

    def close(self) -> None:
        """Close the connection; calls in flight are cancelled."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, method: Callable[..., Response], request: Any, deadline_ms: float | None) -> Response:
        deadline_ms = self._deadline_ms if deadline_ms is None else deadline_ms
        try:
            timeout_s = None if deadline_ms is None else deadline_ms / 1e3
            return method(request, timeout=timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise _readable(error, self.address) from error


class Client(Connection):
    """A connection that asks for candidates; see `Connection`.

    Without a budget, a call's deadline is what the server may spend; without either it may spend all it likes.

    Raises (from every call):
        RequestError: the server refused the request; it names the field.
        ServingError: the call failed otherwise.
    """

    def __init__(
        self,
        address: str,
        *,
        deadline_ms: float | None = None,
        options: Sequence[tuple[str, int]] = (),
        security: ClientSecurity | None = None,
    ) -> None:
        super().__init__(address, deadline_ms=deadline_ms, options=options, security=security)
        self._stub = CandidateServiceStub(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)

    def recommend(
        self,
        *,
        k: int,
        user_id: str | None = None,
        history: Iterable[str] | None = None,
        features: Mapping[str, str | Sequence[str]] | None = None,
        exclude_item_ids: Iterable[str] = (),
        where: pb.Filter | None = None,
        exclude_seen: bool | None = None,
        budget_ms: float | None = None,
        width: int | None = None,
        min_overlap: float | None = None,
        include_titles: bool = False,
        packed: bool = False,
        priority: pb.Priority.ValueType = pb.PRIORITY_UNSPECIFIED,
        deadline_ms: float | None = None,
    ) -> pb.RecommendResponse:
        """Find items for a user, given by id or by history."""
        request = pb.RecommendRequest(
            user=user(user_id, history=history, features=features),
            k=_count("k", k),
            exclude_item_ids=exclude_item_ids,
            filter=where,
            exclude_seen=exclude_seen,
            budget=_budget(budget_ms, width, min_overlap),
            include_titles=include_titles,
            packed=packed,
            priority=priority,
        )
        return self._call(self._stub.Recommend, request, deadline_ms)

    def recommend_batch(
        self,
        users: Iterable[pb.User],
        *,
        k: int,
        exclude_item_ids: Iterable[str] = (),
        where: pb.Filter | None = None,
        exclude_seen: bool | None = None,
        budget_ms: float | None = None,
        width: int | None = None,
        min_overlap: float | None = None,
        include_titles: bool = False,
        packed: bool = False,
        priority: pb.Priority.ValueType = pb.PRIORITY_UNSPECIFIED,
        deadline_ms: float | None = None,
    ) -> pb.BatchRecommendResponse:
        """Find items for several users, built with `user`, within one budget."""
        request = pb.BatchRecommendRequest(
            users=users,
            k=_count("k", k),
            exclude_item_ids=exclude_item_ids,
            filter=where,
            exclude_seen=exclude_seen,
            budget=_budget(budget_ms, width, min_overlap),
            include_titles=include_titles,
            packed=packed,
            priority=priority,
        )
        return self._call(self._stub.BatchRecommend, request, deadline_ms)

    def similar_items(
        self,
        item_id: str,
        *,
        k: int,
        exclude_item_ids: Iterable[str] = (),
        where: pb.Filter | None = None,
        budget_ms: float | None = None,
        width: int | None = None,
        min_overlap: float | None = None,
        include_titles: bool = False,
        packed: bool = False,
        priority: pb.Priority.ValueType = pb.PRIORITY_UNSPECIFIED,
        deadline_ms: float | None = None,
    ) -> pb.SimilarItemsResponse:
        """Find the items nearest to an item."""
        request = pb.SimilarItemsRequest(
            item_id=item_id,
            k=_count("k", k),
            exclude_item_ids=exclude_item_ids,
            filter=where,
            budget=_budget(budget_ms, width, min_overlap),
            include_titles=include_titles,
            packed=packed,
            priority=priority,
        )
        return self._call(self._stub.SimilarItems, request, deadline_ms)

    def describe(self, *, deadline_ms: float | None = None) -> pb.DescribeResponse:
        """Say what is being served."""
        return self._call(self._stub.Describe, pb.DescribeRequest(), deadline_ms)

    def wait_until_serving(self, *, timeout_s: float) -> None:
        """Wait until the server is up and warm.

        Raises:
            ServingError: it was not after ``timeout_s`` seconds.
        """
        request = health_pb2.HealthCheckRequest()
        try:
            response = self._health.Check(request, timeout=timeout_s, wait_for_ready=True)
        except grpc.RpcError as error:
            raise _readable(error, self.address) from error
        if response.status != health_pb2.HealthCheckResponse.SERVING:
            raise ServingError(f"{self.address}: is stopping", code=grpc.StatusCode.UNAVAILABLE)


def user(
    user_id: str | None = None,
    *,
    history: Iterable[str] | None = None,
    features: Mapping[str, str | Sequence[str]] | None = None,
) -> pb.User:
    """Build a user from an id or a history of item ids (oldest first), and features: one value or several by name."""
    return pb.User(
        id=user_id,
        history=None if history is None else pb.History(item_ids=history),
        features=feature_values(features or {}),
    )


def items_where(
    *,
    include_item_ids: Iterable[str] = (),
    include: Mapping[str, str | Sequence[str]] | None = None,
    exclude: Mapping[str, str | Sequence[str]] | None = None,
) -> pb.Filter:
    """Build a filter of items: some by id, and by item features that `Client.describe` lists, one value or several.

    An item must have at least one of the values to include of each feature, and none of those to exclude.
    """
    return pb.Filter(
        include_item_ids=include_item_ids, include=feature_values(include or {}), exclude=feature_values(exclude or {})
    )


def feature_values(features: Mapping[str, str | Sequence[str]]) -> dict[str, pb.FeatureValues]:
    """Build feature values from one value or several by name."""
    several = {name: [value] if isinstance(value, str) else value for name, value in features.items()}
    return {name: pb.FeatureValues(values=values) for name, values in several.items()}


def to_json(message: Message) -> str:
    """Return any answer as one line of JSON, in the proto's own names."""
    return MessageToJson(message, preserving_proto_field_name=True, indent=None)


def describe_report(report: pb.SearchReport) -> str:
    """Say in one line what was done: the rung, what to expect of it, where the time went, what is lacking."""
    spent = report.timings
    reasons = [pb.DegradedReason.Name(reason).removeprefix("DEGRADED_REASON_") for reason in report.degraded_reasons]
    degraded = f", degraded: {', '.join(reasons).lower().replace('_', ' ')}" if reasons else ""
    return (
        f"width {report.width} by {report.rung}, expected overlap {report.expected_overlap:.3f}, "
        f"{spent.total_ms:.2f} ms (encode {spent.encode_ms:.2f}, scan {spent.scan_ms:.2f}, "
        f"rerank {spent.rerank_ms:.2f}){degraded}"
    )


def channel_options() -> list[tuple[str, int]]:
    """Return every channel option of the client, with its reason."""
    return [
        # A full batch (256 users, 1,000 items with titles each) is larger than the default of 4 MiB.
        ("grpc.max_receive_message_length", 64 * 2**20),
        # Networks forget connections that are silent; servers refuse pings more often than every 5 minutes.
        ("grpc.keepalive_time_ms", 6 * 60 * 1000),
        # Candidates come from inside one's own network, never through a proxy meant for the web.
        ("grpc.enable_http_proxy", 0),
    ]


def _count(field: str, value: int) -> int:
    if not 0 <= value < 2**32:
        raise RequestError(field, f"got {value}, expected a positive count")
    return value


def _budget(time_ms: float | None, width: int | None, min_overlap: float | None) -> pb.Budget:
    return pb.Budget(
        time_ms=time_ms, width=None if width is None else _count("budget.width", width), min_overlap=min_overlap
    )


def _readable(error: grpc.RpcError, address: str) -> RecsysError:
    call = cast("grpc.Call", error)  # a unary call fails with itself
    status = rpc_status.from_call(call)
    retry_after_ms = None
    for detail in status.details if status else ():
        bad_request = error_details_pb2.BadRequest()
        if detail.Unpack(bad_request) and bad_request.field_violations:
            violation = bad_request.field_violations[0]
            return RequestError(violation.field, violation.description.removeprefix(f"{violation.field}: "))
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(retry):
            retry_after_ms = retry.retry_delay.ToNanoseconds() / 1e6
    message = f"{address}: {call.code().name}: {call.details()}"
    return ServingError(message, code=call.code(), retry_after_ms=retry_after_ms)
