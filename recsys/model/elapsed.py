"""Time between the items of a history, as the bucket of its logarithm (HSTU, arXiv 2402.17152).

Shapes: ``time_T`` (items of all lists), ``bucket_BLL`` (batch, longest list + 1, longest list + 1).
"""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from recsys.model.padding import pad

UNKNOWN_TIME = torch.iinfo(torch.int64).min
"""Time of an item of which it is not known, and of the start of every list."""

NUM_BUCKETS = 41
"""One for each power of two, up to 17 years in milliseconds, and the last one for the unknown."""


def elapsed_buckets(
    time_T: Int[Tensor, " items"], length_B: Int[Tensor, " batch"]
) -> Int[Tensor, "batch longest longest"]:
    """Return the bucket of the time from each position (column) to each other one (row) of its list.

    Args:
        time_T: ``(items,)`` times of all lists' items, one list after another, in any unit, or `UNKNOWN_TIME`.
        length_B: ``(batch,)`` items of each list.

    Returns:
        ``(batch, longest + 1, longest + 1)`` below `NUM_BUCKETS`: 0 for less than 2 units, 1 for less than 4, ...
    """
    time_BL1, _ = pad(time_T[:, None], length_B, time_T.new_tensor([UNKNOWN_TIME]))
    is_known_BL1 = time_BL1 != UNKNOWN_TIME
    elapsed_BLL = (time_BL1 - time_BL1.mT).clamp_min(1)
    bucket_BLL = elapsed_BLL.float().log2().long().clamp_max(NUM_BUCKETS - 2)
    return torch.where(is_known_BL1 & is_known_BL1.mT, bucket_BLL, NUM_BUCKETS - 1)
