"""The data plane on a real small bundle: whom it answers, what it leaves out, how it reports, what it refuses."""

import time
from dataclasses import replace

import numpy as np
import pytest

from recsys.bundle import Bundle
from recsys.errors import RequestError
from recsys.ragged import Ragged
from recsys.testing import small_bundle
from serving.budget import Budget, Degraded
from serving.engine import Engine
from serving.price import Arrivals, Price
from serving.query import BatchQuery, Call, Query, SimilarQuery, User
from serving.settings import Limits

EXACT = Budget(width=16)
KNOWN = User(id="u3")


def recommend(engine, user=KNOWN, *, k=10, **rest):
    return engine.recommend(Query(user=user, k=k, **{"budget": EXACT, **rest}))


def items(engine, *args, **kwargs):
    return recommend(engine, *args, **kwargs).candidates[0].item_ids


def test_an_exact_answer_is_the_ranking_by_inner_product(engine, bundle):
    row = bundle.users.vocabulary.row("u3")
    history = Ragged.from_lists([bundle.users.history(row)])
    user_D = bundle.towers.encode_users(history, bundle.users.features(row), np.array([row]))[0]
    score_N = bundle.item_vectors @ user_D
    score_N[bundle.users.seen(row)] = -np.inf
    best = np.argsort(-score_N)[:10]
    found = recommend(engine).candidates[0]
    assert found.item_ids == bundle.items.ids(best)
    assert np.allclose(found.scores, score_N[best], atol=1e-6)


def test_seen_items_are_left_out_by_default_and_returned_on_request(engine, bundle):
    seen = set(bundle.items.ids(bundle.users.seen(bundle.users.vocabulary.row("u3"))))
    assert bundle.mask_seen
    assert not seen & set(items(engine, k=900))
    assert not seen & set(items(engine, k=900, exclude_seen=True))
    assert seen <= set(items(engine, k=1000, exclude_seen=False))


def test_excluded_items_are_left_out_and_unknown_exclusions_ignored(engine):
    first = items(engine)
    rest = items(engine, exclude=[*first[:3], "no such item"])
    assert not set(first[:3]) & set(rest)
    assert rest[:7] == first[3:]


def test_a_history_answers_like_the_user_who_has_it(engine, bundle):
    row = bundle.users.vocabulary.row("u3")
    group = bundle.towers.specs[-1].values[bundle.users.features(row)["group"][0][0]]
    same = User(history=bundle.items.ids(bundle.users.history(row)), features={"group": [group]})
    seen = bundle.items.ids(bundle.users.seen(row))
    assert items(engine, same, exclude=seen) == items(engine)


def test_unknown_history_items_are_ignored_and_counted(engine):
    plain = recommend(engine, User(history=["i1", "i2"])).candidates[0]
    noisy = recommend(engine, User(history=["nope", "i1", "i2", "nor this"])).candidates[0]
    assert noisy.item_ids == plain.item_ids
    assert (plain.num_unknown_history_items, noisy.num_unknown_history_items) == (0, 2)
    assert not noisy.cold


@pytest.mark.parametrize("user", [User(id="nobody"), User(history=[]), User(history=["nope"])])
def test_whoever_has_no_known_past_gets_the_cold_answer(engine, bundle, user):
    found = recommend(engine, user).candidates[0]
    score_N = bundle.item_vectors @ bundle.towers.encode_users(Ragged.empty(1))[0]
    assert found.cold
    assert found.item_ids == bundle.items.ids(np.argsort(-score_N)[:10])


def test_a_user_with_a_vector_of_their_own_is_known_even_if_no_history_is_read(tmp_path):
    engine = Engine(Bundle.open(small_bundle(tmp_path, history="none", user_id=True)))
    known, stranger, told = (
        recommend(engine, User(**who), k=5).candidates[0]
        for who in ({"id": "u3"}, {"id": "nobody"}, {"id": "u3", "features": {"group": ["old"]}})
    )
    assert (known.cold, stranger.cold, told.cold) == (False, True, False)


def test_features_shape_the_cold_answer_and_replace_stored_ones(engine, bundle):
    young, old = (recommend(engine, User(id="nobody", features={"group": [value]})) for value in ("young", "old"))
    assert not np.array_equal(young.candidates[0].scores, old.candidates[0].scores)
    row = bundle.users.vocabulary.row("u3")
    own = bundle.towers.specs[-1].values[bundle.users.features(row)["group"][0][0]]
    stored = recommend(engine).candidates[0]
    for value in ("young", "old"):
        replaced = recommend(engine, User(id="u3", features={"group": [value]})).candidates[0]
        assert np.allclose(replaced.scores, stored.scores, atol=1e-5) == (value == own)
        assert (replaced.item_ids == stored.item_ids) or value != own
        assert not replaced.cold


