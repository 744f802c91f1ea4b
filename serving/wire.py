"""Scored items as the bytes of messages, written by a compiled loop instead of two assignments per item.

A field that is a message repeated is, on the wire, each message's bytes after a tag and their number, and so is a
string; a float is four bytes after its tag (protobuf.dev/programming-guides/encoding). What is written here is merged
into a response as if it had come over the network, and read by protobuf itself.

Shapes: ``K`` items, best first.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from google.protobuf.message import Message
from jaxtyping import Float

from recsys.texts import Texts
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


def scored_items(ids: Texts, score_K: Float[np.ndarray, " items"]) -> bytes:
    """Return the field ``items`` of a response: a `ScoredItem` each."""
    score = score_K.astype("<f4", copy=False).view(np.uint8)
    written: np.ndarray = _write(ids.start_N1, ids.utf8, score, _ITEMS, _ID, _SCORE)
    return written.tobytes()


@numba.njit(nogil=True)
def _put_varint(value: Any, wire: Any, at: Any) -> Any:
    """Write a number, seven bits a byte, the lowest first; return the place after it."""
    while value >= _MORE:
        wire[at] = value % _MORE + _MORE
        value //= _MORE
        at += 1
    wire[at] = value
    return at + 1


@numba.njit(nogil=True)
def _varint_bytes(value: Any) -> Any:
    num = 1
    while value >= _MORE:
        value //= _MORE
        num += 1
    return num


_WORDS = numba.types.Array(numba.int64, 1, "C", readonly=True)
_BYTES = numba.types.Array(numba.uint8, 1, "C", readonly=True)


# Tags are arguments, since what is kept on disk of a compiled loop does not notice that they have changed elsewhere.
@numba.njit([(_WORDS, _BYTES, _BYTES, numba.int64, numba.int64, numba.int64)], cache=True)
def _write(
    start_K1: np.ndarray, utf8: np.ndarray, score: np.ndarray, items_tag: int, id_tag: int, score_tag: int
) -> np.ndarray:
    num = len(start_K1) - 1
    wire = np.empty(len(utf8) + num * (2 + 2 * _LONGEST_VARINT + _SCORE_BYTES), np.uint8)
    at = 0
    for k in range(num):
        size = start_K1[k + 1] - start_K1[k]
        wire[at] = items_tag
        at = _put_varint(1 + _varint_bytes(size) + size + _SCORE_BYTES, wire, at + 1)
        wire[at] = id_tag
        at = _put_varint(size, wire, at + 1)
        for place in range(start_K1[k], start_K1[k + 1]):
            wire[at] = utf8[place]
            at += 1
        wire[at] = score_tag
        for byte in range(4):
            wire[at + 1 + byte] = score[4 * k + byte]
        at += _SCORE_BYTES
    return wire[:at]
