"""A step's rows in micro-batches: the gradient of the whole, with the activations of a part in memory at a time.

A softmax over a batch's own negatives is not a sum over micro-batches, so what accumulates here are not losses but
gradients of vectors, as in GradCache (arXiv 2101.06983): every part is encoded without keeping what led to its
vectors, the loss sees all vectors at once, and going backward each part is encoded again and then left behind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def encode_in_parts(encode: Callable[..., Tensor], parts: Sequence[tuple[Any, ...]], device: torch.device) -> Tensor:
    """Return what ``encode`` makes of each part's arguments, one below the other.

    Every part finds random generators in the same state: whatever draws, draws for a step's rows of all parts (and
    processes) and uses its own.

    Args:
        encode: gives rows of some width.
        parts: arguments by part, at least one; a single one is encoded in the usual way.
        device: where ``encode`` draws.
    """
    if len(parts) == 1:
        return encode(*parts[0])
    generator = torch.cuda.default_generators[device.index] if device.type == "cuda" else torch.default_generator
    state, encoded = generator.get_state(), []
    for part in parts:
        generator.set_state(state)
        encoded.append(checkpoint(encode, *part, use_reentrant=False))
    return torch.cat(encoded)
