"""Widths of a Matryoshka embedding, and the one place that says what a vector is at each of them.

Source: Kusupati et al., *Matryoshka Representation Learning*, NeurIPS 2022 (arXiv 2205.13147). An item has one vector,
of which every trained prefix is an embedding; only prefixes that were trained are allowed. The ladder says what is
scaled to unit length (``norm``) and what a query is at a width (``head``):

- norm ``prefix``: each prefix is scaled on its own, so a score is a cosine at every width;
- norm ``full``: only the full vector is, so a narrow score is the beginning of the sum that the full-width cosine is;
- head ``tied``: a query is one vector too, and its prefixes are what items' prefixes are multiplied with;
- head ``per_width``: a query has a vector of its own for each width, each of unit length whatever the norm.

Every score at a width, in training, evaluation, search and serving, is the inner product of `query_at` and `truncate`.

Shapes: ``vector_BD`` is ``(batch, full width)``, ``query_BU`` is ``(batch, query size)``, ``w`` a width.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeVar, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from recsys.errors import WidthError

Norm = Literal["prefix", "full"]
Head = Literal["tied", "per_width"]
Array = TypeVar("Array", Tensor, np.ndarray)


@dataclass(frozen=True)
class WidthLadder:
    """The trained widths, strictly increasing, the last one the full width; and what vectors are at each of them.

    Args:
        widths: positive integers, strictly increasing, at least one.
        norm: ``prefix`` scales the prefix of each width to unit length, ``full`` the full vector alone.
        head: a query at a width is, ``tied``, a prefix of one vector, or, ``per_width``, a vector of its own.

    Raises:
        WidthError: the widths are empty, not integers, not positive or not strictly increasing, or there is no such
            norm or head.
    """

    widths: tuple[int, ...]
    norm: Norm
    head: Head

    def __init__(self, widths: Sequence[int], *, norm: Norm = "prefix", head: Head = "tied") -> None:
        checked = tuple(widths)
        if not checked:
            raise WidthError("widths: got none, expected at least one")
        for width in checked:
            if isinstance(width, bool) or not isinstance(width, int | np.integer) or width <= 0:
                raise WidthError(f"widths: got {width!r} in {list(checked)}, expected positive integers")
        if any(low >= high for low, high in itertools.pairwise(checked)):
            raise WidthError(f"widths: got {list(checked)}, expected them strictly increasing (narrowest first)")
        for name, got, known in (("norm", norm, get_args(Norm)), ("head", head, get_args(Head))):
            if got not in known:
                raise WidthError(f"{name}: got {got!r}, expected one of {list(known)}")
        object.__setattr__(self, "widths", tuple(int(width) for width in checked))
        object.__setattr__(self, "norm", norm)
        object.__setattr__(self, "head", head)

    @property
    def full(self) -> int:
        """The full width: the length of the stored vector."""
        return self.widths[-1]

    @cached_property
    def blocks(self) -> tuple[slice, ...]:
        """Column ranges between neighbouring widths; together they tile the full vector once."""
        edges = (0, *self.widths)
        return tuple(slice(low, high) for low, high in itertools.pairwise(edges))

    @cached_property
    def query_blocks(self) -> tuple[slice, ...]:
        """Column ranges of a query's unit vectors: one of full width if tied, else one per width, narrowest first."""
        if self.head == "tied":
            return (slice(0, self.full),)
        edges = itertools.accumulate(self.widths, initial=0)
        return tuple(slice(low, high) for low, high in itertools.pairwise(edges))

    @property
    def query_size(self) -> int:
        """Columns of a query: the full width if tied, else the sum of the widths."""
        return self.full if self.head == "tied" else sum(self.widths)

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


def truncate(vector_BD: Array, width: int, ladder: WidthLadder) -> Array:
    """Keep the first ``width`` coordinates of each vector, scaled as the ladder's norm has it.

    Truncation composes: cutting to ``b`` and then to ``a <= b`` equals cutting to ``a`` (up to float rounding), so
    a vector may already have been cut to any trained width that is not narrower than ``width``.

    Args:
        vector_BD: ``(..., d)`` floating point, ``d`` a trained width of at least ``width``; of any scale, but that with
            norm ``full`` the scale of a vector that was cut before is kept.
        width: a trained width.
        ladder: the trained widths.

    Returns:
        ``(..., width)`` of the same type and dtype: with norm ``prefix`` each row of L2 norm 1, with norm ``full`` the
        prefix of a full vector of L2 norm 1.

    Raises:
        WidthError: ``width`` was not trained or is wider than the vectors; the last dimension is not a trained
            width; a vector holds NaN or infinity; or what is to be scaled is all zeros and so has no direction.
    """
    ladder.require(width)
    if vector_BD.ndim == 0 or vector_BD.shape[-1] not in ladder:
        raise WidthError(f"vector: got shape {tuple(vector_BD.shape)}, expected (..., d) with d in {list(ladder)}")
    if vector_BD.shape[-1] < width:
        raise WidthError(f"width: got {width} for vectors of width {vector_BD.shape[-1]}, expected one at most as wide")
    _refuse_non_finite(vector_BD)
    if ladder.norm == "prefix":
        return _unit(vector_BD[..., :width])
    full_BD = _unit(vector_BD) if vector_BD.shape[-1] == ladder.full else vector_BD
    return full_BD[..., :width]


