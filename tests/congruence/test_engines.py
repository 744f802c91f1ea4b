"""FAISS against plain linear algebra: the same question to two engines must get the same answer.

Where two scores differ by less than float32 rounding, either order is right, so rows are compared by their scores.
"""

from dataclasses import replace
from itertools import pairwise, product
from typing import get_args

import numpy as np
import pytest
import torch

from recsys.data.dataset import Dataset
from recsys.errors import RequestError
from recsys.index.build import build_searcher, default_indexes
from recsys.index.calibrate import measure_ladder
from recsys.index.cells import num_cells
from recsys.index.exact import NOTHING, exact_top_k
from recsys.index.files import load_searcher, write_indexes
from recsys.index.item_set import ItemSet
from recsys.index.specs import Code, RungSpec
from recsys.index.store import map_vectors, save_vectors
from recsys.ragged import Ragged
from recsys.testing import small_dataset, small_towers
from recsys.widths import WidthLadder, query_at, truncate

WIDTHS = WidthLadder([8, 16, 32])
NUM_ITEMS = 1500
SPECS = [
    RungSpec(engine=engine, width=width, nprobe=nprobe, rerank=rerank)
    for width in WIDTHS
    for engine, nprobe in (("exact", 0), ("ivf", 2), ("ivf", 8))
    for rerank in ((0, 100, 400) if width < WIDTHS.full else (0,))
]
ROUNDING = 2e-6
CELLS = num_cells(NUM_ITEMS)
STORES = ("fp16", "sq8")

EXACT_AT_WIDTH = [
    *(RungSpec(engine="exact", width=width, levels=4) for width in WIDTHS),
    RungSpec(engine="ivf", width=32, routing=8, nprobe=CELLS),
    RungSpec(engine="ivf", width=8, routing=32, nprobe=CELLS),
    RungSpec(engine="ivf", width=16, routing=8, levels=2, nprobe=CELLS),
]
"""Answer with exact scores at their width."""

EXACT_AT_FULL = [
    *(RungSpec(engine="certified", width=WIDTHS.full, routing=width) for width in (0, *WIDTHS)),
    *(
        RungSpec(engine="ivf", width=width, routing=8, code=code, nprobe=CELLS, rerank=NUM_ITEMS)
        for width, code in product((8, 32), get_args(Code))
        if (width, code) != (8, "pq4")  # two codes of four bits: too coarse for the fast scan's own rounding
    ),
    RungSpec(engine="exact", width=8, funnel=((16, NUM_ITEMS),), rerank=NUM_ITEMS),
    RungSpec(
        engine="ivf", width=8, code="sq8", nprobe=CELLS, funnel=((8, NUM_ITEMS), (16, NUM_ITEMS)), rerank=NUM_ITEMS
    ),
]
"""Answer with exact scores at full width."""

GRAPH = RungSpec(engine="hnsw", width=16, ef=NUM_ITEMS)


@pytest.fixture(scope="module", params=product(("prefix", "full"), ("tied", "per_width")), ids="-".join)
def world(request, tmp_path_factory):
    """Items and users of random towers, and a searcher read back from its files."""
    norm, head = request.param
    widths = WidthLadder(WIDTHS.widths, norm=norm, head=head)
    folder = tmp_path_factory.mktemp("world")
    dataset = Dataset(small_dataset(folder / "dataset", num_users=64, num_items=NUM_ITEMS))
    towers = small_towers(dataset, widths=tuple(WIDTHS), norm=norm, head=head)
    item_ND = towers.encode_items(np.arange(NUM_ITEMS), dataset.feature_lists("item"))
    query_QU = towers.encode_users(dataset.histories("train"), dataset.feature_lists("user"))
    save_vectors(item_ND, folder / "store.safetensors", metadata={})
    (folder / "index").mkdir()
    indexes = [*default_indexes(widths, NUM_ITEMS), *{rung.index for rung in [GRAPH, *EXACT_AT_WIDTH, *EXACT_AT_FULL]}]
    built = build_searcher(item_ND, widths=widths, seed=1, indexes=list(dict.fromkeys(indexes)), stores=STORES)
    write_indexes(built, folder / "index")
    mapped, _ = map_vectors(folder / "store.safetensors")
    return load_searcher(folder / "index", mapped, widths=widths), query_QU


def scores(searcher, query_QU, width):
    """All scores at a width, in float64."""
    item_ND, query_QU = (torch.tensor(vector, dtype=torch.float64) for vector in (searcher.store_ND, query_QU))
    return (query_at(query_QU, width, searcher.widths) @ truncate(item_ND, width, searcher.widths).T).numpy()


