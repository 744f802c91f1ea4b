"""A small training run, with what it leaves in its folder."""

from __future__ import annotations

import json
from dataclasses import replace

from safetensors.torch import load_file

from recsys.config import LossConfig, ModelConfig, TrainConfig
from recsys.train.trainer import TrainOptions

CONFIG = TrainConfig(
    model=ModelConfig(widths=(4, 8), embedding_dim=8, hidden=(16,), history_windows=(1, 5), dropout=0.2),
    loss=LossConfig(num_uniform_negatives=16, temperature=(0.1,)),
    batch_size=128,
    epochs=3,
    device="cpu",
)
TIMES = ("seconds", "examples_per_s", "data_wait_share")


def options(simulated, folder, **changes):
    config = replace(CONFIG, **{name: changes.pop(name) for name in list(changes) if hasattr(CONFIG, name)})
    return TrainOptions(dataset=simulated, out=folder, config=config, **changes)


def record_of(folder):
    history = record_with_times(folder)
    return [{name: value for name, value in record.items() if name not in TIMES} for record in history]


def newest(folder):
    return sorted((folder / "checkpoints").glob("step-*"))[-1]


def record_with_times(folder):
    return json.loads((newest(folder) / "progress.json").read_text())["history"]


def weights(folder):
    return load_file(folder / "towers" / "towers.safetensors")
