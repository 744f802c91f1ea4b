from __future__ import annotations

import numpy as np
import pytest
import torch

from recsys.errors import WidthError
from recsys.widths import WidthLadder, as_queries, energy_shares, query_at, truncate, unit_queries

LADDER = WidthLadder([2, 4])
WHOLE = WidthLadder([2, 4], norm="full")
OWN = WidthLadder([2, 4], head="per_width")


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ([], "got none"),
        ([4, 2], "strictly increasing"),
        ([2, 2], "strictly increasing"),
        ([0, 2], "positive"),
        ([-1, 2], "positive"),
        ([2.0, 4.0], "positive integers"),
        ([True, 4], "positive integers"),
    ],
)
def test_impossible_ladders_are_refused(widths, message):
    with pytest.raises(WidthError, match=message):
        WidthLadder(widths)


def test_norms_and_heads_that_there_are_not_are_refused():
    with pytest.raises(WidthError, match=r"norm: got 'none', expected one of \['prefix', 'full'\]"):
        WidthLadder([2, 4], norm="none")
    with pytest.raises(WidthError, match=r"head: got 'none', expected one of \['tied', 'per_width'\]"):
        WidthLadder([2, 4], head="none")


def test_a_query_is_one_vector_or_one_per_width():
    assert (LADDER.query_size, LADDER.query_blocks) == (4, (slice(0, 4),))
    assert (OWN.query_size, OWN.query_blocks) == (6, (slice(0, 2), slice(2, 6)))


def test_blocks_tile_the_full_width():
    assert WidthLadder([16, 32, 128]).blocks == (slice(0, 16), slice(16, 32), slice(32, 128))


def test_truncate_cuts_and_normalises():
    np.testing.assert_allclose(truncate(np.array([[3.0, 4.0, 9.0, 9.0]]), 2, LADDER), [[0.6, 0.8]])


def test_with_norm_full_only_the_full_vector_has_unit_length():
    vector = np.array([[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 3.0, 4.0]])
    np.testing.assert_allclose(truncate(vector, 4, WHOLE), [[0.5, 0.5, 0.5, 0.5], [0, 0, 0.6, 0.8]])
    np.testing.assert_allclose(truncate(vector, 2, WHOLE), [[0.5, 0.5], [0, 0]])
    np.testing.assert_allclose(truncate(np.array([[0.5, 0.5]]), 2, WHOLE), [[0.5, 0.5]])  # cut before: scaled before
    with pytest.raises(WidthError, match="4 zeros"):
        truncate(np.zeros((1, 4)), 2, WHOLE)


@pytest.mark.parametrize("ladder", [LADDER, WHOLE, OWN])
def test_type_and_dtype_are_kept(ladder):
    vector, query = torch.ones(3, 4, dtype=torch.float64), torch.ones(3, ladder.query_size, dtype=torch.float64)
    single = vector.numpy().astype(np.float32), query.numpy().astype(np.float32)
    for given, dtype in (((vector, query), torch.float64), (single, np.float32)):
        made = (
            truncate(given[0], 2, ladder),
            as_queries(given[0], ladder),
            query_at(given[1], 2, ladder),
            unit_queries(given[1], ladder),
        )
        assert all(type(one) is type(given[0]) and one.dtype == dtype for one in made)


def test_a_query_with_tied_heads_is_cut_like_an_item():
    query = np.array([[3.0, 4.0, 0.0, 12.0]])
    np.testing.assert_allclose(query_at(query, 2, LADDER), [[0.6, 0.8]])
    np.testing.assert_allclose(query_at(query, 2, WHOLE), [[3 / 13, 4 / 13]])
    np.testing.assert_allclose(unit_queries(query, WHOLE), query / 13)
    np.testing.assert_allclose(as_queries(query, LADDER), query / 13)


