"""Widths of a Matryoshka embedding, and the one way to cut a vector to one of them.

Source: Kusupati et al., *Matryoshka Representation Learning*, NeurIPS 2022 (arXiv 2205.13147). A prefix of the full
vector, normalised again, is an embedding of its own; only prefixes that were trained are allowed.

Shapes: ``vector_BD`` is ``(batch, full width)``, ``w`` a width.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from recsys.errors import WidthError


@dataclass(frozen=True)
class WidthLadder:
    """The trained widths, strictly increasing; the last one is the full width.

    Args:
        widths: positive integers, strictly increasing, at least one.

    Raises:
        WidthError: the widths are empty, not integers, not positive or not strictly increasing.
    """

    widths: tuple[int, ...]

    def __init__(self, widths: Sequence[int]) -> None:
        checked = tuple(widths)
        if not checked:
            raise WidthError("widths: got none, expected at least one")
        for width in checked:
            if isinstance(width, bool) or not isinstance(width, int | np.integer) or width <= 0:
                raise WidthError(f"widths: got {width!r} in {list(checked)}, expected positive integers")
        if any(low >= high for low, high in itertools.pairwise(checked)):
            raise WidthError(f"widths: got {list(checked)}, expected them strictly increasing (narrowest first)")
        object.__setattr__(self, "widths", tuple(int(width) for width in checked))

    @property
    def full(self) -> int:
        """The full width: the length of the stored vector."""
        return self.widths[-1]

    @property
    def blocks(self) -> tuple[slice, ...]:
        """Column ranges between neighbouring widths; together they tile the full vector once."""
        edges = (0, *self.widths)
        return tuple(slice(low, high) for low, high in itertools.pairwise(edges))

    def index(self, width: int) -> int:
        """Return the place of a trained width, or raise `WidthError` naming the trained ones."""
        self.require(width)
        return self.widths.index(width)

    def require(self, width: int) -> int:
        """Return ``width`` if it was trained, else raise `WidthError` naming the trained ones."""
        if width not in self.widths:
            raise WidthError(f"width: got {width!r}, expected a trained width, one of {list(self.widths)}")
        return width

    def __iter__(self) -> Iterator[int]:
        return iter(self.widths)

    def __len__(self) -> int:
        return len(self.widths)

    def __contains__(self, width: object) -> bool:
        return width in self.widths


@overload
def truncate(vector_BD: Float[Tensor, "*batch full"], width: int, ladder: WidthLadder) -> Float[Tensor, "*batch w"]: ...
@overload
def truncate(
    vector_BD: Float[np.ndarray, "*batch full"], width: int, ladder: WidthLadder
) -> Float[np.ndarray, "*batch w"]: ...
def truncate(
    vector_BD: Float[Tensor, "*batch full"] | Float[np.ndarray, "*batch full"], width: int, ladder: WidthLadder
) -> Float[Tensor, "*batch w"] | Float[np.ndarray, "*batch w"]:
    """Keep the first ``width`` coordinates of each vector and scale them to unit length.

    Truncation composes: cutting to ``b`` and then to ``a <= b`` equals cutting to ``a`` (up to float rounding), so
    a vector may already have been cut to any trained width that is not narrower than ``width``.

    Args:
        vector_BD: ``(..., d)`` floating point, ``d`` a trained width of at least ``width``.
        width: a trained width.
        ladder: the trained widths.

    Returns:
        ``(..., width)`` of the same type and dtype, each row of L2 norm 1.

    Raises:
        WidthError: ``width`` was not trained or is wider than the vectors; the last dimension is not a trained
            width; a vector holds NaN or infinity; or a prefix is all zeros and so has no direction.
    """
    ladder.require(width)
    if vector_BD.ndim == 0 or vector_BD.shape[-1] not in ladder:
        raise WidthError(f"vector: got shape {tuple(vector_BD.shape)}, expected (..., d) with d in {list(ladder)}")
    if vector_BD.shape[-1] < width:
        raise WidthError(f"width: got {width} for vectors of width {vector_BD.shape[-1]}, expected one at most as wide")
    if isinstance(vector_BD, np.ndarray):
        return _truncate_numpy(vector_BD, width)
    return _truncate_torch(vector_BD, width)


def energy_shares(vector_ND: Float[np.ndarray, "rows full"], ladder: WidthLadder) -> Float[np.ndarray, "rows widths"]:
    """Return the share of each vector's squared norm that its prefix of each width holds, narrowest first.

    An even spread over coordinates gives ``width / full``; the nearer a share is to 1, the less the coordinates beyond
    that width can change an inner product.

    Args:
        vector_ND: ``(rows, full)`` non-zero vectors, any scale.
        ladder: the trained widths.

    Raises:
        WidthError: the last dimension is not the full width, or a vector is not finite or all zeros.
    """
    if vector_ND.ndim != 2 or vector_ND.shape[1] != ladder.full:
        raise WidthError(f"vectors: got shape {tuple(vector_ND.shape)}, expected (rows, {ladder.full})")
    square_ND = truncate(vector_ND, ladder.full, ladder).astype(np.float64) ** 2
    start = [block.start for block in ladder.blocks]
    share_NL: np.ndarray = np.cumsum(np.add.reduceat(square_ND, start, axis=1), axis=1)
    return share_NL


def _truncate_numpy(vector_BD: np.ndarray, width: int) -> np.ndarray:
    _refuse_non_finite(bool(np.isfinite(vector_BD).all()))
    prefix_Bw = vector_BD[..., :width]
    # Scaling by the largest magnitude first keeps the squares of tiny and huge coordinates representable.
    scale_B1 = np.abs(prefix_Bw).max(axis=-1, keepdims=True)
    _refuse_zero(bool((scale_B1 > 0).all()), width)
    scaled_Bw = prefix_Bw / scale_B1
    unit_Bw: np.ndarray = scaled_Bw / np.linalg.norm(scaled_Bw, axis=-1, keepdims=True)
    return unit_Bw


def _truncate_torch(vector_BD: Tensor, width: int) -> Tensor:
    _refuse_non_finite(bool(torch.isfinite(vector_BD).all()))
    prefix_Bw = vector_BD[..., :width]
    scale_B1 = prefix_Bw.detach().abs().amax(dim=-1, keepdim=True)
    _refuse_zero(bool((scale_B1 > 0).all()), width)
    scaled_Bw = prefix_Bw / scale_B1
    unit_Bw: Tensor = scaled_Bw / torch.linalg.vector_norm(scaled_Bw, dim=-1, keepdim=True)
    return unit_Bw


def _refuse_non_finite(all_finite: bool) -> None:
    if not all_finite:
        raise WidthError("vector: got NaN or infinity, expected finite numbers")


def _refuse_zero(all_nonzero: bool, width: int) -> None:
    if not all_nonzero:
        raise WidthError(f"vector: got a prefix of {width} zeros, expected a direction (a non-zero prefix)")
