"""Put a model's tables where they are planned, and give everything its optimizer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torch.distributed.optim import _apply_optimizer_in_backward as apply_optimizer_in_backward
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.optim.keyed import KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

from recsys.config import Precision, TrainConfig
from recsys.model.layout import Layout
from recsys.model.losses.matryoshka import MatryoshkaLoss
from recsys.model.two_tower import Batch, TwoTower
from recsys.train.averaging import WeightAverage
from recsys.train.initial import initialise_tables
from recsys.train.plan import FUSED_OPTIMIZERS, SHARDERS, Plan
from recsys.train.pretrained import Pretrained
from recsys.train.process import Process

AVERAGE = "average/"
"""What the names of means of weights begin with."""


@dataclass(frozen=True)
class Sharded:
    """A model spread over the process group.

    Args:
        model: TorchRec's wrapper; call it like `TwoTower`.
        loss: the same on every rank; call it like `MatryoshkaLoss`. What it learns, it learns from all ranks.
        dense_optimizer: AdamW over the towers and the loss, and over tables that learn by Adam. The others' optimizer
            needs no call: it runs in the backward pass.
        precision: in what the towers compute.
        described: what the tensors' names and sizes follow from, as plain values.
        average: the mean of the weights that towers are made of; None where they are made of the weights themselves.
    """

    model: DistributedModelParallel
    loss: MatryoshkaLoss | DistributedDataParallel
    dense_optimizer: KeyedOptimizerWrapper
    precision: Precision
    described: dict[str, Any]
    average: WeightAverage | None = None

    @property
    def kept(self) -> Mapping[str, Any]:
        """The weights that towers are made of, by name."""
        weights: Mapping[str, Any] = self.model.state_dict() if self.average is None else self.average.tensors
        return weights

    @property
    def plain_loss(self) -> MatryoshkaLoss:
        """The loss itself, to read what it has learned."""
        loss: MatryoshkaLoss = self.loss.module if isinstance(self.loss, DistributedDataParallel) else self.loss
        return loss

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return what the model does, as float32 whatever it computes in."""
        is_mixed = self.precision == "bf16"
        with torch.autocast(batch.features.device().type, dtype=torch.bfloat16, enabled=is_mixed):
            user_VU, item_SD = self.model(batch)
        return user_VU.float(), item_SD.float()

    def scale_rates(self, share: float) -> None:
        """Make every learning rate from the next step on this share of the configured one."""
        for optimizer in (self.dense_optimizer, self.model.fused_optimizer):
            for group in optimizer.param_groups:
                group["lr"] = group.setdefault("initial_lr", group["lr"]) * share
        self.model.fused_optimizer.zero_grad()  # which is how it takes its rate to the kernel

    def tensors(self) -> dict[str, Any]:
        """Return every tensor that training changes, by name, not copied: weights, means, both optimizers' state."""
        state = {f"model/{name}": value for name, value in self.model.state_dict().items()}
        state |= {f"loss/{name}": value for name, value in self.loss.state_dict().items()}
        if self.average is not None:
            state |= {f"{AVERAGE}{name}": value for name, value in self.average.tensors.items()}
        for kind, optimizer in (("tables", self.model.fused_optimizer), ("dense", self.dense_optimizer)):
            for parameter, values in optimizer.state_dict()["state"].items():
                state |= {f"{kind}_optimizer/{parameter}/{name}": value for name, value in values.items()}
        return state


def shard(
    layout: Layout,
    config: TrainConfig,
    process: Process,
    plan: Plan,
    *,
    pretrained: Pretrained | None = None,
    initial: bool = True,
) -> Sharded:
    """Build the model, place it and initialise it; without ``initial``, tables are zeros that a checkpoint will fill.

    Weights do not depend on the number of processes: every one starts the dense layers from the same seed, and draws
    its rows of the tables as they would be in any other division.
    """
    torch.manual_seed(config.seed)
    is_spread = config.table_optimizer in FUSED_OPTIMIZERS
    parallel = _spread(layout, config, process, plan) if is_spread else _replicate(layout, config, process, plan)
    if initial:
        weights = parallel.state_dict()
        tables = {table: weights[f"tables.embedding_bags.{table}.weight"] for table in layout.tables}
        initialise_tables(tables, seed=config.seed, pretrained=pretrained)
    loss: MatryoshkaLoss | DistributedDataParallel = MatryoshkaLoss(config.model.ladder, config.loss).to(process.device)
    if list(loss.parameters()):
        # Its queue of negatives is the same in all processes anyway.
        loss = DistributedDataParallel(loss, broadcast_buffers=False)
    is_averaged = config.averaged_epochs > 1
    return Sharded(
        parallel,
        loss,
        _dense_optimizer(parallel, loss, config),
        config.precision,
        _described(layout, config),
        WeightAverage(parallel.state_dict(), window=config.averaged_epochs) if is_averaged else None,
    )


