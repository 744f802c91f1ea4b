"""The whole path on MovieLens-100K: from its log to recommendations over gRPC, each within a budget.

Every step is a command that can be typed; this script prints each one before it runs it. What it writes goes to
``work/quickstart``.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console

from recsys.data.dataset import Dataset
from serving.client import Client, describe_report

WORK = Path("work/quickstart")
BIN = Path(sys.executable).parent
USERS = ("1", "42", "311")
# A time, a width, and a time too short for anything.
BUDGETS: dict[str, dict[str, Any]] = {
    "20 ms": {"budget_ms": 20.0},
    "width 16": {"width": 16},
    "0.05 ms, which nothing can meet": {"budget_ms": 0.05},
}
SHOWN = 5

console = Console(highlight=False, width=110)


def main() -> None:
    """Prepare, train, evaluate, publish, serve, ask."""
    started = time.perf_counter()
    shutil.rmtree(WORK, ignore_errors=True)
    run("recsys", "prepare", "--recipe", "ml-100k", "--out", WORK / "dataset")
    run("recsys", "train", "--dataset", WORK / "dataset", "--out", WORK / "run")
    run("recsys", "evaluate", "--run", WORK / "run", "--dataset", WORK / "dataset")
    run("recsys", "publish", "--run", WORK / "run", "--dataset", WORK / "dataset", "--out", WORK / "bundles")
    with server() as address:
        ask(address)
    console.rule(f"done in {time.perf_counter() - started:.0f} s")
    console.print(
        "With 1,682 films a scan at full width takes hardly longer than at the narrowest, so any time that can be met\n"
        "buys it; ladders spread out over the widths as catalogues grow. Try next:\n"
        f"  recsys explore --bundles {WORK / 'bundles'}          see in a browser what each width keeps and loses, or\n"
        f"  recsys-serve --bundles {WORK / 'bundles'}            keep a server running, and in another terminal\n"
        "  recsys recommend --user 42 --budget-ms 5             ask it for anybody, at any budget, or\n"
        "  recsys recommend --history 50 172 181 --width 16     for somebody new, at a width of your choice\n"
        "  recsys prepare --help                                start from a log of your own",
        soft_wrap=True,
    )


def run(*words: str | Path) -> None:
    """Print a command and run it; stop here if it fails."""
    console.print(f"\n[bold]$ {' '.join(map(str, words))}[/bold]", soft_wrap=True)
    finished = subprocess.run([BIN / words[0], *words[1:]], check=False)
    if finished.returncode:
        raise SystemExit(finished.returncode)


@contextmanager
def server() -> Iterator[str]:
    """Start ``recsys-serve`` on a free port, yield its address once it is warm, and stop it at the end."""
    words = ["recsys-serve", "--bundles", WORK / "bundles", "--port", "0"]
    console.print(f"\n[bold]$ {' '.join(map(str, words))} &[/bold]", soft_wrap=True)
    process = subprocess.Popen([BIN / words[0], *words[1:]], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        console.print(line)
        yield line.removeprefix("listening on ")
    finally:
        process.terminate()
        process.wait(timeout=30)


def ask(address: str) -> None:
    """Print each user's latest films, and the recommendations at each budget."""
    dataset = Dataset(WORK / "dataset", verify=False)
    titles = dataset.item_frame["title"]
    histories = dataset.histories("train", "fold_in", "validation", "test")
    with Client(address, deadline_ms=10_000) as client:
        client.wait_until_serving(timeout_s=60)
        for user in USERS:
            console.rule(f"user {user}")
            latest = histories[dataset.users.row(user)][-SHOWN:]
            console.print(f"watched last: {listed(titles[latest])}", markup=False, soft_wrap=True)
            for name, budget in BUDGETS.items():
                answer = client.recommend(user_id=user, k=SHOWN, include_titles=True, **budget)
                console.print(f"\nbudget: {name}", style="bold")
                console.print(f"  {describe_report(answer.report)}", markup=False, soft_wrap=True)
                console.print(f"  {listed(item.title for item in answer.items)}", markup=False, soft_wrap=True)


def listed(titles: Any) -> str:
    """Join titles for one line."""
    return " | ".join(titles.to_list() if isinstance(titles, pl.Series) else titles)


if __name__ == "__main__":
    main()
