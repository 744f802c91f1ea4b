"""What the browser asks and gets: the page with its files, and JSON under ``/api/``. Every request only reads.

Nothing is kept between requests but the connection, names and readings, so any number of pages may look on at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import grpc
from starlette.applications import Starlette
from starlette.datastructures import QueryParams
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from recsys.errors import RecsysError, RequestError
from serving.client import Client, ServingError, items_where
from serving.explorer.compare import Marked, compare
from serving.explorer.names import BundleNames
from serving.explorer.traffic import TrafficPage
from serving.v1 import candidates_pb2 as pb

STATIC = Path(__file__).parent / "static"

Answer = TypeVar("Answer", pb.RecommendResponse, pb.SimilarItemsResponse)

_HEADERS = {
    # Nothing from elsewhere is loaded, run or sent to, and no other site may frame or read the page.
    b"content-security-policy": b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    b"cross-origin-resource-policy": b"same-origin",
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
    b"cache-control": b"no-store",
}

_PLAIN: dict[grpc.StatusCode, tuple[int, str]] = {
    grpc.StatusCode.UNAVAILABLE: (503, "The server at {address} does not answer. Is it running?"),
    grpc.StatusCode.DEADLINE_EXCEEDED: (504, "The server at {address} took too long to answer."),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (503, "The server at {address} is busy and refused the call. Try again soon."),
    grpc.StatusCode.UNIMPLEMENTED: (502, "What listens at {address} is not a server of candidates."),
}


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where answers come from.

    Args:
        client: a connection to the server, with a deadline.
        names: users and titles; None where the page is not told where the bundles lie.
        traffic: the server's metrics; None where it has none.
    """

    client: Client
    names: BundleNames | None = None
    traffic: TrafficPage | None = None


def make_app(sources: Sources, *, hosts: Iterable[str]) -> Starlette:
    """Build the application.

    Args:
        sources: where answers come from.
        hosts: names that the page may be asked under. Others are refused, so that a site whose name is made to point
            here cannot read along.
    """
    api: dict[str, Callable[[Sources, QueryParams], Any]] = {
        "service": _service,
        "users": _users,
        "user": _user,
        "items": _items,
        "recommend": _recommend,
        "similar": _similar,
        "traffic": _traffic,
    }
    return Starlette(
        routes=[
            Route("/", _page),
            *(Route(f"/api/{name}", partial(_answered, answer, sources)) for name, answer in api.items()),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        middleware=[
            Middleware(_WithHeaders),
            Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False),
        ],
    )


