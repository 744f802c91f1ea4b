"""What each user did, oldest first, by where it lies in the files of one or more splits.

In memory are the places at which users begin, and nothing per event. Places among a user's events count from 0, the
oldest event of the first split.

Shapes: ``U`` users, ``R`` ranges of users' events.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from recsys.data.event_files import EventColumns
from recsys.ragged import Ragged, gather_ranges

_PIECE = 1 << 17
"""Events that are counted at a time."""


class UserLog:
    """The events of some splits, user by user.

    Args:
        splits: each user's events come in this order, and within a split in the file's.
        num_users: rows of users.
    """

    def __init__(self, splits: Sequence[EventColumns], *, num_users: int) -> None:
        self._splits = splits
        self._offsets = [_user_offsets(one.user, num_users) for one in splits]
        self.lengths: Int64[np.ndarray, " users"] = sum(map(np.diff, self._offsets), np.zeros(num_users, np.int64))
        """How many events each user has."""

    def __len__(self) -> int:
        return sum(map(len, self._splits))

    @property
    def has_times(self) -> bool:
        """Whether events have times, if only to order them."""
        return all(one.time is not None for one in self._splits)

    def items(self, user_R: np.ndarray, start_R: np.ndarray | None = None, stop_R: np.ndarray | None = None) -> Ragged:
        """Return the items of ranges of users' events, of all events without a range."""
        return self._gather([one.item for one in self._splits], user_R, start_R, stop_R)

    def times(self, user_R: np.ndarray, start_R: np.ndarray | None = None, stop_R: np.ndarray | None = None) -> Ragged:
        """Return the times of ranges of users' events, as `items` does; only of a log that has some."""
        return self._gather([one.time for one in self._splits], user_R, start_R, stop_R)

    def latest_time(self) -> int:
        """Return the largest time of all; only of a log that has some."""
        return max(int(one.time.max()) for one in self._splits if one.time is not None and len(one))

    def expect_random_reads(self) -> None:
        """Say that from now on few events are asked for at a time, from anywhere."""
        for one in self._splits:
            one.expect_random_reads()

    def _gather(
        self,
        columns: Sequence[np.ndarray | None],
        user_R: np.ndarray,
        start_R: np.ndarray | None,
        stop_R: np.ndarray | None,
    ) -> Ragged:
        start_R = np.zeros(len(user_R), np.int64) if start_R is None else start_R
        stop_R = self.lengths[user_R] if stop_R is None else stop_R
        whole = np.zeros(len(user_R) + 1, dtype=np.int64)
        np.cumsum(stop_R - start_R, out=whole[1:])
        values, place_R = np.empty(whole[-1], dtype=np.int64), whole[:-1].copy()
        before_R = np.zeros(len(user_R), dtype=np.int64)
        for column, offsets in zip(columns, self._offsets, strict=True):
            assert column is not None, "times: got a log without any"
            first_R, end_R = offsets[user_R], offsets[user_R + 1]
            own_R = end_R - first_R
            piece = gather_ranges(
                column,
                first_R + np.clip(start_R - before_R, 0, own_R),
                first_R + np.clip(stop_R - before_R, 0, own_R),
            )
            values[np.arange(len(piece.values)) + np.repeat(place_R - piece.offsets[:-1], piece.lengths)] = piece.values
            place_R, before_R = place_R + piece.lengths, before_R + own_R
        return Ragged(values, whole)


def _user_offsets(user: np.ndarray, num_users: int) -> Int64[np.ndarray, " users_and_end"]:
    """Return where each user's events begin in a sorted column, and where the last one's end."""
    count_U = np.zeros(num_users + 1, dtype=np.int64)
    for start in range(0, len(user), _PIECE):
        piece = user[start : start + _PIECE]
        lowest, highest = int(piece[0]), int(piece[-1])
        assert lowest <= highest < num_users, (
            f"user: got {lowest} to {highest}, expected increasing rows of {num_users}"
        )
        count_U[lowest + 1 : highest + 2] += np.bincount(piece - lowest, minlength=highest - lowest + 1)
    return np.cumsum(count_U)
