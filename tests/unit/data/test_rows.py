"""Rows worked out one by one, against all of them written down."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.rows import Rows

lengths = st.lists(st.integers(0, 12), min_size=1, max_size=8)
most = st.none() | st.integers(1, 15)


def written(kind, lengths, longest, most):
    """Return every row as its user and the places of its history and of its positives."""
    rows = []
    for user, length in enumerate(lengths):
        split = 0 if most is None else max(0, length - most)
        if kind == "user" and length:
            rows.append((user, [], list(range(split, length))))
        elif kind == "event":
            rows += [(user, list(range(length))[:place][-longest:], [place]) for place in range(split, length)]
        elif kind == "window":
            targets = list(range(split, length))
            while targets:
                window, targets = targets[-longest:], targets[:-longest]
                rows.append((user, [place - 1 for place in window if place > 0], window))
    return rows


@given(lengths, st.integers(1, 6), most, st.sampled_from(["event", "window", "user"]), st.randoms())
def test_rows_are_those_written_down_in_any_order(lengths, longest, most, kind, random):
    expected = written(kind, lengths, longest, most)
    rows = Rows(kind, np.array(lengths), longest=longest, most=most)
    assert len(rows) == len(expected)
    order = random.sample(range(len(expected)), len(expected))
    of = rows.at(np.array(order, dtype=np.int64))
    for place, row in enumerate(order):
        history = list(range(of.start[place], of.end[place]))
        positives = list(range(of.first[place], of.stop[place]))
        assert (of.user[place], history, positives) == expected[row]
