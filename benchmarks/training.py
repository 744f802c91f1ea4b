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

Shapes: ``user_BD`` (batch, full width), ``item_BD`` the positives, ``negative_ND``; ``shift_BN`` added to logits.
"""

from __future__ import annotations

import ctypes
import gc
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from benchmarks._experiment import alone
from benchmarks._feeding import EVENTS_PER_USER, measure, write_log
from benchmarks._harness import finish, parser, status_bytes
from benchmarks._plain_torch import PlainTraining, our_loss, plain_loss
from recsys.config import LossConfig, ModelConfig, TrainConfig
from recsys.data.dataset import Dataset
from recsys.data.options import PrepareOptions
from recsys.data.prepare import prepare
from recsys.data.synthetic import SimulatedWorld
from recsys.model import MatryoshkaSoftmax
from recsys.train.noise import silenced
from recsys.train.process import joined
from recsys.train.trainer import Inputs, Trainer, TrainOptions

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
_TEMPERATURE = 0.07
Way = Callable[[], None]


def main() -> None:
    """Time every way in turns, then measure memory."""
    given = _parse()
    torch.set_num_threads(given.threads)
    torch.manual_seed(1)
    size = 256 if given.quick else 4096
    widths = (8, 16, 32) if given.quick else (8, 16, 32, 64, 128, 256)
    losses = _losses(size, widths)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        config = TrainConfig(
            model=ModelConfig(widths=widths),
            loss=LossConfig(num_batch_negatives=0, num_uniform_negatives=size),
            batch_size=size,
            epochs=1_000,
            device="cpu",
        )
        steps = _steps(Path(folder), config, stack, quick=given.quick)
        turns = 3 if given.quick else given.turns
        took = _take_turns(steps | losses, num_turns=turns, seed=1)
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


def _losses(size: int, widths: tuple[int, ...]) -> dict[str, Way]:
    random = torch.Generator().manual_seed(1)
    user_BD, item_BD, negative_ND = (torch.randn(size, widths[-1], generator=random).requires_grad_() for _ in range(3))
    item_B, negative_N = (torch.randint(20 * size, (size,), generator=random) for _ in range(2))

    def fused(of: tuple[int, ...]) -> Way:
        softmax = MatryoshkaSoftmax(of, temperature=_TEMPERATURE)
        return _backward(
            lambda: softmax(user_BD, item_BD, negative_ND, item_B=item_B, negative_N=negative_N)[0],
            (user_BD, item_BD, negative_ND),
        )

    def naive() -> Tensor:
        shift_BN = torch.where(item_B[:, None] == negative_N, -torch.inf, 0.0)
        target_B = torch.zeros(size, dtype=torch.int64)
        losses = []
        for width in widths:
            user_Bw, item_Bw, negative_Nw = (normalize(one[:, :width]) for one in (user_BD, item_BD, negative_ND))
            positive_B1 = (user_Bw * item_Bw).sum(dim=1, keepdim=True)
            logits = torch.cat([positive_B1, user_Bw @ negative_Nw.T + shift_BN], dim=1)
            losses.append(cross_entropy(logits / _TEMPERATURE, target_B))
        return torch.stack(losses).mean()

    by_loop = _backward(naive, (user_BD, item_BD, negative_ND))
    return {"loss, all widths": fused(widths), "loss, full width": fused(widths[-1:]), "loss, loop": by_loop}


def _backward(loss: Callable[[], Tensor], leaves: tuple[Tensor, ...]) -> Way:
    def run() -> None:
        for leaf in leaves:
            leaf.grad = None
        loss().backward()  # type: ignore[no-untyped-call]

    return run


def _steps(folder: Path, config: TrainConfig, stack: ExitStack, *, quick: bool) -> dict[str, Way]:
    scale = 1 if quick else 50
    world = SimulatedWorld(num_users=400 * scale, num_items=400 * scale, num_events=8_000 * scale)
    log = world.write(folder / "log") / "interactions.parquet"
    prepare(
        PrepareOptions(
            out=folder / "dataset", interactions=str(log), time_column="timestamp", protocol="leave-last-out"
        )
    )
    stack.enter_context(silenced())
    process = stack.enter_context(joined("cpu"))
    dataset = Dataset(folder / "dataset")

    def trainer_of(name: str, one: TrainConfig) -> Trainer:
        trainer = Trainer(TrainOptions(dataset=dataset.path, out=folder / name, config=one), dataset, process)
        trainer.sharded.model.train()
        return trainer

    ways = {}
    configs = {"step, all widths": config, "step, full width": replace(alone(config, config.model.widths[-1]))}
    for name, one in configs.items():
        trainer = trainer_of(name, one)
        ways[name] = _step_of(trainer, partial(trainer.step, done=0.0))
    for name, loss in {"step, plain torch": plain_loss, "step, plain torch, our loss": our_loss}.items():
        # A trainer of its own makes the twin's weights and batches: nothing else of it is used.
        trainer = trainer_of(name, config)
        ways[name] = _step_of(trainer, PlainTraining(trainer, loss).step)
    return ways


def _step_of(trainer: Trainer, step: Callable[[Inputs], list[float]]) -> Way:
    """Return what draws the trainer's next batch and learns from it."""

    def endless() -> Iterator[Inputs]:
        while True:
            yield from trainer.batches()
            trainer.progress.epoch += 1

    batches = endless()

    def run() -> None:
        step(next(batches))

    return run


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


def _take_turns(ways: dict[str, Way], *, num_turns: int, seed: int) -> dict[str, dict[str, list[float]]]:
    """Return each way's seconds by each clock, without two turns that warm up."""
    random, names = np.random.default_rng(seed), list(ways)
    took: dict[str, dict[str, list[float]]] = {name: {"wall": [], "cpu": []} for name in names}
    for turn in range(-2, num_turns):
        for place in random.permutation(len(names)):
            name = names[place]
            clock, cpu = time.perf_counter(), time.process_time()
            ways[name]()
            seconds = {"wall": time.perf_counter() - clock, "cpu": time.process_time() - cpu}
            if turn >= 0:
                for kind, value in seconds.items():
                    took[name][kind].append(value)
    return took


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