def assert_best(found, score_QN, k):
    """Check that an answer holds the k best by these scores, up to rounding, with the right scores."""
    assert (found.rows_BK != NOTHING).all()
    assert all(len(set(rows)) == k for rows in found.rows_BK.tolist())
    own_QK = np.take_along_axis(score_QN, found.rows_BK, axis=1)
    np.testing.assert_allclose(found.scores_BK, own_QK, atol=ROUNDING)
    best_QK = -np.sort(-score_QN, axis=1)[:, :k]
    np.testing.assert_allclose(own_QK, best_QK, atol=ROUNDING)


@pytest.mark.parametrize("k", [1, 10, 100])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("batch", [1, 7, 64])  # FAISS scans large batches another way
def test_exact_search_equals_the_matrix_product(world, width, k, batch):
    searcher, query_QU = world
    found = searcher.search(query_QU[:batch], k=k, rung=RungSpec(engine="exact", width=width))
    assert_best(found, scores(searcher, query_QU[:batch], width), k)


@pytest.mark.parametrize("width", WIDTHS)
def test_ivf_that_visits_every_cell_is_exact(world, width):
    searcher, query_QU = world
    found = searcher.search(query_QU, k=50, rung=RungSpec(engine="ivf", width=width, nprobe=num_cells(NUM_ITEMS)))
    assert_best(found, scores(searcher, query_QU, width), 50)


@pytest.mark.parametrize("width", WIDTHS.widths[:-1])
@pytest.mark.parametrize(("engine", "nprobe"), [("exact", 0), ("ivf", num_cells(NUM_ITEMS))])
def test_a_rerank_of_the_whole_catalogue_is_exact_at_full_width(world, width, engine, nprobe):
    searcher, query_QU = world
    rung = RungSpec(engine=engine, width=width, nprobe=nprobe, rerank=NUM_ITEMS)
    assert_best(searcher.search(query_QU, k=50, rung=rung), scores(searcher, query_QU, WIDTHS.full), 50)


@pytest.mark.parametrize(
    "rung",
    [
        *(RungSpec(engine="exact", width=width) for width in WIDTHS),
        RungSpec(engine="ivf", width=16, nprobe=num_cells(NUM_ITEMS)),
        RungSpec(engine="exact", width=8, rerank=NUM_ITEMS),
        *EXACT_AT_WIDTH,
        *EXACT_AT_FULL,
    ],
    ids=lambda rung: rung.name,
)
@pytest.mark.parametrize("share", [0.01, 0.5, 0.95])
def test_exclusion_equals_masking(world, rung, share):
    searcher, query_QU = world
    exclude = np.random.default_rng(1).choice(NUM_ITEMS, size=int(share * NUM_ITEMS), replace=False)
    score_QN = scores(searcher, query_QU, WIDTHS.full if rung in EXACT_AT_FULL or rung.rerank else rung.width)
    score_QN[:, exclude] = -np.inf
    assert_best(searcher.search(query_QU, k=20, rung=rung, allowed=ItemSet.all_but(exclude, NUM_ITEMS)), score_QN, 20)


@pytest.mark.parametrize("rung", EXACT_AT_WIDTH, ids=lambda rung: rung.name)
def test_every_engine_is_exact_at_its_width_at_exhaustive_effort(world, rung):
    searcher, query_QU = world
    assert_best(searcher.search(query_QU, k=50, rung=rung), scores(searcher, query_QU, rung.width), 50)


@pytest.mark.parametrize("rung", EXACT_AT_FULL, ids=lambda rung: rung.name)
def test_every_engine_is_exact_at_full_width_at_exhaustive_effort(world, rung):
    searcher, query_QU = world
    assert_best(searcher.search(query_QU, k=50, rung=rung), scores(searcher, query_QU, WIDTHS.full), 50)


@pytest.mark.parametrize("rerank", [0, NUM_ITEMS])
def test_a_walk_through_the_whole_graph_finds_nearly_all(world, rerank):
    searcher, query_QU = world
    rung = replace(GRAPH, rerank=rerank)
    score_QN = scores(searcher, query_QU, WIDTHS.full if rerank else rung.width)
    found = searcher.search(query_QU, k=50, rung=rung)
    np.testing.assert_allclose(found.scores_BK, np.take_along_axis(score_QN, found.rows_BK, axis=1), atol=ROUNDING)
    best_QK = -np.sort(-score_QN, axis=1)[:, 49:50]
    # Items that no other links to are not reached.
    assert (found.scores_BK >= best_QK - ROUNDING).mean() > 0.95


def test_panorama_in_one_scan_keeps_so_many_candidates(world):
    searcher, query_QU = world
    rung = RungSpec(engine="exact", width=8, levels=4)
    searcher.search(query_QU, k=1024, rung=rung)
    with pytest.raises(RequestError, match="k: got 1025 candidates of exact8-pano4, expected at most 1024"):
        searcher.search(query_QU, k=1025, rung=rung)