def _described(layout: Layout, config: TrainConfig) -> dict[str, Any]:
    """Return the model and all that optimizers and the loss hold beside it."""
    content = layout.to_json()
    loss = {name: getattr(config.loss, name) for name in ("learn_temperature", "learn_weights", "queue_size")}
    described = {"model": content.pop("config"), "loss": loss, "table_optimizer": config.table_optimizer} | content
    if config.table_precision != "float32":  # which is what a checkpoint that says nothing of it has
        described["table_precision"] = config.table_precision
    plain: dict[str, Any] = json.loads(json.dumps(described))
    return plain


def _spread(layout: Layout, config: TrainConfig, process: Process, plan: Plan) -> DistributedModelParallel:
    """Describe tables on the meta device, put their shards where they are planned, each with its optimizer."""
    model = TwoTower(
        layout,
        device=torch.device("meta"),
        table_precision=config.table_precision,
        num_micro_batches=config.num_micro_batches,
    )
    apply_optimizer_in_backward(
        FUSED_OPTIMIZERS[config.table_optimizer],
        model.tables.parameters(),
        {"lr": config.table_learning_rate, "eps": 1e-8},
    )
    return DistributedModelParallel(module=model, device=process.device, plan=plan.sharding, sharders=SHARDERS)


def _replicate(layout: Layout, config: TrainConfig, process: Process, plan: Plan) -> DistributedModelParallel:
    """Give every process all tables as plain parameters with dense gradients, averaged like the towers'.

    Adam moves rows that a batch does not touch too, which no fused kernel does. The kernel that TorchRec plans for
    replicated tables has no registered gradient on CPUs (fbgemm-gpu 1.8): torch warns of that.
    """
    model = TwoTower(layout, device=process.device, num_micro_batches=config.num_micro_batches)
    return DistributedModelParallel(module=model, device=process.device, plan=plan.sharding, sharders=[])


def _dense_optimizer(
    model: DistributedModelParallel, loss: MatryoshkaLoss | DistributedDataParallel, config: TrainConfig
) -> KeyedOptimizerWrapper:
    """Return AdamW over all that is not optimized in the backward pass; only the towers' weights decay."""
    of_model = dict(in_backward_optimizer_filter(model.named_parameters()))
    tables = {name: parameter for name, parameter in of_model.items() if name.startswith("tables.")}
    of_loss = {f"loss.{name}": parameter for name, parameter in loss.named_parameters()}
    groups: list[dict[str, Any]] = [{"params": [of_model[name] for name in of_model if name not in tables]}]
    if tables:
        rate = config.table_learning_rate
        groups.append({"params": list(tables.values()), "lr": rate, "weight_decay": 0.0})
    if of_loss:
        groups.append({"params": list(of_loss.values()), "weight_decay": 0.0})
    return KeyedOptimizerWrapper(
        of_model | of_loss,
        lambda _: torch.optim.AdamW(
            groups, lr=config.dense_learning_rate, weight_decay=config.weight_decay, fused=True
        ),
    )


def exported_name(name: str) -> str:
    """Return what a weight of the sharded model is called in `recsys.model.exported.ExportedTowers`."""
    return name.removeprefix("towers.").replace("tables.embedding_bags.", "tables.")


def gather(tensor: Any, process: Process) -> Tensor | None:
    """Collect a tensor that may be spread over the group; every rank must call, rank 0 gets it.

    What rank 0 gets is on the CPU, and perhaps not a copy.
    """
    if isinstance(tensor, ShardedTensor):
        if process.world_size == 1:
            (shard,) = tensor.local_shards()
            return shard.tensor.detach().cpu()
        whole = torch.empty(tensor.size(), dtype=tensor.dtype, device=process.device) if process.is_first else None
        tensor.gather(dst=0, out=whole)
        return whole.cpu() if whole is not None else None
    if isinstance(tensor, DTensor):
        tensor = tensor.full_tensor()
    return tensor.detach().cpu() if process.is_first else None
