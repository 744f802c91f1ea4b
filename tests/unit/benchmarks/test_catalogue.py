"""Simulated catalogues: like the trained items they are grown from, and the same however they are made."""

import numpy as np
import pytest

from benchmarks._catalogue import Catalogue, blocked_top_k
from recsys.errors import ConfigError
from recsys.index.exact import exact_top_k


@pytest.fixture(scope="module")
def trained():
    """Clusters of clusters, with energy that falls along the dimensions: as a compacted Matryoshka model has it."""
    rng = np.random.default_rng(1)
    scale_D = 0.9 ** np.arange(48)
    topics_TD = rng.standard_normal((30, 48)) * scale_D
    item_ND = topics_TD[rng.integers(30, size=1500)] + 0.5 * rng.standard_normal((1500, 48)) * scale_D
    return (item_ND / np.linalg.norm(item_ND, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def grown(trained):
    return Catalogue(trained, seed=1).vectors(6000)


def nearest(query_QD, item_ND, place):
    score_QK, _ = exact_top_k(query_QD, item_ND, k=place + 1)
    return np.sqrt(np.maximum(2 - 2 * score_QK[:, place], 0))


def test_trained_items_come_first_and_all_are_unit_vectors(trained, grown):
    np.testing.assert_array_equal(grown[: len(trained)], trained)
    np.testing.assert_allclose(np.linalg.norm(grown, axis=1), 1, atol=1e-5)


def test_the_energy_profile_stays(trained, grown):
    want_D, got_D = (np.cumsum((one**2).mean(axis=0)) for one in (trained, grown[len(trained) :]))
    assert np.abs(want_D - got_D).max() < 0.02


def test_neighbours_stay_as_far_apart(trained, grown):
    real = nearest(trained, trained, 1)
    simulated = nearest(grown[len(trained) :], trained, 0)
    for percent in (10, 50, 90):
        assert np.percentile(simulated, percent) == pytest.approx(np.percentile(real, percent), rel=0.1)


def test_simulated_items_are_not_copies(trained, grown):
    assert np.percentile(nearest(grown, grown, 1), 1) > 0.2 * np.median(nearest(trained, trained, 1))


def test_seeded_and_a_longer_catalogue_begins_with_the_shorter(trained, grown):
    np.testing.assert_array_equal(Catalogue(trained, seed=1).vectors(4000), grown[:4000])
    assert not np.array_equal(Catalogue(trained, seed=2).vectors(4000), grown[:4000])


def test_on_disk_the_same_and_kept(trained, grown, tmp_path):
    catalogue = Catalogue(trained, seed=1)
    mapped = catalogue.write(6000, tmp_path / "items.npy")
    assert isinstance(mapped, np.memmap)
    np.testing.assert_array_equal(mapped, grown)
    written = (tmp_path / "items.npy").stat().st_mtime_ns
    catalogue.write(6000, tmp_path / "items.npy")
    assert (tmp_path / "items.npy").stat().st_mtime_ns == written
    with pytest.raises(ConfigError, match=r"got shape \(6000, 48\), expected \(7000, 48\)"):
        catalogue.write(7000, tmp_path / "items.npy")


def test_too_few_to_grow_from(trained):
    with pytest.raises(ConfigError, match="got 4 trained ones"):
        Catalogue(trained[:4], seed=1)


def test_blocks_change_nothing(trained, grown, monkeypatch):
    monkeypatch.setattr("benchmarks._catalogue.CHUNK", 700)
    got, rows = blocked_top_k(trained[:20], grown, k=50)
    want, want_rows = exact_top_k(trained[:20], grown, k=50)
    np.testing.assert_allclose(got, want, atol=1e-6)
    assert (rows == want_rows).mean() > 0.99  # BLAS may round scores that nearly tie in another order
