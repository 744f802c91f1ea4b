"""The fastest way to search at each overlap that somebody may ask for stays on the ladder, whatever else does."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recsys.index import frontier
from recsys.index.calibrate import MAX_RUNGS, chosen
from recsys.index.halving import FLOORS, Trial
from recsys.index.specs import RungSpec
from recsys.widths import WidthLadder

WIDTHS = WidthLadder([4, 8])
QUERIES = 8


@st.composite
def trials(draw):
    """Made-up measurements: an exact rung, and others of any overlap, time and size."""
    size = draw(st.integers(1, 60))
    numbers = st.floats(0, 1, width=32)
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    made = [trial(RungSpec(engine="exact", width=8), np.ones(QUERIES), ms=100.0, size_bytes=1000)]
    for place in range(size):
        missed = 10 ** (-4 * draw(numbers))
        overlap_Q = 1 - missed * random.uniform(0, 1, QUERIES) if draw(st.booleans()) else np.full(QUERIES, 1 - missed)
        width = draw(st.sampled_from([4, 8])) if place else 4  # publishing tries every width
        spec = RungSpec(engine="ivf", width=width, nprobe=place + 1)
        made.append(trial(spec, overlap_Q, ms=draw(st.floats(0.01, 200)), size_bytes=draw(st.integers(10, 2000))))
    return made


def trial(spec, overlap_Q, *, ms, size_bytes):
    queries = np.arange(QUERIES)
    return Trial(
        spec=spec,
        ks=(5,),
        queries=queries,
        overlap_QK=np.asarray(overlap_Q)[:, None],
        ms_PQ=np.full((1, QUERIES), ms),
        size_bytes=size_bytes,
        disturbed_share=0.0,
    )


@given(trials())
def test_the_ladder_holds_the_fastest_that_reaches_each_floor(made):
    places = chosen(made, WIDTHS)
    assert len(places) <= MAX_RUNGS
    assert held_floors(made, places) == set(FLOORS)


@given(st.integers(1, 10), st.randoms(use_true_random=False))
def test_where_widths_take_the_places_the_lowest_floors_go_without(num_widths, random):
    widths = WidthLadder(list(range(1, num_widths + 1)))
    made = [trial(RungSpec(engine="exact", width=widths.full), np.ones(QUERIES), ms=100.0, size_bytes=1000)]
    for place, floor in enumerate(FLOORS):
        spec = RungSpec(engine="ivf", width=widths.full, nprobe=place + 1)
        made.append(trial(spec, np.full(QUERIES, floor + 2e-4), ms=place + 1.0, size_bytes=500))
    for width in widths.widths[:-1]:
        spec = RungSpec(engine="exact", width=width)
        made.append(trial(spec, np.full(QUERIES, 0.6), ms=200.0, size_bytes=2000))
    random.shuffle(made)
    places = chosen(made, widths)
    held = held_floors(made, places)
    assert len(places) <= MAX_RUNGS
    assert {made[place].spec.width for place in places} == set(widths.widths)
    assert held == set(FLOORS[len(FLOORS) - len(held) :])
    if num_widths <= MAX_RUNGS - len(FLOORS):
        assert held == set(FLOORS)


def held_floors(made, places):
    """The floors whose fastest rung, of those that surely reach it, is on the ladder, or one as fast."""
    on_ladder = [made[place] for place in places]
    held = set()
    for floor in FLOORS:
        sure = [each for each in made if np.ptp(each.overlap_QK) == 0 and each.overlap_QK[0, 0] >= floor]
        fastest_ms = min(each.p50_ms for each in sure)
        if any(each.overlap_QK.mean() >= floor and each.p50_ms <= fastest_ms for each in on_ladder):
            held.add(floor)
    return held


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.1, 10)), min_size=1, max_size=30), st.integers(1, 4))
def test_fastest_reaching_is_what_sorting_says(points, each):
    overlap_P, ms_P = np.array(points).T
    found = frontier.fastest_reaching(overlap_P, ms_P, floors=(0.5, 0.9), each=each)
    wanted = set()
    for floor in (0.5, 0.9):
        reaching = [place for place in range(len(points)) if overlap_P[place] >= floor]
        wanted.update(sorted(reaching, key=lambda place: ms_P[place])[:each])
    assert found == sorted(wanted)


def test_best_keeps_the_first_whatever_their_rank():
    cost_PO = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
    assert frontier.best([cost_PO], num=2) == [0, 1]
    assert frontier.best([cost_PO], num=2, first=[3]) == [0, 3]
    assert frontier.best([cost_PO], num=1, first=[2, 3]) in ([2], [3])
