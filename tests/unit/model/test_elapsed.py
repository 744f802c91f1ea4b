from __future__ import annotations

import torch

from recsys.model.elapsed import NUM_BUCKETS, UNKNOWN_TIME, elapsed_buckets

UNKNOWN = NUM_BUCKETS - 1


def test_buckets_are_powers_of_two():
    times = torch.tensor([10, 10, 11, 12, 13, 14, 10 + 2**20, 10 + 2**61])
    bucket = elapsed_buckets(times, torch.tensor([8]))
    assert bucket.shape == (1, 9, 9)
    assert bucket[0, 1:, 1].tolist() == [0, 0, 0, 1, 1, 2, 20, NUM_BUCKETS - 2]


def test_the_start_padding_and_unknown_items_are_at_no_known_distance():
    bucket = elapsed_buckets(torch.tensor([5, UNKNOWN_TIME, 9, 3]), torch.tensor([3, 1]))
    assert bucket[0].tolist() == [
        [UNKNOWN] * 4,
        [UNKNOWN, 0, UNKNOWN, 0],
        [UNKNOWN] * 4,
        [UNKNOWN, 2, UNKNOWN, 0],
    ]
    assert (bucket[1] == UNKNOWN).sum() == 15


def test_no_lists_with_items():
    bucket = elapsed_buckets(torch.zeros(0, dtype=torch.int64), torch.tensor([0, 0]))
    assert bucket.tolist() == [[[UNKNOWN]], [[UNKNOWN]]]
