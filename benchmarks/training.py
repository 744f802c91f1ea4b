"""What all widths cost, and what they would in plain PyTorch: whole steps of training, and the loss alone.

Steps are those of `recsys train` on a simulated log, from drawing a batch to the optimizers' last word, six widths to
256 beside 256 alone: 4,096 rows, 4,096 uniform negatives, the default towers. Their twin is the same model in plain
PyTorch (`benchmarks._plain_torch`: EmbeddingBag with sparse gradients, Adagrad, a loop over the six widths), which
starts from the same weights and draws the same batches in the same way. ``vs_plain_torch`` is how many times as many
examples a second the trainer takes as the twin. A second twin has the trainer's kind of loss instead of the loop, so
that one sees how much of that is the loss's doing, and how much is that of tables and of everything else.

The loss alone is timed forward and backward on random vectors of that size, beside a loop over widths as
sentence-transformers' MatryoshkaLoss runs one: every width's vectors cut, scaled, multiplied and put through torch's
cross-entropy, one backward pass over all. All ways take turns, in an order that is drawn each time; figures are medians
over turns, with the quartiles beside them. A turn is timed by the clock and by the process's own CPU time, of all its
threads, which other processes disturb less: where the two ratios disagree on one thread, the machine had other things
to do.

Memory is what the resident set grows by at most during the loss, forward and backward, gradients included (Linux). It
costs no more to measure than two more turns of each way.

Feeding is measured last: the first steps over a simulated log of 20 million events, and over one of a tenth of its
users, each in a process of its own. How much more memory the larger one takes, not counting what is mapped, says how
much of the log is held: ``log_memory_share``, of the bytes that the events have in their files. ``data_wait_share`` of
the time of the steps is spent waiting for batches (or for moving them to the device).
"""

from __future__ import annotations

import ctypes
import gc
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks._feeding import EVENTS_PER_USER, measure, write_log
from benchmarks._harness import finish, parser, status_bytes
from benchmarks._ways import Way, loss_ways, step_ways, take_turns
from recsys.config import LossConfig, ModelConfig, TrainConfig

HEADLINES = (
    "all_widths_vs_one",
    "loss_all_widths_vs_one",
    "loss_vs_naive_speedup",
    "loss_memory_vs_naive",
    "vs_plain_torch",
    "vs_plain_torch_with_our_loss",
    "examples_per_s",
    "data_wait_share",
    "log_memory_share",
)


