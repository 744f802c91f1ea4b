"""The same model and step in plain PyTorch, as one would write them by hand: what the trainer's step is compared with.

Tables are `torch.nn.EmbeddingBag` with sparse gradients, which `torch.optim.Adagrad` applies; towers are linear layers,
learned by the trainer's own kind of AdamW; the loss is a loop over widths. Whatever costs nothing to do well is done
well, so that no more is compared than the parts themselves: one lookup serves all inputs of a table, every distinct
item of a batch is encoded once, as batches have it, scores are divided by the temperature where they are vectors still,
and logQ is added as products are made.

Shapes: ``user_BD`` (batch, full width), ``item_SD`` (distinct items, full width), ``negative_ND``; ``w`` a width, ``L``
widths; ``E`` the tables' dimensions, ``C`` inputs x ``E``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from recsys.config import LossConfig, ModelConfig, TrainConfig
from recsys.model import MatryoshkaSoftmax
from recsys.model.layout import Layout
from recsys.model.losses.samples import Samples
from recsys.model.two_tower import Batch
from recsys.train.inputs import Inputs
from recsys.train.sharding import exported_name, gather
from recsys.train.trainer import Trainer

Loss = Callable[[Tensor, Tensor, Samples], tuple[Tensor, Tensor]]
"""From unnormalised ``user_BD``, ``item_SD`` and which of them meet to the loss and, detached, each width's own."""


class PlainTower(nn.Module):
    """`recsys.model.tower.Tower` without what that does for several processes and for other heads.

    Args:
        num_inputs: pooled embeddings that are concatenated.
        config: the model's settings.
    """

    def __init__(self, num_inputs: int, config: ModelConfig) -> None:
        super().__init__()
        size = width = num_inputs * config.embedding_dim
        layers: list[nn.Module] = []
        for hidden in config.hidden:
            layers += [nn.Linear(width, hidden), nn.GELU(), nn.Dropout(config.dropout)]
            width = hidden
        self.deep = nn.Sequential(*layers)
        self.projection = nn.Linear(size + width if layers else size, config.widths[-1])

    def forward(self, pooled_BC: Tensor) -> Tensor:
        """Return ``(batch, full width)`` unnormalised vectors."""
        hidden_BH = torch.cat([pooled_BC, self.deep(pooled_BC)], dim=1) if len(self.deep) else pooled_BC
        vector_BD: Tensor = self.projection(hidden_BH)
        return vector_BD


class PlainTwoTower(nn.Module):
    """`recsys.model.two_tower.TwoTower` with means over windows, tied heads and projections.

    Args:
        layout: tables and inputs.
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        config = layout.config
        assert config.history in ("mean", "none"), f"history: got {config.history}"
        assert config.head == "tied", f"head: got {config.head}"
        assert config.projection, "projection: got none"
        assert config.input_dropout == config.item_id_dropout == 0, "inputs: got a share that is dropped"
        assert not config.item_input_dropout, "inputs: got a share of items' that is dropped"
        self.layout = layout
        self.tables = nn.ModuleDict(
            {
                table: nn.EmbeddingBag(rows, config.embedding_dim, mode="mean", sparse=True)
                for table, rows in layout.tables.items()
            }
        )
        self.user_tower = PlainTower(len(layout.user_inputs), config)
        self.item_tower = PlainTower(len(layout.item_inputs), config)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return unnormalised vectors of users, ``(batch, full width)``, and of the batch's distinct items."""
        bags, pooled = batch.features.to_dict(), dict[str, Tensor]()
        sizes = {source.name: batch.num_lists for source in self.layout.user_inputs}
        sizes |= {source.name: batch.num_samples for source in self.layout.item_inputs}
        for table, lookup in self.tables.items():
            names = [source.name for source in self.layout.inputs if source.table == table]
            # The shorter side is filled up with empty bags, which need not be looked up.
            length_G = torch.cat([bags[name].lengths()[: sizes[name]] for name in names])
            bag_GE = lookup(torch.cat([bags[name].values() for name in names]), length_G.cumsum(0) - length_G)
            pooled |= zip(names, bag_GE.split([sizes[name] for name in names]), strict=True)
        user_BC = torch.cat([pooled[source.name] for source in self.layout.user_inputs], dim=1)
        item_SC = torch.cat([pooled[source.name] for source in self.layout.item_inputs], dim=1)
        return self.user_tower(user_BC), self.item_tower(item_SC)


