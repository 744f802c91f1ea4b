"""What every benchmark shares: running commands with their cost, describing the machine, recording results."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recsys.index.timing import machine

RESULTS = Path(__file__).parent / "results"
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Cost:
    """What a process took.

    Args:
        seconds: wall-clock.
        peak_mib: largest resident set, children included.
    """

    seconds: float
    peak_mib: float


def parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with what every benchmark understands."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--quick", action="store_true", help="a small run that shows the benchmark works; proves nothing")
    made.add_argument("--record", action="store_true", help="write the figures to benchmarks/results/NAME.json")
    return made


# Linux counts what a process was before it became another program: a child of a large process is never small. So
# commands are started, timed and waited for by a process that has imported next to nothing.
_MEASURE = """
import json, os, sys, time
started = time.perf_counter()
actions = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=actions)
_, status, usage = os.wait4(pid, 0)
code = os.waitstatus_to_exitcode(status)
print(json.dumps({"code": code, "seconds": time.perf_counter() - started, "peak_mib": usage.ru_maxrss / 1024}))
"""


def timed(*words: str | Path) -> Cost:
    """Run a console script of this environment to its end and say what it cost; stop the benchmark if it fails."""
    print(f"$ {' '.join(map(str, words))}", flush=True)
    command = [sys.executable, "-I", "-S", "-c", _MEASURE, str(BIN / words[0]), *map(str, words[1:])]
    measured = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    if measured["code"]:
        raise SystemExit(f"{words[0]} failed with exit code {measured['code']}")
    return Cost(measured["seconds"], measured["peak_mib"])


@contextlib.contextmanager
def server(bundles: Path, *options: str) -> Iterator[tuple[str, dict[str, float]]]:
    """Serve a folder of bundles; yield the address and what it cost, of which ``peak_mib`` is known at the end."""
    words = ["recsys-serve", "--bundles", str(bundles), "--port", "0", *options]
    print(f"$ {' '.join(words)} &", flush=True)
    started = time.perf_counter()
    process = subprocess.Popen(
        [BIN / words[0], *words[1:]], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    address = process.stdout.readline().strip().removeprefix("listening on ")
    cost = {"seconds_to_listen": time.perf_counter() - started}
    try:
        yield address, cost
        status = Path(f"/proc/{process.pid}/status").read_text()
        cost["peak_mib"] = int(status.split("VmHWM:")[1].split()[0]) / 1024
    finally:
        process.terminate()
        process.stdout.close()
        process.wait()


def status_bytes(name: str) -> int:
    """Return one of the kernel's figures of this process's memory, such as ``VmRSS`` (Linux)."""
    return 1024 * int(Path("/proc/self/status").read_text().split(f"{name}:")[1].split()[0])


def processor_seconds() -> dict[str, float]:
    """Return what all processors' time went to since the machine started, ``steal`` to other machines (Linux)."""
    names = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
    ticks = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    return {name: int(one) / os.sysconf("SC_CLK_TCK") for name, one in zip(names, ticks, strict=False)}


def finish(name: str, figures: dict[str, Any], *, record: bool) -> None:
    """Print the figures as the last line and, if asked, keep them with date, commit, command and hardware."""
    if record:
        _write(name, _provenance(name) | {"figures": figures})
    print(json.dumps(figures))


Parts = dict[str, dict[str, Any]]
"""What is recorded of each part of a benchmark, by its name: provenance, and ``figures``."""


def recorded_parts(name: str) -> Parts:
    """Return every part of a benchmark that was recorded so far."""
    path = RESULTS / f"{name}.json"
    return dict(json.loads(path.read_text())["parts"]) if path.is_file() else {}


def finish_part(
    name: str, part: str, figures: dict[str, Any], *, summary: Callable[[Parts], dict[str, Any]], record: bool
) -> None:
    """Print a part's summary as the last line and, if asked, record it beside the parts that were recorded before.

    Parts (a dataset each, say) take long and are measured one by one, so each keeps a date and a commit of its own.

    Args:
        name: the benchmark.
        part: what was measured; a part of this name is replaced.
        figures: all of the part's figures.
        summary: turns parts into the figures that the benchmark is known for.
        record: whether to record.
    """
    one = {part: _provenance(name) | {"figures": figures}}
    if record:
        parts = recorded_parts(name) | one
        _write(name, _provenance(name) | {"figures": summary(parts), "parts": parts})
    print(json.dumps(summary(one)))


def _provenance(name: str) -> dict[str, Any]:
    # Where files lay on this machine is nobody's business.
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "command": " ".join(["python", "-m", f"benchmarks.{name}", *words]),
        "hardware": machine() | {"memory_gib": round(_memory_gib(), 1), "platform": platform.machine()},
        # Says whether memory comes in large pages, which matters to whatever reads all over it.
        "glibc_tunables": os.environ.get("GLIBC_TUNABLES", ""),
    }


def _write(name: str, content: dict[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def commit() -> str:
    """Return the commit of the code that runs, marked where files differ from it."""
    run = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return run.stdout.strip() or "unknown"


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
