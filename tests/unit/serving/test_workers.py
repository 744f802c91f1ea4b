"""Calls count from when they are given to the pool until they have ended, however they end."""

import threading

import pytest

from serving.workers import AT_ONCE, Workers


def test_calls_that_wait_for_a_thread_count_too_until_they_end_or_are_cancelled():
    release = threading.Event()
    with Workers(1, lambda: None) as workers:
        calls = [workers.submit(release.wait, 30) for _ in range(3)]
        assert workers.num_inside == 3
        assert calls[2].cancel()
        assert workers.num_inside == 2
        release.set()
        failing = workers.submit(int, "no number")
        with pytest.raises(ValueError, match="no number"):
            failing.result(30)
        assert calls[1].result(30)
    assert workers.num_inside == 0


def test_each_thread_is_prepared_once():
    prepared = []
    with Workers(2, lambda: prepared.append(threading.get_ident())) as workers:
        used = {workers.submit(threading.get_ident).result(30) for _ in range(9)}
    assert used <= set(prepared)
    assert len(prepared) == len(set(prepared)) <= 2


def test_at_once_is_in_the_same_thread():
    assert AT_ONCE.submit(threading.get_ident).result() == threading.get_ident()
