"""Which kind of Python server: threads, asyncio, or several processes of threads on one port.

Each kind answers empty calls; threads and processes also answer real ones on a small simulated catalogue. Requests per
second are those of a closed loop of several streams, each with a connection of its own; latencies those of an open loop
at a modest rate, the same for all. The client is one process, on the same machine. Kinds take turns.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks._echo import METHOD, echo
from benchmarks._harness import finish, parser, server
from benchmarks._load import RECOMMEND, client_process, closed_loop, open_loop, poisson_arrivals
from recsys.testing import small_bundle
from serving.v1 import candidates_pb2 as pb

_K = 10


class _Contender(NamedTuple):
    name: str
    address: str
    method: str


def main() -> None:
    """Start every kind of server, measure them in turns, and report."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--seconds", type=float, default=5.0, help="length of each measurement (5)")
    arguments.add_argument("--rounds", type=int, default=3, help="measurements of each kind, whose median counts (3)")
    arguments.add_argument("--streams", type=int, default=16, help="streams of the closed loop (16)")
    arguments.add_argument("--rate", type=float, default=200.0, help="calls per second of the open loop (200)")
    given = arguments.parse_args()
    if given.quick:
        given.seconds, given.rounds = 0.5, 1
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as running, client_process() as client:
        contenders = _start(Path(scratch), running, processes=(1,) if given.quick else (1, 2))
        figures: dict[str, Any] = {contender.name: [] for contender in contenders}
        for _ in range(given.rounds):
            for contender in contenders:
                measured = _measure(client, contender, given.streams, given.seconds, given.rate)
                figures[contender.name].append(measured)
    for name, several in figures.items():
        rates = [one["per_second"] for one in several]
        medians = {key: float(np.median([one[key] for one in several])) for key in several[0]}
        figures[name] = medians | {"per_second_least": min(rates), "per_second_most": max(rates)}
    _print(figures)
    finish("servers", figures | {"streams": given.streams, "k": _K, "open_loop_rate": given.rate}, record=given.record)


def _start(scratch: Path, running: ExitStack, *, processes: Sequence[int]) -> Sequence[_Contender]:
    small_bundle(scratch, num_items=2000)
    contenders = [
        _Contender(_name(kind, num, "empty"), running.enter_context(echo(kind, processes=num)), METHOD)
        for kind in ("sync", "aio")
        for num in processes
    ]
    for num in processes:
        address, _ = running.enter_context(server(scratch, "--processes", str(num)))
        contenders.append(_Contender(_name("sync", num, "Recommend"), address, RECOMMEND))
    return contenders


def _name(kind: str, processes: int, calls: str) -> str:
    return f"{kind}, {processes} process{'es' if processes > 1 else ''}, {calls}"


def _measure(client: Executor, contender: _Contender, streams: int, seconds: float, rate: float) -> dict[str, float]:
    requests = [pb.RecommendRequest(user=pb.User(id=f"u{row}"), k=_K).SerializeToString() for row in range(60)]
    at, method = contender.address, contender.method
    most, _ = client.submit(closed_loop, at, requests, streams=streams, seconds=seconds, method=method).result()
    due_s = poisson_arrivals(rate, seconds, np.random.default_rng(1))
    modest = [requests[place % len(requests)] for place in range(len(due_s))]
    replies = client.submit(open_loop, at, modest, due_s, [30.0] * len(due_s), method=method).result()
    p50_ms, p99_ms = np.percentile([reply.latency_ms for reply in replies], [50, 99])
    return {"per_second": most, "p50_ms": float(p50_ms), "p99_ms": float(p99_ms)}


def _print(figures: dict[str, dict[str, float]]) -> None:
    shown = Table("server", "requests/s", "p50 ms", "p99 ms")
    for name, measured in figures.items():
        shown.add_row(name, f"{measured['per_second']:.0f}", f"{measured['p50_ms']:.2f}", f"{measured['p99_ms']:.2f}")
    Console(width=100, highlight=False).print(shown)


if __name__ == "__main__":
    main()
