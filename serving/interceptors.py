"""What happens around every call: a late one is dropped, an error becomes a status, each is counted, logged, traced."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from recsys.errors import CapacityError, RecsysError, RequestError
from serving.admission import Priority, Reason, Refusal
from serving.errors import OverloadedError
from serving.logs import CallLog, request_id
from serving.metrics import Metrics
from serving.query import Call
from serving.security import Tokens
from serving.workers import AT_ONCE

if TYPE_CHECKING:
    from serving.spans import Spans

_log = logging.getLogger(__name__)
_REQUEST_ID = "x-request-id"
_LONGEST_REQUEST_ID = 64
_arrived_s: ContextVar[float] = ContextVar("arrived_s")

# gRPC gives a call without a deadline one in the far future; no one waits for an answer for a year.
_NO_DEADLINE_S = 365 * 86400.0

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class CallInterceptor(grpc.ServerInterceptor):
    """Wraps the unary calls of one service; other services (health, reflection) pass untouched.

    * gRPC calls `intercept_service` on its own thread when a call arrives, in the context variables that the call's
      worker will run in: what is noted there measures the wait for a worker.
    * A call whose deadline passed, or whose client left, while it waited is not worked on.
    * `RequestError` becomes INVALID_ARGUMENT with a google.rpc.BadRequest that names the field, `CapacityError`
      FAILED_PRECONDITION. Anything else is a fault of ours: INTERNAL with the request id, while the details stay in the
      log.
    * `OverloadedError` becomes RESOURCE_EXHAUSTED with a google.rpc.RetryInfo. Where too many are here, a call gets
      that at once, on gRPC's own thread and without being read.
    * The request id, the call's ``x-request-id`` or a new one, goes back in trailing metadata and is in every line that
      is logged about the call.

    Args:
        service: the service's full name.
        metrics: where calls are counted.
        log: where slow and refused ones are written down.
        spans: what traces calls; None for no traces.
        tokens: one of which each call must bring; None lets all in.
        waiting: methods whose calls wait for their turn.
        full: whether more calls are here than may be.
        retry_after_ms: when to come back, for those that are refused then.
    """

    def __init__(
        self,
        service: str,
        metrics: Metrics,
        *,
        log: CallLog,
        spans: Spans | None = None,
        tokens: Tokens | None = None,
        waiting: Collection[str] = (),
        full: Callable[[], bool] = lambda: False,
        retry_after_ms: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._service = service
        self._prefix = f"/{service}/"
        self._metrics = metrics
        self._log = log
        self._spans = spans
        self._tokens = tokens
        self._waiting = waiting
        self._full = full
        self._retry_after_ms = retry_after_ms
        self._handlers: dict[str, tuple[Handler, Handler]] = {}

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Note the arrival, and give the method as it is wrapped, or what refuses the call."""
        _arrived_s.set(time.perf_counter())
        method = handler_call_details.method
        handlers = self._handlers.get(method)
        if handlers is None:
            handler = continuation(handler_call_details)
            if handler is None or handler.unary_unary is None or not method.startswith(self._prefix):
                return handler
            handlers = self._handlers[method] = self._wrapped(handler, method.removeprefix(self._prefix))
        request_id.set(_request_id(handler_call_details.invocation_metadata))
        answering, refusing = handlers
        return refusing if self._full() else answering

    def _wrapped(self, handler: Handler, name: str) -> tuple[Handler, Handler]:
        """Return what answers a method's calls, and what refuses them unread."""
        assert handler.unary_unary is not None, "streams pass untouched"
        answering = grpc.unary_unary_rpc_method_handler(
            self._guarded(handler.unary_unary, name),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )
        # To gRPC a call's messages, here its only one, are then the method's to read, or to leave.
        refusing: Handler = grpc.stream_unary_rpc_method_handler(self._refusing(name))
        return answering, refusing if name in self._waiting else answering

    def _refusing(self, name: str) -> Callable[..., Any]:
        count = partial(self._ended, name)

        def refuse(_requests: Iterable[bytes], context: grpc.ServicerContext) -> NoReturn:
            count("RESOURCE_EXHAUSTED")
            self._metrics.refused(Reason.LIMIT, None)
            _abort_with(context, _busy(Reason.LIMIT, math.ceil(self._retry_after_ms())))

        # Without this attribute, or where gRPC stops looking for it, a worker does it.
        refuse.experimental_thread_pool = AT_ONCE  # type: ignore[attr-defined]
        return refuse

    def _guarded(self, method: Callable[[Any, grpc.ServicerContext], Any], name: str) -> Callable[..., Any]:
        count = partial(self._ended, name)

        def guarded(request: Any, context: grpc.ServicerContext) -> Any:
            context.set_trailing_metadata(((_REQUEST_ID, request_id.get()),))
            with self._traced(name, context):
                return answered(request, context)

        def answered(request: Any, context: grpc.ServicerContext) -> Any:
            if self._tokens is not None and not self._tokens.accept(context.invocation_metadata()):
                count("UNAUTHENTICATED")
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "expected a bearer token of this server's")
            left_s = context.time_remaining()
            if not context.is_active() or (left_s is not None and left_s <= 0):
                count("DEADLINE_EXCEEDED")
                late = "the deadline passed while the call waited for a worker"
                context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, late)
            try:
                answer = method(request, context)
            except OverloadedError as error:
                count("RESOURCE_EXHAUSTED")
                self._metrics.refused(error.refusal.reason, error.priority)
                _abort_with(context, _busy(error.refusal.reason, math.ceil(error.refusal.retry_after_ms)))
            except RequestError as error:
                count("INVALID_ARGUMENT", field=error.field)
                _abort_with(context, _bad_request(error))
            except CapacityError as error:
                count("FAILED_PRECONDITION")
                context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
            except Exception:
                count("INTERNAL")
                _abort_internal(context)
            count("OK")
            if (report := getattr(answer, "report", None)) is not None:
                self._log.answered(name, report)
                if self._spans is not None:
                    self._spans.answered(request, report, arrived_s=_arrived_s.get())
            return answer

        return guarded

    def _traced(self, name: str, context: grpc.ServicerContext) -> AbstractContextManager[None]:
        if self._spans is None:
            return nullcontext()
        metadata = context.invocation_metadata()
        return self._spans.call(self._service, name, metadata=metadata, arrived_s=_arrived_s.get())

    def _ended(self, name: str, code: str, *, field: str | None = None) -> None:
        """Tell all who watch that a call ended with a status."""
        self._metrics.called(name, code)
        if code not in ("OK", "INTERNAL"):  # the first is no refusal, the second has a line of its own
            self._log.refused(name, code, field=field)
        if self._spans is not None:
            self._spans.ended(code)


