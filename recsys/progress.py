"""What a person sees of work that takes a while: the stage, how far it is, how fast it goes and how long it will take.

Shown in a terminal only, on standard error, and gone when the work is done.
"""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text


class Tell(Protocol):
    """How work says where it stands: the name of a stage, and the share of that stage that is done, 0 to 1."""

    def __call__(self, stage: str, share: float, /) -> None:
        """Say it."""


def tell_nobody(stage: str, share: float, /) -> None:
    """Be the `Tell` of work that nobody watches."""


class Rate(ProgressColumn):
    """Units per second, over the last steps; nothing where a task has no unit."""

    def render(self, task: Task) -> Text:
        """Return the rate of one task."""
        speed, unit = task.finished_speed or task.speed, task.fields.get("unit", "")
        return Text(f"{speed:,.0f} {unit}/s" if speed and unit else "")


class Stages:
    """A bar per stage of a verb, each shown until the next one begins; a context manager that is a `Tell`.

    A stage whose share stays 0 (one long call, say) shows the time it has taken; any other, also its rate and the time
    left.
    """

    def __init__(self) -> None:
        console = Console(stderr=True, highlight=False)
        columns = (
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), Rate(),
            TimeElapsedColumn(), TimeRemainingColumn(),
        )  # fmt: skip
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("", total=None, visible=False, unit="%")
        self._stage: str | None = None

    def __call__(self, stage: str, share: float, /) -> None:
        """Show a stage, of which this share is done."""
        if stage != self._stage:
            self._stage = stage
            self._bar.reset(self._task, description=stage, total=None, visible=True)
        if share > 0:
            self._bar.update(self._task, total=100, completed=100 * share)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()


def size_text(num_bytes: float) -> str:
    """Return a number of bytes as people read it."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= size:
            return f"{num_bytes / size:,.1f} {unit}"
    return f"{num_bytes / 1e3:.1f} kB"
