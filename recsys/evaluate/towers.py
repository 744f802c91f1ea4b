"""From towers and a dataset to the vectors that are evaluated and published.

Shapes: ``user_QU`` (queries, query size), ``item_ND`` (items, full width).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from recsys.data.dataset import Queries
from recsys.ids import UNKNOWN
from recsys.model.exported import ExportedTowers
from recsys.ragged import Ragged


def query_vectors(
    towers: ExportedTowers, queries: Queries, user_features: Mapping[str, Ragged]
) -> Float[np.ndarray, "queries size"]:
    """Encode each query's user from the history before the split; ``user_features`` are those of all users."""
    features = {name: lists.take(queries.user) for name, lists in user_features.items()}
    return towers.encode_users(queries.history, features, queries.user, queries.time)


def item_vectors(
    towers: ExportedTowers, item_features: Mapping[str, Ragged], *, known: bool = True
) -> Float[np.ndarray, "items full"]:
    """Encode the whole catalogue, by item row.

    Args:
        towers: the towers.
        item_features: of all items.
        known: whether items are encoded with their ids, or from their features alone, as new items would be.
    """
    rows = np.arange(towers.layout.num_items)
    return towers.encode_items(rows if known else np.full_like(rows, UNKNOWN), item_features)