def test_a_funnel_without_a_rerank_answers_at_its_last_width(world):
    searcher, query_QU = world
    rung = RungSpec(engine="exact", width=8, funnel=((16, NUM_ITEMS),))
    assert_best(searcher.search(query_QU, k=50, rung=rung), scores(searcher, query_QU, 16), 50)


def test_a_funnel_takes_the_best_of_each_stage(world):
    searcher, query_QU = world
    found = searcher.search(query_QU, k=10, rung=RungSpec(engine="exact", width=8, funnel=((16, 200),), rerank=40))
    score_of = {width: scores(searcher, query_QU, width) for width in WIDTHS}
    for query, rows in enumerate(found.rows_BK):
        first = np.argsort(-score_of[8][query])[:200]
        second = first[np.argsort(-score_of[16][query][first])[:40]]
        third = second[np.argsort(-score_of[32][query][second])[:10]]
        assert len(set(rows) & set(third)) >= 9  # one may be swapped where scores tie up to rounding


@pytest.mark.parametrize(("store", "tolerance"), [("fp16", 1e-3), ("sq8", 0.03)])
@pytest.mark.parametrize("scan", [8, 32])
def test_smaller_stores_score_with_the_vectors_that_they_hold(world, store, tolerance, scan):
    searcher, query_QU = world
    code_ND, scale_D = searcher.stores[store].code_ND, searcher.stores[store].scale_D
    held_ND = code_ND.view(np.float16).astype(np.float64) if scale_D is None else code_ND * scale_D.astype(np.float64)
    np.testing.assert_allclose(held_ND, searcher.store_ND, atol=tolerance)
    rung = RungSpec(engine="ivf", width=scan, routing=8, code="sq8", nprobe=CELLS, rerank=NUM_ITEMS, store=store)
    query_QD = query_at(query_QU, WIDTHS.full, searcher.widths).astype(np.float64)
    assert_best(searcher.search(query_QU, k=50, rung=rung), query_QD @ held_ND.T, 50)


def test_exact_search_equals_the_exact_module(world):
    searcher, query_QU = world
    score_QK, row_QK = exact_top_k(query_at(query_QU, WIDTHS.full, searcher.widths), searcher.store_ND, k=30)
    found = searcher.search(query_QU, k=30, rung=RungSpec(engine="exact", width=WIDTHS.full))
    np.testing.assert_allclose(found.scores_BK, score_QK, atol=ROUNDING)
    assert (found.rows_BK == row_QK).mean() > 0.99


def test_a_batch_gets_what_its_queries_get_alone(world):
    searcher, query_QU = world
    for spec in SPECS:
        together = searcher.search(query_QU, k=20, rung=spec)
        alone = [searcher.search(query_QU[q : q + 1], k=20, rung=spec).scores_BK[0] for q in range(len(query_QU))]
        np.testing.assert_allclose(together.scores_BK, np.stack(alone), atol=ROUNDING)


def test_measured_overlaps_are_reproducible(world):
    searcher, query_QU = world
    specs = SPECS
    seen = Ragged.from_lists([range(q, q + 30) for q in range(len(query_QU))])
    once, again = (
        measure_ladder(searcher, query_QU, specs=specs, ks=(10, 50), exclude=seen, repeats=1, seed=seed)
        for seed in (1, 2)
    )
    overlaps = [{rung.name: rung.overlap for rung in ladder.rungs} for ladder in (once, again)]
    assert overlaps[0] == overlaps[1]
    assert len(overlaps[0]) == len(specs)


@pytest.mark.parametrize("width", WIDTHS.widths[:-1])
def test_a_deeper_rerank_of_an_exact_scan_never_loses(world, width):
    searcher, query_QU = world
    depths = [20, 40, 100, 300, 1000, NUM_ITEMS]
    specs = [RungSpec(engine="exact", width=width, rerank=depth) for depth in depths]
    ladder = measure_ladder(searcher, query_QU, specs=specs, ks=(20,), repeats=1)
    overlap_of = {rung.rerank: rung.overlap[20] for rung in ladder.rungs}
    shares = [overlap_of[depth] for depth in depths]
    assert all(low <= high for low, high in pairwise(shares))
    assert shares[0] < shares[-1] == 1.0
    # Reranking k of k changes the order only: the share found is the scan's own.
    scan = measure_ladder(searcher, query_QU, specs=[RungSpec(engine="exact", width=width)], ks=(20,), repeats=1).rungs[
        0
    ]
    assert scan.overlap[20] == shares[0]
