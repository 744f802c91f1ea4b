"""A ladder whose rungs are so far apart that tests know which one is chosen, whatever the machine does meanwhile."""

from __future__ import annotations

from recsys.bundle import Bundle
from recsys.index.build import build_for
from recsys.index.rungs import Ladder, Rung
from serving.calibration import Calibration
from serving.engine import Engine
from serving.latency import LatencyModel


def with_three_steps(bundle: Bundle) -> Bundle:
    """Give an opened small bundle (widths 4, 8 and 16) three steps that claim 1, 2 and 4 seconds."""
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
    bundle.ladder = Ladder(rungs=tuple(rungs), measured={})
    # What the published ladder kept indexes for depends on how fast this machine was.
    bundle.searcher = build_for(bundle.item_vectors, rungs, widths=bundle.widths, seed=1)
    return bundle


def serve_three_steps(engine: Engine) -> None:
    """Give those steps to an engine that answers already."""
    ladder = with_three_steps(engine.bundle).ladder
    # On a clock that stands still nothing is learned, so that what the steps claim to take stays what is expected.
    engine.latency, engine.calibration = LatencyModel(ladder, clock=lambda: 0.0), Calibration(ladder)
