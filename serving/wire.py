"""Items of an answer as bytes, written by compiled loops instead of two assignments per item.

A field that is a message repeated is, on the wire, each message's bytes after a tag and their number, and so is a
string; a float is four bytes after its tag (protobuf.dev/programming-guides/encoding). What is written here is merged
into a response as if it had come over the network, and read by protobuf itself.

The loops are so short that whoever let the interpreter's lock go would wait longer to have it again. They are one
module since numba's cache notices changes of the file that a loop is in, and of no other.

Shapes: ``K`` items, best first; ``start_N1`` and ``start_M1`` as in `recsys.texts`.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from google.protobuf.message import Message
from jaxtyping import Float, Int64, UInt8

from recsys.texts import PickedTexts
from serving.v1 import candidates_pb2 as pb

_DELIMITED, _FOUR_BYTES = 2, 5
"""What follows a tag: a number of bytes and these, or four of them."""
_TAG_BITS = 3
_MORE = 128
"""Set in each byte of a varint but the last one."""
_LONGEST_VARINT, _SCORE_BYTES = 5, 5


def _tag(kind: type[Message], name: str, follows: int) -> int:
    tag = kind.DESCRIPTOR.fields_by_name[name].number << _TAG_BITS | follows
    assert tag < _MORE, "one byte"
    return tag


# All that have items have them under one number, which this would not unpack otherwise.
(_ITEMS,) = {
    _tag(kind, "items", _DELIMITED) for kind in (pb.RecommendResponse, pb.UserCandidates, pb.SimilarItemsResponse)
}
_ID, _SCORE = _tag(pb.ScoredItem, "item_id", _DELIMITED), _tag(pb.ScoredItem, "score", _FOUR_BYTES)


def scored_items(ids: PickedTexts, score_K: Float[np.ndarray, " items"]) -> bytes:
    """Return the field ``items`` of a response: a `ScoredItem` each."""
    row_K, column, beside = ids
    assert len(row_K) == len(score_K), f"{len(score_K)} scores of {len(row_K)} items"  # the loop reads as many
    score = score_K.astype("<f4", copy=False).view(np.uint8)
    written: np.ndarray = _write(
        row_K, column.start_N1, column.utf8, beside.start_N1, beside.utf8, score, _ITEMS, _ID, _SCORE
    )
    return written.tobytes()


def copied(ids: PickedTexts) -> tuple[Int64[np.ndarray, " items_and_1"], UInt8[np.ndarray, " bytes"]]:
    """Return where each id begins, and the end of the last one, and all of their bytes."""
    row_K, column, beside = ids
    start_K1, utf8 = _copy(row_K, column.start_N1, column.utf8, beside.start_N1, beside.utf8)
    return start_K1, utf8


@numba.njit
def _put_varint(value: Any, wire: Any, at: Any) -> Any:
    """Write a number, seven bits a byte, the lowest first; return the place after it."""
    while value >= _MORE:
        wire[at] = value % _MORE + _MORE
        value //= _MORE
        at += 1
    wire[at] = value
    return at + 1


@numba.njit
def _varint_bytes(value: Any) -> Any:
    num = 1
    while value >= _MORE:
        value //= _MORE
        num += 1
    return num


@numba.njit
def _find(
    row: Any, start_N1: np.ndarray, utf8: np.ndarray, start_M1: np.ndarray, utf8_beside: np.ndarray
) -> tuple[np.ndarray, int, int]:
    """Return the bytes that the id at a row is among, where it begins there, and where it ends."""
    num, num_beside = len(start_N1) - 1, len(start_M1) - 1
    assert 0 <= row < num + num_beside, "a row of nothing"
    if row < num:
        return utf8, start_N1[row], start_N1[row + 1]
    return utf8_beside, start_M1[row - num], start_M1[row - num + 1]


_WORDS = numba.types.Array(numba.int64, 1, "C", readonly=True)
_BYTES = numba.types.Array(numba.uint8, 1, "C", readonly=True)


@numba.njit([(_WORDS, _WORDS, _BYTES, _WORDS, _BYTES)], cache=True)
def _copy(
    row_K: np.ndarray, start_N1: np.ndarray, utf8: np.ndarray, start_M1: np.ndarray, utf8_beside: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    start_K1 = np.zeros(len(row_K) + 1, np.int64)
    for k in range(len(row_K)):
        _, start, end = _find(row_K[k], start_N1, utf8, start_M1, utf8_beside)
        start_K1[k + 1] = start_K1[k] + end - start
    written = np.empty(start_K1[-1], np.uint8)
    for k in range(len(row_K)):
        found, start, end = _find(row_K[k], start_N1, utf8, start_M1, utf8_beside)
        for place in range(end - start):
            written[start_K1[k] + place] = found[start + place]
    return start_K1, written


# Tags are arguments, since what is kept on disk of a compiled loop does not notice that they have changed elsewhere.
@numba.njit([(_WORDS, _WORDS, _BYTES, _WORDS, _BYTES, _BYTES, numba.int64, numba.int64, numba.int64)], cache=True)
def _write(
    row_K: np.ndarray, start_N1: np.ndarray, utf8: np.ndarray, start_M1: np.ndarray, utf8_beside: np.ndarray,
    score: np.ndarray, items_tag: int, id_tag: int, score_tag: int,
) -> np.ndarray:  # fmt: skip
    most = 0
    for k in range(len(row_K)):
        _, start, end = _find(row_K[k], start_N1, utf8, start_M1, utf8_beside)
        most += 2 + 2 * _LONGEST_VARINT + _SCORE_BYTES + end - start
    wire, at = np.empty(most, np.uint8), 0
    for k in range(len(row_K)):
        found, start, end = _find(row_K[k], start_N1, utf8, start_M1, utf8_beside)
        wire[at] = items_tag
        at = _put_varint(1 + _varint_bytes(end - start) + end - start + _SCORE_BYTES, wire, at + 1)
        wire[at] = id_tag
        at = _put_varint(end - start, wire, at + 1)
        for place in range(start, end):
            wire[at] = found[place]
            at += 1
        wire[at] = score_tag
        for byte in range(4):
            wire[at + 1 + byte] = score[4 * k + byte]
        at += _SCORE_BYTES
    return wire[:at]
