"""What happens around every call: its arrival is noted, a late one is dropped, an error becomes a status."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import Any, NoReturn, TypeAlias

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from recsys.errors import CapacityError, RecsysError, RequestError
from serving.errors import OverloadedError
from serving.metrics import Metrics
from serving.query import Call

_log = logging.getLogger(__name__)
_arrived_s: ContextVar[float] = ContextVar("arrived_s")
_when_sent: ContextVar[Callable[[], None]] = ContextVar("when_sent")

# gRPC gives a call without a deadline one in the far future; no one waits for an answer for a year.
_NO_DEADLINE_S = 365 * 86400.0

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class CallInterceptor(grpc.ServerInterceptor):
    """Wraps the unary calls of one service; other services (health, reflection) pass untouched.

    * gRPC calls `intercept_service` on its own thread when a call arrives, in the context variables that the call's
      worker will run in: what is noted there measures the wait for a worker.
    * A call whose deadline passed, or whose client left, while it waited is not worked on.
    * `RequestError` becomes INVALID_ARGUMENT with a google.rpc.BadRequest that names the field, `CapacityError`
      FAILED_PRECONDITION. Anything else is a fault of ours: INTERNAL with a request id (the call's ``x-request-id``, or
      a new one) that is also in the log, where the details stay.
    * `OverloadedError` becomes RESOURCE_EXHAUSTED with a google.rpc.RetryInfo.

    Args:
        service: the service's full name.
        metrics: where calls are counted.
    """

    def __init__(self, service: str, metrics: Metrics) -> None:
        self._prefix = f"/{service}/"
        self._metrics = metrics

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Note the arrival and wrap the method."""
        _arrived_s.set(time.perf_counter())
        handler = continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or handler.unary_unary is None or not method.startswith(self._prefix):
            return handler
        return grpc.unary_unary_rpc_method_handler(
            self._guarded(handler.unary_unary, method.removeprefix(self._prefix)),
            request_deserializer=handler.request_deserializer,
            response_serializer=partial(_sent, handler.response_serializer),
        )

    def _guarded(self, method: Callable[[Any, grpc.ServicerContext], Any], name: str) -> Callable[..., Any]:
        count = partial(self._metrics.called, name)

        def guarded(request: Any, context: grpc.ServicerContext) -> Any:
            left_s = context.time_remaining()
            if not context.is_active() or (left_s is not None and left_s <= 0):
                count("DEADLINE_EXCEEDED")
                late = "the deadline passed while the call waited for a worker"
                context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, late)
            with self._metrics.working():
                try:
                    answer = method(request, context)
                except OverloadedError as error:
                    count("RESOURCE_EXHAUSTED")
                    self._metrics.refused(error.refusal.reason, error.priority)
                    context.abort_with_status(rpc_status.to_status(_busy(error)))
                except RequestError as error:
                    count("INVALID_ARGUMENT")
                    context.abort_with_status(rpc_status.to_status(_bad_request(error)))
                except CapacityError as error:
                    count("FAILED_PRECONDITION")
                    context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
                except Exception:
                    count("INTERNAL")
                    _abort_internal(context)
            count("OK")
            return answer

        return guarded


def call_of(context: grpc.ServicerContext) -> Call:
    """Return when the call that is being worked on arrived and when it must be answered."""
    started_s, left_s = time.perf_counter(), context.time_remaining()
    arrived_s = _arrived_s.get(started_s)
    has_deadline = left_s is not None and left_s < _NO_DEADLINE_S
    deadline_ms = (started_s + left_s - arrived_s) * 1e3 if has_deadline else None
    return Call(arrived_s=arrived_s, started_s=started_s, deadline_ms=deadline_ms)


def when_sent(do: Callable[[], None]) -> None:
    """Do something once the answer of the call that is being worked on has been encoded, the last work on it."""
    _when_sent.set(do)


def _sent(serialize: Callable[[Any], bytes] | None, response: Any) -> bytes:
    assert serialize is not None, "generated handlers have one"
    encoded = serialize(response)
    # gRPC encodes a response in the context variables of its call; one that measures nothing set nothing.
    if (do := _when_sent.get(None)) is not None:
        do()
    return encoded


def _bad_request(error: RequestError) -> status_pb2.Status:
    violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=str(error))
    return _status(code_pb2.INVALID_ARGUMENT, error, error_details_pb2.BadRequest(field_violations=[violation]))


def _busy(error: OverloadedError) -> status_pb2.Status:
    delay = duration_pb2.Duration()
    delay.FromNanoseconds(round(1e6 * error.refusal.retry_after_ms))
    return _status(code_pb2.RESOURCE_EXHAUSTED, error, error_details_pb2.RetryInfo(retry_delay=delay))


def _status(code: code_pb2.Code.ValueType, error: RecsysError, content: Message) -> status_pb2.Status:
    detail = any_pb2.Any()
    detail.Pack(content)
    return status_pb2.Status(code=code, message=str(error), details=[detail])


def _abort_internal(context: grpc.ServicerContext) -> NoReturn:
    metadata = dict(context.invocation_metadata())
    request_id = str(metadata.get("x-request-id", uuid.uuid4().hex))[:64]
    _log.exception("request %s failed", request_id)
    context.abort(grpc.StatusCode.INTERNAL, f"internal error, logged under request id {request_id}")
