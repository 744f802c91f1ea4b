"""Every rival that is installed finds what is near, and more of it with more effort; the others say they are not."""

import numpy as np
import pytest

from benchmarks._contest import label_recall
from benchmarks.ladder import RIVALS
from benchmarks.rivals import RivalSearch, SlowRival
from benchmarks.rivals.faiss_indexes import FlatView
from recsys.index.exact import exact_top_k
from recsys.ragged import Ragged

NUM_ITEMS, WIDTH, K = 2000, 16, 20


@pytest.fixture(scope="module")
def vectors():
    vector = np.random.default_rng(1).standard_normal((NUM_ITEMS, WIDTH)).astype(np.float32)
    return vector / np.linalg.norm(vector, axis=1, keepdims=True)


@pytest.mark.parametrize("kind", RIVALS, ids=lambda kind: kind.name)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_more_effort_finds_more(kind, vectors):
    rival = kind()
    if (reason := rival.missing()) is not None:
        assert "pip install" in reason
        pytest.skip(reason)
    settings = rival.builds(NUM_ITEMS, WIDTH)
    indexes = {0: rival.build(vectors, settings[0], seed=1)}
    search = RivalSearch(indexes, vectors[:40])
    ways = rival.ways(0, NUM_ITEMS, K)
    assert len({way.name for way in ways}) == len(ways)
    exact = exact_top_k(vectors[:40], vectors, k=K)[1]
    least, most = (
        np.mean([np.isin(search(query, way, K), exact[query]).mean() for query in range(40)])
        for way in (ways[0], ways[-1])
    )
    assert most > 0.75
    assert least <= most
    assert search(0, ways[-1], K)[0] == 0
    assert search(0, ways[-1], K).dtype == np.int64
    assert search.size_bytes(ways[0]) >= NUM_ITEMS * WIDTH


@pytest.mark.parametrize("kind", [kind for kind in RIVALS if issubclass(kind, SlowRival)], ids=lambda kind: kind.name)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_is_slow_to_build_answers_the_same_when_it_is_read_again(kind, vectors, tmp_path):
    rival = kind()
    if (reason := rival.missing()) is not None:
        pytest.skip(reason)
    for number, settings in enumerate(rival.builds(NUM_ITEMS, WIDTH)):
        built = rival.build(vectors, settings, seed=1)
        built.save(tmp_path / str(number))
        read = rival.load(tmp_path / str(number), width=WIDTH)
        effort = rival.efforts(NUM_ITEMS, K)[0]
        for query in range(20):
            one, other = (index.search(vectors[query : query + 1], K, **effort) for index in (built, read))
            np.testing.assert_array_equal(one, other)


def test_the_reference_scan_is_exact(vectors):
    flat = FlatView(vectors)
    exact = exact_top_k(vectors[:10], vectors, k=K)[1]
    assert all((flat.search(vectors[query : query + 1], K) == exact[query]).all() for query in range(10))
    assert flat.size_bytes() == vectors.nbytes


def test_a_rival_that_is_not_installed_says_so(monkeypatch):
    rival = RIVALS[-1]()
    monkeypatch.setattr(type(rival), "module", "no_such_library")
    assert rival.missing() == "no_such_library is not installed (pip install 'matryoshka-recsys[scale]')"


def test_label_recall_by_hand():
    rows_QK = np.array([[1, 2, 3], [4, 5, 6], [7, 8, -1]])
    assert label_recall(rows_QK, Ragged.from_lists([[3, 9], [4, 5], [1]])) == pytest.approx((0.5 + 1 + 0) / 3)
