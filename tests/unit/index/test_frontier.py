"""Frontiers of small sets whose answer can be seen."""

import numpy as np
import pytest

from recsys.index.frontier import best, crowding, is_dominated, objectives, ranks, spread, thin

STAIRS = np.array([[1.0, 4.0], [2.0, 2.0], [4.0, 1.0], [3.0, 3.0], [4.0, 4.0]])


def test_dominance_and_ranks_by_hand():
    assert is_dominated(STAIRS).tolist() == [False, False, False, True, True]
    assert ranks(STAIRS).tolist() == [0, 0, 0, 1, 2]


def test_equal_points_do_not_dominate_each_other():
    assert not is_dominated(np.ones((3, 2))).any()


def test_crowding_keeps_the_ends_and_prefers_the_lonely():
    apart = crowding(np.array([[0.0, 10.0], [1.0, 9.0], [2.0, 8.0], [10.0, 0.0]]))
    assert np.isinf(apart[[0, 3]]).all()
    assert apart[2] > apart[1]


def test_less_missed_and_less_cost_are_better():
    (cost,) = objectives(np.array([[0.9], [0.99], [1.0]]), np.array([1.0, 2.0, 4.0]))
    assert (np.diff(cost[:, 0]) < 0).all()
    assert (np.diff(cost[:, 1]) > 0).all()
    assert np.isfinite(cost).all()


def test_the_best_are_taken_rank_by_rank():
    assert best([STAIRS], num=3) == [0, 1, 2]
    assert best([STAIRS], num=4) == [0, 1, 2, 3]
    # A point that is on the frontier of one k alone counts as on it.
    other = STAIRS.copy()
    other[4] = [0.0, 0.0]
    assert 4 in best([STAIRS, other], num=4)


def test_thinning_leaves_few_points_that_stand_for_all():
    time = np.linspace(0, 3, 200)
    cost = np.column_stack([-time, time])
    kept = thin([cost], most=10, cells=np.array([0.1, 0.1]))
    assert 4 <= len(kept) <= 10
    gaps = np.diff(np.sort(time[kept]))
    assert gaps.max() < 1
    (least_missed,) = thin([cost], most=1, cells=np.array([0.1, 0.1]))
    assert least_missed >= 190


def test_what_differs_by_noise_is_kept_once():
    cost = np.array([[0.0, 0.0], [0.01, -0.01], [0.02, -0.02], [-1.0, 1.0]])
    assert thin([cost - 5], most=10, cells=np.array([0.1, 0.1])) == pytest.approx([0, 3])


def test_steps_are_spread_between_those_there_are():
    time = np.linspace(0, 8, 81)
    cost = np.column_stack([-time, time])
    cells = np.array([0.1, 0.1])
    assert time[spread(cost, first=[0, 80], among=range(81), most=5, cells=cells)].tolist() == [0, 2, 4, 6, 8]
    assert time[spread(cost, first=[0, 80], among=range(41), most=4, cells=cells)].tolist() == [0, 2, 4, 8]
    assert spread(cost, first=[0, 80], among=[], most=5, cells=cells) == [0, 80]
    dominated = np.vstack([cost, [[-4.0, 9.0]]])
    assert 81 not in spread(dominated, first=[0, 80], among=range(82), most=82, cells=cells)


def test_no_step_is_added_that_differs_by_noise():
    time = np.array([0.0, 0.05, 1.0, 1.05])
    cost = np.column_stack([-time, time])
    assert spread(cost, first=[0], among=range(4), most=4, cells=np.array([0.1, 0.1])) == [0, 3]
    assert spread(cost, first=[1, 2], among=range(4), most=2, cells=np.array([0.01, 0.01])) == [1, 2]
