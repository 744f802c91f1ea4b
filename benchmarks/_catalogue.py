"""Simulated catalogues: as many items as asked for, grown from the vectors of a trained model.

No public dataset has a million items *and* users whose behaviour a model can be trained on. So each simulated item lies
between a trained one and one of its nearest neighbours, plus noise: as far from its parent as that is from its own
nearest neighbour, in the directions in which neighbours differ. One gain for each dimension, and one for the noise, are
fitted so that the energy of the trained items, dimension by dimension, and the median distance come back. What narrow
widths and quantisers live on, the energy profile and distances between neighbours, so stays like the real one (tests
hold it to that); what a million real items would add, more kinds of things, does not come from nowhere. Queries are
those of real users.

Shapes: ``item_ND`` (trained items, dim), ``grown_GD`` (simulated items, dim), ``near_NM`` (trained items, neighbours).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64

from recsys.errors import ConfigError
from recsys.index.exact import exact_top_k

CHUNK = 1 << 17
"""Items that are made, and scored, at a time."""
_NUM_NEIGHBOURS = 4
_NUM_PROBES, _NUM_DISTANCES, _NUM_FITS = 20_000, 2000, 5


class Catalogue:
    """Trained items, and everything that simulated ones are made with.

    Args:
        item_ND: unit vectors of trained items.
        seed: fixes every simulated item; a longer catalogue begins with the shorter one.
    """

    def __init__(self, item_ND: Float[np.ndarray, "items dim"], *, seed: int) -> None:
        if len(item_ND) <= _NUM_NEIGHBOURS:
            raise ConfigError(f"items: got {len(item_ND)} trained ones, expected more than {_NUM_NEIGHBOURS}")
        self.item_ND = np.ascontiguousarray(item_ND, dtype=np.float32)
        self.seed = seed
        self._near_NM, self._distance_N = _neighbours(self.item_ND)
        step_ND = self.item_ND[self._near_NM[:, 0]] - self.item_ND
        spread_D = np.sqrt((step_ND.astype(np.float64) ** 2).mean(axis=0))
        self._spread_D = (spread_D / np.linalg.norm(spread_D)).astype(np.float32)
        self._gain_D = np.ones(item_ND.shape[1], dtype=np.float32)
        self._noise = 1.0
        self._fit()

    def _fit(self) -> None:
        """Set the gains and the noise so that energy and distances to trained items are those of trained items."""
        energy_D, distance = (self.item_ND**2).mean(axis=0), float(np.median(self._distance_N))
        for _ in range(_NUM_FITS):
            probe_GD = self._grow(_NUM_PROBES, np.random.default_rng([self.seed, 0]))
            self._gain_D *= np.sqrt(energy_D / np.maximum((probe_GD**2).mean(axis=0), 1e-12))
            score_G1, _ = exact_top_k(probe_GD[:_NUM_DISTANCES], self.item_ND, k=1)
            near = float(np.median(np.sqrt(np.maximum(2 - 2 * score_G1, 0))))
            self._noise *= distance / max(near, 1e-6)

    def vectors(self, num: int) -> Float[np.ndarray, "num dim"]:
        """Return the first ``num`` items in memory: the trained ones, then simulated ones."""
        vector_ND = np.empty((num, self.item_ND.shape[1]), dtype=np.float32)
        self._fill(vector_ND)
        return vector_ND

    def write(self, num: int, path: Path) -> Float[np.ndarray, "num dim"]:
        """Write what `vectors` returns into an .npy file, a chunk at a time, and map it (as it is if it is there)."""
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            staging = path.with_suffix(".partial")
            shape = (num, self.item_ND.shape[1])
            mapped_ND = np.lib.format.open_memmap(staging, mode="w+", dtype=np.float32, shape=shape)
            self._fill(mapped_ND)
            mapped_ND.flush()
            staging.rename(path)
        mapped: np.ndarray = np.load(path, mmap_mode="r")
        if mapped.shape != (num, self.item_ND.shape[1]):
            raise ConfigError(f"{path}: got shape {mapped.shape}, expected ({num}, {self.item_ND.shape[1]})")
        return mapped

    def _fill(self, vector_ND: np.ndarray) -> None:
        num_trained = min(len(vector_ND), len(self.item_ND))
        vector_ND[:num_trained] = self.item_ND[:num_trained]
        for number, start in enumerate(range(num_trained, len(vector_ND), CHUNK), start=1):
            grown_GD = self._grow(CHUNK, np.random.default_rng([self.seed, number]))
            vector_ND[start : start + CHUNK] = grown_GD[: len(vector_ND) - start]

    def _grow(self, num: int, random: np.random.Generator) -> Float[np.ndarray, "num dim"]:
        parent_G = random.integers(len(self.item_ND), size=num)
        other_G = self._near_NM[parent_G, random.integers(_NUM_NEIGHBOURS, size=num)]
        part_G1 = random.uniform(0, 0.5, size=(num, 1)).astype(np.float32)
        step_GD = part_G1 * (self.item_ND[other_G] - self.item_ND[parent_G])
        left_G1 = self._distance_N[parent_G, None] ** 2 - (step_GD**2).sum(axis=1, keepdims=True)
        noise_GD = random.standard_normal((num, len(self._spread_D)), dtype=np.float32) * self._spread_D
        grown_GD = self.item_ND[parent_G] + step_GD + self._noise * np.sqrt(np.maximum(left_G1, 0)) * noise_GD
        grown_GD *= self._gain_D
        unit_GD: np.ndarray = grown_GD / np.linalg.norm(grown_GD, axis=1, keepdims=True)
        return unit_GD


def _neighbours(item_ND: np.ndarray) -> tuple[Int64[np.ndarray, "items near"], Float[np.ndarray, " items"]]:
    """Return each item's nearest other items and its distance from the first of them."""
    _, near_NM = exact_top_k(item_ND, item_ND, k=_NUM_NEIGHBOURS + 1)
    own_NM = near_NM == np.arange(len(item_ND))[:, None]
    own_NM[~own_NM.any(axis=1), -1] = True  # an item behind as many copies of itself is not in its own list
    near_NM = near_NM[~own_NM].reshape(len(item_ND), _NUM_NEIGHBOURS)
    return near_NM, np.linalg.norm(item_ND - item_ND[near_NM[:, 0]], axis=1)


def blocked_top_k(
    query_QD: Float[np.ndarray, "queries dim"], item_ND: Float[np.ndarray, "items dim"], *, k: int
) -> tuple[Float[np.ndarray, "queries k"], Int64[np.ndarray, "queries k"]]:
    """Do what `recsys.index.exact.exact_top_k` does, reading items that lie on disk once, a block at a time."""
    best_QK = np.empty((len(query_QD), 0), dtype=np.float32)
    rows_QK = np.empty((len(query_QD), 0), dtype=np.int64)
    for start in range(0, len(item_ND), CHUNK):
        block_ND = np.ascontiguousarray(item_ND[start : start + CHUNK])
        score_QK, row_QK = exact_top_k(query_QD, block_ND, k=min(k, len(block_ND)))
        best_QC, rows_QC = np.hstack([best_QK, score_QK]), np.hstack([rows_QK, row_QK + start])
        order_QK = np.lexsort((rows_QC, -best_QC), axis=1)[:, :k]
        best_QK, rows_QK = np.take_along_axis(best_QC, order_QK, 1), np.take_along_axis(rows_QC, order_QK, 1)
    return best_QK, rows_QK
