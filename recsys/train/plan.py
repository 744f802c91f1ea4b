"""Where tables go, what each process holds then, and whether it has the memory: known before anything is allocated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.optim import _apply_optimizer_in_backward as apply_optimizer_in_backward
from torchrec.distributed.collective_utils import invoke_on_rank_and_broadcast_result
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import CustomTopologyData, ParameterConstraints, PlannerError, PlannerErrorType
from torchrec.distributed.types import EmbeddingModuleShardingPlan, ModuleSharder, ShardingPlan, ShardingType
from torchrec.optim import Adagrad, RowWiseAdagrad

from recsys.config import TablePrecision, TrainConfig
from recsys.errors import ConfigError
from recsys.model.layout import Layout
from recsys.model.two_tower import TwoTower
from recsys.progress import size_text
from recsys.train.memory import available_bytes
from recsys.train.process import Process

# Row-wise Adagrad keeps one number per row, so rows stay whole; the fused kernel optimizes in the backward pass.
_PLACEMENTS = ParameterConstraints(
    sharding_types=[ShardingType.TABLE_WISE.value, ShardingType.ROW_WISE.value],
    compute_kernels=[EmbeddingComputeKernel.FUSED.value],
)

FUSED_OPTIMIZERS = {"rowwise_adagrad": RowWiseAdagrad, "adagrad": Adagrad}

SHARDERS: list[ModuleSharder[nn.Module]] = [EmbeddingBagCollectionSharder()]

_REPLICATED = "replicated"
_TOLD_SHARE = 0.05
"""Of all tables' bytes, what a table must have to be told of by name."""
_RESERVE = 0.25
"""Share of the memory left that is for lookups, activations, the loss and data."""
_NUMBER_BYTES = 4
_TABLE_BYTES: dict[TablePrecision, int] = {"float32": 4, "fp16": 2}
_NUM_LEARNED = 4
"""Numbers per weight that Adam moves: the weight, its gradient and two moments."""


@dataclass(frozen=True, kw_only=True)
class TablePlan:
    """One table's place.

    Args:
        num_rows: rows.
        dim: numbers of a row.
        sharding: ``table_wise``, ``row_wise`` or ``replicated``.
        size_bytes: of its rows and their optimizer's state, in each process.
    """

    num_rows: int
    dim: int
    sharding: str
    size_bytes: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Where tables go, and the memory of each process that is known before training.

    Args:
        tables: by name.
        towers_bytes: in each process, of what is not a table: weights, gradients and moments.
        export_bytes: in the first process, of plain towers, which are made after every epoch; 0 where the trained
            tables are theirs too.
        usable_bytes: in each process, what the above may take: three quarters of what is left.
        sharding: TorchRec's own plan.
    """

    tables: dict[str, TablePlan]
    towers_bytes: int
    export_bytes: int
    usable_bytes: tuple[int, ...]
    sharding: ShardingPlan

    @property
    def needed_bytes(self) -> tuple[int, ...]:
        """What each process needs."""
        return tuple(
            sum(table.size_bytes[rank] for table in self.tables.values())
            + self.towers_bytes
            + (self.export_bytes if rank == 0 else 0)
            for rank in range(len(self.usable_bytes))
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "tables": {name: vars(table) for name, table in self.tables.items()},
            "towers_bytes": self.towers_bytes,
            "export_bytes": self.export_bytes,
            "needed_bytes": self.needed_bytes,
            "usable_bytes": self.usable_bytes,
        }

    def lines(self) -> list[str]:
        """Return what a person reads of it."""
        shares = zip(self.needed_bytes, self.usable_bytes, strict=True)
        each = (f"{size_text(one)} of {size_text(most)} in process {rank}" for rank, (one, most) in enumerate(shares))
        beside = f"towers {size_text(self.towers_bytes)} in each"
        if self.export_bytes:
            beside += f"; exporting them {size_text(self.export_bytes)} in process 0"
        total = sum(map(sum, (table.size_bytes for table in self.tables.values())))
        told = {name: one for name, one in self.tables.items() if sum(one.size_bytes) >= _TOLD_SHARE * total}
        size = max(map(len, told))
        lines = [
            f"memory planned: {', '.join(each)} ({beside})",
            *(
                f"  table {name:<{size}}  {table.num_rows:>11,} x {table.dim:<4} {table.sharding:<10}  "
                + " ".join(size_text(one) if one else "-" for one in table.size_bytes)
                for name, table in told.items()
            ),
        ]
        if left := len(self.tables) - len(told):
            less = total - sum(sum(one.size_bytes) for one in told.values())
            lines.append(f"  and {left} smaller ones, {size_text(less)} together")
        return lines


def plan_tables(layout: Layout, config: TrainConfig, process: Process) -> Plan:
    """Decide where tables go; every process must call, and gets the same plan.

    Raises:
        ConfigError: some process has too little memory.
    """
    with torch.device("meta"):
        model = TwoTower(layout, device=torch.device("meta"), table_precision=config.table_precision)
    towers_bytes, export_bytes = _beside_tables(model, layout, config, process)
    usable = tuple(int((1 - _RESERVE) * left) for left in process.each(available_bytes(process)))
    free = [max(0, most - towers_bytes - (rank == 0) * export_bytes) for rank, most in enumerate(usable)]
    is_spread = config.table_optimizer in FUSED_OPTIMIZERS
    sharding = _spread(model, layout, config, process, free) if is_spread else ShardingPlan(plan={})
    places = _places(sharding) if is_spread else _everywhere(layout, process.world_size)
    dim, row_bytes = layout.config.embedding_dim, _row_bytes(layout, config)
    plan = Plan(
        tables={
            name: TablePlan(
                num_rows=layout.tables[name],
                dim=dim,
                sharding=kind,
                size_bytes=tuple(rows.get(rank, 0) * row_bytes for rank in range(process.world_size)),
            )
            for name, (kind, rows) in places.items()
        },
        towers_bytes=towers_bytes,
        export_bytes=export_bytes,
        usable_bytes=usable,
        sharding=sharding,
    )
    if not places or any(needed > most for needed, most in zip(plan.needed_bytes, usable, strict=True)):
        raise _too_large(layout, row_bytes, plan, is_spread=is_spread)
    return plan


def _row_bytes(layout: Layout, config: TrainConfig) -> int:
    """Return the bytes of a row, its mean, its optimizer's float32 state, and the gradient that Adam reads."""
    dim = layout.config.embedding_dim
    num_state = {"rowwise_adagrad": 1, "adagrad": dim, "adam": (_NUM_LEARNED - 1) * dim}[config.table_optimizer]
    num_copies = 2 if config.averaged_epochs > 1 else 1
    return num_copies * _TABLE_BYTES[config.table_precision] * dim + _NUMBER_BYTES * num_state


