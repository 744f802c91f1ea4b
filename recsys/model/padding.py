"""Lists of items side by side in one tensor, each behind a start token.

The start token gives an empty list something to be encoded from, and the first item something to be predicted from.
Lists are padded at their ends: whatever looks only at what came before never sees the padding.

Shapes: ``item_TE`` (items of all lists one after another, embedding_dim), ``place_V`` (positions of all lists, the
start of each included: T + B), ``token_BLE`` (batch, longest list + 1, embedding_dim).
"""

from __future__ import annotations

import torch
from jaxtyping import Int, Num
from torch import Tensor


def pad(
    item_TE: Num[Tensor, "items dim"], length_B: Int[Tensor, " batch"], start_E: Num[Tensor, " dim"]
) -> tuple[Num[Tensor, "batch longest dim"], Int[Tensor, " positions"]]:
    """Lay lists out row by row, and say where each list's positions are.

    Args:
        item_TE: ``(items, dim)`` all lists' items, one list after another.
        length_B: ``(batch,)`` items of each list.
        start_E: the start token; it also fills what is left of shorter lists.

    Returns:
        ``(batch, longest + 1, dim)``, and ``(items + batch,)`` places of all positions, list after list, in its first
        two dimensions flattened.
    """
    longest = int(length_B.max()) + 1 if len(length_B) else 1
    place_V, is_start_V = _positions(length_B, longest)
    token_RE = start_E.expand(len(length_B) * longest, -1).index_copy(0, place_V[~is_start_V], item_TE)
    return token_RE.view(len(length_B), longest, -1), place_V


def last_places(length_B: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
    """Return, among all lists' positions one after another, the place of each list's last one."""
    return torch.cumsum(length_B + 1, dim=0) - 1


def _positions(length_B: Tensor, longest: int) -> tuple[Tensor, Tensor]:
    row_V = torch.arange(len(length_B), device=length_B.device).repeat_interleave(length_B + 1)
    first_B = last_places(length_B) - length_B
    position_V = torch.arange(len(row_V), device=length_B.device) - first_B[row_V]
    return row_V * longest + position_V, position_V == 0
