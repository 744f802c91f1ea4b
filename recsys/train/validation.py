"""What training is stopped by: how the towers rank what users chose next."""

from __future__ import annotations

from typing import Any

from recsys.config import TrainConfig
from recsys.data.dataset import Dataset, Queries
from recsys.errors import TrainingError
from recsys.evaluate.protocol import evaluate_vectors
from recsys.evaluate.towers import item_vectors, query_vectors
from recsys.model.exported import ExportedTowers
from recsys.widths import energy_shares, query_at

_DEPTH = 10
_DECIDING = f"ndcg@{_DEPTH}"
"""The score at full width that picks the best towers and stops training."""


class Validation:
    """The validation split, of which there is none left where it is trained on.

    Args:
        dataset: a prepared dataset.
        config: the settings; more than ``validation_users`` users are a seeded sample.

    Raises:
        TrainingError: the split is empty.
    """

    def __init__(self, dataset: Dataset, config: TrainConfig) -> None:
        self._widths = config.model.ladder
        self._user_features, self._item_features = dataset.feature_lists("user"), dataset.feature_lists("item")
        self._queries = None if config.include_validation else _queries(dataset, config)

    @property
    def decides(self) -> bool:
        """Whether there is a score to stop by."""
        return self._queries is not None

    def of(self, towers: ExportedTowers | None) -> dict[str, Any]:
        """Return how towers do, by width, and the shares of energy that prefixes hold.

        Nothing is said of how they do if there is no validation split left to tell, or without towers: the first
        process alone has them.
        """
        if towers is None or self._queries is None:
            return {"validation": {}, "energy": {}}
        widths = self._widths
        user_QU = query_vectors(towers, self._queries, self._user_features)
        item_ND = item_vectors(towers, self._item_features)
        quality = evaluate_vectors(self._queries, user_QU, item_ND, widths, ks=(_DEPTH,))
        scores = {str(width): {name: one.mean(name) for name in one.per_query} for width, one in quality.items()}
        energy = {
            side: dict(zip(map(str, widths), energy_shares(vector_ND, widths).mean(axis=0).tolist(), strict=True))
            for side, vector_ND in (("user", query_at(user_QU, widths.full, widths)), ("item", item_ND))
        }
        return {"validation": scores, "energy": energy}

    def deciding(self, validated: dict[str, Any]) -> float:
        """Return the one score of `of` that decides; 0 where it says nothing."""
        scores = validated["validation"]
        return float(scores[str(self._widths.full)][_DECIDING]) if scores else 0.0


def _queries(dataset: Dataset, config: TrainConfig) -> Queries:
    queries = dataset.queries("validation", most=config.validation_users, seed=config.seed)
    if not len(queries):
        raise TrainingError(f"{dataset.path}: got no validation events, expected some to stop training by")
    return queries
