"""Steps that overlap learn what steps one after another do."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torchrec.distributed.train_pipeline.runtime_forwards import PipelinedForward
from torchrec.distributed.types import ShardedModule

from recsys.config import LossConfig, ModelConfig, TrainConfig
from recsys.data.dataset import Dataset
from recsys.train.noise import silenced
from recsys.train.process import joined
from recsys.train.trainer import Trainer, TrainOptions

CONFIG = TrainConfig(
    model=ModelConfig(widths=(4, 8), embedding_dim=8, hidden=(16,)),
    loss=LossConfig(num_batch_negatives=0, num_uniform_negatives=16),
    batch_size=64,
    device="cpu",
)
SEQUENCE = {"history": "sequence", "sequence_length": 6, "time_bias": True}


def trained(simulated, folder, config, take_steps):
    """Return what some steps of a fresh trainer return, and the weights after them."""
    with silenced(), joined(config.device) as process:
        trainer = Trainer(TrainOptions(dataset=simulated, out=folder, config=config), Dataset(simulated), process)
        trainer.sharded.model.train()
        losses = take_steps(trainer)
        plain = {name: _plain(one).clone() for name, one in trainer.sharded.model.state_dict().items()}
    return torch.tensor(losses), plain


def pipelined_steps(trainer):
    batches = trainer.batches()
    losses = [trainer.step(batches) for _ in range(trainer.steps_per_epoch)]
    ahead = [module for module in trainer.sharded.model.modules() if isinstance(module, ShardedModule)]
    assert all(isinstance(module.forward, PipelinedForward) for module in ahead)
    assert bool(ahead) is (trainer.config.table_optimizer != "adam")
    # The next pass has an iterator of its own.
    return [*losses, trainer.step(trainer.batches())]


def single_steps(trainer):
    losses = []
    for inputs in [*trainer.batches(), next(trainer.batches())]:
        trainer.sharded.dense_optimizer.zero_grad()
        loss, of_widths = trainer._forward(inputs.to(trainer.process.device))
        loss.backward()
        trainer.sharded.dense_optimizer.step()
        losses.append(of_widths)
    return losses


@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "adam"])
@pytest.mark.parametrize("model", [{}, SEQUENCE], ids=["mean", "sequence"])
def test_what_is_learned_is_the_same(simulated, tmp_path, device, model, optimizer):
    model = replace(CONFIG.model, **model)
    config = replace(CONFIG, model=model, table_optimizer=optimizer, device=device.type)
    losses, weights = trained(simulated, tmp_path / "pipelined", config, pipelined_steps)
    of_single, single_weights = trained(simulated, tmp_path / "single", config, single_steps)
    assert len(losses) > 2
    rounding = {"rtol": 0, "atol": 0} if device.type == "cpu" else {}  # GPUs add in any order
    torch.testing.assert_close(losses, of_single, **rounding)
    for name, weight in single_weights.items():
        torch.testing.assert_close(weights[name], weight, **rounding)


def _plain(value):
    return value.local_shards()[0].tensor if hasattr(value, "local_shards") else value
