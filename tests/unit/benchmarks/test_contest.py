"""Contenders that are built and measured again: all that were asked for and no others, in turns with one exact scan."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks._contest import Contest, label_recall, measure_in_turns, measure_ours, measure_rival, time_across
from benchmarks._frontiers import Point
from benchmarks.rivals import RivalSearch
from benchmarks.rivals.faiss_indexes import HNSW, PQ, Flat
from recsys.index.space import LadderSpace
from recsys.ragged import Ragged
from recsys.widths import WidthLadder

SPACE = LadderSpace(engines=("exact", "ivf"), codes=("sq8",), levels=(0,), reranks=(2,), stores=("fp16",), max_trials=8)


@pytest.fixture(scope="module")
def contest():
    random = np.random.default_rng(1)
    vector_ND = random.standard_normal((1130, 16)).astype(np.float32)
    vector_ND /= np.linalg.norm(vector_ND, axis=1, keepdims=True)
    targets = Ragged.from_lists([[row, 3 * row] for row in range(30)])
    return Contest(
        item_ND=vector_ND[:1000],
        tune_QU=vector_ND[1000:1040],
        test_QU=vector_ND[1060:1100],
        label_QU=vector_ND[1100:],
        learn_QU=vector_ND[:600],
        target=targets,
        widths=WidthLadder((8, 16)),
        num_trials=6,
        budget_s=30.0,
        repeats=1,
        seed=1,
    )


def points_of(measured):
    return [Point.load(plain) for plain in measured["points"]]


def lead(who, name):
    """A point that leads; of what it showed before, nothing counts."""
    figures = {"overlap": 1, "recall": 1, "p50_ms": 1, "p99_ms": 1, "flat_p50_ms": 1, "bytes_per_item": 1}
    return Point(who=who, name=name, width=16, **figures)


def test_who_leads_is_built_and_measured_again_as_before(contest):
    ours, rival = points_of(measure_ours(contest, SPACE))[:2], PQ()
    builds = {build: rival.ways(build, 1000, 100) for build in range(2)}
    chosen = [*builds[0][::9], builds[1][-1]]
    asked = [*ours, *(lead(rival.name, way.name) for way in chosen)]
    again = {one.name: one for one in points_of(measure_in_turns(contest, SPACE, [rival, Flat()], asked))}
    assert again.keys() == {one.name for one in asked}
    for one in ours:
        assert (again[one.name].overlap, again[one.name].recall, again[one.name].bytes_per_item) == (
            one.overlap, one.recall, one.bytes_per_item,
        )  # fmt: skip
    settings = rival.builds(1000, 16)
    alone = RivalSearch(
        {build: rival.build(contest.item_ND, settings[build], seed=1) for build in builds}, contest.asked
    )
    for way in chosen:
        rows_QK = np.stack([alone(query, way, 100) for query in range(40)])
        overlap = contest.testing.overlap(rows_QK, k=100, queries=np.arange(40)).mean()
        assert again[way.name].overlap == pytest.approx(overlap)
        others_QK = np.stack([alone(query, way, 100) for query in range(40, 70)])
        assert again[way.name].recall == label_recall(others_QK, contest.target)
        assert again[way.name].bytes_per_item == alone.size_bytes(way) / 1000
    assert len({one.flat_p50_ms for one in again.values()}) == 1


def test_recall_is_of_other_users_than_those_who_are_timed(contest):
    score_QN = contest.label_QU @ contest.item_ND.T
    found = np.argsort(-score_QN, axis=1)[:, :100]
    held = [np.isin(contest.target[user], rows).mean() for user, rows in enumerate(found)]
    exact = next(one for one in points_of(measure_ours(contest, SPACE)) if one.name == "exact16")
    assert exact.overlap == 1
    assert exact.recall == pytest.approx(np.mean(held))


def test_both_sides_are_timed_in_turns_each_with_its_own_vectors(contest):
    ours, rival = points_of(measure_ours(contest, SPACE))[:1], Flat()
    turned = replace(contest, item_ND=np.ascontiguousarray(contest.item_ND[:, ::-1]), test_QU=contest.test_QU[:, ::-1])
    way = rival.ways(0, 1000, 100)[0]
    ms = time_across(contest, turned, SPACE, [rival, PQ()], [*ours, lead(rival.name, way.name)])
    assert ms.keys() == {ours[0].name, way.name}
    assert all(0 < one < 1000 for one in ms.values())


def test_where_no_rival_leads_ours_is_measured_alone(contest):
    ours = points_of(measure_ours(contest, SPACE))[:1]
    assert [one.name for one in points_of(measure_in_turns(contest, SPACE, [PQ()], ours))] == [ours[0].name]


def test_what_is_slow_to_build_is_read_again_with_the_time_that_it_took(contest, tmp_path, monkeypatch):
    kept, rival = replace(contest, builds=tmp_path / "builds"), HNSW()
    first = measure_rival(kept, rival)
    monkeypatch.setattr(HNSW, "build", lambda *_args, **_options: pytest.fail("it was built again"))
    again = measure_rival(kept, rival)
    assert again["builds"] == first["builds"]
    before, after = (
        {point.name: (point.overlap, point.bytes_per_item) for point in points_of(found)} for found in (first, again)
    )
    assert len(set(before) & set(after)) >= 1
    assert all(before[name] == after[name] for name in set(before) & set(after))


def test_a_build_that_was_not_kept_whole_is_made_again(contest, tmp_path):
    kept, rival = replace(contest, builds=tmp_path), HNSW()
    first = measure_rival(kept, rival)
    for path in list(tmp_path.iterdir()):
        path.unlink() if path.suffix == ".json" else path.write_bytes(b"half of it")
    assert measure_rival(kept, rival)["builds"] != first["builds"]  # the seconds of another build


def test_a_build_of_other_settings_is_not_read(contest, tmp_path, monkeypatch):
    kept, rival = replace(contest, builds=tmp_path), HNSW()
    measure_rival(kept, rival)
    files = {path.name for path in tmp_path.iterdir()}
    monkeypatch.setattr(HNSW, "builds", lambda *_: [{"factory": "HNSW8,Flat", "ef_construction": 40}])
    measure_rival(kept, rival)
    assert len({path.name for path in tmp_path.iterdir()} - files) == 2


def test_what_is_quick_to_build_is_not_kept(contest, tmp_path):
    measure_rival(replace(contest, builds=tmp_path), Flat())
    assert not list(tmp_path.iterdir())