def main() -> None:
    """Time every way in turns, then measure memory."""
    given = _parse()
    torch.set_num_threads(given.threads)
    torch.manual_seed(1)
    size = 256 if given.quick else 4096
    widths = (8, 16, 32) if given.quick else (8, 16, 32, 64, 128, 256)
    losses = loss_ways(size, widths, device=torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        config = TrainConfig(
            model=ModelConfig(widths=widths),
            loss=LossConfig(num_batch_negatives=0, num_uniform_negatives=size),
            batch_size=size,
            epochs=1_000,
            device="cpu",
        )
        steps = step_ways(Path(folder), config, stack, scale=1 if given.quick else 50, twins=True)
        turns = 3 if given.quick else given.turns
        took = take_turns(steps | losses, num_turns=turns, seed=1)
        memory = {name: _grows(way) for name, way in losses.items()}
        feeding = _feed(Path(folder), config, threads=given.threads, quick=given.quick)
    figures = {
        "batch": size,
        "negatives": size,
        "widths": list(widths),
        "threads": given.threads,
        "turns": turns,
        "seconds": {name: {clock: _spread(values) for clock, values in one.items()} for name, one in took.items()},
        "loss_bytes": memory,
        "feeding": feeding,
    }
    figures |= _headlines(took, memory, size) | _feeding_headlines(feeding)
    _print(figures)
    finish("training", figures | {"quick": given.quick}, record=given.record)


def _parse() -> Any:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--threads", type=int, default=2, help="of torch and the compiled loop (2)")
    arguments.add_argument("--turns", type=int, default=15, help="of each way (15; 3 if --quick)")
    given = arguments.parse_args()
    for name in ("threads", "turns"):
        if getattr(given, name) < 1:
            arguments.error(f"--{name}: got {getattr(given, name)}, expected above 0")
    return given


def _feed(folder: Path, config: TrainConfig, *, threads: int, quick: bool) -> dict[str, dict[str, float]]:
    """Return what the first steps over two logs cost, a small one and a large one."""
    num_users, steps = (20_000, 4) if quick else (200_000, 40)
    feeding = {}
    for name, num in (("small", num_users // 10), ("large", num_users)):
        dataset = write_log(folder / f"{name}-log", num_users=num, num_items=20_000)
        log_bytes = (dataset / "train.arrow").stat().st_size
        measured = measure(dataset, folder / f"{name}-run", config, threads=threads, steps=steps)
        feeding[name] = {"events": num * EVENTS_PER_USER, "log_bytes": log_bytes, "steps": steps, **measured}
    return feeding


def _feeding_headlines(feeding: dict[str, dict[str, float]]) -> dict[str, float | dict[str, float]]:
    small, large = feeding["small"], feeding["large"]
    held, more = (large[name] - small[name] for name in ("grown_bytes", "log_bytes"))
    return {"data_wait_share": large["data_wait_share"], "log_memory_share": held / more}


def _grows(way: Way) -> int:
    """Return by how many bytes the resident set grows at most while a way runs."""
    way()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed, and would be used again, counts too
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = status_bytes("VmRSS")
    way()
    return status_bytes("VmHWM") - before


def _spread(values: list[float]) -> dict[str, float]:
    low, median, high = np.percentile(values, [25, 50, 75])
    return {"median": float(median), "low": float(low), "high": float(high)}


def _headlines(
    took: dict[str, dict[str, list[float]]], memory: dict[str, int], batch: int
) -> dict[str, float | dict[str, float]]:
    def ratio(one: str, other: str) -> dict[str, float]:
        """Compare medians by each clock."""
        return {clock: float(np.median(took[one][clock]) / np.median(took[other][clock])) for clock in ("wall", "cpu")}

    return {
        "all_widths_vs_one": ratio("step, all widths", "step, full width"),
        "loss_all_widths_vs_one": ratio("loss, all widths", "loss, full width"),
        "loss_vs_naive_speedup": ratio("loss, loop", "loss, all widths"),
        "loss_memory_vs_naive": memory["loss, all widths"] / memory["loss, loop"],
        "vs_plain_torch": ratio("step, plain torch", "step, all widths"),
        "vs_plain_torch_with_our_loss": ratio("step, plain torch, our loss", "step, all widths"),
        "examples_per_s": batch / float(np.median(took["step, all widths"]["wall"])),
    }


def _print(figures: dict[str, Any]) -> None:
    console = Console(width=120, highlight=False)
    title = f"{figures['batch']} rows, {figures['negatives']} negatives, widths {figures['widths']}"
    shown = Table("what", "ms", "quartiles", "CPU ms", "grows by MiB", title=title)
    for name, clocks in figures["seconds"].items():
        wall, cpu = clocks["wall"], clocks["cpu"]
        grown = figures["loss_bytes"].get(name)
        quartiles = f"{1e3 * wall['low']:.1f} to {1e3 * wall['high']:.1f}"
        mebibytes = "" if grown is None else f"{grown / 2**20:.0f}"
        shown.add_row(name, f"{1e3 * wall['median']:.1f}", quartiles, f"{1e3 * cpu['median']:.1f}", mebibytes)
    console.print(shown)
    for key in HEADLINES:
        value = figures[key]
        both = isinstance(value, dict)
        said = f"{value['wall']:.3g} (CPU time {value['cpu']:.3g})" if both else f"{value:,.3g}"
        console.print(f"{key}: {said}", markup=False)


if __name__ == "__main__":
    main()
