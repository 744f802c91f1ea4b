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
from collections.abc import Iterator
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
def server(bundles: Path) -> Iterator[tuple[str, dict[str, float]]]:
    """Serve a folder of bundles; yield the address and what it cost, of which ``peak_mib`` is known at the end."""
    words = ["recsys-serve", "--bundles", str(bundles), "--port", "0"]
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


def finish(name: str, figures: dict[str, Any], *, record: bool) -> None:
    """Print the figures as the last line and, if asked, keep them with date, commit, command and hardware."""
    if record:
        content = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": _commit(),
            "command": " ".join(["python", "-m", f"benchmarks.{name}", *sys.argv[1:]]),
            "hardware": machine() | {"memory_gib": round(_memory_gib(), 1), "platform": platform.machine()},
            "figures": figures,
        }
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
    print(json.dumps(figures))


def _commit() -> str:
    run = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return run.stdout.strip() or "unknown"


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
