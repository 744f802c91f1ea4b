"""How much memory a process may use, as far as the system says."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch

from recsys.train.process import Process


def available_bytes(process: Process) -> int:
    """Return the memory that this process's device has left.

    Of a machine's memory, every process there gets the same share. A container's limit counts, where it has one.
    """
    if process.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(process.device)
        return int(free)
    return min(_left_of_machine(), *_left_of_groups()) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _left_of_machine() -> int:
    path = Path("/proc/meminfo")
    if not path.exists():
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")  # no Linux: all of it, used or not
    lines = dict(line.split(":", 1) for line in path.read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


def _left_of_groups() -> Iterator[int]:
    """Yield what control groups leave to their processes: both versions, as seen from within a container."""
    yield _left_of_machine()
    root = Path("/sys/fs/cgroup")
    for limit, used in (
        (root / "memory.max", root / "memory.current"),
        (root / "memory/memory.limit_in_bytes", root / "memory/memory.usage_in_bytes"),
    ):
        text = limit.read_text().strip() if limit.exists() else "max"
        if text != "max":
            yield max(0, int(text) - int(used.read_text()))
