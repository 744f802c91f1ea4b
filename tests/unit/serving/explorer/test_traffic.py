"""What two readings of a page of counters say."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from recsys.errors import ConfigError, RecsysError
from serving.explorer.traffic import Reading, TrafficPage, between, parse, percentile_ms

BOUNDS_S = (0.001, 0.002, 0.005, 0.01)


def test_only_what_happened_between_two_readings_counts():
    before = Reading(at_s=10, calls={"OK": 100, "INVALID_ARGUMENT": 3}, widths={16: 90, 64: 10}, in_time={True: 5})
    after = Reading(
        at_s=20, calls={"OK": 150, "INVALID_ARGUMENT": 3}, widths={16: 100, 32: 5, 64: 10}, in_time={True: 8, False: 1}
    )
    traffic = between(before, after)
    assert traffic.calls_per_s == {"OK": 5}
    assert traffic.widths == {16: 10, 32: 5}
    assert traffic.in_time_share == 0.75
    assert traffic.p99_ms is None


def test_a_first_reading_says_nothing_yet():
    first = Reading(at_s=10, calls={"OK": 100}, widths={16: 90})
    traffic = between(first, first)
    assert (traffic.window_s, traffic.calls_per_s, traffic.widths) == (0, {}, {})


def test_a_percentile_is_read_off_a_straight_line_within_its_bucket():
    within = {0.001: 50.0, 0.002: 90.0, 0.005: 100.0, math.inf: 100.0}
    assert percentile_ms(within, 0.5) == pytest.approx(1.0)
    assert percentile_ms(within, 0.7) == pytest.approx(1.5)
    assert percentile_ms(within, 0.99) == pytest.approx(4.7)


def test_beyond_the_last_bound_only_that_bound_is_known():
    assert percentile_ms({0.001: 0.0, math.inf: 4.0}, 0.5) == 1.0
    assert percentile_ms({}, 0.5) is None
    assert percentile_ms({0.001: 0.0, math.inf: 0.0}, 0.5) is None


@given(st.lists(st.floats(0, 0.0099), min_size=1, max_size=30), st.floats(0.01, 1))
def test_a_percentile_lies_in_the_bucket_of_the_observation_that_it_stands_for(seconds, share):
    registry = CollectorRegistry()
    histogram = Histogram("recsys_answer_seconds", "", buckets=BOUNDS_S, registry=registry)
    for each in seconds:
        histogram.observe(each)
    reading = parse(generate_latest(registry).decode(), at_s=0)
    exact = sorted(seconds)[math.ceil(share * len(seconds) - 1e-9) - 1]
    high = min(bound for bound in BOUNDS_S if exact <= bound)
    low = max((bound for bound in BOUNDS_S if bound < high), default=0)
    assert 1e3 * low - 1e-6 <= percentile_ms(reading.answer_s, share) <= 1e3 * high + 1e-6


@pytest.mark.parametrize("url", ["file:///etc/passwd", "localhost:9090"])
def test_only_http_is_read(url):
    with pytest.raises(ConfigError, match="metrics: got"):
        TrafficPage(url)


def test_a_page_that_is_not_there_is_an_error_that_names_it():
    with pytest.raises(RecsysError, match=r"http://127\.0\.0\.1:1/metrics: got no page of metrics"):
        TrafficPage("http://127.0.0.1:1/metrics").read()