def test_an_unknown_feature_value_counts_as_missing(engine):
    assert items(engine, User(history=[], features={"group": ["alien"]})) == items(engine, User(history=[]))
    assert items(engine, User(history=[], features={"group": []})) == items(engine, User(history=[]))


def test_a_batch_answers_each_user_as_if_alone(engine):
    users = [KNOWN, User(id="nobody"), User(history=["i1", "nope"]), User(id="u7", features={"group": ["old"]})]
    together = engine.recommend_batch(BatchQuery(users=users, k=10, budget=EXACT, include_titles=True))
    alone = [recommend(engine, user, include_titles=True).candidates[0] for user in users]
    for one, other in zip(together.candidates, alone, strict=True):
        assert one.item_ids == other.item_ids
        assert np.allclose(one.scores, other.scores, atol=1e-6)
        assert (one.cold, one.titles, one.num_unknown_history_items) == (
            other.cold,
            other.titles,
            other.num_unknown_history_items,
        )


def test_a_batch_shares_its_budget(engine):
    budget = Budget(time_ms=5000)
    rungs = [
        engine.recommend_batch(BatchQuery(users=[KNOWN] * num, k=10, budget=budget)).rung.name for num in (1, 2, 4, 5)
    ]
    assert rungs == ["exact16", "exact8", "ivf4-p1", "ivf4-p1"]


def test_similar_items_are_the_nearest_others(engine, bundle):
    row = bundle.items.row("i5")
    score_N = bundle.item_vectors @ bundle.item_vectors[row]
    score_N[row] = -np.inf
    found = engine.similar_items(SimilarQuery(item_id="i5", k=5, budget=EXACT)).candidates[0]
    assert found.item_ids == bundle.items.ids(np.argsort(-score_N)[:5])


def test_titles_come_when_asked_for(engine, bundle):
    assert recommend(engine).candidates[0].titles is None
    found = recommend(engine, include_titles=True).candidates[0]
    assert found.titles == [bundle.titles[bundle.items.row(item)] for item in found.item_ids]


@pytest.mark.parametrize("width", [4, 8, 16])
def test_an_explicit_width_is_used_and_reported(engine, width):
    answer = recommend(engine, budget=Budget(width=width))
    assert answer.rung.width == width
    assert answer.expected_overlap == answer.rung.overlap_at(10)


@pytest.mark.parametrize(
    ("time_ms", "rung", "degraded"),
    [
        (900, "ivf4-p1", (Degraded.TIME_TOO_SHORT,)),
        (1900, "ivf4-p1", ()),
        (3500, "exact8", ()),
        (9000, "exact16", ()),
    ],
)
def test_time_chooses_the_rung_whether_budget_or_deadline(engine, time_ms, rung, degraded):
    by_budget = recommend(engine, k=5, budget=Budget(time_ms=time_ms))
    by_deadline = engine.recommend(Query(user=KNOWN, k=5), call=Call.now(deadline_ms=time_ms))
    assert (by_budget.rung.name, by_budget.degraded) == (rung, degraded)
    assert (by_deadline.rung.name, by_deadline.degraded) == (rung, degraded)


def test_time_in_the_queue_is_taken_off_the_budget(engine):
    now = Call.now()
    waited = Call(arrived_s=now.arrived_s - 2.5, started_s=now.started_s)
    answer = engine.recommend(Query(user=KNOWN, k=5, budget=Budget(time_ms=5000)), call=waited)
    assert answer.rung.name == "exact8"


def test_a_margin_is_kept_back_of_the_deadline_but_not_of_the_budget(bundle):
    engine = Engine(bundle, deadline_margin_ms=2000)
    assert engine.recommend(Query(user=KNOWN, k=5), call=Call.now(deadline_ms=5000)).rung.name == "exact8"
    assert recommend(engine, budget=Budget(time_ms=5000)).rung.name == "exact16"


def test_without_budget_and_deadline_the_best_step_answers(engine):
    assert recommend(engine, budget=Budget()).rung.name == "exact16"


def test_every_rung_finds_k_items_where_there_are_k(engine, bundle):
    num_unseen = len(bundle.items) - len(bundle.users.seen(bundle.users.vocabulary.row("u3")))
    for width in bundle.widths:
        answer = recommend(engine, k=1000, budget=Budget(width=width))
        assert len(set(answer.candidates[0].item_ids)) == min(1000, num_unseen)
        assert answer.degraded == ()


def test_where_few_items_are_left_all_are_scored(engine, bundle):
    few = bundle.items.ids(range(20))
    rest = bundle.items.ids(range(20, len(bundle.items)))
    answer = recommend(engine, k=10, budget=Budget(width=4), exclude=rest, exclude_seen=False)
    assert set(answer.candidates[0].item_ids) <= set(few)
    assert (answer.num_scored, answer.expected_overlap) == (20, 1.0)
    assert answer.candidates[0].item_ids == items(engine, k=10, exclude=rest, exclude_seen=False)