class _WithHeaders:
    """Adds the headers that keep other sites out to every response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_HEADERS.items()]
            await send(message)

        await self._app(scope, receive, send_with_headers)


async def _page(request: Request) -> Response:  # noqa: ARG001
    return FileResponse(STATIC / "index.html")


def _answered(answer: Callable[[Sources, QueryParams], Any], sources: Sources, request: Request) -> Response:
    """Answer with JSON; say what went wrong in words where it did. Runs in a thread: gRPC calls wait."""
    try:
        return JSONResponse(answer(sources, request.query_params))
    except RequestError as error:
        return _failed(400, str(error), field=error.field)
    except ServingError as error:
        address = sources.client.address
        status, words = _PLAIN.get(error.code, (502, "The server at {address} failed to answer."))
        return _failed(status, words.format(address=address), detail=str(error))
    except RecsysError as error:
        return _failed(502, str(error))


def _failed(status: int, message: str, *, field: str = "", detail: str = "") -> Response:
    return JSONResponse({"error": {"message": message, "field": field, "detail": detail}}, status)


def _service(sources: Sources, query: QueryParams) -> dict[str, Any]:  # noqa: ARG001
    service = sources.client.describe()
    return {
        "address": sources.client.address,
        "bundle_version": service.bundle_version,
        "num_items": service.num_items,
        "num_users": service.num_users,
        "widths": list(service.widths),
        "max_k": service.limits.max_k,
        "max_history": service.limits.max_history,
        "overhead_ms": service.overhead_p99_ms,
        "has_names": sources.names is not None,
        "has_traffic": sources.traffic is not None,
        "item_features": [{"name": each.name, "values": list(each.values)} for each in service.item_features],
        "rungs": [
            {
                "name": rung.name,
                "width": rung.width,
                "overlaps": {each.k: each.overlap for each in rung.overlaps},
                "p50_ms": rung.latency_p50_ms,
                "p99_ms": rung.latency_p99_ms,
                "size_bytes": rung.size_bytes,
                "on_ladder": rung.on_ladder,
            }
            for rung in service.rungs
        ],
    }


def _users(sources: Sources, query: QueryParams) -> list[dict[str, Any]]:
    if sources.names is None:
        return []
    return sources.names.of(sources.client.describe().bundle_version).search_users(query.get("text", ""))


def _user(sources: Sources, query: QueryParams) -> dict[str, Any] | None:
    if sources.names is None:
        return None
    return sources.names.of(sources.client.describe().bundle_version).user(query.get("id", ""))


def _items(sources: Sources, query: QueryParams) -> list[dict[str, Any]]:
    if sources.names is None:
        return []
    return sources.names.of(sources.client.describe().bundle_version).search_items(query.get("text", ""))


def _recommend(sources: Sources, query: QueryParams) -> dict[str, Any]:
    """Answer for a user by ``id``, or for a history of any number of ``item``; no item is a visitor without a past."""
    who: dict[str, Any] = {"user_id": query["id"]} if "id" in query else {"history": query.getlist("item")}
    ask: Callable[..., pb.RecommendResponse] = partial(
        sources.client.recommend, k=_number(query, "k", int, 10), include_titles=True, **who
    )
    answer, content = _beside_truth(sources, ask, query)
    return {**content, "cold": answer.cold, "num_unknown": answer.num_unknown_history_items}


def _similar(sources: Sources, query: QueryParams) -> dict[str, Any]:
    k = _number(query, "k", int, 10)
    ask = partial(sources.client.similar_items, query.get("item", ""), k=k, include_titles=True)
    return _beside_truth(sources, ask, query)[1]


def _beside_truth(sources: Sources, ask: Callable[..., Answer], query: QueryParams) -> tuple[Answer, dict[str, Any]]:
    """Ask at the budget, then at the full width, of which publishing always keeps a rung that is exact."""
    where = _filter(query)
    answer = ask(where=where, **_budget(query))
    truth = ask(where=where, width=sources.client.describe().widths[-1])
    compared = compare([item.item_id for item in answer.items], [item.item_id for item in truth.items])
    return answer, {
        "answer": _listed(answer, compared.answer),
        "truth": _listed(truth, compared.truth),
        "overlap": compared.overlap,
        "num_kept": compared.num_kept,
    }


def _listed(answer: pb.RecommendResponse | pb.SimilarItemsResponse, marked: Iterable[Marked]) -> dict[str, Any]:
    report = answer.report
    timings = report.timings
    return {
        "items": [
            {**asdict(mark), "title": item.title or item.item_id}
            for item, mark in zip(answer.items, marked, strict=True)
        ],
        "width": report.width,
        "rung": report.rung,
        "engine": pb.SearchEngine.Name(report.engine).removeprefix("SEARCH_ENGINE_").lower(),
        "rerank_depth": report.rerank_depth,
        "expected_overlap": report.expected_overlap,
        "num_scored": report.num_scored,
        "num_unknown_filter_values": report.num_unknown_filter_values,
        "bundle_version": report.bundle_version,
        "predicted_ms": report.predicted_ms,
        "degraded": [
            pb.DegradedReason.Name(reason).removeprefix("DEGRADED_REASON_").lower()
            for reason in report.degraded_reasons
        ],
        "timings": {
            "queue_ms": timings.queue_ms,
            "encode_ms": timings.encode_ms,
            "scan_ms": timings.scan_ms,
            "rerank_ms": timings.rerank_ms,
            "total_ms": timings.total_ms,
        },
    }


def _traffic(sources: Sources, query: QueryParams) -> dict[str, Any] | None:  # noqa: ARG001
    return None if sources.traffic is None else asdict(sources.traffic.read())


def _filter(query: QueryParams) -> pb.Filter | None:
    """Read which items may come back: any number of ``feature`` and ``value``, which belong together in pairs."""
    names, values = query.getlist("feature"), query.getlist("value")
    if len(names) != len(values):
        raise RequestError(
            "feature, value", f"got {len(names)} and {len(values)}, expected as many of one as of the other"
        )
    include: dict[str, list[str]] = {}
    for name, value in zip(names, values, strict=True):
        include.setdefault(name, []).append(value)
    return items_where(include=include) if include else None


def _budget(query: QueryParams) -> dict[str, float | int]:
    """Pass on whichever budgets were given; the server refuses more than one."""
    kinds: dict[str, type[float] | type[int]] = {"budget_ms": float, "width": int, "min_overlap": float}
    return {name: _number(query, name, kind) for name, kind in kinds.items() if name in query}


def _number(query: QueryParams, name: str, kind: type[float] | type[int], default: int = 0) -> Any:
    text = query.get(name)
    if text is None:
        return default
    try:
        return kind(text)
    except ValueError as error:
        raise RequestError(name, f"got {text!r}, expected a number") from error
