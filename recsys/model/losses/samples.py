"""What a loss knows of a step's vectors: which positive belongs to which vector, and what each negative stands for.

A step encodes every item once, however often it is a positive or a negative of the batch. What repeating would do is
done by weights: a negative that was drawn ``count`` times and is expected ``expected`` times counts
``count / expected`` times in a softmax's denominator, so its logit gets ``log(count) - log(expected)``. Dividing by
what is expected makes the samples stand for the catalogue (logQ); as arXiv 2507.09331 points out, the positive is not
a sample, so it is neither corrected nor counted among the negatives.

Shapes: ``V`` user vectors, ``S`` distinct items, ``P`` (vector, positive) pairs, ``N`` distinct negatives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from recsys.data.batches import Examples
from recsys.data.parts import Parts
from recsys.model.losses.negatives import MASKED


@dataclass(frozen=True)
class Samples:
    """Which of a step's vectors meet, as positives and as negatives.

    Args:
        row_P: ``(pairs,)`` the vector of each pair, non-decreasing.
        positive_P: ``(pairs,)`` the item of each pair, as a place among the samples.
        negative_N: ``(negatives,)`` distinct places among the samples.
        count_N: ``(negatives,)`` how often each was drawn.
        log_weight_N: ``(negatives,)`` log of that, less the log of how often each is expected.
        user_V: ``(vectors,)`` user rows.
        item_S: ``(samples,)`` item rows.
        pairs: which of the step's pairs these are, where processes share it; samples and negatives are the step's.
        vectors: which of its vectors.
        encoded: which samples this process encodes.
    """

    row_P: Int[Tensor, " pairs"]
    positive_P: Int[Tensor, " pairs"]
    negative_N: Int[Tensor, " negatives"]
    count_N: Int[Tensor, " negatives"]
    log_weight_N: Float[Tensor, " negatives"]
    user_V: Int[Tensor, " vectors"]
    item_S: Int[Tensor, " samples"]
    pairs: Parts
    vectors: Parts
    encoded: Parts

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def each(self, change: Callable[[Tensor], Tensor]) -> Samples:
        """Return the same with each tensor changed, as by moving it to a device."""
        changed: dict[str, Any] = {name: change(value) for name, value in self.tensors().items()}
        return replace(self, **changed)


def samples_of(
    examples: Examples, log_expected_N: Float[np.ndarray, " items"], *, user_V: Int[np.ndarray, " vectors"]
) -> Samples:
    """Find the distinct items of a batch, and what each of them is.

    Args:
        examples: a process's part of the batch.
        log_expected_N: ``(items,)`` log of how often each item of the catalogue is expected among a row's negatives.
        user_V: ``(vectors,)`` the user that each vector is of.
    """
    rows = np.concatenate([examples.batch_item, examples.negative])
    item_S, place = np.unique(rows, return_inverse=True)
    positive_A, drawn = np.split(place, [len(examples.batch_item)])
    count_S = np.bincount(drawn, minlength=len(item_S))
    negative_N = np.flatnonzero(count_S)
    count_N = count_S[negative_N]
    log_weight_N = np.log(count_N, dtype=log_expected_N.dtype) - log_expected_N[item_S[negative_N]]
    return Samples(
        row_P=torch.from_numpy(examples.row),
        positive_P=torch.from_numpy(positive_A[examples.positives.own]),
        negative_N=torch.from_numpy(negative_N),
        count_N=torch.from_numpy(count_N),
        log_weight_N=torch.from_numpy(log_weight_N),
        user_V=torch.from_numpy(user_V),
        item_S=torch.from_numpy(item_S),
        pairs=examples.positives,
        vectors=examples.vectors,
        encoded=Parts.even(len(item_S), rank=examples.lists.rank, world_size=len(examples.lists.counts)),
    )


def accidental_hits(samples: Samples) -> tuple[Int[Tensor, " hits"], Int[Tensor, " hits"]]:
    """Return which (vector, negative) pairs do not count: the negative is among the vector's own positives.

    Such a negative (another row's positive, or drawn by chance) would be pushed away and pulled in at once. Without it,
    it has neither probability nor gradient.

    Returns:
        ``(hits,)`` vectors, non-decreasing, and ``(hits,)`` places among the negatives.
    """
    item_P, item_N = samples.item_S[samples.positive_P], samples.item_S[samples.negative_N]
    sorted_N, order_N = item_N.sort()
    first_P, stop_P = (torch.searchsorted(sorted_N, item_P, right=right) for right in (False, True))
    # One entry for each pair and negative of the same item: the pair, and which of these negatives it is.
    num_P = stop_P - first_P
    pair_H = torch.arange(len(item_P), device=item_P.device).repeat_interleave(num_P)
    which_H = torch.arange(len(pair_H), device=item_P.device) - (num_P.cumsum(0) - num_P)[pair_H]
    return samples.row_P[pair_H], order_N[first_P[pair_H] + which_H]


@dataclass(frozen=True)
class Logits:
    """What a loss needs of one width.

    Args:
        positive_P: ``(pairs,)`` logits of the positives.
        log_negatives_V: ``(vectors,)`` log-sum-exp of each vector's negatives, by their weights.
    """

    positive_P: Float[Tensor, " pairs"]
    log_negatives_V: Float[Tensor, " vectors"]


def segment_logsumexp(
    value_P: Float[Tensor, " pairs"], segment_P: Int[Tensor, " pairs"], *, num_segments: int
) -> Float[Tensor, " segments"]:
    """Return the log-sum-exp of the values of each segment; about `MASKED` for a segment without any."""
    most_G = value_P.new_full((num_segments,), MASKED).scatter_reduce(0, segment_P, value_P.detach(), "amax")
    total_G = value_P.new_zeros(num_segments).index_add(0, segment_P, (value_P - most_G[segment_P]).exp())
    # A segment with values has a total of 1 at least.
    return most_G + total_G.clamp_min(torch.finfo(value_P.dtype).tiny).log()
