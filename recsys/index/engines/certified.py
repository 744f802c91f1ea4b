"""Exact search at full width that reads only as much of each item as it takes to rule it out.

An inner product is that of two prefixes plus that of what is left, which is at most the product of the norms of what is
left (Cauchy-Schwarz; Panorama, arXiv 2510.00566, leaves items at equal levels that way). So an item whose bound is
below the k-th best score can be left there. The first pass reads a prefix of every item; those it cannot rule out are
looked at again at each wider trained width, and what is left is scored from the shared store. The answer is that of
reading everything, bit by bit.

Prefixes are read as bytes, a quarter of the memory: a bound then also allows for what the rounding of items and query
may change (the VA-file, Weber et al., VLDB 1998, scans approximations so). The bar is known before anything is ruled
out: the first pass keeps some more than k items whose prefixes score best, and the k-th best of their full scores is
close to the k-th best of all where prefixes predict the full ranking, which is what the model is trained for.

No item is lost to rounding. Products of bytes are summed as whole numbers. With x = y + e (y the item's bytes, scaled)
and q = p + f (p the query in 16 bits, scaled), all up to the same column, <q, x> differs from <p, y> by at most
|q| |e| + sum |f_j y_j|; the largest |e| is measured when the index is built, the sum, with the largest y_j that bytes
allow, for each query: columns in which items have next to nothing add next to nothing. A sum of D float32 products
of vectors of norms at most 1 is off by at most D u, with u = 2^-24 (Higham, Accuracy and Stability of Numerical
Algorithms, 3.1), whatever the order of summing; a bound's own few float32 operations, and the score it is compared
with, take fewer than three such sums. Norms are rounded up. Ties go to the lower row.

Shapes: ``query_BD`` (batch, full width), ``store_ND`` (items, full width), ``code_X`` the bytes, block after block
between neighbouring edges, ``scale_w`` (coded columns,), ``tail_LN`` (edges, items) the norms beyond each edge,
``error_L`` (edges,) the largest norms of e.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from recsys.errors import ArtifactError, ConfigError
from recsys.index.checks import checked_query_at
from recsys.index.engines.protocol import Found
from recsys.index.exact import NOTHING
from recsys.index.item_set import ItemSet
from recsys.index.kernels import search_certified
from recsys.index.specs import IndexSpec, RungSpec
from recsys.index.store import map_tensors, pages, save_tensors
from recsys.widths import WidthLadder

_UNIT_ROUNDOFF = 2.0**-24
_NUM_SUMS = 4  # three, of vectors of norms up to 1.001, and one to spare
_LARGEST_BYTE, _LARGEST_SHORT, _LARGEST_SUM = 127, 2**15 - 1, 2**31 - 1
_EVERYTHING = np.empty(0, dtype=np.uint8)
_NAMES = ["codes", "scales", "tails", "errors"]


class CertifiedIndex:
    """Finds the exact best items at full width.

    Args:
        spec: engine ``certified`` of full width; every item is read up to its routing width.
        store_ND: the full-width vectors.
        tensors: what `build` made of them.
        widths: the trained widths.
    """

    def __init__(
        self, spec: IndexSpec, *, store_ND: np.ndarray, tensors: dict[str, np.ndarray], widths: WidthLadder
    ) -> None:
        self.spec = spec
        self._store_ND = store_ND
        self._tensors = tensors
        self._widths = widths
        self._edges = _edges(spec, widths)

    @classmethod
    def build(cls, spec: IndexSpec, store_ND: np.ndarray, *, widths: WidthLadder) -> CertifiedIndex:
        """Round the vectors' prefixes to bytes, and measure what that loses.

        Raises:
            ConfigError: the index is of another width than the full one.
        """
        edges = _edges(spec, widths)
        scale_w = np.zeros(edges[-1], dtype=np.float32)
        for rows in pages(len(store_ND)):
            scale_w = np.maximum(scale_w, np.abs(store_ND[rows, : edges[-1]]).max(axis=0) / _LARGEST_BYTE)
        codes = [np.empty((len(store_ND), high - low), dtype=np.int8) for low, high in itertools.pairwise([0, *edges])]
        tail_LN = np.empty((len(edges), len(store_ND)), dtype=np.float32)
        error_L = np.zeros(len(edges))
        for rows in pages(len(store_ND)):
            page_PD = store_ND[rows]
            code_Pw, lost_Pw = _rounded(page_PD[:, : edges[-1]], scale_w)
            for level, (low, high) in enumerate(itertools.pairwise([0, *edges])):
                codes[level][rows] = code_Pw[:, low:high]
                tail_LN[level, rows] = _up(_norms(page_PD[:, high:]))
                error_L[level] = max(error_L[level], _norms(lost_Pw[:, :high]).max())
        tensors = {
            "codes": np.concatenate([code.ravel() for code in codes]),
            "scales": scale_w,
            "tails": tail_LN,
            "errors": _up(error_L),
        }
        return cls(spec, store_ND=store_ND, tensors=tensors, widths=widths)

    @classmethod
    def load(cls, folder: Path, spec: IndexSpec, store_ND: np.ndarray, *, widths: WidthLadder) -> CertifiedIndex:
        """Open what `save` wrote for these vectors, or raise `ArtifactError`."""
        path = folder / f"{spec.name}.safetensors"
        tensors, _ = map_tensors(path, names=_NAMES)
        num, edges = len(store_ND), _edges(spec, widths)
        shapes = ((num * edges[-1],), (edges[-1],), (len(edges), num), (len(edges),))
        for name, shape in zip(_NAMES, shapes, strict=True):
            if tensors[name].shape != shape:
                raise ArtifactError(f"{path}: {name}: got shape {tensors[name].shape}, expected {shape}")
        rows = np.unique(np.linspace(0, num - 1, num=8, dtype=np.int64))
        code_Rw = tensors["codes"][: num * edges[0]].reshape(num, edges[0])[rows]
        lost_Rw = store_ND[rows, : edges[0]].astype(np.float64) - code_Rw * tensors["scales"][: edges[0]].astype(float)
        if not (_norms(lost_Rw) <= tensors["errors"][0]).all():
            raise ArtifactError(f"{path}: codes: not those of the item vectors")
        return cls(spec, store_ND=store_ND, tensors=tensors, widths=widths)

    @property
    def size_bytes(self) -> int:
        """Bytes of codes and norms; the shared store, which is read too, is not among them."""
        return sum(tensor.nbytes for tensor in self._tensors.values())

    def search(
        self,
        query_BU: np.ndarray,
        num: int,
        *,
        effort: RungSpec,  # noqa: ARG002 (there is none to choose)
        allowed: ItemSet | None,
    ) -> Found:
        """Find the exact best items, and count what was read."""
        query_BD = checked_query_at(query_BU, self._widths.full, self._widths)
        rows_BK = np.full((len(query_BD), num), NOTHING, dtype=np.int64)
        scores_BK = np.full((len(query_BD), num), -np.inf, dtype=np.float32)
        num_bytes = search_certified(
            query_BD,
            *self._rounded_queries(query_BD),
            np.array([0, *self._edges], dtype=np.int64),
            self._tensors["codes"],
            self._tensors["tails"],
            self._store_ND,
            _EVERYTHING if allowed is None else allowed.bits_X,
            rows_BK,
            scores_BK,
        )
        return Found(rows_BK, scores_BK, touched_share=num_bytes / (max(1, len(query_BD)) * self._store_ND.nbytes))

    def save(self, folder: Path) -> None:
        """Write codes, scales, norms and errors."""
        save_tensors(self._tensors, folder / f"{self.spec.name}.safetensors")

    def _rounded_queries(self, query_BD: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return queries in 16 bits, their units, their norms beyond each edge, and what bounds have to allow for."""
        edges, scale_w = self._edges, self._tensors["scales"].astype(np.float64)
        exact_BD = query_BD.astype(np.float64)
        scaled_Bw = exact_BD[:, : edges[-1]] * scale_w
        most = min(_LARGEST_SHORT, _LARGEST_SUM // (_LARGEST_BYTE * edges[-1]))
        unit_B = np.maximum(np.abs(scaled_Bw).max(axis=1), np.finfo(np.float32).tiny) / most
        weight_Bw = np.rint(scaled_Bw / unit_B[:, None])
        lost_Bw = np.abs(scaled_Bw - weight_Bw * unit_B[:, None]) * _LARGEST_BYTE
        reach_BL, slack_BL = np.empty((2, len(query_BD), len(edges)))
        rounding = _NUM_SUMS * (self._widths.full + 16) * _UNIT_ROUNDOFF
        for level, (edge, error) in enumerate(zip(edges, self._tensors["errors"].tolist(), strict=True)):
            reach_BL[:, level] = _norms(exact_BD[:, edge:])
            slack_BL[:, level] = error * _norms(exact_BD[:, :edge]) + lost_Bw[:, :edge].sum(axis=1) + rounding
        return weight_Bw.astype(np.int16), unit_B.astype(np.float32), _up(reach_BL), _up(slack_BL)


def _edges(spec: IndexSpec, widths: WidthLadder) -> list[int]:
    """Return the widths at which items are ruled out: that of the first pass and all trained ones up to the last."""
    if spec.width != widths.full:
        raise ConfigError(f"{spec.name}: width: got {spec.width}, expected the full width {widths.full} of its answers")
    first = spec.routing_width
    return [first, *(width for width in widths if first < width < widths.full)]


def _rounded(vector_Pw: np.ndarray, scale_w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return bytes, and what they lose; a column of zeros has no scale."""
    ratio_Pw = np.divide(vector_Pw, scale_w, out=np.zeros_like(vector_Pw), where=scale_w > 0)
    code_Pw = np.clip(np.rint(ratio_Pw), -_LARGEST_BYTE, _LARGEST_BYTE)
    return code_Pw.astype(np.int8), vector_Pw.astype(np.float64) - code_Pw * scale_w.astype(np.float64)


def _norms(vector_Pw: np.ndarray) -> np.ndarray:
    norm_P: np.ndarray = np.linalg.norm(vector_Pw.astype(np.float64), axis=1)
    return norm_P


def _up(values: np.ndarray) -> np.ndarray:
    """Return float32 that are not below."""
    rounded: np.ndarray = np.nextafter(values.astype(np.float32), np.float32(np.inf))
    return rounded
