"""What preparing a large log costs: time and peak memory as the log grows, at a fixed number of rows in memory.

The logs are simulated (`recsys.data.synthetic`), with string ids, written as Parquet. If preparing streams, memory
follows the vocabularies and the rows in memory, not the rows of the log: from the smallest log to the largest it must
grow far less than the log does.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks._harness import finish, parser, timed
from recsys.data.synthetic import SimulatedWorld

_PROTOCOLS = ("global-time", "leave-last-out")
_ROWS_IN_MEMORY = 2_000_000


def main() -> None:
    """Prepare simulated logs of several sizes under two protocols."""
    arguments = parser(__doc__ or "")
    arguments.add_argument(
        "--millions", type=float, nargs="+", default=[2, 8, 32], help="rows of the logs, in millions"
    )
    given = arguments.parse_args()
    millions = [0.2, 0.4] if given.quick else given.millions
    rows: list[dict[str, Any]] = []
    for size in millions:
        with tempfile.TemporaryDirectory() as scratch:
            log = _write_log(Path(scratch), num_events=round(size * 1e6))
            rows += [_prepare(log, protocol, num_events=round(size * 1e6)) for protocol in _PROTOCOLS]
    _print(rows)
    largest, smallest = rows[-1], rows[0]
    growth = {
        "rows": largest["num_events"] / smallest["num_events"],
        "peak_memory": max(row["peak_mib"] for row in rows) / min(row["peak_mib"] for row in rows),
    }
    figures = {"rows_in_memory": _ROWS_IN_MEMORY, "runs": rows, "growth": growth, "data": "simulated"}
    finish("prepare", figures, record=given.record)


def _write_log(folder: Path, *, num_events: int) -> Path:
    num_users = min(200_000, num_events // 20)
    world = SimulatedWorld(num_users=num_users, num_items=num_users // 4, num_events=num_events, seed=1)
    path = folder / "log.parquet"
    world.events().write_parquet(path)
    return path


def _prepare(log: Path, protocol: str, *, num_events: int) -> dict[str, Any]:
    cost = timed(
        "recsys", "prepare", "--interactions", log, "--time-column", "timestamp", "--protocol", protocol,
        "--max-rows-in-memory", str(_ROWS_IN_MEMORY), "--overwrite", "--out", log.parent / "dataset",
    )  # fmt: skip
    return {
        "num_events": num_events,
        "protocol": protocol,
        "log_mib": log.stat().st_size / 2**20,
        "seconds": cost.seconds,
        "peak_mib": cost.peak_mib,
    }


def _print(rows: list[dict[str, Any]]) -> None:
    table = Table(
        "rows", "protocol", "log MiB", "seconds", "rows/s", "peak MiB", title="recsys prepare, simulated logs"
    )
    for row in rows:
        table.add_row(
            f"{row['num_events']:,}",
            row["protocol"],
            f"{row['log_mib']:,.0f}",
            f"{row['seconds']:.1f}",
            f"{row['num_events'] / row['seconds']:,.0f}",
            f"{row['peak_mib']:,.0f}",
        )
    Console(width=110, highlight=False).print(table)


if __name__ == "__main__":
    main()
