"""Panorama: an exact answer, and a share that says how early the energy of the vectors lies."""

import numpy as np
import pytest

from recsys.errors import ConfigError, DataError, WidthError
from recsys.index.exact import exact_top_k
from recsys.index.panorama import panorama_scan

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
