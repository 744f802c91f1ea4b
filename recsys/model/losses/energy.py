"""A soft lower bound on the share of the squared norm ("energy") that each prefix holds.

Normalising every prefix again, as Matryoshka training does, gives no reason to put more of a vector's energy first.
What the tail does not hold, it cannot change: ``|u.v - (prefix of u).(prefix of v)| <= |tail of u| |tail of v|``. So
front-loaded vectors make a prefix's ranking a better guess at the full one's, and let exact search stop early.

Shapes: ``vector_ND`` (rows, full width), ``L`` widths.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from recsys.errors import ConfigError
from recsys.model.losses.blocks import TINY, squares_by_width
from recsys.widths import WidthLadder


def energy_widths(widths: WidthLadder, *, num_parts: int) -> WidthLadder:
    """Return where the profile asks: at the trained widths, and at the end of each of so many equal parts.

    Raises:
        ConfigError: the full width is no multiple of ``num_parts``.
    """
    if widths.full % num_parts:
        raise ConfigError(f"energy_parts: got {num_parts}, expected a divisor of the full width {widths.full}")
    ends = range(widths.full // num_parts, widths.full + 1, widths.full // num_parts)
    return WidthLadder(sorted({*widths, *ends}))


def energy_profile(widths: WidthLadder, *, decay: float) -> tuple[float, ...]:
    """Return the share of the squared norm that each width's prefix should hold: ``1 - (1 - w / full)**decay``."""
    return tuple(1 - (1 - width / widths.full) ** decay for width in widths)


def energy_penalty(
    vector_ND: Float[Tensor, "rows full"], widths: WidthLadder, profile: Sequence[float]
) -> Float[Tensor, ""]:
    """Return the mean over vectors of the sum over widths of ``relu(asked - held)**2``; 0 where the profile is met.

    What counts is a prefix's share of the next wider prefix. Asked for a share of the whole vector, narrow prefixes
    that hold too little would drain every later block, most of all the last, which the loss itself holds on to least.

    Args:
        vector_ND: ``(rows, full)``, any scale.
        widths: where the profile asks.
        profile: the least share of the full vector at each width, narrowest first; the last is 1.
    """
    square_NL = squares_by_width(vector_ND, widths)
    held_NL = square_NL[:, :-1] / square_NL[:, 1:].clamp_min(TINY)
    asked_L = held_NL.new_tensor([low / high for low, high in itertools.pairwise(profile)])
    return (asked_L - held_NL).relu().square().sum(dim=1).mean()
