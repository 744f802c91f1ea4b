"""What a person sees of a training run: a live bar in a terminal, one line per epoch everywhere."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from recsys.progress import Rate


class Reporter:
    """Shows progress from one process and stays silent in the others.

    Args:
        enabled: whether this process speaks.
        total_epochs: passes at most, for the label.
    """

    def __init__(self, *, enabled: bool, total_epochs: int) -> None:
        self._console = Console(quiet=not enabled, stderr=True, highlight=False)
        self._total_epochs = total_epochs
        columns = (TextColumn("{task.description}"), BarColumn(), Rate(), TimeRemainingColumn())
        live = enabled and self._console.is_terminal
        self._bar = Progress(*columns, console=self._console, transient=True, disable=not live)
        self._task = self._bar.add_task("", total=None, unit="examples")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def start_epoch(self, epoch: int, *, num_examples: int, done: int) -> None:
        """Begin a pass of ``num_examples``, the first ``done`` of which were seen before."""
        self._bar.reset(
            self._task, description=f"epoch {epoch + 1}/{self._total_epochs}", total=num_examples, completed=done
        )

    def step(self, num_examples: int) -> None:
        """Count the examples of one step."""
        self._bar.advance(self._task, num_examples)

    def epoch(self, record: dict[str, Any], *, is_best: bool) -> None:
        """Print one line: each width's loss and validation ndcg, and the speed."""
        loss = " ".join(f"{value:.3f}" for value in record["loss"].values())
        ndcg = " ".join(f"{width}:{scores['ndcg@10']:.4f}" for width, scores in record["validation"].items())
        validation = f"validation ndcg@10 {ndcg}" if ndcg else "no validation"
        mark = " *best" if is_best else ""
        self._console.print(
            f"epoch {record['epoch'] + 1:>3}  loss {loss}  {validation}  "
            f"{record['examples_per_s']:,.0f} examples/s{mark}",
            soft_wrap=True,
        )