def test_stages_are_timed(engine):
    call = Call(arrived_s=(now := Call.now()).arrived_s - 0.5, started_s=now.started_s)
    timings = engine.recommend(Query(user=KNOWN, k=10, budget=EXACT), call=call).timings
    assert timings.queue_ms == pytest.approx(500)
    assert 0 < timings.encode_ms < 500
    assert 0 < timings.scan_ms < 500
    assert timings.queue_ms + timings.encode_ms + timings.scan_ms + timings.rerank_ms <= call.elapsed_ms()


def test_warming_up_measures_what_comes_after_the_search(bundle):
    engine = Engine(bundle, limits=Limits(max_k=200))
    assert engine.overhead_ms(10) == 0
    finished = []
    engine.warm_up(finished.append)
    assert {len(answer.candidates[0].item_ids) for answer in finished} >= {10}
    assert 0 < engine.overhead_ms(10) < 1000
    assert engine.overhead_ms(150) == engine.overhead_ms(200) == engine.overhead_ms(10_000)


def test_an_engine_learns_how_fast_it_is_from_calls_that_have_ended(engine):
    within = Query(user=KNOWN, k=5, budget=Budget(time_ms=500))
    before = engine.recommend(within)
    assert before.degraded == (Degraded.TIME_TOO_SHORT,)
    ample = Query(user=KNOWN, k=5, budget=Budget(time_ms=60_000))
    for _ in range(200):
        call = Call.now()
        engine.finished(ample, engine.recommend(ample, call=call), call)
    time.sleep(0.06)  # predictions are at most 50 ms old
    after = engine.recommend(within)
    assert (after.rung.name, after.degraded) == ("exact16", ())
    assert after.predicted_ms < 500 < before.predicted_ms


def test_a_call_with_a_price_on_time_is_answered_from_below_and_says_so(engine):
    call = replace(Call.now(), price=Price(waiting=1e9, arrivals=Arrivals()))
    answer = engine.recommend(Query(user=KNOWN, k=5, budget=Budget(time_ms=60_000)), call=call)
    assert (answer.rung.name, answer.degraded) == ("ivf4-p1", (Degraded.OVERLOADED,))


@pytest.mark.parametrize(
    ("field", "query"),
    [
        ("k", Query(user=KNOWN, k=0)),
        ("k", Query(user=KNOWN, k=101)),
        ("user", Query(user=User(), k=1)),
        ("user", Query(user=User(id="u1", history=["i1"]), k=1)),
        ("user.id", Query(user=User(id=""), k=1)),
        ("user.history.item_ids", Query(user=User(history=["i1"] * 6), k=1)),
        ("user.features['shoe size']", Query(user=User(id="u1", features={"shoe size": ["44"]}), k=1)),
        ("user.features['genre']", Query(user=User(id="u1", features={"genre": ["drama"]}), k=1)),
        ("user.features['group']", Query(user=User(id="u1", features={"group": ["young", "old"]}), k=1)),
        ("exclude_item_ids", Query(user=KNOWN, k=1, exclude=["i1"] * 8)),
        ("budget.width", Query(user=KNOWN, k=1, budget=Budget(width=5))),
    ],
)
def test_what_cannot_be_answered_is_refused_by_field(bundle, field, query):
    engine = Engine(bundle, limits=Limits(max_k=100, max_history=5, max_exclusions=7))
    with pytest.raises(RequestError) as refused:
        engine.recommend(query)
    assert refused.value.field == field
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    ("field", "users"),
    [
        ("users", []),
        ("users", [KNOWN] * 4),
        ("users[1]", [KNOWN, User()]),
        ("users[2].features['hat']", [KNOWN, KNOWN, User(id="u1", features={"hat": ["red"]})]),
    ],
)
def test_a_bad_user_of_a_batch_is_named_by_place(bundle, field, users):
    with pytest.raises(RequestError) as refused:
        Engine(bundle, limits=Limits(max_batch=3)).recommend_batch(BatchQuery(users=users, k=1))
    assert refused.value.field == field


def test_neighbours_of_an_unknown_item_are_refused(engine):
    with pytest.raises(RequestError, match="item_id: got 'no such item', expected an item"):
        engine.similar_items(SimilarQuery(item_id="no such item", k=1))


def test_huge_values_are_cut_short_in_messages(engine):
    with pytest.raises(RequestError) as refused:
        recommend(engine, User(id="u1", features={"x" * 100_000: ["1"]}))
    assert len(str(refused.value)) < 300
