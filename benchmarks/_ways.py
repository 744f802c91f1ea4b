"""Ways to train one step or one loss, as benchmarks time them: the trainer's, its plain twin's, a loop over widths.

Shapes: ``user_BD`` (batch, full width), ``item_BD`` the positives, ``negative_ND``; ``shift_BN`` added to logits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from benchmarks._experiment import alone
from benchmarks._plain_torch import PlainTraining, our_loss, plain_loss
from recsys.config import TrainConfig
from recsys.data.dataset import Dataset
from recsys.data.options import PrepareOptions
from recsys.data.prepare import prepare
from recsys.data.synthetic import SimulatedWorld
from recsys.model import MatryoshkaSoftmax
from recsys.train.inputs import Inputs
from recsys.train.noise import silenced
from recsys.train.process import joined
from recsys.train.trainer import Trainer, TrainOptions

Way = Callable[[], object]
_TEMPERATURE = 0.07


def loss_ways(size: int, widths: tuple[int, ...], *, device: torch.device) -> dict[str, Way]:
    """Return the loss forward and backward: of all widths, of the full one alone, and a loop over widths.

    Args:
        size: rows, and as many negatives.
        widths: the trained widths.
        device: where the vectors are.
    """
    random = torch.Generator().manual_seed(1)
    user_BD, item_BD, negative_ND = (
        torch.randn(size, widths[-1], generator=random).to(device).requires_grad_() for _ in range(3)
    )
    item_B, negative_N = (torch.randint(20 * size, (size,), generator=random).to(device) for _ in range(2))

    def fused(of: tuple[int, ...]) -> Way:
        softmax = MatryoshkaSoftmax(of, temperature=_TEMPERATURE)
        return _backward(
            lambda: softmax(user_BD, item_BD, negative_ND, item_B=item_B, negative_N=negative_N)[0],
            (user_BD, item_BD, negative_ND),
        )

    def naive() -> Tensor:
        shift_BN = torch.where(item_B[:, None] == negative_N, -torch.inf, 0.0)
        target_B = torch.zeros(size, dtype=torch.int64, device=device)
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


def step_ways(folder: Path, config: TrainConfig, stack: ExitStack, *, scale: int, twins: bool) -> dict[str, Way]:
    """Return whole steps of training on a simulated log, from drawing a batch to the optimizers' last word.

    Args:
        folder: for the log, the dataset and the runs.
        config: what is trained, and on which device.
        stack: keeps the process group.
        scale: 400 users, 400 items and 8,000 events, so many times.
        twins: the same in plain PyTorch too, with a loop over widths and with our loss.
    """
    world = SimulatedWorld(num_users=400 * scale, num_items=400 * scale, num_events=8_000 * scale)
    log = world.write(folder / "log") / "interactions.parquet"
    prepare(
        PrepareOptions(
            out=folder / "dataset", interactions=str(log), time_column="timestamp", protocol="leave-last-out"
        )
    )
    stack.enter_context(silenced())
    process = stack.enter_context(joined(config.device))
    dataset = Dataset(folder / "dataset")

    def trainer_of(name: str, one: TrainConfig) -> Trainer:
        trainer = Trainer(TrainOptions(dataset=dataset.path, out=folder / name, config=one), dataset, process)
        trainer.sharded.model.train()
        return trainer

    ways = {}
    configs = {"step, all widths": config, "step, full width": alone(config, config.model.widths[-1])}
    for name, one in configs.items():
        trainer = trainer_of(name, one)
        ways[name] = _step_of(trainer, trainer.step)
    plain = {"step, plain torch": plain_loss, "step, plain torch, our loss": our_loss} if twins else {}
    for name, loss in plain.items():
        # A trainer of its own makes the twin's weights and batches: nothing else of it is used.
        trainer = trainer_of(name, config)
        ways[name] = _step_of(trainer, partial(_plain_step, PlainTraining(trainer, loss)))
    return ways


def _plain_step(twin: PlainTraining, batches: Iterator[Inputs]) -> list[float]:
    return twin.step(next(batches))


def _step_of(trainer: Trainer, step: Callable[[Iterator[Inputs]], list[float]]) -> Way:
    """Return what draws the trainer's next batch and learns from it."""

    def endless() -> Iterator[Inputs]:
        while True:
            yield from trainer.batches()
            trainer.progress.epoch += 1

    batches = endless()

    def run() -> None:
        step(batches)

    return run


def take_turns(
    ways: dict[str, Way], *, num_turns: int, seed: int, settle: Way = lambda: None
) -> dict[str, dict[str, list[float]]]:
    """Return each way's seconds by each clock, without two turns that warm up.

    Args:
        ways: by name.
        num_turns: of each.
        seed: fixes the order of each round.
        settle: waits for what a way has only begun.
    """
    random, names = np.random.default_rng(seed), list(ways)
    took: dict[str, dict[str, list[float]]] = {name: {"wall": [], "cpu": []} for name in names}
    for turn in range(-2, num_turns):
        for place in random.permutation(len(names)):
            name = names[place]
            settle()
            clock, cpu = time.perf_counter(), time.process_time()
            ways[name]()
            settle()
            seconds = {"wall": time.perf_counter() - clock, "cpu": time.process_time() - cpu}
            if turn >= 0:
                for kind, value in seconds.items():
                    took[name][kind].append(value)
    return took
