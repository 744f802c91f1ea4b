"""Ctrl-C while training: noticed between steps, by every process at the same one, so that a checkpoint is written."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from recsys.train.process import Process


class Interrupt:
    """While entered, the first SIGINT is only noted; a second one acts at once, as it does elsewhere.

    A thread other than the main one gets no signals, and may not ask for any: there nothing is ever noted.

    Args:
        process: this process, whose group has to agree on the step to stop at.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self._noted = False
        self._before: Any = None

    def requested(self) -> bool:
        """Whether any process of the group was told to stop; all of them must ask, at the same step."""
        return self._process.any(self._noted)

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self._noted = True
        self._restore()

    def _restore(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None
