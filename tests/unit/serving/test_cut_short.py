"""Answers whose time was up before the search had ended: the best until then, and honest about it."""

import pytest

from recsys.bundle import open_current
from recsys.index.build import build_for
from recsys.index.rungs import Ladder, Rung
from serving.budget import Budget, Degraded
from serving.engine import Engine
from serving.query import BatchQuery, Call, Filter, Query, User
from serving.servicer import recommend_response
from serving.v1 import candidates_pb2 as pb

WIDTH = Budget(width=8)
KNOWN = User(id="u3")


@pytest.fixture(scope="module")
def engine(bundles):
    bundle = open_current(bundles)
    rungs = [
        Rung(
            engine="ivf",
            width=8,
            nprobe=nprobe,
            overlap={10: overlap, 100: overlap - 0.2},
            latency_p50_ms=p99_ms,
            latency_p99_ms=p99_ms,
            size_bytes=1,
        )
        for nprobe, overlap, p99_ms in ((4, 0.7, 1.0), (16, 0.8, 2.0))
    ]
    bundle.ladder = Ladder(rungs=tuple(rungs), measured={})
    bundle.searcher = build_for(bundle.item_vectors, rungs, widths=bundle.widths, seed=1)
    return Engine(bundle)


def late(deadline_ms=1.0):
    """A call whose deadline passed while it waited."""
    now = Call.now()
    return Call(arrived_s=now.arrived_s - 1, started_s=now.started_s, deadline_ms=deadline_ms)


def test_past_the_deadline_half_of_the_cells_answer(engine):
    cut = engine.recommend(Query(user=KNOWN, k=10, budget=WIDTH), call=late())
    whole = engine.recommend(Query(user=KNOWN, k=10, budget=WIDTH))
    assert (whole.degraded, whole.probed_share, whole.expected_overlap) == ((), 1.0, 0.8)
    assert (cut.degraded, cut.probed_share) == ((Degraded.CUT_SHORT,), 0.5)
    assert cut.expected_overlap == 0.7  # of the rung that scans 4 cells, since 8 were scanned
    assert len(set(cut.candidates[0].item_ids)) == 10
    assert cut.candidates[0].scores[0] <= whole.candidates[0].scores[0]


def test_too_little_time_and_a_cut_are_both_said(engine):
    answer = engine.recommend(Query(user=KNOWN, k=200, budget=Budget(time_ms=1)), call=late())
    assert answer.degraded == (Degraded.TIME_TOO_SHORT,)  # its 4 cells are always scanned
    answer = engine.recommend(Query(user=KNOWN, k=600, budget=Budget(time_ms=1)), call=late())
    assert answer.degraded == (Degraded.TIME_TOO_SHORT, Degraded.CUT_SHORT)


def test_a_batch_reports_the_mean(engine):
    query = BatchQuery(users=[KNOWN, User(history=[])], k=10, budget=WIDTH)
    answer = engine.recommend_batch(query, call=late())
    assert answer.probed_share == 0.5
    assert answer.expected_overlap == pytest.approx(0.7)


def test_fewer_items_than_asked_for_lower_the_expected_overlap(engine):
    where = Filter(include={"genre": ["comedy", "drama", "horror"]})
    found = engine.recommend(Query(user=KNOWN, k=500, budget=WIDTH, where=where), call=late())
    whole = engine.recommend(Query(user=KNOWN, k=500, budget=WIDTH, where=where))
    num_found, num_whole = (len(answer.candidates[0].item_ids) for answer in (found, whole))
    assert 0 < num_found < num_whole == 500
    assert found.expected_overlap <= num_found / 500
    passing = engine.bundle.item_values["genre"].items(where.include["genre"])
    assert set(engine.bundle.items.rows(found.candidates[0].item_ids)) <= set(passing.rows)


def test_the_report_says_so(engine):
    answer = engine.recommend(Query(user=KNOWN, k=10, budget=WIDTH), call=(call := late()))
    report = recommend_response(answer, call).report
    assert report.probed_share == 0.5
    assert list(report.degraded_reasons) == [pb.DEGRADED_REASON_CUT_SHORT]