@pytest.mark.parametrize("norm", ["prefix", "full"])
def test_a_query_with_a_head_per_width_has_a_unit_vector_for_each(norm):
    ladder = WidthLadder([2, 4], norm=norm, head="per_width")
    query = np.array([[3.0, 4.0, 0.0, 0.0, 0.0, 2.0]])
    np.testing.assert_allclose(query_at(query, 2, ladder), [[0.6, 0.8]])
    np.testing.assert_allclose(query_at(query, 4, ladder), [[0, 0, 0, 1]])
    np.testing.assert_allclose(unit_queries(query, ladder), [[0.6, 0.8, 0, 0, 0, 1]])
    np.testing.assert_allclose(
        as_queries(query[:, 2:] + query[:, :1], ladder), [[0.5**0.5] * 2 + [3 / 52**0.5] * 3 + [5 / 52**0.5]]
    )


@pytest.mark.parametrize("make", [np.asarray, torch.tensor])
@pytest.mark.parametrize(
    ("query", "width", "message"),
    [
        ([1.0] * 6, 3, "width: got 3, expected a trained width, one of \\[2, 4\\]"),
        ([1.0] * 4, 2, "query: got shape \\(4,\\), expected \\(..., 6\\) with per_width heads of \\[2, 4\\]"),
        ([1.0] * 5 + [float("nan")], 2, "NaN"),
        ([0.0] * 2 + [1.0] * 4, 2, "2 zeros"),
    ],
)
def test_what_is_no_query_is_refused(make, query, width, message):
    with pytest.raises(WidthError, match=message):
        query_at(make(query), width, OWN)
    if width == 2:
        with pytest.raises(WidthError, match=message):
            unit_queries(make(query), OWN)


@pytest.mark.parametrize("make", [np.asarray, torch.tensor])
@pytest.mark.parametrize(
    ("vector", "width", "message"),
    [
        ([1.0, 1.0, 1.0, 1.0], 3, "width: got 3, expected a trained width, one of \\[2, 4\\]"),
        ([1.0, 1.0, 1.0], 2, "got shape \\(3,\\)"),
        ([1.0, 1.0], 4, "got 4 for vectors of width 2"),
        ([1.0, float("nan"), 1.0, 1.0], 2, "NaN"),
        ([1.0, 1.0, 1.0, float("inf")], 2, "infinity"),
        ([0.0, 0.0, 1.0, 1.0], 2, "prefix of 2 zeros"),
    ],
)
def test_what_cannot_be_truncated_is_refused(make, vector, width, message):
    with pytest.raises(WidthError, match=message):
        truncate(make(vector), width, LADDER)


def test_tiny_and_huge_vectors_keep_their_direction():
    for scale in (1e-38, 1e37):
        vector = np.array([[3 * scale, 4 * scale, 0, 0]], dtype=np.float32)
        np.testing.assert_allclose(truncate(vector, 2, LADDER), [[0.6, 0.8]], rtol=1e-5)


def test_energy_shares_of_a_vector_whatever_its_scale():
    vector = np.array([[3.0, 4.0, 0.0, 0.0, 12.0], [0.0, 1.0, 1.0, 1.0, 1.0]], dtype=np.float32)
    shares = energy_shares(vector * np.array([[1e-20], [1e15]], dtype=np.float32), WidthLadder([1, 2, 5]))
    np.testing.assert_allclose(shares, [[9 / 169, 25 / 169, 1], [0, 0.25, 1]], atol=1e-6)


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        (np.ones((2, 3)), r"got shape \(2, 3\), expected \(rows, 4\)"),
        (np.ones(4), r"got shape \(4,\), expected \(rows, 4\)"),
        (np.zeros((1, 4)), "prefix of 4 zeros"),
        (np.full((1, 4), np.nan), "NaN or infinity"),
    ],
)
def test_energy_of_what_is_no_direction_is_refused(vector, message):
    with pytest.raises(WidthError, match=message):
        energy_shares(vector, WidthLadder([2, 4]))
