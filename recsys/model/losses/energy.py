"""A soft lower bound on the share of the squared norm ("energy") that each prefix holds.

Normalising every prefix again, as Matryoshka training does, gives no reason to put more of a vector's energy first.
What the tail does not hold, it cannot change: ``|u.v - (prefix of u).(prefix of v)| <= |tail of u| |tail of v|``. So
front-loaded vectors make a prefix's ranking a better guess at the full one's, and let exact search stop early.

Shapes: ``vector_ND`` (rows, full width), ``L`` widths.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from recsys.model.losses.blocks import TINY, squares_by_width
from recsys.widths import WidthLadder


def energy_profile(widths: WidthLadder, *, alpha: float) -> tuple[float, ...]:
    """Return the least share of the squared norm that each width's prefix should hold: ``(w / full)**alpha``."""
    return tuple((width / widths.full) ** alpha for width in widths)


def energy_penalty(
    vector_ND: Float[Tensor, "rows full"], widths: WidthLadder, profile: Sequence[float]
) -> Float[Tensor, ""]:
    """Return the mean over vectors of the sum over widths of ``relu(profile - share)**2``; 0 where the profile is met.

    Args:
        vector_ND: ``(rows, full)``, any scale.
        widths: the trained widths.
        profile: the least share at each width, narrowest first; the full width's share is always 1.
    """
    square_NL = torch.cat(list(squares_by_width(vector_ND, widths)), dim=1)
    share_NL = square_NL / square_NL[:, -1:].clamp_min(TINY)
    # The full width is left out: its share is 1 but for rounding, and 0 only of a zero vector.
    missing_NL = (share_NL.new_tensor(profile) - share_NL)[:, :-1].relu()
    return missing_NL.square().sum(dim=1).mean()
