from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from recsys.config import LossConfig, ModelConfig, TrainConfig
from recsys.data.dataset import Dataset
from recsys.train.noise import silenced
from recsys.train.process import joined
from recsys.train.sharding import gather
from recsys.train.trainer import Trainer, TrainOptions

CONFIG = TrainConfig(
    model=ModelConfig(
        widths=(4, 8), embedding_dim=8, hidden=(64,), history_windows=(1, 5), dropout=0.3, input_dropout=0.1,
        user_id=True, item_id_dropout=0.2,
    ),
    loss=LossConfig(num_batch_negatives=0, num_uniform_negatives=40),
    batch_size=48,
    device="cpu",
)  # fmt: skip
SEQUENCE = {"history": "sequence", "sequence_length": 6, "time_bias": True}


def one_step(simulated, folder, config):
    """Take one step; return its losses, its dense gradients, the weights after it, and the bytes kept going forward."""
    kept = {}

    def keep(tensor):
        kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with silenced(), joined("cpu") as process:
        trainer = Trainer(TrainOptions(dataset=simulated, out=folder, config=config), Dataset(simulated), process)
        trainer.sharded.model.train()
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            losses = trainer.step(trainer.batches())
        gradients = {name: one.grad for name, one in trainer.sharded.dense_optimizer.params.items()}
        weights = {name: gather(one, process).clone() for name, one in trainer.sharded.model.state_dict().items()}
    return losses, gradients, weights, sum(kept.values())


@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "adam"])
@pytest.mark.parametrize("model", [{}, {"history": "attention"}, SEQUENCE], ids=["mean", "attention", "sequence"])
def test_the_step_is_that_of_the_whole_batch(simulated, tmp_path, model, optimizer):
    config = replace(CONFIG, model=replace(CONFIG.model, **model), table_optimizer=optimizer)
    losses, gradients, weights, kept_bytes = one_step(simulated, tmp_path / "whole", config)
    config = replace(config, num_micro_batches=5)
    of_parts, part_gradients, part_weights, part_kept_bytes = one_step(simulated, tmp_path / "parts", config)
    torch.testing.assert_close(torch.tensor(of_parts), torch.tensor(losses))
    assert gradients
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            part_gradients[name], gradient, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
    for name in (name for name in weights if name.startswith("tables.")):
        torch.testing.assert_close(
            part_weights[name], weights[name], rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
    assert part_kept_bytes < kept_bytes


def test_there_may_be_more_micro_batches_than_rows(simulated, tmp_path):
    config = replace(CONFIG, batch_size=2, loss=LossConfig(num_uniform_negatives=3))
    _, gradients, _, _ = one_step(simulated, tmp_path / "whole", config)
    _, part_gradients, _, _ = one_step(simulated, tmp_path / "parts", replace(config, num_micro_batches=9))
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            part_gradients[name], gradient, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )
