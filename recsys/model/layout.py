"""Which embedding tables a model has and which bag of rows each tower looks up in them.

One description serves training (TorchRec tables), the exported towers (plain tensors) and checkpoints, so the three
cannot drift apart. The item table is shared: a history is pooled from the same rows that the item tower starts with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from recsys.config import ModelConfig
from recsys.data.schema import FeatureSpec, Side
from recsys.errors import DataError
from recsys.ragged import Ragged
from recsys.settings import from_mapping

ITEM_TABLE = "item"
USER_TABLE = "user"
HISTORY = "history"
"""The lists that a history encoder reads; where the tables are looked up, the distinct items of all of them."""
HISTORY_TIME = "history_time"
"""The times of their items, where it reads those and they are known."""


class Input(NamedTuple):
    """One bag of rows per example, mean-pooled from a table; an empty bag pools to zeros."""

    name: str
    table: str


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Tables and inputs of both towers.

    Args:
        config: the model's settings.
        num_items: rows of the item table.
        num_users: rows of the user table, where there is one.
        specs: features of users and items, in the dataset's order.
    """

    config: ModelConfig
    num_items: int
    num_users: int
    specs: tuple[FeatureSpec, ...]

    @cached_property
    def tables(self) -> dict[str, int]:
        """Rows of each table, by name."""
        sizes = {ITEM_TABLE: self.num_items}
        if self.config.user_id:
            sizes[USER_TABLE] = self.num_users
        return sizes | {_feature_table(spec): spec.num_rows for spec in self.specs}

    @cached_property
    def user_inputs(self) -> tuple[Input, ...]:
        """What the user tower sees, in the order it is concatenated."""
        inputs = [Input(f"history_{window}", ITEM_TABLE) for window in self.config.windows]
        if self.config.user_id:
            inputs.append(Input("user_id", USER_TABLE))
        inputs += [Input(name, _feature_table(spec)) for name, _, spec in self._history_features]
        return (*inputs, *self._features("user"))

    @cached_property
    def inputs(self) -> tuple[Input, ...]:
        """All that is looked up in a training step, by table."""
        inputs = (*self.user_inputs, *self.item_inputs)
        if self.config.encoded_history:
            inputs = (Input(HISTORY, ITEM_TABLE), *inputs)
        return tuple(source for table in self.tables for source in inputs if source.table == table)

    @property
    def num_user_vectors(self) -> int:
        """Embeddings that the user tower sees: one per input, and the encoded history where there is an encoder."""
        return len(self.user_inputs) + (self.config.encoded_history > 0)

    @cached_property
    def item_inputs(self) -> tuple[Input, ...]:
        """What the item tower sees, in the order it is concatenated."""
        return (Input("item_id", ITEM_TABLE), *self._features("item"))

    @cached_property
    def _history_features(self) -> list[tuple[str, int, FeatureSpec]]:
        """Return the inputs of features of a history's items: name, window and feature."""
        return [
            (f"history_{window}_{spec.name}", window, spec)
            for window in self.config.history_features
            for spec in self.item_specs
        ]

    @cached_property
    def item_specs(self) -> list[FeatureSpec]:
        """The features of items."""
        return [spec for spec in self.specs if spec.side == "item"]

    def _features(self, side: Side) -> list[Input]:
        return [Input(_feature_table(spec), _feature_table(spec)) for spec in self.specs if spec.side == side]

    def user_bags(
        self,
        history: Ragged,
        features: Mapping[str, Ragged],
        users: np.ndarray | None = None,
        times: Ragged | None = None,
        *,
        item_features: Mapping[str, Ragged] | None = None,
    ) -> dict[str, Ragged]:
        """Return each user input's rows, and those that a history encoder reads.

        Args:
            history: per example, item rows, oldest first; all known rows. Read only by a tower with a history.
            features: per feature name, per example, rows as `FeatureSpec.encode` gives them; a missing one is empty.
            users: per example, the user's row or `UNKNOWN`; None means all unknown. Read only with ``user_id``.
            times: per example, the times of the history's items; None means all unknown. Read only with ``time_bias``.
            item_features: by name, of all items. Read only with ``history_features``.
        """
        bags = {f"history_{window}": history.last(window) for window in self.config.windows}
        for name, window, spec in self._history_features:
            bags[name] = history.last(window).through((item_features or {})[spec.name])
        if self.config.encoded_history:
            bags[HISTORY] = history.last(self.config.encoded_history)
        if self.config.time_bias and times is not None:
            bags[HISTORY_TIME] = times.last(self.config.encoded_history)
        if self.config.user_id:
            bags["user_id"] = _one_each(users) if users is not None else Ragged.empty(len(history))
        return bags | self._feature_bags("user", features, len(history))

    def item_bags(self, items: np.ndarray, features: Mapping[str, Ragged]) -> dict[str, Ragged]:
        """Return each item input's rows; an `UNKNOWN` item row gives an empty id bag, so features alone speak."""
        return {"item_id": _one_each(items)} | self._feature_bags("item", features, len(items))

    def _feature_bags(self, side: Side, features: Mapping[str, Ragged], n: int) -> dict[str, Ragged]:
        bags = {}
        for spec in self.specs:
            if spec.side == side:
                bags[_feature_table(spec)] = features.get(spec.name, Ragged.empty(n))
                if len(bags[_feature_table(spec)]) != n:
                    raise DataError(f"feature {spec.name}: got {len(features[spec.name])} lists, expected {n}")
        return bags

    def to_json(self) -> dict[str, Any]:
        """Return plain values; `from_json` is the way back."""
        return {
            "config": asdict(self.config),
            "num_items": self.num_items,
            "num_users": self.num_users,
            "specs": [spec.to_json() for spec in self.specs],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Layout:
        """Read what `to_json` gives."""
        return cls(
            config=from_mapping(ModelConfig, content["config"], where="model"),
            num_items=content["num_items"],
            num_users=content["num_users"],
            specs=tuple(FeatureSpec.from_json(entry) for entry in content["specs"]),
        )


def _feature_table(spec: FeatureSpec) -> str:
    return f"{spec.side}_{spec.name}"


def _one_each(rows: np.ndarray) -> Ragged:
    known = rows >= 0
    return Ragged.from_lengths(np.asarray(rows[known], dtype=np.int64), known.astype(np.int64))
