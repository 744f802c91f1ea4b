"""Which process of how many this is, on which device: one under plain Python, many under torchrun."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist

from recsys.errors import ConfigError


@dataclass(frozen=True)
class Process:
    """This process's place in the run.

    Args:
        rank: 0 to ``world_size`` - 1; rank 0 writes and reports.
        world_size: number of processes.
        device: where tables and towers live.
    """

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and reports."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """Whether this process has all that is trained, in the host's memory."""
        return self.world_size == 1 and self.device.type == "cpu"

    def broadcast(self, value: float) -> float:
        """Return rank 0's number on every rank."""
        tensor = torch.tensor([value], dtype=torch.float64, device=self.device)
        dist.broadcast(tensor, src=0)
        return float(tensor.item())

    def each(self, value: int) -> list[int]:
        """Return every rank's number, in order, on every rank."""
        received = [torch.zeros(1, dtype=torch.int64, device=self.device) for _ in range(self.world_size)]
        dist.all_gather(received, torch.tensor([value], device=self.device))
        return [int(one.item()) for one in received]

    def any(self, holds: bool) -> bool:
        """Return whether something holds on any rank; every rank must ask."""
        if self.world_size == 1:
            return holds
        tensor = torch.tensor([float(holds)], device=self.device)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return bool(tensor.item())

    def wait(self) -> None:
        """Wait until every rank is here."""
        dist.barrier()

    def mean(self, values: torch.Tensor) -> list[float]:
        """Return the mean over all ranks of each number, on every rank."""
        total = values.detach().to(torch.float64, copy=True)
        dist.all_reduce(total)
        numbers: list[float] = (total / self.world_size).tolist()
        return numbers


@contextlib.contextmanager
def joined(device: str) -> Iterator[Process]:
    """Join the process group that torchrun describes, or make one of a single process; leave it at the end.

    Args:
        device: ``cpu``, ``cuda``, or ``auto`` for CUDA where there is a device. gloo serves the CPU, nccl CUDA.

    Raises:
        ConfigError: ``cuda`` was asked for where there is none.
    """
    chosen = pick_device(device)
    backend = "nccl" if chosen.type == "cuda" else "gloo"
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if "WORLD_SIZE" in os.environ:
        store, rank, world_size = next(dist.rendezvous("env://"))
        # Of workers that were started again, the dead ones' words are still in a store that the agent kept.
        dist.init_process_group(backend, store=dist.PrefixStore(_attempt(), store), rank=rank, world_size=world_size)
    else:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield Process(dist.get_rank(), dist.get_world_size(), chosen)
    finally:
        dist.destroy_process_group()


def is_restarted() -> bool:
    """Whether torchrun has started this process again, after one of the run's had failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def _attempt() -> str:
    """Return what all workers that torchrun started together have in common, and others of one agent have not."""
    # Several agents count restarts each for itself.
    is_of_one_agent = os.environ.get("GROUP_WORLD_SIZE", "1") == "1"
    return f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0') if is_of_one_agent else '0'}"


def may_hang_when_restarted() -> bool:
    """Whether agents on several machines would let workers that they start again meet where the dead ones did.

    torch 2.13 keeps one store for all restarts, whose old entries new workers take for each other's. On one machine
    `joined` tells them apart by the number of restarts.
    """
    of = os.environ.get
    num_agents, restarts = int(of("GROUP_WORLD_SIZE", "1")), int(of("TORCHELASTIC_MAX_RESTARTS", "0"))
    return num_agents > 1 and restarts > 0 and of("TORCHELASTIC_USE_AGENT_STORE") == "True"


def pick_device(device: str) -> torch.device:
    """Turn a setting into a device; under torchrun each process gets the GPU of its local rank."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device: got 'cuda' but torch finds no CUDA device; use 'cpu' or 'auto'")
    if device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
