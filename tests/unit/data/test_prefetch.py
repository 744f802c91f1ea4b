"""Things made ahead in a thread: the same ones, in order, never too many, and no thread is left."""

from __future__ import annotations

import itertools
import threading
import time

import pytest

from recsys.data.prefetch import prefetched


def threads():
    return [one for one in threading.enumerate() if one.name.startswith("prefetch")]


class Counted:
    """Counts to ``stop``, remembers how far and in which threads it was asked to."""

    def __init__(self, stop=1_000, wrong_at=None):
        self.made, self.threads, self._stop, self._wrong_at = 0, set(), stop, wrong_at

    def __iter__(self):
        return self

    def __next__(self):
        self.threads.add(threading.current_thread())
        if self.made == self._wrong_at:
            raise OSError(f"no {self.made}")
        if self.made == self._stop:
            raise StopIteration
        self.made += 1
        return self.made - 1

    def wait_for(self, made):
        deadline = time.monotonic() + 30
        while self.made < made and time.monotonic() < deadline:
            time.sleep(0.001)
        assert self.made >= made


@pytest.mark.parametrize("ahead", [1, 3, 50])
def test_all_come_in_order_from_one_thread_that_ends(ahead):
    source = Counted(20)
    with prefetched(source, ahead=ahead) as made:
        assert list(made) == list(range(20))
    assert len(source.threads) == 1
    assert threading.current_thread() not in source.threads
    assert not threads()


def test_no_more_are_made_than_may_wait():
    source = Counted()
    with prefetched(source, ahead=3) as made:
        for taken in range(5):
            source.wait_for(taken + 3)
            time.sleep(0.01)
            assert source.made == taken + 3
            assert next(made) == taken
    assert source.made <= 5 + 3


def test_an_error_comes_where_the_thing_would_have_come():
    with prefetched(Counted(wrong_at=4), ahead=3) as made:
        assert list(itertools.islice(made, 4)) == [0, 1, 2, 3]
        with pytest.raises(OSError, match="no 4"):
            next(made)
    assert not threads()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_of_the_block_ends_the_thread(error):
    def use(source):
        with prefetched(source, ahead=2) as made:
            next(made)
            raise error

    source = Counted()
    with pytest.raises(error):
        use(source)
    assert not threads()
    assert source.made <= 1 + 2
