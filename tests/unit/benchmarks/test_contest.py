"""Contenders that are built and measured again: all that were asked for and no others, in turns with one exact scan."""

import numpy as np
import pytest

from benchmarks._contest import Contest, measure_in_turns, measure_ours, measure_rival
from benchmarks._frontiers import Point
from benchmarks.rivals.faiss_indexes import PQ, Flat
from recsys.index.space import LadderSpace
from recsys.ragged import Ragged
from recsys.widths import WidthLadder

SPACE = LadderSpace(engines=("exact", "ivf"), codes=("sq8",), levels=(0,), reranks=(2,), stores=("fp16",), max_trials=8)


@pytest.fixture(scope="module")
def contest():
    random = np.random.default_rng(1)
    vector_ND = random.standard_normal((1100, 16)).astype(np.float32)
    vector_ND /= np.linalg.norm(vector_ND, axis=1, keepdims=True)
    targets = Ragged.from_lists([[row, row + 1] for row in range(40)])
    return Contest(
        item_ND=vector_ND[:1000],
        tune_QU=vector_ND[1000:1040],
        test_QU=vector_ND[1060:],
        target=targets,
        widths=WidthLadder((8, 16)),
        num_trials=6,
        budget_s=30.0,
        repeats=1,
        seed=1,
    )


def points_of(measured):
    return [Point.load(plain) for plain in measured["points"]]


def test_who_leads_is_built_and_measured_again_as_before(contest):
    ours, theirs = points_of(measure_ours(contest, SPACE)), points_of(measure_rival(contest, PQ()))
    asked = [*ours[:2], theirs[0], theirs[-1]]
    again = points_of(measure_in_turns(contest, SPACE, [PQ(), Flat()], asked))
    assert {(one.who, one.name) for one in again} == {(one.who, one.name) for one in asked}
    before = {(one.who, one.name): one for one in asked}
    for one in again:
        same = before[one.who, one.name]
        # FAISS builds the same index of the same vectors and seed, so that only times may differ.
        assert (one.overlap, one.recall, one.width) == (same.overlap, same.recall, same.width)
        assert one.bytes_per_item == pytest.approx(same.bytes_per_item)
    assert len({one.flat_p50_ms for one in again}) == 1


def test_where_no_rival_leads_ours_is_measured_alone(contest):
    ours = points_of(measure_ours(contest, SPACE))[:1]
    assert [one.name for one in points_of(measure_in_turns(contest, SPACE, [PQ()], ours))] == [ours[0].name]
