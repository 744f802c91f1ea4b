"""A causal encoder of histories: one state per position, from that position and everything before it.

Blocks are those of HSTU (arXiv 2402.17152): gated pointwise attention, in which ``SiLU`` takes the place of the
softmax, so that items do not compete for attention. Two things are different here. Each position divides by the number
of positions it reads, where HSTU divides by a constant: short histories keep their scale. And positions are known only
by a bias for every distance and head, so a window cut out of a long history looks like any other.

As there, the logarithm of the time between two items may have a bias of its own. That is the time up to the last item
known, not up to the one that is predicted, whose time no server knows.

Shapes: ``item_TE`` (items of all lists, embedding_dim), ``state_VE`` (positions of all lists, the start of each
included), ``token_BLE`` (batch, longest list + 1, embedding_dim), ``H`` heads, ``logit_BHLL``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from recsys.config import ModelConfig
from recsys.data.parts import Parts
from recsys.model.dropout import RowDropout, draw_rows
from recsys.model.elapsed import NUM_BUCKETS, UNKNOWN_TIME, elapsed_buckets
from recsys.model.padding import pad

_SHARE_WITHOUT_TIMES = 0.1
"""Of the lists of a training step, so that histories of unknown times are read as well as they can be."""

_MASKED = -1e4
"""Logit of what is not read: ``SiLU`` and its gradient are exactly 0 there, as they are not defined at -inf."""


class SequenceEncoder(nn.Module):
    """A start token, then blocks of causal attention over the items' embeddings.

    Args:
        config: ``embedding_dim``, ``sequence_length``, ``num_blocks``, ``num_heads``, ``time_bias`` and ``dropout``.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim, self.has_time_bias = config.embedding_dim, config.time_bias
        self.start_E = nn.Parameter(torch.randn(dim) / math.sqrt(dim))
        self.dropout = RowDropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_blocks))
        self.norm = nn.LayerNorm(dim)

    def forward(
        self,
        item_TE: Float[Tensor, "items dim"],
        length_B: Int[Tensor, " batch"],
        time_T: Int[Tensor, " items"] | None = None,
        lists: Parts | None = None,
        positions: Parts | None = None,
    ) -> Float[Tensor, "positions dim"]:
        """Return the state after the start and after every item, list after list.

        Args:
            item_TE: ``(items, dim)`` embeddings of all lists' items, oldest first, one list after another.
            length_B: ``(batch,)`` items of each list, at most ``sequence_length``.
            time_T: ``(items,)`` their times in the dataset's unit, or `recsys.model.elapsed.UNKNOWN_TIME`; None means
                all unknown. Read only with ``time_bias``.
            lists: which of a training step's lists these are; None for all of them.
            positions: which of its positions.

        Returns:
            ``(items + batch, dim)``: each list has one state more than items.
        """
        token_BLE, place_V = pad(item_TE, length_B, self.start_E)
        # Tables start with vectors of length 1; blocks add to the stream what a norm has scaled to coordinates of 1.
        positions = positions or Parts.whole(len(place_V))
        drop = partial(self._drop, place_V=place_V, positions=positions)
        state_BLE = drop(token_BLE * math.sqrt(token_BLE.shape[-1]))
        bucket_BLL = None
        if self.has_time_bias:
            time_T = torch.full(item_TE.shape[:1], UNKNOWN_TIME, device=item_TE.device) if time_T is None else time_T
            bucket_BLL = elapsed_buckets(time_T, length_B)
            if self.training:
                is_hidden_B = draw_rows(len(length_B), lists, length_B.device) < _SHARE_WITHOUT_TIMES
                bucket_BLL = bucket_BLL.masked_fill(is_hidden_B[:, None, None], NUM_BUCKETS - 1)
        for block in self.blocks:
            state_BLE = block(state_BLE, bucket_BLL, drop)
        state_VE: Tensor = self.norm(state_BLE.flatten(0, 1)[place_V])
        return state_VE

    def _drop(self, token_BLE: Tensor, *, place_V: Tensor, positions: Parts) -> Tensor:
        """Drop by position, whatever the padding: that depends on how lists are shared out over processes."""
        if not self.dropout.is_active:
            return token_BLE
        flat_RE = token_BLE.flatten(0, 1)
        factor_RE = torch.ones_like(flat_RE).index_copy(0, place_V, self.dropout.factors(flat_RE, positions))
        return (flat_RE * factor_RE).view_as(token_BLE)


class Block(nn.Module):
    """Attention beside a straight path: ``x + W_out(u * norm(mean over read positions of silu(q.k + bias) v))``."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.embedding_dim
        self.num_heads = config.num_heads
        self.norm = nn.LayerNorm(dim)
        self.gate_value_query_key = nn.Linear(dim, 4 * dim)
        self.distance_bias = nn.Parameter(torch.zeros(config.num_heads, config.sequence_length + 1))
        self.time_bias = nn.Parameter(torch.zeros(NUM_BUCKETS)) if config.time_bias else None
        self.attention_norm = nn.LayerNorm(dim)
        self.out = nn.Linear(dim, dim)

    def forward(
        self,
        token_BLE: Float[Tensor, "batch longest dim"],
        bucket_BLL: Int[Tensor, "batch longest longest"] | None,
        drop: Callable[[Tensor], Tensor],
    ) -> Float[Tensor, "batch longest dim"]:
        """Return tokens of the same shape; each depends on itself and earlier ones only.

        Args:
            token_BLE: ``(batch, longest, dim)``.
            bucket_BLL: of the time between tokens (`recsys.model.elapsed.elapsed_buckets`), for a block that has a bias
                for it.
            drop: dropout of tokens.
        """
        projected = nn.functional.silu(self.gate_value_query_key(self.norm(token_BLE)))
        gate_BLE, *heads = projected.chunk(4, dim=-1)
        value_BHLe, query_BHLe, key_BHLe = (
            part.view(*part.shape[:2], self.num_heads, -1).transpose(1, 2) for part in heads
        )
        position_L = torch.arange(token_BLE.shape[1], device=token_BLE.device)
        distance_LL = position_L[:, None] - position_L[None, :]
        bias_HLL = self.distance_bias[:, distance_LL.clamp_min(0)].masked_fill(distance_LL < 0, _MASKED)
        logit_BHLL = query_BHLe @ key_BHLe.mT + bias_HLL
        if self.time_bias is not None:
            logit_BHLL = logit_BHLL + self.time_bias[bucket_BLL][:, None]
        sum_BHLe = nn.functional.silu(logit_BHLL) @ value_BHLe
        read_BLE = sum_BHLe.transpose(1, 2).flatten(2) / (position_L[:, None] + 1)
        out_BLE: Tensor = token_BLE + self.out(drop(gate_BLE * self.attention_norm(read_BLE)))
        return out_BLE
