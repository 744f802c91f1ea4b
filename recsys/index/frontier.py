"""What is on the frontier: searches than which no other is at least as good in every respect and better in one.

Respects (*objectives*) are columns of a matrix, of which less is better: the share of the answer that is missed, and
the logarithms of milliseconds and bytes.

Sources: non-dominated sorting and crowding distance, Deb et al., *NSGA-II* (IEEE Trans. Evol. Comp. 2002); a grid that
keeps one point of each cell, Laumanns et al., *Combining Convergence and Diversity in Evolutionary Multiobjective
Optimization* (Evol. Comp. 2002); farthest-first traversal, Gonzalez, *Clustering to Minimize the Maximum Intercluster
Distance* (Theor. Comp. Sci. 1985).

Shapes: ``cost_PO`` (points, objectives).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int64

LEAST_MISSED = 1e-3
"""Shares of the answer that are missed are compared as logarithms of what is missed plus this."""


def objectives(
    overlap_PK: Float[np.ndarray, "points ks"], *others: Float[np.ndarray, " points"]
) -> list[Float[np.ndarray, "points objectives"]]:
    """Return a matrix of objectives for each k: what is missed, then the other positive costs, all as logarithms."""
    logs = [np.log(np.asarray(other, dtype=np.float64)) for other in others]
    return [np.column_stack([np.log(1 - overlap_P + LEAST_MISSED), *logs]) for overlap_P in overlap_PK.T]


def is_dominated(cost_PO: Float[np.ndarray, "points objectives"]) -> Bool[np.ndarray, " points"]:
    """Say which points another is nowhere worse than and somewhere better; equal points do not dominate each other."""
    no_worse_PP = (cost_PO[:, None] <= cost_PO[None]).all(axis=2)
    better_PP = (cost_PO[:, None] < cost_PO[None]).any(axis=2)
    dominated_P: np.ndarray = np.any(no_worse_PP & better_PP, axis=0)
    return dominated_P


def ranks(cost_PO: Float[np.ndarray, "points objectives"]) -> Int64[np.ndarray, " points"]:
    """Return 0 for points on the frontier, 1 for those on the frontier of the rest, and so on."""
    rank_P = np.zeros(len(cost_PO), dtype=np.int64)
    left = np.arange(len(cost_PO))
    rank = 0
    while len(left):
        dominated = is_dominated(cost_PO[left])
        rank_P[left[~dominated]] = rank
        left, rank = left[dominated], rank + 1
    return rank_P


def crowding(cost_PO: Float[np.ndarray, "points objectives"]) -> Float[np.ndarray, " points"]:
    """Return how far apart each point's neighbours are, summed over objectives; infinite at either end of one."""
    distance_P = np.zeros(len(cost_PO))
    for cost_P in cost_PO.T:
        order = np.argsort(cost_P, kind="stable")
        span = cost_P[order[-1]] - cost_P[order[0]]
        distance_P[order[[0, -1]]] = np.inf
        if span > 0:
            distance_P[order[1:-1]] += (cost_P[order[2:]] - cost_P[order[:-2]]) / span
    return distance_P


def best(costs: list[Float[np.ndarray, "points objectives"]], *, num: int, first: Sequence[int] = ()) -> list[int]:
    """Return the places of the ``num`` best points, in order of place: by rank, and within the last by crowding.

    Args:
        costs: one matrix per k; a point's rank is its best one over them.
        num: how many to keep.
        first: places that count as better than all others.
    """
    rank_P = np.min([ranks(cost_PO) for cost_PO in costs], axis=0)
    apart_P = np.max([crowding(cost_PO) for cost_PO in costs], axis=0)
    rank_P[list(first)] = -1
    return sorted(np.lexsort((-apart_P, rank_P))[:num].tolist())


def fastest_reaching(
    overlap_P: Float[np.ndarray, " points"], ms_P: Float[np.ndarray, " points"], *, floors: Sequence[float], each: int
) -> list[int]:
    """Return the places of the ``each`` fastest points that reach a floor, for any of the floors, in order of place."""
    order = np.argsort(ms_P, kind="stable")
    found: set[int] = set()
    for floor in floors:
        found.update(order[overlap_P[order] >= floor][:each].tolist())
    return sorted(found)


def thin(
    costs: list[Float[np.ndarray, "points objectives"]],
    *,
    most: int,
    cells: Float[np.ndarray, " objectives"],
) -> list[int]:
    """Return the places of at most ``most`` points that stand for the frontiers at every k.

    Of a grid whose cells are differences that are noise, points are left in cells that no other cell dominates, one (of
    the least missed) in each. Where those are too many, one is left in each cell of coarser and coarser grids.

    Args:
        costs: one matrix of objectives per k.
        most: how many points may be left, at least one for each k.
        cells: the smallest difference of each objective that is not noise.
    """
    kept_of = [_one_per_cell(cost_PO, np.arange(len(cost_PO)), cells, only_frontier=True) for cost_PO in costs]
    coarseness = 1.0
    while len(kept := sorted(set().union(*map(np.ndarray.tolist, kept_of)))) > most:
        coarseness *= 1.25
        kept_of = [
            _one_per_cell(cost_PO, kept_P, cells * coarseness) for cost_PO, kept_P in zip(costs, kept_of, strict=True)
        ]
    return kept


def spread(
    cost_PO: Float[np.ndarray, "points objectives"],
    *,
    first: Sequence[int],
    among: Sequence[int],
    most: int,
    cells: Float[np.ndarray, " objectives"],
) -> list[int]:
    """Return the places of ``first`` and of points of the frontier beside them, the farthest from all others first.

    Args:
        cost_PO: the objectives.
        first: the points that are there already, at least one.
        among: the points that may be added, where they are on the frontier.
        most: how many points there may be, with those.
        cells: the smallest difference of each objective that is not noise: no point is added that differs by less in
            all of them from one that is there.
    """
    is_dominated_P, unit_PO, chosen = is_dominated(cost_PO), cost_PO / cells, list(first)
    offered_P = np.array([place for place in among if not is_dominated_P[place]], dtype=np.int64)
    apart_P = np.min([np.abs(unit_PO[offered_P] - unit_PO[place]).max(axis=1) for place in chosen], axis=0)
    while len(chosen) < most and apart_P.max(initial=0) >= 1:
        farthest = offered_P[apart_P.argmax()]
        chosen.append(int(farthest))
        apart_P = np.minimum(apart_P, np.abs(unit_PO[offered_P] - unit_PO[farthest]).max(axis=1))
    return sorted(chosen)


def _one_per_cell(
    cost_PO: np.ndarray, points: np.ndarray, size_O: np.ndarray, *, only_frontier: bool = False
) -> np.ndarray:
    """Return, for each cell of a grid, its point of least cost, the first objective counting most."""
    cost_PO = cost_PO[points]
    cell_PO = np.floor((cost_PO - cost_PO.min(axis=0)) / size_O)
    order = np.lexsort(cost_PO.T[::-1])
    _, first = np.unique(cell_PO[order], axis=0, return_index=True)
    chosen = order[first]
    if only_frontier:
        chosen = chosen[~is_dominated(cell_PO[chosen])]
    left: np.ndarray = points[chosen]
    return left
