"""`recsys train` in a process of its own, watched from outside: its memory, its checkpoints, and its end."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks._harness import BIN
from recsys.train.run_folder import CHECKPOINTS

_LOOKS_EVERY_S = 0.002


@dataclass(frozen=True, kw_only=True)
class Watched:
    """What a run of `recsys train` did.

    Args:
        code: its exit code, negative where a signal ended it.
        seconds: from its start to its end.
        peak_bytes: largest resident set.
        write_seconds: by the step of each checkpoint that it made, from when its folder was begun to when it was whole.
        said: all that it printed.
    """

    code: int
    seconds: float
    peak_bytes: int
    write_seconds: dict[int, float]
    said: str

    @property
    def resumed(self) -> tuple[int, float] | None:
        """The step that it went on from and the seconds that reading took; None where it began anew."""
        found = re.search(r"goes on from step (\d+), read in ([\d.]+) s", self.said)
        return None if found is None else (int(found[1]), float(found[2]))


def train_watched(
    words: Sequence[str | Path], run: Path, *, kill_at: int | None = None, kill_after_s: float = 0.0
) -> Watched:
    """Train and watch.

    Args:
        words: options of `recsys train`, without the run folder.
        run: run folder.
        kill_at: SIGKILL it once its checkpoint of this step is whole.
        kill_after_s: and so many seconds have passed, in which it trains on.
    """
    command = ["recsys", "train", *map(str, words), "--out", str(run)]
    print(f"$ {' '.join(command)}{'' if kill_at is None else ' & kill -9'}", flush=True)
    said = run.with_name(f"{run.name}.log")
    started, begun, whole = time.perf_counter(), dict[int, float](), dict[int, float]()
    with said.open("w") as file:
        process = subprocess.Popen([BIN / command[0], *command[1:]], stdout=file, stderr=subprocess.STDOUT)
        try:
            while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                now = time.perf_counter()
                for times, pattern in ((begun, ".staging-step-*"), (whole, "step-*")):
                    for folder in (run / CHECKPOINTS).glob(pattern):
                        times.setdefault(int(folder.name.rpartition("-")[2]), now)
                if kill_at in whole and now - whole[kill_at] >= kill_after_s:
                    process.kill()
                    break
                time.sleep(_LOOKS_EVERY_S)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            if process.returncode is None:
                process.kill()
                process.wait()
    return Watched(
        code=process.returncode,
        seconds=time.perf_counter() - started,
        peak_bytes=1024 * usage.ru_maxrss,
        write_seconds={step: time_s - begun.get(step, time_s) for step, time_s in whole.items()},
        said=said.read_text(),
    )
