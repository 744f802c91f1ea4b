import json
from dataclasses import asdict, replace

import pytest

from recsys.errors import ArtifactError, ConfigError
from recsys.index.rungs import Ladder, Rung, climbable


def rung(width, p99_ms, share, **fields):
    overlap = fields.pop("overlap", {100: share})
    return Rung(
        engine="exact",
        width=width,
        overlap=overlap,
        latency_p50_ms=p99_ms / 2,
        latency_p99_ms=p99_ms,
        size_bytes=1,
        **fields,
    )


@pytest.mark.parametrize(
    "change",
    [
        {"overlap": {}},
        {"overlap": {10: 1.1}},
        {"overlap": {0: 0.5}},
        {"latency_p50_ms": 0.0},
        {"latency_p99_ms": 0.1},
        {"latency_p99_ms": float("inf")},
        {"latency_p99_ms": float("nan")},
    ],
)
def test_a_measurement_that_cannot_be_is_refused(change):
    with pytest.raises(ConfigError):
        replace(rung(8, 1.0, 0.5), **change)


def test_overlap_is_read_at_the_next_measured_k():
    measured = rung(8, 1.0, None, overlap={10: 0.9, 100: 0.7})
    assert [measured.overlap_at(k) for k in (1, 10, 11, 100, 1000)] == [0.9, 0.9, 0.7, 0.7, 0.7]
    assert measured.mean_overlap == pytest.approx(0.8)


def test_the_overlap_of_a_search_that_was_cut_is_a_low_estimate():
    def ivf(nprobe, overlap, **fields):
        measured = {"overlap": {10: overlap}, "latency_p50_ms": 1, "latency_p99_ms": 1, "size_bytes": 1}
        return Rung(engine="ivf", width=8, nprobe=nprobe, **measured, **fields)

    rungs = (ivf(2, 0.5), ivf(4, 0.7), ivf(6, 0.9, rerank=10), ivf(16, 0.8), ivf(16, 0.6, code="sq8"))
    ladder = Ladder(rungs=rungs, measured={})
    shares = {0.05: 0.04, 0.125: 0.5, 0.2: 0.5, 0.25: 0.7, 0.5: 0.7, 0.95: 0.76, 1: 0.8}
    for share, overlap in shares.items():
        assert ladder.overlap_when_cut(rungs[3], share=share, k=10) == pytest.approx(overlap)
    assert ladder.overlap_when_cut(rungs[4], share=0.5, k=10) == pytest.approx(0.3)


def test_a_narrow_rung_with_a_deep_rerank_does_not_cut_off_the_wide_ones():
    rungs = [rung(16, 1, 0.5), rung(64, 2, 0.8), rung(16, 3, 0.9), rung(128, 4, 1.0)]
    assert climbable(rungs) == [True, True, False, True]


def test_a_wide_rung_gives_way_where_narrow_ones_do_better_for_longer():
    rungs = [rung(16, 1, 0.5), rung(64, 2, 0.6), rung(16, 2.5, 0.9), rung(128, 100, 1.0)]
    assert climbable(rungs) == [True, False, True, True]


def test_rungs_within_the_noise_of_each_other_are_one_step():
    assert climbable([rung(16, 1.0, 0.2), rung(16, 1.05, 0.9), rung(128, 3.0, 1.0)]) == [False, True, True]


def test_the_last_step_is_exact_at_every_k():
    narrow = rung(16, 1.0, None, overlap={10: 0.5, 100: 1.0})
    assert climbable([narrow, rung(128, 2.0, None, overlap={10: 1.0, 100: 1.0})]) == [True, True]


def test_no_rungs_make_no_ladder():
    assert climbable([]) == []


def test_a_ladder_is_read_as_it_was_written(tmp_path):
    rungs = (rung(16, 1.0, None, overlap={10: 0.25, 100: 1 / 3}, rerank=7), rung(128, 2.0, 1.0, on_ladder=False))
    ladder = Ladder(rungs=rungs, measured={"cpu": "some", "ks": [10, 100]})
    ladder.save(tmp_path / "ladder.json")
    assert Ladder.load(tmp_path / "ladder.json") == ladder
    assert ladder.steps == rungs[:1]


@pytest.mark.parametrize(
    "change",
    [
        {"overlap": {"ten": 0.5}},
        {"overlap": 0.5},
        {"engine": "tree"},
        {"funnel": 3},
        {"store": "fp16"},
        {"latency_p99_ms": "fast"},
        {"latency_p99_ms": -1.0},
        {"colour": "red"},
    ],
)
def test_a_file_that_is_no_ladder_is_named(tmp_path, change):
    path = tmp_path / "ladder.json"
    entry = {"name": "any", **asdict(rung(8, 1.0, 0.5)), **change}
    path.write_text(json.dumps({"rungs": [entry], "measured": {}}))
    with pytest.raises(ArtifactError, match=r"ladder\.json: not a ladder"):
        Ladder.load(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"rungs": 3, "measured": {}}', "\xff"])
def test_other_text_is_no_ladder(tmp_path, text):
    (tmp_path / "ladder.json").write_text(text, encoding="latin-1")
    with pytest.raises(ArtifactError, match="not a ladder"):
        Ladder.load(tmp_path / "ladder.json")


def test_a_missing_ladder_is_named(tmp_path):
    with pytest.raises(ArtifactError, match=r"ladder\.json"):
        Ladder.load(tmp_path / "ladder.json")