def query_at(query_BU: Array, width: int, ladder: WidthLadder) -> Array:
    """Return the query of a width: what items truncated to that width are multiplied with.

    With tied heads that is `truncate`. With a head per width it is that width's own vector at unit length, whatever the
    norm: there is no full vector that it would be a part of. (A query's scale never changes a ranking.)

    Args:
        query_BU: ``(..., query size)`` floating point, any scale.
        width: a trained width.
        ladder: the trained widths.

    Returns:
        ``(..., width)`` of the same type and dtype.

    Raises:
        WidthError: ``width`` was not trained, a query is not of the query size, holds NaN or infinity, or has no
            direction.
    """
    place = ladder.index(width)
    _check_queries(query_BU, ladder)
    if ladder.head == "tied":
        return truncate(query_BU, width, ladder)
    return _unit(query_BU[..., ladder.query_blocks[place]])


def unit_queries(query_BU: Array, ladder: WidthLadder) -> Array:
    """Scale each of a query's vectors to unit length: the form in which queries are stored and sent to a search.

    Args:
        query_BU: ``(..., query size)`` floating point, any scale.
        ladder: the trained widths.

    Raises:
        WidthError: as `query_at`.
    """
    _check_queries(query_BU, ladder)
    return _concatenate([_unit(query_BU[..., block]) for block in ladder.query_blocks])


def as_queries(vector_BD: Array, ladder: WidthLadder) -> Array:
    """Return the unit queries that ask for a full vector's neighbours: at every width, those of its prefix.

    Args:
        vector_BD: ``(..., full width)`` floating point, any scale.
        ladder: the trained widths.

    Returns:
        ``(..., query size)`` of the same type and dtype.

    Raises:
        WidthError: the vectors are not of full width, hold NaN or infinity, or have a prefix of zeros.
    """
    widths = ladder.widths if ladder.head == "per_width" else (ladder.full,)
    return unit_queries(_concatenate([truncate(vector_BD, width, ladder) for width in widths]), ladder)


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


def _unit(vector_Bw: Array) -> Array:
    # Scaling by the largest magnitude first keeps the squares of tiny and huge coordinates representable.
    if isinstance(vector_Bw, np.ndarray):
        largest_B1 = np.abs(vector_Bw).max(axis=-1, keepdims=True)
        _refuse_zero(bool((largest_B1 > 0).all()), vector_Bw.shape[-1])
        scaled_Bw = vector_Bw / largest_B1
        unit_Bw: np.ndarray = scaled_Bw / np.linalg.norm(scaled_Bw, axis=-1, keepdims=True)
        return unit_Bw
    scale_B1 = vector_Bw.detach().abs().amax(dim=-1, keepdim=True)
    _refuse_zero(bool((scale_B1 > 0).all()), vector_Bw.shape[-1])
    shrunk_Bw = vector_Bw / scale_B1
    length_B1: Tensor = torch.linalg.vector_norm(shrunk_Bw, dim=-1, keepdim=True)
    return shrunk_Bw / length_B1


def _concatenate(parts: list[Array]) -> Array:
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts, axis=-1) if isinstance(parts[0], np.ndarray) else torch.cat(parts, dim=-1)


def _check_queries(query_BU: Tensor | np.ndarray, ladder: WidthLadder) -> None:
    if query_BU.ndim == 0 or query_BU.shape[-1] != ladder.query_size:
        got, size = tuple(query_BU.shape), ladder.query_size
        raise WidthError(f"query: got shape {got}, expected (..., {size}) with {ladder.head} heads of {list(ladder)}")
    _refuse_non_finite(query_BU)


def _refuse_non_finite(vector_BD: Tensor | np.ndarray) -> None:
    finite = np.isfinite(vector_BD) if isinstance(vector_BD, np.ndarray) else torch.isfinite(vector_BD)
    if not bool(finite.all()):
        raise WidthError("vector: got NaN or infinity, expected finite numbers")


def _refuse_zero(all_nonzero: bool, width: int) -> None:
    if not all_nonzero:
        raise WidthError(f"vector: got a prefix of {width} zeros, expected a direction (a non-zero prefix)")
