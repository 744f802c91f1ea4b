"""How much of the full width's answer a prefix's longer list holds: what a rerank to full width could still find.

Label metrics say whether a prefix ranks well by itself; containment says whether it predicts the full width. The two
differ: self-distillation moves the first and an energy profile the second, so both are reported.

Shapes: ``Q`` queries, ``N`` items, ``D`` the full width, ``w`` a width, ``K`` places of a ranking.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor

from recsys.errors import ConfigError
from recsys.evaluate.metrics import overlap
from recsys.index.exact import exact_top_k
from recsys.ragged import Ragged
from recsys.widths import WidthLadder, truncate


def containment(
    user_QD: Float[Tensor, "queries full"] | Float[np.ndarray, "queries full"],
    item_ND: Float[Tensor, "items full"] | Float[np.ndarray, "items full"],
    widths: WidthLadder,
    *,
    k: int = 100,
    multiples: Sequence[int] = (2, 5),
    masked: Ragged | None = None,
) -> dict[int, dict[int, Float[np.ndarray, " queries"]]]:
    """Return, per query, the share of the full width's exact top k that is in each prefix's exact top ``multiple * k``.

    Users and items are cut to the width and scaled to unit length, as everywhere. Where a mask leaves a query fewer
    than ``k`` items, they all count; a query without any has a share of 1.

    Args:
        user_QD: the queries' vectors.
        item_ND: every item's vector, by item row.
        widths: the trained widths; the last one is the vectors' own.
        k: length of the answer that is to be found.
        multiples: how many times longer the prefix's list is.
        masked: per query, item rows that neither list may hold.

    Returns:
        by width, narrowest first, then by multiple.

    Raises:
        WidthError: the vectors are not of the full width, or cannot be truncated.
        DataError: ``masked`` is not one list of item rows per query.
        ConfigError: ``k`` is less than 1, or ``multiples`` is empty or holds a number less than 1.
    """
    if not multiples or min(multiples) < 1:
        raise ConfigError(f"multiples: got {list(multiples)}, expected at least one, each at least 1")
    ranked = {}
    for width in widths:
        cut_Qw, cut_Nw = truncate(user_QD, width, widths), truncate(item_ND, width, widths)
        ranked[width] = exact_top_k(cut_Qw, cut_Nw, k=k * max(multiples), masked=masked)[1]
    return {
        width: {multiple: overlap(ranked_QK, ranked[widths.full], k=k, depth=multiple * k) for multiple in multiples}
        for width, ranked_QK in ranked.items()
    }
