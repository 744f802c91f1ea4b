"""A rate limit, on a clock that the test moves."""

from serving.rate import RateLimit


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def passed(limit, tries):
    return sum(limit.take() for _ in range(tries))


def test_a_second_s_worth_passes_at_once_and_then_the_rate():
    clock = Clock()
    limit = RateLimit(5, clock=clock)
    assert passed(limit, 20) == 5
    clock.now_s += 0.61
    assert passed(limit, 20) == 3
    clock.now_s += 1000
    assert passed(limit, 20) == 5


def test_a_rate_below_one_lets_one_through_and_then_makes_wait():
    clock = Clock()
    limit = RateLimit(0.1, clock=clock)
    assert passed(limit, 5) == 1
    clock.now_s += 9.9
    assert passed(limit, 5) == 0
    clock.now_s += 0.2
    assert passed(limit, 5) == 1
