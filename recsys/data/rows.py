"""Which events a training row is made of, computed for the rows that are asked for: nothing is held per row.

Shapes: ``U`` users, ``R`` rows.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int64

from recsys.data.windows import num_windows, window_at

Kind = Literal["event", "window", "user"]


class Ranges(NamedTuple):
    """Per row, the user and two ranges of that user's events: the history and the positives.

    Args:
        user: ``(R,)`` user rows.
        start: ``(R,)`` where histories begin.
        end: ``(R,)`` where they end.
        first: ``(R,)`` where positives begin.
        stop: ``(R,)`` where they end.
    """

    user: Int64[np.ndarray, " rows"]
    start: Int64[np.ndarray, " rows"]
    end: Int64[np.ndarray, " rows"]
    first: Int64[np.ndarray, " rows"]
    stop: Int64[np.ndarray, " rows"]


class Rows:
    """The rows of a log, user by user.

    Args:
        kind: ``event``, a row for each event, after the events before it; ``window``, a row for each of
            `recsys.data.windows`, whose history is what is predicted, one event later; ``user``, a row for each user
            who has events, without a history.
        length_U: ``(users,)`` int64 events of each user.
        longest: events of history, or of a window, at most.
        most: make positives only of each user's latest events, so many at most; None means of all.
    """

    def __init__(
        self, kind: Kind, length_U: Int64[np.ndarray, " users"], *, longest: int, most: int | None = None
    ) -> None:
        self._kind, self._length_U, self._longest = kind, length_U, longest
        self._split_U = np.zeros_like(length_U) if most is None else np.maximum(length_U - most, 0)
        if kind == "event":
            num_U = length_U - self._split_U
        elif kind == "window":
            num_U = num_windows(self._split_U, length_U, length=longest)
        else:
            num_U = np.minimum(length_U, 1)
        self._row_U = np.concatenate([[0], np.cumsum(num_U)])

    def __len__(self) -> int:
        return int(self._row_U[-1])

    def at(self, row_R: Int64[np.ndarray, " rows"]) -> Ranges:
        """Return the ranges of these rows."""
        user = np.searchsorted(self._row_U, row_R, side="right") - 1
        nth = row_R - self._row_U[user]
        split, stop = self._split_U[user], self._length_U[user]
        if self._kind == "event":
            place = split + nth
            return Ranges(user, np.maximum(0, place - self._longest), place, place, place + 1)
        if self._kind == "window":
            first, stop = window_at(split, stop, nth, length=self._longest)
            return Ranges(user, np.maximum(0, first - 1), stop - 1, first, stop)
        nothing = np.zeros_like(row_R)
        return Ranges(user, nothing, nothing, split, stop)
