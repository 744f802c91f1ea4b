"""What is kept of a step whose loss is not finite, so that somebody can find out why."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from recsys.train.process import Process

DIVERGED = "diverged"
"""Folder inside the run folder."""


def save_step(
    run: Path, step: int, process: Process, *, tensors: Mapping[str, Tensor], content: dict[str, Any]
) -> Path:
    """Write what this process had of a step and return the step's folder.

    Args:
        run: the run folder.
        step: number of the step, over all passes.
        process: whose part it is.
        tensors: by name: what was looked up, what the loss was told, the vectors it was given.
        content: what else there is to say, as plain values; how many values of each tensor are not finite is added.
    """
    folder = run / DIVERGED / f"step-{step:08d}"
    folder.mkdir(parents=True, exist_ok=True)
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    save_file(plain, folder / f"rank-{process.rank}.safetensors")
    not_finite = {name: int((~torch.isfinite(value)).sum()) for name, value in plain.items()}
    text = json.dumps(content | {"not_finite": not_finite}, indent=2)
    (folder / f"rank-{process.rank}.json").write_text(text + "\n")
    return folder
