"""Corrected overlaps: whatever live answers show, they lie between what was published and what was measured."""

import copy
import itertools

from hypothesis import given
from hypothesis import strategies as st

from recsys.testing import ladders
from serving.budget import Budget, choose
from serving.calibration import Calibration, Tally, corrected

shares = st.floats(0, 1)
errors = st.lists(st.floats(-1, 1), max_size=30)
weights = st.floats(0.1, 1000)


def tallied(values, **settings):
    tally = Tally()
    for value in values:
        tally = tally.add(value, **settings)
    return tally


@given(shares, st.lists(shares, min_size=1, max_size=30), weights)
def test_a_corrected_figure_lies_between_the_published_and_the_measured_mean(published, overlaps, weight):
    mean = sum(overlaps) / len(overlaps)
    now = corrected(published, tallied([overlap - published for overlap in overlaps]), weight=weight)
    assert min(published, mean) - 1e-9 <= now <= max(published, mean) + 1e-9


@given(shares, shares, weights)
def test_it_is_the_mean_of_live_answers_and_of_the_published_ones(published, overlap, weight):
    for count in (1, 3, 40):
        now = corrected(published, tallied([overlap - published] * count), weight=weight)
        assert abs(now - (count * overlap + weight * published) / (count + weight)) < 1e-9


@given(shares, shares, weights)
def test_more_of_the_same_moves_it_further_and_never_past(published, overlap, weight):
    distances = [
        abs(corrected(published, tallied([overlap - published] * count), weight=weight) - overlap) for count in range(8)
    ]
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(distances))


@given(shares, weights)
def test_without_live_answers_it_is_what_was_published(published, weight):
    assert corrected(published, Tally(), weight=weight) == published


@given(errors, st.permutations(range(30)))
def test_while_all_are_remembered_their_order_does_not_matter(values, order):
    mixed = [values[place] for place in order if place < len(values)]
    one, other = tallied(values), tallied(mixed)
    assert one.count == other.count
    assert abs(one.mean_error - other.mean_error) < 1e-9


@given(errors, st.floats(-1, 1))
def test_what_is_forgotten_no_longer_counts(before, error):
    tally = tallied([*before, *[error] * 300], memory=10)
    assert tally.count == 10
    assert abs(tally.mean_error - error) < 1e-9


@given(ladders(), st.data())
def test_only_the_rung_and_k_that_answered_are_corrected_and_nothing_published_changes(ladder, data):
    before = copy.deepcopy(ladder)
    names = [rung.name for rung in ladder.rungs]
    rung = data.draw(st.sampled_from([rung for rung in ladder.rungs if names.count(rung.name) == 1] or [None]))
    if rung is None:
        return
    calibration = Calibration(ladder)
    correction = calibration.record(rung.name, k=50, overlap=data.draw(shares))
    assert ladder == before
    for old, new in zip(ladder.rungs, calibration.ladder.rungs, strict=True):
        moved = correction if old.name == rung.name else 0.0
        assert abs(new.overlap[100] - old.overlap[100] - moved) < 1e-12
        assert new.overlap[10] == old.overlap[10]
        assert (new.name, new.latency_p99_ms, new.on_ladder) == (old.name, old.latency_p99_ms, old.on_ladder)


@given(
    ladders(), st.lists(st.tuples(st.integers(0, 9), shares), max_size=30), st.floats(0.001, 1000), st.integers(1, 300)
)
def test_on_a_corrected_ladder_too_a_larger_budget_never_gets_less(ladder, answers, time_ms, k):
    calibration = Calibration(ladder)
    for place, overlap in answers:
        calibration.record(ladder.rungs[place % len(ladder.rungs)].name, k=k, overlap=overlap)
    p99_ms = [rung.latency_p99_ms for rung in ladder.rungs]
    less, more = (
        choose(calibration.ladder, Budget(time_ms=given_ms), k=k, p99_ms=p99_ms) for given_ms in (time_ms, 2 * time_ms)
    )
    assert less.degraded or (more.expected_overlap >= less.expected_overlap and more.rung.width >= less.rung.width)