def call_of(context: grpc.ServicerContext) -> Call:
    """Return when the call that is being worked on arrived and when it must be answered."""
    started_s, left_s = time.perf_counter(), context.time_remaining()
    arrived_s = _arrived_s.get(started_s)
    has_deadline = left_s is not None and left_s < _NO_DEADLINE_S
    deadline_ms = (started_s + left_s - arrived_s) * 1e3 if has_deadline else None
    return Call(arrived_s=arrived_s, started_s=started_s, deadline_ms=deadline_ms)


def _bad_request(error: RequestError) -> Any:
    violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=str(error))
    return _status(code_pb2.INVALID_ARGUMENT, error, error_details_pb2.BadRequest(field_violations=[violation]))


@lru_cache(maxsize=1024)
def _busy(reason: Reason, retry_after_ms: int) -> Any:
    delay = duration_pb2.Duration()
    delay.FromMilliseconds(retry_after_ms)
    error = OverloadedError(Refusal(reason=reason, retry_after_ms=retry_after_ms), priority=Priority.NORMAL)
    return _status(code_pb2.RESOURCE_EXHAUSTED, error, error_details_pb2.RetryInfo(retry_delay=delay))


def _status(code: code_pb2.Code.ValueType, error: RecsysError, content: Message) -> Any:
    detail = any_pb2.Any()
    detail.Pack(content)
    return rpc_status.to_status(status_pb2.Status(code=code, message=str(error), details=[detail]))


def _abort_with(context: grpc.ServicerContext, status: Any) -> NoReturn:
    """Abort with a named tuple of `rpc_status`, which takes the place of all trailing metadata that was set."""
    extended = (*status.trailing_metadata, (_REQUEST_ID, request_id.get()))
    context.abort_with_status(status._replace(trailing_metadata=extended))


def _abort_internal(context: grpc.ServicerContext) -> NoReturn:
    _log.exception("request %s failed", request_id.get())
    context.abort(grpc.StatusCode.INTERNAL, f"internal error, logged under request id {request_id.get()}")


def _request_id(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """Return the id that a call brings, cut to a length that fits every log, or a new one."""
    for key, value in metadata:
        if key == _REQUEST_ID and isinstance(value, str) and value:
            return value[:_LONGEST_REQUEST_ID]
    return os.urandom(16).hex()
