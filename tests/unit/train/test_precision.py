from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from recsys.config import LossConfig, ModelConfig, TrainConfig
from recsys.data.dataset import Dataset
from recsys.errors import ConfigError
from recsys.train.checkpoint import export_towers
from recsys.train.noise import silenced
from recsys.train.process import joined
from recsys.train.trainer import Trainer, TrainOptions

CONFIG = TrainConfig(
    model=ModelConfig(widths=(4, 8), embedding_dim=8, hidden=(16,), history_windows=(1, 5), sequence_length=6),
    loss=LossConfig(num_batch_negatives=0, num_uniform_negatives=30),
    batch_size=40,
)


def several_steps(simulated, folder, config):
    """Return the losses of some steps, the kinds of numbers that layers gave, and the trainer's tensors and towers."""
    seen = set()
    with silenced(), joined(config.device) as process:
        trainer = Trainer(TrainOptions(dataset=simulated, out=folder, config=config), Dataset(simulated), process)
        trainer.sharded.model.train()
        for module in trainer.sharded.model.modules():
            if isinstance(module, nn.Linear):
                module.register_forward_hook(lambda _module, _inputs, output: seen.add(output.dtype))
        losses = [trainer.step(inputs, 0.0) for inputs, _ in zip(trainer.batches(), range(8), strict=False)]
        towers = export_towers(trainer.layout, trainer.sharded, process)
        kinds = {one.dtype for name, one in trainer.sharded.tensors().items() if not name.endswith("/step")}
    return torch.tensor(losses), seen, kinds, towers


@pytest.mark.parametrize("history", ["mean", "attention", "sequence"])
@pytest.mark.parametrize("num_micro_batches", [1, 3])
def test_towers_compute_in_halves_and_learn_alike(simulated, tmp_path, device, history, num_micro_batches):
    model = replace(CONFIG.model, history=history)
    config = replace(CONFIG, model=model, device=device.type, num_micro_batches=num_micro_batches)
    losses, seen, _, _ = several_steps(simulated, tmp_path / "float32", config)
    assert seen == {torch.float32}
    mixed, seen, kinds, towers = several_steps(simulated, tmp_path / "bf16", replace(config, precision="bf16"))
    assert seen == {torch.bfloat16}
    assert kinds == {torch.float32}
    assert {weight.dtype for weight in towers.state_dict().values()} == {torch.float32}
    torch.testing.assert_close(mixed, losses, rtol=0.02, atol=0.02)
    assert not torch.equal(mixed, losses)


def test_other_precisions_are_refused():
    with pytest.raises(ConfigError, match="precision: got 'fp8', expected one of float32, bf16"):
        replace(CONFIG, precision="fp8")
