"""Searching answers again: the overlap that is found is that with the exact answer, under the call's own exclusions."""

import numpy as np
import pytest

from recsys.index.truth import Truth
from recsys.ragged import Ragged
from serving import profiles
from serving.budget import Budget
from serving.engine import Engine
from serving.metrics import Metrics
from serving.query import BatchQuery, Query, SimilarQuery, User
from serving.settings import ShadowSettings
from serving.shadow import Shadow

K = 10
USERS = [f"u{row}" for row in range(60)]
CHEAP = Budget(min_overlap=0.01)


def watched(bundle, **settings):
    """Return an engine and a shadow that chooses every answer and has not started."""
    engine = Engine(bundle)
    engine.shadow = Shadow(ShadowSettings(**{"share": 1, "max_per_s": 1e6, "max_waiting": 1000} | settings), Metrics())
    return engine, engine.shadow


def waiting(shadow):
    return [shadow._waiting.get_nowait() for _ in range(shadow._waiting.qsize())]


def exact_overlaps(bundle, answers, *, masked):
    """Return the overlap of each user's answer with exact search, found by the publisher's own way."""
    found = [profiles.resolve(bundle, User(id=name), path="user") for name in USERS]
    query_QU = profiles.encode(bundle, found)
    truth = Truth.find(query_QU, bundle.item_vectors, ks=[K], exclude=Ragged.from_lists(masked(found)))
    rows = [bundle.items.rows(answer.candidates[0].item_ids) for answer in answers]
    return truth.overlap(np.stack(rows), k=K, queries=np.arange(len(USERS)))


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_overlaps_are_those_with_the_exact_answer_of_the_same_call(bundle, exclude_seen):
    engine, shadow = watched(bundle)
    excluded = engine.recommend(Query(user=User(id="u3"), k=30)).candidates[0].item_ids
    waiting(shadow)
    answers = [
        engine.recommend(
            Query(user=User(id=name), k=K, exclude=excluded, exclude_seen=exclude_seen, budget=Budget(width=8))
        )
        for name in USERS
    ]
    rows = bundle.items.rows(excluded)
    expected = exact_overlaps(
        bundle, answers, masked=lambda found: [np.union1d(rows, one.seen) if exclude_seen else rows for one in found]
    )
    measured = [searched.overlap() for searched in waiting(shadow)]
    assert measured == pytest.approx(expected)
    assert 0 < np.mean(measured) < 1


def test_claims_move_to_what_live_answers_get(bundle):
    engine, shadow = watched(bundle)
    before = engine.recommend(Query(user=User(id="u1"), k=K, budget=CHEAP))
    assert before.expected_overlap == before.rung.overlap_at(K)
    waiting(shadow)
    for name in USERS:
        engine.recommend(Query(user=User(id=name), k=K, budget=Budget(width=before.rung.width)))
    once = waiting(shadow)
    for searched in once * 10:
        shadow.measure(searched)
    answers = [engine.recommend(Query(user=User(id=name), k=K, budget=Budget(width=4))) for name in USERS]
    (claimed,) = {answer.expected_overlap for answer in answers}
    got = np.mean(exact_overlaps(bundle, answers, masked=lambda found: [one.seen for one in found]))
    published = next(rung for rung in bundle.ladder.rungs if rung.width == 4).overlap_at(K)
    # 600 answers weigh three times what was published.
    assert claimed == pytest.approx((600 * got + 200 * published) / 800, abs=1e-6)
    assert abs(published - got) > 0.1


def test_answers_that_scored_everything_are_measured_and_correct_no_rung(bundle):
    engine, shadow = watched(bundle)
    exclude = bundle.items.ids(range(5, 1000))
    answer = engine.recommend(Query(user=User(history=()), k=K, exclude=exclude, budget=Budget(width=4)))
    (searched,) = waiting(shadow)
    assert answer.num_scored == 5
    assert (searched.expected_overlap, searched.overlap(), searched.calibration) == (1.0, 1.0, None)
    shadow.measure(searched)
    assert engine.calibration.ladder == bundle.ladder


def test_every_user_of_a_batch_and_similar_items_may_be_chosen(bundle):
    engine, shadow = watched(bundle)
    engine.recommend_batch(BatchQuery(users=[User(id=name) for name in USERS[:7]], k=K))
    assert len(waiting(shadow)) == 7
    engine.similar_items(SimilarQuery(item_id="i3", k=K, budget=Budget(width=16)))
    (searched,) = waiting(shadow)
    assert searched.overlap() == 1.0


def test_the_sample_is_of_the_share_asked_for_and_the_same_for_one_seed():
    def chosen(**settings):
        shadow = Shadow(ShadowSettings(max_per_s=1e9, **settings), Metrics())
        return [shadow.chosen() for _ in range(10_000)]

    assert chosen(share=0.05) == chosen(share=0.05)
    assert chosen(share=0.05) != chosen(share=0.05, seed=2)
    assert 400 < sum(chosen(share=0.05)) < 600
    assert not any(chosen(share=0))


def dropped(shadow, reason):
    return shadow._metrics.registry.get_sample_value("recsys_shadow_dropped_total", {"reason": reason})


def test_what_comes_too_fast_or_finds_the_queue_full_is_dropped_and_counted(bundle):
    engine, shadow = watched(bundle, max_waiting=2)
    for _ in range(5):
        engine.recommend(Query(user=User(id="u1"), k=K))
    assert len(waiting(shadow)) == 2
    assert dropped(shadow, "busy") == 3
    engine, shadow = watched(bundle, max_per_s=1e-9)
    for _ in range(5):
        engine.recommend(Query(user=User(id="u1"), k=K))
    assert len(waiting(shadow)) == 1
    assert dropped(shadow, "rate") == 4
