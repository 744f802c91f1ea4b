"""Bundles of given vectors, arrivals, and the headlines of the load benchmark."""

import numpy as np
import pytest
from simulated_server import ladder

from benchmarks._load import poisson_arrivals
from benchmarks._published import publish_vectors, with_rung_alone
from benchmarks.serving import _LADDER, _NO_DIMMER, LOADS, _budgets, _fixed, _headlines
from recsys.bundle import Bundle, open_current
from recsys.bundle_writer import PublishOptions
from recsys.index.space import LadderSpace
from recsys.widths import WidthLadder


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    random = np.random.default_rng(1)
    vector_ND = random.standard_normal((850, 16)).astype(np.float32)
    vector_ND /= np.linalg.norm(vector_ND, axis=1, keepdims=True)
    item_ND, user_UD = vector_ND[:800], vector_ND[800:]
    root = tmp_path_factory.mktemp("published")
    options = PublishOptions(num_queries=16, repeats=1, budget_s=1)
    widths = WidthLadder((4, 8, 16))
    path = publish_vectors(root, item_ND=item_ND, user_UD=user_UD, widths=widths, options=options)
    return Bundle.open(path), item_ND, user_UD


def test_items_and_users_have_the_vectors_that_were_given(published):
    bundle, item_ND, user_UD = published
    np.testing.assert_allclose(bundle.item_vectors, item_ND, atol=1e-6)
    rows = np.arange(len(user_UD))
    history, features, _ = bundle.users.batch(rows)
    np.testing.assert_allclose(bundle.towers.encode_users(history, features, rows), user_UD, atol=1e-6)
    assert bundle.items.ids([0, 799]) == ["i0", "i799"]
    assert not bundle.mask_seen


@pytest.mark.parametrize(
    ("num_users", "num_held_out", "engines", "learned_from"),
    [
        (900, 300, ("exact", "ivf"), 600),
        (900, None, ("exact", "ivf"), 884),
        (900, 500, ("exact", "ivf"), 884),
        (527, None, ("exact", "ivf"), 0),
        (560, 30, ("exact", "ivf"), 530),
        (900, 300, ("exact",), 0),
    ],
)
def test_cells_learn_from_users_that_were_not_held_out_if_these_are_enough(
    tmp_path, num_users, num_held_out, engines, learned_from
):
    vector_ND = np.random.default_rng(1).standard_normal((700 + num_users, 8)).astype(np.float32)
    vector_ND /= np.linalg.norm(vector_ND, axis=1, keepdims=True)
    space = LadderSpace(engines=engines, codes=("sq8",), levels=(0,), reranks=(0,), funnels=())
    path = publish_vectors(
        tmp_path,
        item_ND=vector_ND[:700],
        user_UD=vector_ND[700:],
        widths=WidthLadder((4, 8)),
        options=PublishOptions(num_queries=16, repeats=1, budget_s=1, space=space),
        num_held_out=num_held_out,
    )
    assert Bundle.open(path).ladder.measured["cells_learned_from"] == learned_from


def test_a_bundle_of_one_rung_is_the_same_bundle_otherwise(published, tmp_path):
    bundle, _, _ = published
    rung = bundle.ladder.rungs[-1]
    alone = open_current(with_rung_alone(bundle.path, rung, tmp_path))
    assert [step.name for step in alone.ladder.steps] == [rung.name]
    assert alone.manifest["index_id"] == bundle.manifest["index_id"]


def test_fixed_rungs_are_the_cheapest_the_best_of_the_median_budget_and_the_best():
    steps = ladder((0.5, 1.0), (0.7, 3.0), (0.8, 4.0), (1.0, 10.0)).steps
    assert [step.overlap_at(100) for step in _fixed(steps)] == [0.5, 0.8, 1.0]
    assert len(_fixed(steps[:1])) == 1


def test_arrivals_come_at_the_rate_and_differ_like_a_poisson_process():
    due_s = poisson_arrivals(500, 20, np.random.default_rng(1))
    gaps_s = np.diff(due_s)
    assert (gaps_s >= 0).all()
    assert due_s[-1] < 20
    assert len(due_s) == pytest.approx(10_000, rel=0.05)
    assert gaps_s.std() == pytest.approx(gaps_s.mean(), rel=0.05)


def test_the_gain_is_over_the_best_single_rung_of_each_load():
    def point(load, server, overlap):
        shares = {"attainment_admitted": 1 - load / 100, "goodput": 10 * min(load, 1)}
        return {"load": load, "server": server, "overlap_delivered": overlap} | shares

    points = [
        point(load, *who)
        for load in LOADS
        for who in ((_LADDER, 0.9), (_NO_DIMMER, 0.45), ("cheap", 0.6), ("exact", 0.9 / load))
    ]
    figures = _headlines(points)
    assert figures["gain_vs_best_fixed_at_1x"] == pytest.approx(0)
    assert figures["min_gain_vs_best_fixed"] == pytest.approx(0.25 - 1)
    assert figures["min_attainment_admitted"] == pytest.approx(0.97)
    assert figures["goodput_3x_vs_peak"] == 1
    assert figures["gain_of_dimmer_at_3x"] == pytest.approx(1)


def test_budgets_leave_parts_of_the_slowest_step_beside_the_way_and_what_the_server_does():
    given = ladder((0.5, 1.0), (1.0, 10.0))
    slowest_ms = max(step.latency_p99_ms for step in given.steps)
    costs = {"beside_search_p99_ms": 2.0, "transit_p99_ms": 1.0}
    parts = [0.1 * slowest_ms, 0.25 * slowest_ms, 0.5 * slowest_ms, 1.25 * slowest_ms, 2.5 * slowest_ms]
    assert _budgets(given, costs) == pytest.approx([3.0 + part for part in parts], abs=0.01)
    # Known for k6, and for the slowest of a thousand, the way takes more.
    known = costs | {"transit_p999_ms": 4.0}
    assert _budgets(given, known) == pytest.approx([6.0 + part for part in parts], abs=0.01)
