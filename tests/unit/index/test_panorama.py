"""Panorama: an exact answer, and a share that says how early the energy of the vectors lies."""

import faiss
import numpy as np
import pytest

from recsys.errors import ArtifactError, ConfigError, DataError, WidthError
from recsys.index.engines.flat import FlatIndex
from recsys.index.exact import exact_top_k
from recsys.index.panorama import panorama_scan
from recsys.index.specs import IndexSpec
from recsys.widths import WidthLadder

WIDTH = 32


def unit_rows(num_rows, *, spread, seed):
    """Random directions whose coordinates shrink by ``spread`` each."""
    vector_ND = np.random.default_rng(seed).standard_normal((num_rows, WIDTH)) * spread ** np.arange(WIDTH)
    return (vector_ND / np.linalg.norm(vector_ND, axis=1, keepdims=True)).astype(np.float32)


def test_its_answer_is_the_exact_one():
    query_QD, item_ND = unit_rows(40, spread=0.9, seed=1), unit_rows(1500, spread=0.9, seed=2)
    found = panorama_scan(query_QD, item_ND, k=50)
    score_QN = query_QD @ item_ND.T
    own_QK = np.take_along_axis(score_QN, found.rows_QK, axis=1)
    assert all(len(set(rows)) == 50 for rows in found.rows_QK.tolist())
    np.testing.assert_allclose(own_QK, exact_top_k(query_QD, item_ND, k=50)[0], atol=2e-6)


def test_early_energy_is_cheaper_and_one_level_reads_everything():
    share = {
        spread: panorama_scan(unit_rows(40, spread=spread, seed=1), unit_rows(3000, spread=spread, seed=2), k=10).share
        for spread in (0.6, 0.9, 1.0)
    }
    assert 1 / 8 < share[0.6] < share[0.9] < share[1.0] < 1
    whole = panorama_scan(unit_rows(4, spread=0.6, seed=1), unit_rows(300, spread=0.6, seed=2), k=10, num_levels=1)
    assert whole.share == 1.0


def test_how_vectors_are_turned_makes_no_difference():
    query_QD, item_ND = unit_rows(40, spread=0.8, seed=1), unit_rows(3000, spread=0.8, seed=2)
    turn_DD = np.linalg.qr(np.random.default_rng(3).standard_normal((WIDTH, WIDTH)))[0].astype(np.float32)
    found, of_turned = (
        panorama_scan(query_QD, item_ND, k=10),
        panorama_scan(query_QD @ turn_DD, item_ND @ turn_DD, k=10),
    )
    assert of_turned.share == pytest.approx(found.share, rel=1e-3)
    assert (found.rows_QK == of_turned.rows_QK).mean() > 0.99


def test_a_share_is_of_its_own_search_only():
    query_QD, item_ND = unit_rows(10, spread=0.8, seed=1), unit_rows(1000, spread=0.8, seed=2)
    assert panorama_scan(query_QD, item_ND, k=10).share == panorama_scan(query_QD, item_ND, k=10).share


def test_refusals():
    query_QD, item_ND = unit_rows(4, spread=1, seed=1), unit_rows(20, spread=1, seed=2)
    with pytest.raises(ConfigError, match="num_levels: got 5, expected a divisor of the width 32"):
        panorama_scan(query_QD, item_ND, k=5, num_levels=5)
    with pytest.raises(ConfigError, match="k: got 0"):
        panorama_scan(query_QD, item_ND, k=0)
    with pytest.raises(DataError, match="got 4 queries and 20 items, expected some and at least 21"):
        panorama_scan(query_QD, item_ND, k=21)
    with pytest.raises(WidthError, match="of one width"):
        panorama_scan(query_QD[:, :16], item_ND, k=5)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda index: faiss.IndexPreTransform(skewed(), index.index),
            "turn: got a matrix that changes inner products",
        ),
        (lambda index: faiss.IndexPreTransform(index.index), r"turns: got \[\], expected \['LinearTransform'\]"),
        (lambda index: index.index, "got a IndexFlatIPPanorama, expected a IndexPreTransform"),
    ],
)
def test_a_file_that_turns_otherwise_is_refused(tmp_path, spoil, message):
    widths, item_ND = WidthLadder([16, WIDTH]), unit_rows(200, spread=0.8, seed=2)
    spec = IndexSpec(engine="exact", width=WIDTH, levels=8)
    FlatIndex.build(spec, item_ND, widths=widths).save(tmp_path)
    FlatIndex.load(tmp_path, spec, item_ND, widths=widths)
    path = tmp_path / f"{spec.name}.faiss"
    index = faiss.read_index(str(path))
    faiss.write_index(spoil(index), str(path))
    with pytest.raises(ArtifactError, match=message):
        FlatIndex.load(tmp_path, spec, item_ND, widths=widths)


def skewed():
    turn = faiss.LinearTransform(WIDTH, WIDTH, False)
    faiss.copy_array_to_vector(np.diag(np.linspace(1, 2, WIDTH)).astype(np.float32).ravel(), turn.A)
    turn.is_trained = turn.is_orthonormal = True
    return turn
