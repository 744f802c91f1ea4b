"""The experiment on widths: principal axes, and the headline figures from known ones."""

import numpy as np

from benchmarks._rivals import principal_axes
from benchmarks.widths import HEADLINES, compare, worst
from recsys.widths import WidthLadder

METHODS = ("matryoshka", "dedicated", "twin truncated", "twin PCA", "twin PCA unscaled", "twin random dimensions")


def test_principal_axes_keep_inner_products_and_put_energy_first():
    rng = np.random.default_rng(1)
    item_ND = (rng.standard_normal((500, 6)) * [1, 5, 2, 0.1, 3, 0.5] + [4, 0, 0, 0, 0, 0]).astype(np.float32)
    axes_DD = principal_axes(item_ND)
    rotated_ND = item_ND @ axes_DD
    np.testing.assert_allclose(rotated_ND @ rotated_ND.T, item_ND @ item_ND.T, atol=1e-2)
    energy_D = (rotated_ND**2).sum(axis=0)
    assert (np.diff(energy_D) < 0).all()
    # Not centred: the constant part of the first coordinate counts as energy.
    np.testing.assert_allclose(energy_D, np.linalg.svd(item_ND, compute_uv=False) ** 2, rtol=1e-3)


def seed_of(ndcg, *, containment=0.9, share=0.5):
    """One seed's figures; ``ndcg`` maps methods to ndcg@20 at the widths 8, 16, 32, 64."""
    methods = {
        method: {
            str(width): {"ndcg@20": value, "containment_x2": containment}
            for width, value in zip((8, 16, 32, 64), ndcg.get(method, (1.0,) * 4), strict=True)
        }
        for method in METHODS
    }
    energy = {"8": 0.4, "16": 0.6, "32": 0.8, "64": 1.0}
    shares = {"panorama_share": share, "twin_panorama_share": 0.9}
    return shares | {"methods": methods, "item_energy": energy, "trainings": {}}


def test_headlines_by_hand():
    seeds = [
        seed_of(
            {"matryoshka": (0.6, 0.9, 0.95, 0.99), "twin PCA": (0.5, 0.6, 9, 9), "twin PCA unscaled": (0.4,) * 4},
            containment=0.8,
            share=0.2,
        ),
        seed_of(
            {"matryoshka": (0.8, 0.9, 0.95, 1.01), "twin PCA": (0.5, 0.9, 9, 9), "twin PCA unscaled": (0.4,) * 4},
            containment=0.9,
            share=0.4,
        ),
    ]
    found = compare(seeds, WidthLadder((8, 16, 32, 64)))
    means = {name: found[name]["mean"] for name in HEADLINES}
    np.testing.assert_allclose(means["full_vs_twin"], 1.0)
    np.testing.assert_allclose(means["min_width_vs_dedicated"], 0.7)
    np.testing.assert_allclose(means["quarter_vs_full"], (0.9 / 0.99 + 0.9 / 1.01) / 2)
    np.testing.assert_allclose(means["containment_quarter_x2"], 0.85)
    np.testing.assert_allclose(means["panorama_share"], 0.3)
    # Width 8: 1.2 and 1.6; width 16: 1.5 and 1. Wider ones do not count.
    np.testing.assert_allclose(means["min_width_vs_pca_at_quarter_and_below"], 1.25)
    assert found["min_width_vs_pca_at_quarter_and_below"]["width"] == 16
    assert found["min_width_vs_dedicated"]["width"] == 8


def test_a_headline_is_where_it_is_worst():
    parts = {
        "a": {"figures": {name: {"mean": 0.3} for name in HEADLINES}},
        "b": {"figures": {name: {"mean": 0.4} for name in HEADLINES}},
    }
    found = worst(parts)
    assert found["full_vs_twin"] == {"mean": 0.3, "dataset": "a"}
    assert found["panorama_share"] == {"mean": 0.4, "dataset": "b"}
