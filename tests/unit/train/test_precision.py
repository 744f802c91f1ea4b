from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from recsys.config import LossConfig, ModelConfig, TrainConfig
from recsys.data.dataset import Dataset
from recsys.errors import ConfigError, TrainingError
from recsys.model.best import load_towers
from recsys.train.checkpoint import export_towers
from recsys.train.noise import silenced
from recsys.train.process import joined
from recsys.train.trainer import Trainer, TrainOptions, train

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
        batches = trainer.batches()
        losses = [trainer.step(batches) for _ in range(8)]
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


@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "adagrad"])
def test_tables_in_halves_learn_are_resumed_and_exported_whole(simulated, tmp_path, optimizer):
    plain = replace(CONFIG, device="cpu", table_optimizer=optimizer, epochs=2)
    config = replace(plain, table_precision="fp16")
    losses, _, kinds, towers = several_steps(simulated, tmp_path / "fp16", config)
    assert kinds == {torch.float16, torch.float32}
    assert {weight.dtype for weight in towers.state_dict().values()} == {torch.float32}
    expected, _, _, _ = several_steps(simulated, tmp_path / "float32", plain)
    torch.testing.assert_close(losses, expected, rtol=2e-3, atol=2e-3)
    config = replace(config, batch_size=200)  # few steps
    whole = train(TrainOptions(dataset=simulated, out=tmp_path / "whole", config=config))
    run = train(TrainOptions(dataset=simulated, out=tmp_path / "run", config=replace(config, epochs=1)))
    train(TrainOptions(dataset=simulated, out=run, config=config, resume=True))
    (of_whole, _), (of_run, _) = load_towers(whole), load_towers(run)
    for name, weight in of_whole.state_dict().items():
        assert torch.equal(of_run.state_dict()[name], weight), name
    other = TrainOptions(
        dataset=simulated, out=run, config=replace(plain, batch_size=200, epochs=3), resume=True, allow_changes=True
    )
    with pytest.raises(TrainingError, match='another model: table_precision: was "fp16", is null'):
        train(other)


def test_adam_has_no_halves():
    with pytest.raises(ConfigError, match="table_precision: got 'fp16', expected float32 with table_optimizer adam"):
        replace(CONFIG, table_precision="fp16", table_optimizer="adam", table_learning_rate=0.01)


def test_other_precisions_are_refused():
    with pytest.raises(ConfigError, match="precision: got 'fp8', expected one of float32, bf16"):
        replace(CONFIG, precision="fp8")
