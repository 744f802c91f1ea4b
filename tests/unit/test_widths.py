from __future__ import annotations

import numpy as np
import pytest
import torch

from recsys.errors import WidthError
from recsys.widths import WidthLadder, energy_shares, truncate

LADDER = WidthLadder([2, 4])


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


def test_blocks_tile_the_full_width():
    assert WidthLadder([16, 32, 128]).blocks == (slice(0, 16), slice(16, 32), slice(32, 128))


def test_truncate_cuts_and_normalises():
    np.testing.assert_allclose(truncate(np.array([[3.0, 4.0, 9.0, 9.0]]), 2, LADDER), [[0.6, 0.8]])


def test_truncate_keeps_type_and_dtype():
    assert truncate(torch.ones(3, 4, dtype=torch.float64), 2, LADDER).dtype == torch.float64
    assert truncate(np.ones((3, 4), dtype=np.float32), 2, LADDER).dtype == np.float32


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