def plain_loss(config: TrainConfig) -> Loss:
    """Return a loop over widths: cut, scaled, multiplied, put through torch's cross-entropy."""
    widths, weight_L = config.model.widths, _per_width(config, config.loss.weights)
    temperatures = _per_width(config, config.loss.temperature).tolist()

    def loss(user_BD: Tensor, item_SD: Tensor, samples: Samples) -> tuple[Tensor, Tensor]:
        item_BD, negative_ND, item_B, negative_N = _met(item_SD, samples)
        # A negative that is the row's own positive does not count.
        shift_BN = torch.where(item_B[:, None] == negative_N, -torch.inf, samples.log_weight_N)
        target_B = torch.zeros_like(item_B)
        losses = []
        for width, temperature in zip(widths, temperatures, strict=True):
            user_Bw, item_Bw, negative_Nw = (normalize(one[:, :width]) for one in (user_BD, item_BD, negative_ND))
            user_Bw = user_Bw / temperature
            positive_B1 = (user_Bw * item_Bw).sum(dim=1, keepdim=True)
            logits = torch.cat([positive_B1, torch.addmm(shift_BN, user_Bw, negative_Nw.T)], dim=1)
            losses.append(cross_entropy(logits, target_B))
        loss_L = torch.stack(losses)
        return (weight_L * loss_L).sum() / weight_L.sum(), loss_L.detach()

    return loss


def our_loss(config: TrainConfig) -> Loss:
    """Return `recsys.model.MatryoshkaSoftmax`, called as anybody would call it."""
    softmax = MatryoshkaSoftmax(
        config.model.widths, temperature=config.loss.temperature, weights=config.loss.weights, norm=config.model.norm
    )

    def loss(user_BD: Tensor, item_SD: Tensor, samples: Samples) -> tuple[Tensor, Tensor]:
        item_BD, negative_ND, item_B, negative_N = _met(item_SD, samples)
        found: tuple[Tensor, Tensor] = softmax(
            user_BD, item_BD, negative_ND, item_B=item_B, negative_N=negative_N, log_expected_N=-samples.log_weight_N
        )
        return found

    return loss


class PlainTraining:
    """Steps of the twin, from the weights that a trainer has, on batches that a trainer gives.

    Args:
        trainer: of one process on a CPU, with float32 tables that learn by a kind of Adagrad.
        loss: `plain_loss` or `our_loss`.
    """

    def __init__(self, trainer: Trainer, loss: Callable[[TrainConfig], Loss]) -> None:
        config, process = trainer.config, trainer.process
        _check(config.loss)
        assert process.world_size == 1, f"processes: got {process.world_size}"
        assert config.model.norm == "prefix", f"norm: got {config.model.norm}"
        self.model, self.loss = PlainTwoTower(trainer.layout), loss(config)
        weights: dict[str, Any] = {
            exported_name(name).replace("tower.head.", "tower."): gather(value, process)
            for name, value in trainer.sharded.model.state_dict().items()
        }
        self.model.load_state_dict(weights)
        self.table_optimizer = torch.optim.Adagrad(
            self.model.tables.parameters(), lr=config.table_learning_rate, eps=1e-8
        )
        self.dense_optimizer = torch.optim.AdamW(
            [*self.model.user_tower.parameters(), *self.model.item_tower.parameters()],
            lr=config.dense_learning_rate,
            weight_decay=config.weight_decay,
            fused=True,
        )

    def step(self, inputs: Inputs) -> list[float]:
        """Learn from one batch; return the loss at each width."""
        for optimizer in (self.table_optimizer, self.dense_optimizer):
            optimizer.zero_grad()
        user_BD, item_SD = self.model(inputs.batch)
        loss, loss_L = self.loss(user_BD, item_SD, inputs.samples)
        loss.backward()  # type: ignore[no-untyped-call]
        # Adagrad makes sparse tensors of parts that are right already; torch asks to be told that it need not look.
        with torch.sparse.check_sparse_tensor_invariants(False):  # type: ignore[no-untyped-call]
            self.table_optimizer.step()
        self.dense_optimizer.step()
        losses: list[float] = loss_L.tolist()
        return losses


def _met(item_SD: Tensor, samples: Samples) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return vectors of each row's positive and of the negatives, and whose they are."""
    assert len(samples.row_P) == len(samples.user_V), "rows: got some with another number of positives than one"
    # Unlike indexing, this adds up its gradient in one pass.
    item_BD, negative_ND = (item_SD.index_select(0, place) for place in (samples.positive_P, samples.negative_N))
    return item_BD, negative_ND, samples.item_S[samples.positive_P], samples.item_S[samples.negative_N]


def _per_width(config: TrainConfig, given: tuple[float, ...]) -> Tensor:
    return torch.tensor(given).expand(len(config.model.widths))


def _check(loss: LossConfig) -> None:
    assert loss.kind == "sampled_softmax", f"kind: got {loss.kind}"
    for name in ("learn_temperature", "learn_weights", "queue_size", "num_hard_negatives", "distillation"):
        assert not getattr(loss, name), f"{name}: got {getattr(loss, name)}"
    assert loss.energy_weight == 0, f"energy_weight: got {loss.energy_weight}"
