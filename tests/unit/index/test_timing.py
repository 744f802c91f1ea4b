import itertools
import time

import faiss
import numpy as np
import pytest

from recsys.index import timing
from recsys.index.build import build_searcher
from recsys.index.specs import RungSpec
from recsys.index.timing import LadderSearch, machine, percentile, time_searches, undisturbed
from recsys.ragged import Ragged
from recsys.widths import WidthLadder

WIDTHS = WidthLadder([4, 8])
SPECS = [RungSpec(engine="exact", width=4), RungSpec(engine="exact", width=8)]


@pytest.fixture(scope="module")
def vectors():
    vector = np.random.default_rng(1).normal(size=(50, 8)).astype(np.float32)
    return vector / np.linalg.norm(vector, axis=1, keepdims=True)


def test_every_rung_answers_every_query_in_every_pass(vectors):
    search = LadderSearch(build_searcher(vectors, widths=WIDTHS, seed=1), vectors[:19], None)
    shares = []
    queries = np.arange(1, 19)
    timed = time_searches(
        search, SPECS, queries=queries, k=3, repeats=2, order=np.random.default_rng(1), progress=shares.append
    )
    assert timed.ms_RPQ.shape == (2, 2, 18)
    assert (timed.ms_RPQ > 0).all()
    assert (timed.rows_RQK[1, :, 0] == queries).all()  # whoever asks with an item's vector finds it first
    assert 0 <= timed.disturbed_share <= 1
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_each_query_has_its_own_exclusions(vectors):
    own = Ragged.from_lists([[query] for query in range(19)])
    searcher = build_searcher(vectors, widths=WIDTHS, seed=1)
    free, without_itself = (LadderSearch(searcher, vectors[:19], exclude) for exclude in (None, own))
    for query in range(19):
        assert free(query, SPECS[1], 1)[0] == query
        assert without_itself(query, SPECS[1], 1)[0] != query


@pytest.mark.parametrize(("takes_s", "num_calls"), [(0.0, 5), (0.11, 1)])
def test_what_was_disturbed_is_repeated_unless_it_takes_so_long_that_it_always_is(monkeypatch, takes_s, num_calls):
    count, called = itertools.count(), []
    monkeypatch.setattr(timing, "_num_preemptions", lambda: next(count))

    def search(query, _spec, k):
        called.append(query)
        time.sleep(takes_s)
        return np.zeros(k, dtype=np.int64)

    timed = time_searches(
        search, SPECS[:1], queries=np.array([3]), k=2, repeats=1, order=np.random.default_rng(1), progress=called.append
    )
    assert called[:-1] == [3] * (1 + num_calls)  # the first of them only warms caches
    assert timed.disturbed_share == 1


def test_one_slow_pass_does_not_move_a_percentile():
    ms_PQ = np.tile(np.linspace(1.0, 2.0, 101), (5, 1))
    ms_PQ[3] *= 1000
    assert percentile(ms_PQ, 50) == pytest.approx(1.5)
    assert percentile(ms_PQ, 99) == pytest.approx(1.99)


def test_threads_are_put_back_even_after_an_error():
    before = faiss.omp_get_max_threads()

    def fail():
        with undisturbed():
            assert faiss.omp_get_max_threads() == 1
            raise RuntimeError

    faiss.omp_set_num_threads(2)
    try:
        with pytest.raises(RuntimeError):
            fail()
        assert faiss.omp_get_max_threads() == 2
    finally:
        faiss.omp_set_num_threads(before)


def test_the_machine_is_named():
    described = machine()
    assert described["cpu"]
    assert described["threads"] == 1
    assert described["versions"]["numpy"] == np.__version__
