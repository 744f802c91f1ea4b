"""Who wins where, from points whose comparison can be done by hand."""

import pytest

from benchmarks._frontiers import (
    Point,
    compare,
    fastest,
    fastest_few,
    frontier_share,
    joint_frontier,
    leaders,
    level_with_twin,
)


def point(overlap, speedup, *, who="ours", name="ivf", recall=0.1, size=100.0):
    return Point(
        who=who,
        name=name,
        width=16,
        overlap=overlap,
        recall=recall,
        p50_ms=1 / speedup,
        p99_ms=2 / speedup,
        flat_p50_ms=1.0,
        bytes_per_item=size,
    )


OURS = [
    point(1.0, 1, name="exact64", recall=0.200),
    point(1.0, 5, name="certified64", recall=0.200),
    point(0.995, 30, name="near", recall=0.199, size=60),
    point(0.96, 40, recall=0.190),
]
RIVALS = [
    point(1.0, 1, who="flat"),
    point(0.999, 8, who="graph"),
    point(0.991, 20, who="graph", size=120),
    point(0.9, 50, who="graph"),
    point(0.95, 10, who="slow"),
]


def test_a_point_survives_being_plain():
    assert Point.load(OURS[2].plain()) == OURS[2]
    assert OURS[2].plain()["speedup"] == pytest.approx(30)


def test_the_fastest_that_is_good_enough():
    assert fastest(OURS, overlap=0.99) is OURS[2]
    assert fastest(OURS, recall=0.1995) is OURS[1]
    assert fastest(OURS, overlap=1.1) is None


def test_the_joint_frontier_lies_between_its_limits_and_is_met_or_not():
    assert joint_frontier(RIVALS) == [RIVALS[3], RIVALS[2], RIVALS[1]]
    # .9 at 50 times is out of reach, .991 at 20 is beaten; so is .999 at 8 not: certified search does 5.
    assert frontier_share(OURS, RIVALS) == pytest.approx(1 / 3)
    assert frontier_share(OURS, RIVALS[:1]) is None


def test_who_leads_is_measured_again():
    assert leaders(OURS) == OURS[1:]
    assert leaders(RIVALS) == RIVALS[1:4]
    near = point(0.9, 41, who="near")
    assert leaders([*RIVALS, near]) == [*RIVALS[1:4], near]
    assert leaders([point(0.79, 99)]) == []
    fast, slow = point(0.9991, 20), point(0.9999, 7)
    assert leaders([fast, slow]) == [fast]
    assert leaders([point(0.9989, 20), slow]) == [point(0.9989, 20), slow]


def test_at_an_overlap_those_measured_in_turns_are_compared():
    again = [point(0.995, 20), point(0.991, 25, who="graph", size=50)]
    found = compare(OURS, [], in_turns=again, across_ms={})
    assert found["speed_ratio_to_best_rival_at_099"] == pytest.approx(20 / 25)
    assert found["bytes_ratio_to_best_rival_at_099"] == pytest.approx(100 / 50)
    assert found["frontier_share"] == 0


def test_figures_by_hand():
    twin = [point(1.0, 1, who="flat", name="all", recall=0.21), point(0.97, 25, who="graph", name="walk", recall=0.2)]
    across_ms = {"certified64": 4.0, "near": 0.5, "all": 9.0, "walk": 0.6}
    found = compare(OURS, twin, in_turns=[*OURS, *RIVALS], across_ms=across_ms)
    assert found["best_at_099"]["speedup"] == pytest.approx(30)
    assert found["speed_ratio_to_best_rival_at_099"] == pytest.approx(1.5)
    assert found["bytes_ratio_to_best_rival_at_099"] == pytest.approx(0.5)
    assert found["speed_ratio_to_best_rival_at_095"] == pytest.approx(2.0)
    assert found["speed_ratio_to_best_rival_at_0999"] == pytest.approx(5 / 8)
    # Both are held to .995 of the worse exact recall, .2, and were timed again in turns, whatever they took before.
    assert found["twin_recall_level"] == level_with_twin(OURS, twin) == pytest.approx(0.199)
    assert fastest_few(OURS, recall=0.1989, num=2) == [OURS[2], OURS[1]]
    assert found["speed_ratio_to_best_rival_on_twin"] == pytest.approx(0.6 / 0.5)
    assert (found["best_at_twin_recall"]["name"], found["best_rival_on_twin"]["name"]) == ("near", "walk")
    assert found["certified_speedup"] == pytest.approx(5)
    assert found["certified_overlap"] == 1
    assert found["recall_lost_at_099"] == pytest.approx(0.005)


def test_what_nobody_reaches_is_none():
    found = compare(OURS[3:], [], in_turns=[*OURS[3:], *RIVALS[:1]], across_ms={})
    assert found["best_at_099"] is None
    assert found["speed_ratio_to_best_rival_at_099"] is None
    assert found["speed_ratio_to_best_rival_on_twin"] is None
    assert found["certified_speedup"] is None
    assert found["recall_lost_at_099"] is None
