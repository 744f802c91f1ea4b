"""Items are written as the proto and protobuf's encoding say, byte by byte; both forms of an answer hold the same."""

import struct

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from picked import picked

from recsys.index.rungs import Rung
from serving.packed import pack, unpack
from serving.query import Answer, Call, Candidates, Timings
from serving.servicer import recommend_response
from serving.v1 import candidates_pb2 as pb
from serving.wire import scored_items

RUNG = Rung(engine="exact", width=8, overlap={10: 1.0}, latency_p50_ms=1, latency_p99_ms=1, size_bytes=1)
TIMINGS = Timings(queue_ms=0, encode_ms=0, scan_ms=0, rerank_ms=0)


@st.composite
def items(draw):
    """Ids of any characters, empty ones and very long ones too, and any scores."""
    ids = draw(st.lists(st.text(max_size=12), max_size=20))
    ids = [id_ * draw(st.sampled_from([1, 1, 1, 20, 2000])) for id_ in ids]
    return ids, draw(arrays(np.float32, len(ids), elements=st.floats(width=32, allow_nan=False)))


@given(items())
def test_every_byte_is_where_the_proto_says(some):
    ids, score_K = some
    packed = pack(picked(ids, num_beside=len(ids) // 3), score_K)
    n = len(packed.scores) // 4
    assert n == len(ids)
    assert list(struct.unpack(f"<{n}f", packed.scores)) == score_K.tolist()
    offsets = struct.unpack(f"<{n + 1}i", packed.id_offsets)
    assert (offsets[0], offsets[-1]) == (0, len(packed.ids))
    assert [packed.ids[offsets[i] : offsets[i + 1]].decode() for i in range(n)] == ids


@given(items(), st.sampled_from([pb.RecommendResponse, pb.UserCandidates, pb.SimilarItemsResponse]))
def test_messages_are_those_that_protobuf_writes(some, kind):
    ids, score_K = some
    written = scored_items(picked(ids, num_beside=len(ids) // 3), score_K)
    plain = kind(
        items=[pb.ScoredItem(item_id=id_, score=score) for id_, score in zip(ids, score_K.tolist(), strict=True)]
    )
    assert kind.FromString(written) == plain
    # protobuf leaves out what is empty or 0, but for a negative 0
    if all(ids) and all(struct.pack("<f", score) != bytes(4) for score in score_K):
        assert written == plain.SerializeToString()


@pytest.mark.parametrize("num", [1, 3])
def test_items_and_scores_are_as_many(num):
    with pytest.raises(AssertionError, match=f"{num} scores of 2 items"):
        scored_items(picked(["i1", "i2"]), np.zeros(num, dtype=np.float32))


@given(items())
def test_both_forms_of_an_answer_agree(some):
    ids, score_K = some
    answer = Answer(
        candidates=[Candidates(ids=picked(ids), scores=score_K, titles=None)],
        rung=RUNG,
        expected_overlap=1.0,
        degraded=(),
        timings=TIMINGS,
        bundle_version="v",
        predicted_ms=1.0,
    )
    friendly, packed = (recommend_response(answer, Call.now(), packed=packed) for packed in (False, True))
    assert not packed.items
    assert not friendly.HasField("packed_items")
    id_K, read_K = unpack(pb.RecommendResponse.FromString(packed.SerializeToString()).packed_items)
    assert id_K.tolist() == [item.item_id for item in friendly.items]
    assert read_K.dtype == np.float32
    assert read_K.tolist() == [item.score for item in friendly.items]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"scores": b""}, "got 12 bytes of offsets for 0 scores"),
        ({"id_offsets": struct.pack("<3i", 0, 1, 9)}, "not a column of ids"),
        ({"id_offsets": struct.pack("<3i", 0, -5, 4)}, "not a column of ids"),
        ({"ids": b"\xff\xff\xff\xff"}, "not a column of ids"),
    ],
)
def test_other_bytes_are_refused(changed, message):
    packed = pack(picked(["i1", "i2"]), np.array([2, 1], dtype=np.float32))
    for name, value in changed.items():
        setattr(packed, name, value)
    with pytest.raises(ValueError, match=message) as refused:
        unpack(packed)
    assert refused.value.code is grpc.StatusCode.DATA_LOSS
