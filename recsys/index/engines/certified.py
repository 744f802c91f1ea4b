"""Exact search at full width that reads only as much of each item as it takes to rule it out.

An inner product is that of two prefixes plus that of what is left, which is at most the product of the norms of what is
left (Cauchy-Schwarz; Panorama, arXiv 2510.00566, does this with equal levels). An item whose bound is below the k-th
best score so far is left there, at whichever trained width that happens. Each block of columns is stored on its own,
so what is not needed is not read either; what is never ruled out is scored from the shared store.

Bounds are taken not of the items but of how they differ from their cell: with c the direction of the cell's mean, an
item is x = a c + r and the query q = b c + s, and <q, x> = a b + <s, r>, as r and s are orthogonal to c. Near vectors
differ little, so |r| is small: a and |r| alone, 8 bytes, rule most items out. Cells are visited by falling <q, c>,
since good items early make high bars. The order never changes the answer.

No item is lost to rounding. A sum of D float32 products of vectors of norms at most 1 is off by at most D u, with
u = 2^-24 (Higham, Accuracy and Stability of Numerical Algorithms, 3.1), whatever the order of summing; a bound takes
four such sums (b, s, the partial product, and the score it is compared with). What storing a and r in float32 loses was
measured for every item when the index was built, and its largest value is added. Norms are rounded up. Ties go to the
lower row.

Shapes: ``query_BD`` (batch, full width), ``store_ND`` (items, full width), ``center_CD`` (cells, full width), ``row_P``
(places: items by cell), ``along_P`` the a of each, ``tail_TP`` (bounds, places) the norms of r beyond each edge,
``block_X`` the blocks of r one after another, ``start_C1`` (cells + 1,) first place of each cell.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from recsys.errors import ArtifactError
from recsys.index.cells import Cells, cell_means, num_cells
from recsys.index.checks import checked_query_at
from recsys.index.engines.protocol import Excluded, Found
from recsys.index.exact import NOTHING
from recsys.index.kernels import search_certified
from recsys.index.specs import IndexSpec, RungSpec
from recsys.index.store import map_tensors, save_tensors
from recsys.widths import WidthLadder

_ITEMS_OF_CELL = 4
"""How many times as many items a cell has here as in an inverted file: every cell costs, few are skipped."""
_UNIT_ROUNDOFF = 2.0**-24
_NUM_SUMS = 6  # the four of the module's description, with vectors of norms up to 1.001, and two to spare
_NOBODY = np.empty(0, dtype=np.int64)
_NAMES = ["centers", "starts", "rows", "along", "tails", "blocks"]


class CertifiedIndex:
    """Finds the exact best items at full width.

    Args:
        spec: engine ``certified``; its width is the widest at which items are ruled out.
        store_ND: the full-width vectors.
        tensors: what `build` made of them.
        error: the most that storing their parts in float32 changes an inner product.
        widths: the trained widths.
    """

    def __init__(
        self,
        spec: IndexSpec,
        *,
        store_ND: np.ndarray,
        tensors: dict[str, np.ndarray],
        error: float,
        widths: WidthLadder,
    ) -> None:
        self.spec = spec
        self._store_ND = store_ND
        self._tensors = tensors
        self._error = error
        self._widths = widths
        self._edges = _edges(spec, widths)

    @classmethod
    def build(cls, spec: IndexSpec, store_ND: np.ndarray, *, widths: WidthLadder, seed: int) -> CertifiedIndex:
        """Lay the vectors out by cell and block."""
        num = spec.cells or max(1, num_cells(len(store_ND)) // _ITEMS_OF_CELL)
        cell_N = np.zeros(len(store_ND), dtype=np.int64)
        if num > 1:
            cell_N = Cells.train(store_ND, (spec.routing_width, num), widths=widths, seed=seed).of_items(store_ND)
        row_P = np.argsort(cell_N, kind="stable")
        center_CD = _directions(cell_means(store_ND, cell_N, num=num))
        along_P, rest_PD, error = _split(store_ND[row_P], center_CD[cell_N[row_P]])
        edges = _edges(spec, widths)
        blocks = [rest_PD[:, low:high].ravel() for low, high in itertools.pairwise(edges)]
        tensors = {
            "centers": center_CD,
            "starts": np.concatenate([[0], np.cumsum(np.bincount(cell_N, minlength=num))]).astype(np.int64),
            "rows": row_P,
            "along": along_P,
            "tails": _tail_norms(rest_PD, edges),
            "blocks": np.concatenate(blocks),
        }
        return cls(spec, store_ND=store_ND, tensors=tensors, error=error, widths=widths)

    @classmethod
    def load(cls, folder: Path, spec: IndexSpec, store_ND: np.ndarray, *, widths: WidthLadder) -> CertifiedIndex:
        """Open what `save` wrote for these vectors, or raise `ArtifactError`."""
        path = folder / f"{spec.name}.safetensors"
        tensors, notes = map_tensors(path, names=_NAMES)
        num, cells = len(store_ND), len(tensors["centers"])
        shapes = ((cells, widths.full), (cells + 1,), (num,), (num,), (len(_edges(spec, widths)), num))
        for name, shape in zip(_NAMES, (*shapes, (num * spec.width,)), strict=True):
            if tensors[name].shape != shape:
                raise ArtifactError(f"{path}: {name}: got shape {tensors[name].shape}, expected {shape}")
        if "error" not in notes:
            raise ArtifactError(f"{path}: got no error of its vectors in the header, expected one")
        return cls(spec, store_ND=store_ND, tensors=tensors, error=float.fromhex(notes["error"]), widths=widths)

    @property
    def size_bytes(self) -> int:
        """Bytes of parts, norms, rows and centres; the shared store, which is read too, is not among them."""
        return sum(tensor.nbytes for tensor in self._tensors.values())

    def search(
        self,
        query_BU: np.ndarray,
        num: int,
        *,
        effort: RungSpec,  # noqa: ARG002 (there is none to choose)
        excluded: Excluded | None,
    ) -> Found:
        """Find the exact best items, and count what was read."""
        full = self._widths.full
        query_BD = checked_query_at(query_BU, full, self._widths)
        rows_BK = np.full((len(query_BD), num), NOTHING, dtype=np.int64)
        scores_BK = np.full((len(query_BD), num), -np.inf, dtype=np.float32)
        num_read = search_certified(
            query_BD,
            self._store_ND,
            self._edges,
            self._tensors["centers"],
            self._tensors["starts"],
            self._tensors["rows"],
            self._tensors["along"],
            self._tensors["tails"],
            self._tensors["blocks"],
            _NOBODY if excluded is None else excluded.rows,
            _NUM_SUMS * (full + 16) * _UNIT_ROUNDOFF + self._error,
            rows_BK,
            scores_BK,
        )
        return Found(rows_BK, scores_BK, touched_share=num_read / (max(1, len(query_BD)) * self._store_ND.size))

    def save(self, folder: Path) -> None:
        """Write the layout."""
        path = folder / f"{self.spec.name}.safetensors"
        save_tensors(self._tensors, path, metadata={"error": self._error.hex()})


def _edges(spec: IndexSpec, widths: WidthLadder) -> np.ndarray:
    """Return where blocks begin and the last one ends."""
    return np.array([0, *(width for width in widths if width <= spec.width)], dtype=np.int64)


def _directions(mean_CD: np.ndarray) -> np.ndarray:
    """Return unit vectors; a mean of zeros has no direction and stays."""
    norm_C1 = np.linalg.norm(mean_CD, axis=1, keepdims=True)
    direction_CD: np.ndarray = np.divide(mean_CD, norm_C1, out=np.zeros_like(mean_CD), where=norm_C1 > 0)
    return direction_CD


def _split(item_PD: np.ndarray, center_PD: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Split items along their centres; also return the most that rounding the parts changes an inner product.

    With the rounded parts, x = a c + r + d and <c, r> = e: then <q, x> differs from a b + <s, r> by <q, d> + b e, which
    is at most |d| + |e| for a unit query.
    """
    exact_PD, along_P = item_PD.astype(np.float64), np.einsum("pd,pd->p", item_PD, center_PD)
    along_PD = along_P[:, None].astype(np.float64) * center_PD
    rest_PD = (exact_PD - along_PD).astype(np.float32)
    lost_P = np.linalg.norm(exact_PD - along_PD - rest_PD, axis=1)
    skew_P = np.abs(np.einsum("pd,pd->p", center_PD.astype(np.float64), rest_PD.astype(np.float64)))
    return along_P, rest_PD, float((lost_P + skew_P).max()) * 1.01


def _tail_norms(rest_PD: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return the norms of what lies beyond each edge, rounded up."""
    tails = [np.linalg.norm(rest_PD[:, edge:].astype(np.float64), axis=1) for edge in edges]
    return np.nextafter(np.array(tails).astype(np.float32), np.float32(np.inf))
