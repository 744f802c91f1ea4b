"""Clients for load: an open loop, whose calls start when they are due, and a closed one, whose streams await answers.

Both run in a process of their own (`client_process`). In an open loop a call's latency counts from when it was due, so
what waits behind a slow answer counts as slow too (no coordinated omission). Requests and answers are bytes, encoded
before and decoded after, so that the client takes as little as it can of a machine that it shares with the server.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, TypeAlias, cast

import grpc
import numpy as np

from serving.client import channel_options

RECOMMEND = "/serving.v1.CandidateService/Recommend"
_PATIENCE_S = 30.0
_Method: TypeAlias = "grpc.UnaryUnaryMultiCallable[bytes, bytes]"


class Reply(NamedTuple):
    """What came of a call.

    Args:
        latency_ms: until the answer or the failure, from when the call was due (open loop) or sent (closed).
        code: the gRPC status by name.
        body: the answer, empty after a failure.
    """

    latency_ms: float
    code: str
    body: bytes


def client_process() -> Executor:
    """Return a pool of one new process, to run the functions of this module in."""
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


def poisson_arrivals(rate: float, seconds: float, random: np.random.Generator) -> np.ndarray:
    """Return when calls are due, in seconds from the start: a Poisson process of ``rate`` calls per second."""
    gaps_s = random.exponential(1 / rate, size=int(rate * seconds * 1.2) + 50)
    due_s = np.cumsum(gaps_s)
    return due_s[due_s < seconds]


def open_loop(
    address: str, requests: Sequence[bytes], due_s: np.ndarray, timeout_s: Sequence[float], *, method: str = RECOMMEND
) -> list[Reply]:
    """Send each request when it is due, whatever became of the others, and wait for all replies."""
    replies: list[Reply | None] = [None] * len(requests)
    left = threading.Semaphore(0)
    with grpc.insecure_channel(address, options=channel_options()) as channel:
        grpc.channel_ready_future(channel).result(timeout=_PATIENCE_S)
        call: _Method = channel.unary_unary(method)
        started_s = time.perf_counter() + 0.05

        def note(place: int, finished: Any) -> None:
            latency_ms = 1e3 * (time.perf_counter() - started_s - due_s[place])
            code = finished.code().name
            replies[place] = Reply(latency_ms, code, finished.result() if code == "OK" else b"")
            left.release()

        for place, request in enumerate(requests):
            time.sleep(max(0.0, started_s + due_s[place] - time.perf_counter()))
            call.future(request, timeout=timeout_s[place]).add_done_callback(partial(note, place))
        for _ in requests:
            left.acquire()
    return [reply for reply in replies if reply is not None]


def closed_loop(
    address: str, requests: Sequence[bytes], *, streams: int, seconds: float, method: str = RECOMMEND
) -> tuple[float, list[Reply]]:
    """Let each stream send its next request once it has its answer; return answers per second, and the replies."""
    all_connected = threading.Barrier(streams)

    def stream(number: int) -> list[Reply]:
        options = [*channel_options(), ("grpc.use_local_subchannel_pool", 1)]  # a connection for each stream
        replies, place = [], number
        with grpc.insecure_channel(address, options=options) as channel:
            grpc.channel_ready_future(channel).result(timeout=_PATIENCE_S)
            call: _Method = channel.unary_unary(method)
            all_connected.wait()
            deadline_s = time.perf_counter() + seconds
            while (sent_s := time.perf_counter()) < deadline_s:
                code, body = "OK", b""
                try:
                    body = call(requests[place % len(requests)], timeout=_PATIENCE_S)
                except grpc.RpcError as error:
                    code = cast("grpc.Call", error).code().name  # a unary call fails with itself
                replies.append(Reply(1e3 * (time.perf_counter() - sent_s), code, body))
                place += streams
        return replies

    with ThreadPoolExecutor(streams) as pool:
        replies = [reply for some in pool.map(stream, range(streams)) for reply in some]
    return sum(reply.code == "OK" for reply in replies) / seconds, replies


def in_turns(
    first: tuple[str, str], second: tuple[str, str], requests: Sequence[bytes]
) -> tuple[list[Reply], list[Reply]]:
    """Send each request to one server, then to the other, one call at a time; a server is an address and a method."""
    replies: tuple[list[Reply], list[Reply]] = ([], [])
    channels = [grpc.insecure_channel(address, options=channel_options()) for address, _ in (first, second)]
    calls: list[_Method] = [
        channel.unary_unary(method) for channel, (_, method) in zip(channels, (first, second), strict=True)
    ]
    for request in requests:
        for call, into in zip(calls, replies, strict=True):
            sent_s = time.perf_counter()
            body = call(request, timeout=_PATIENCE_S, wait_for_ready=True)
            into.append(Reply(1e3 * (time.perf_counter() - sent_s), "OK", body))
    for channel in channels:
        channel.close()
    return replies
