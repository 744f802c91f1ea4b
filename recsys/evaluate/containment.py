"""How much of the full width's answer a prefix's longer list holds: what a rerank to full width could still find.

Label metrics say whether a prefix ranks well by itself; containment says whether it predicts the full width. The two
differ: self-distillation moves the first and an energy profile the second, so both are reported.

Shapes: ``user_QU`` (queries, query size), ``item_ND`` (items, full width), ``ranked_QK`` (queries, places).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from recsys.errors import ConfigError
from recsys.evaluate.metrics import overlap
from recsys.index.exact import exact_top_k
from recsys.ragged import Ragged
from recsys.widths import Array, WidthLadder, query_at, truncate


def containment(
    user_QU: Array,
    item_ND: Array,
    widths: WidthLadder,
    *,
    k: int = 100,
    multiples: Sequence[int] = (2, 5),
    masked: Ragged | None = None,
) -> dict[int, dict[int, Float[np.ndarray, " queries"]]]:
    """Return, per query, the share of the full width's exact top k that is in each prefix's exact top ``multiple * k``.

    Both are ranked with the vectors that users and items have at the width in serving (`recsys.widths`). Where a mask
    leaves a query fewer than ``k`` items, they all count; a query without any has a share of 1.

    Args:
        user_QU: the queries' vectors: ``(queries, query size)``.
        item_ND: every item's vector, by item row: ``(items, full width)``.
        widths: the trained widths.
        k: length of the answer that is to be found.
        multiples: how many times longer the prefix's list is.
        masked: per query, item rows that neither list may hold.

    Returns:
        by width, narrowest first, then by multiple.

    Raises:
        WidthError: the users' vectors are not of the query size or the items' not of a trained width, or they cannot be
            cut to every width.
        DataError: ``masked`` is not one list of item rows per query.
        ConfigError: ``k`` is less than 1, or ``multiples`` is empty or holds a number less than 1.
    """
    if not multiples or min(multiples) < 1:
        raise ConfigError(f"multiples: got {list(multiples)}, expected at least one, each at least 1")
    ranked = {}
    for width in widths:
        query_Qw, item_Nw = query_at(user_QU, width, widths), truncate(item_ND, width, widths)
        ranked[width] = exact_top_k(query_Qw, item_Nw, k=k * max(multiples), masked=masked)[1]
    return {
        width: {multiple: overlap(ranked_QK, ranked[widths.full], k=k, depth=multiple * k) for multiple in multiples}
        for width, ranked_QK in ranked.items()
    }