def _beside_tables(model: TwoTower, layout: Layout, config: TrainConfig, process: Process) -> tuple[int, int]:
    """Return the bytes of what is not a table, and of plain towers in the first process."""
    num_weights = sum(weight.numel() for name, weight in model.named_parameters() if not name.startswith("tables."))
    # Plain towers are on the host, whose memory the tables' device need not share. Shards pass through the device.
    num_rows = sum(layout.tables.values()) if process.device.type == "cpu" else 0
    num_rows += 0 if process.is_alone else max(layout.tables.values())
    if process.is_alone and config.table_precision == "float32":
        num_rows = 0
    num_copies = _NUM_LEARNED + (config.averaged_epochs > 1)
    return num_weights * _NUMBER_BYTES * num_copies, num_rows * layout.config.embedding_dim * _NUMBER_BYTES


def _spread(
    model: TwoTower, layout: Layout, config: TrainConfig, process: Process, free_bytes: Sequence[int]
) -> ShardingPlan:
    """Ask TorchRec's planner; its plan is empty where tables fit in no way."""
    apply_optimizer_in_backward(FUSED_OPTIMIZERS[config.table_optimizer], model.tables.parameters(), {"lr": 1.0})
    kind = "ddr_cap" if process.device.type == "cpu" else "hbm_cap"
    planner = EmbeddingShardingPlanner(
        topology=Topology(
            world_size=process.world_size,
            compute_device=process.device.type,
            custom_topology_data=CustomTopologyData({kind: list(free_bytes)}, process.world_size),
        ),
        storage_reservation=FixedPercentageStorageReservation(percentage=0.0),
        constraints=dict.fromkeys(layout.tables, _PLACEMENTS),
    )

    def plan() -> ShardingPlan:
        try:
            return planner.plan(model, SHARDERS)
        except PlannerError as error:
            if error.error_type is PlannerErrorType.INSUFFICIENT_STORAGE or not any(free_bytes):
                return ShardingPlan(plan={})
            raise

    # The first one's decision counts; all must hear of a failure too.
    assert dist.GroupMember.WORLD is not None
    return invoke_on_rank_and_broadcast_result(dist.GroupMember.WORLD, 0, plan)


_Places = dict[str, tuple[str, dict[int, int]]]
"""By table: how it is spread, and its rows by process."""


def _places(sharding: ShardingPlan) -> _Places:
    places: _Places = {}
    for module in sharding.plan.values():
        assert isinstance(module, EmbeddingModuleShardingPlan)
        for name, parameter in module.items():
            rows: dict[int, int] = {}
            for shard in parameter.sharding_spec.shards:
                rank = shard.placement.rank()
                rows[rank] = rows.get(rank, 0) + shard.shard_sizes[0]
            places[name] = parameter.sharding_type, rows
    return places


def _everywhere(layout: Layout, world_size: int) -> _Places:
    return {name: (_REPLICATED, dict.fromkeys(range(world_size), rows)) for name, rows in layout.tables.items()}


def _too_large(layout: Layout, row_bytes: int, plan: Plan, *, is_spread: bool) -> ConfigError:
    dim, usable = layout.config.embedding_dim, plan.usable_bytes
    sizes = {name: rows * row_bytes for name, rows in layout.tables.items()}
    largest = sorted(sizes, key=lambda name: -sizes[name])
    each = "; ".join(f"{name} {layout.tables[name]:,} x {dim}: {size_text(sizes[name])}" for name in largest)
    processes = f"{len(usable)} processes" if len(usable) > 1 else "1 process"
    return ConfigError(
        f"embedding_dim: got {dim}, with which tables need {size_text(sum(sizes.values()))} "
        f"{'spread over' if is_spread else 'in each of'} {processes} ({each}), beside "
        f"{size_text(plan.towers_bytes)} in each for the towers and {size_text(plan.export_bytes)} in process 0 for "
        f"exporting them; expected what fits into {', '.join(map(size_text, usable))}: three quarters of the memory "
        "that each has left. Lower it, or use more processes"
        + ("" if is_spread else ", or table_optimizer rowwise_adagrad, which spreads tables over them")
    )
