"""One small bundle for all tests of the serving room: 1,000 items, so that it has IVF indexes."""

import pytest

from recsys.bundle import Bundle, open_current
from recsys.index.build import build_for
from recsys.index.rungs import Ladder, Rung
from recsys.testing import small_bundle
from serving.engine import Engine


@pytest.fixture(scope="session")
def bundles(tmp_path_factory):
    root = tmp_path_factory.mktemp("bundles")
    small_bundle(root, num_items=1000)
    return root


@pytest.fixture(scope="session")
def bundle(bundles) -> Bundle:
    """The bundle with a ladder of three steps of 1, 2 and 4 seconds, whatever this machine is doing meanwhile."""
    opened = open_current(bundles)
    rungs = [
        Rung(
            engine="ivf" if nprobe else "exact",
            width=width,
            nprobe=nprobe,
            overlap={10: overlap, 100: overlap - 0.1},
            latency_p50_ms=p99_ms,
            latency_p99_ms=p99_ms,
            size_bytes=4000 * width,
        )
        for width, nprobe, overlap, p99_ms in ((4, 1, 0.3, 1000), (8, 0, 0.6, 2000), (16, 0, 1.0, 4000))
    ]
    opened.ladder = Ladder(rungs=tuple(rungs), measured={})
    # What the published ladder kept indexes for depends on how fast this machine was.
    opened.searcher = build_for(opened.item_vectors, rungs, widths=opened.widths, seed=1)
    return opened


@pytest.fixture(scope="session")
def engine(bundle) -> Engine:
    return Engine(bundle)
