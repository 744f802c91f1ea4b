"""Candidates as flat bytes: what a program reads into arrays at once, instead of one message per item.

`PackedItems` of ``protos/serving/v1/candidates.proto`` says what each byte is. Ids lie as in an Arrow string column, so
a client hands them to Arrow as they are. There is nothing to parse per item.

Shapes: ``score_K`` and ``id_K`` are ``(items,)``, best first.
"""

from __future__ import annotations

import grpc
import numpy as np
import pyarrow as pa
from jaxtyping import Float

from recsys.texts import PickedTexts
from serving.errors import ServingError
from serving.v1 import candidates_pb2 as pb
from serving.wire import copied


def pack(ids: PickedTexts, score_K: Float[np.ndarray, " items"]) -> pb.PackedItems:
    """Return ids and scores, best first, in their packed form."""
    start_K1, utf8 = copied(ids)
    return pb.PackedItems(
        scores=score_K.astype("<f4", copy=False).tobytes(),
        id_offsets=start_K1.astype("<i4").tobytes(),
        ids=utf8.tobytes(),
    )


def unpack(items: pb.PackedItems) -> tuple[np.ndarray, Float[np.ndarray, " items"]]:
    """Return ``id_K``, an array of `str`, and ``score_K``, float32 and read-only.

    Raises:
        ServingError: the bytes are not what `PackedItems` says they are.
    """
    score_K = np.frombuffer(items.scores, dtype="<f4")
    if len(items.id_offsets) != 4 * (len(score_K) + 1):
        got = f"{len(items.id_offsets)} bytes of offsets for {len(score_K)} scores"
        raise ServingError(f"packed_items: got {got}, expected 4 more than scores have", code=grpc.StatusCode.DATA_LOSS)
    try:
        ids = pa.StringArray.from_buffers(len(score_K), pa.py_buffer(items.id_offsets), pa.py_buffer(items.ids))
        ids.validate(full=True)  # offsets that point elsewhere would read memory that is not theirs
    except pa.ArrowInvalid as error:
        raise ServingError(f"packed_items: not a column of ids: {error}", code=grpc.StatusCode.DATA_LOSS) from error
    return ids.to_numpy(zero_copy_only=False), score_K
