"""Towers that run anywhere torch does: plain tables and dense layers, loaded from safetensors, no torchrec.

Shapes: ``item_BD`` is ``(batch, full width)``, ``user_BU`` is ``(batch, query size)``: float32 vectors of L2 norm 1, of
which a user has one for each width where the heads are not tied (`recsys.widths.query_at`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from recsys.data.schema import FeatureSpec, Side
from recsys.errors import ArtifactError
from recsys.model.history import encode_whole, history_encoder
from recsys.model.layout import HISTORY, HISTORY_TIME, ITEM_TABLE, Layout
from recsys.model.tower import Tower
from recsys.ragged import Ragged
from recsys.widths import truncate, unit_queries

WEIGHTS = "towers.safetensors"
LAYOUT = "towers.json"
_BATCH = 8192
_BATCH_OF_HISTORIES = 128
"""Encoders of histories work on every item, or pair of items, of a history at once."""


class ExportedTowers(nn.Module):
    """Both towers with their tables, in evaluation mode, on the CPU.

    Args:
        layout: tables and inputs; weights start random until `load_state_dict`.
        item_features: of all items, by name, as `FeatureSpec.encode` gives them. Kept by towers that read those of the
            items in histories; others need none.
        tables: ``(rows, embedding_dim)`` float32 by name, where they lie: they are not copied, and lookups take a call
            for each input. None: the towers have tables of their own, in one array, so that one lookup serves all
            inputs: for a single user calls cost more than rows.

    Attributes:
        layout: the same.
        widths: the trained widths.
    """

    def __init__(
        self,
        layout: Layout,
        item_features: Mapping[str, Ragged] | None = None,
        *,
        tables: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.layout = layout
        kept = _kept(layout)
        assert item_features is not None or not kept, "item_features: got none for towers that keep them"
        self._item_features = {name: (item_features or {})[name] for name in kept}
        self.widths = layout.config.ladder
        self._row_RE: Tensor | None = None
        self._start = dict(zip(layout.tables, accumulate(layout.tables.values(), initial=0), strict=False))
        if tables is None:
            row_RE = self._row_RE = torch.randn(sum(layout.tables.values()), layout.config.embedding_dim)
            tables = {name: row_RE[(start := self._start[name]) : start + rows] for name, rows in layout.tables.items()}
        self.tables = nn.ModuleDict({name: nn.Embedding(0, layout.config.embedding_dim) for name in layout.tables})
        for name in layout.tables:
            self.tables[name].weight = nn.Parameter(tables[name], requires_grad=False)
        self.history = history_encoder(layout.config)
        self.user_tower = Tower(layout.num_user_vectors, layout.config, side="user")
        self.item_tower = Tower(len(layout.item_inputs), layout.config, side="item")
        self.eval().requires_grad_(requires_grad=False)

    @property
    def specs(self) -> tuple[FeatureSpec, ...]:
        """The features of users and items that the towers read."""
        return self.layout.specs

    @torch.inference_mode()
    def encode_users(
        self,
        history: Ragged,
        features: Mapping[str, Ragged] | None = None,
        users: np.ndarray | None = None,
        times: Ragged | None = None,
    ) -> Float[np.ndarray, "batch query"]:
        """Encode users from their histories.

        Args:
            history: per user, item rows, oldest first, all known; only the latest are read.
            features: by feature name, per user, rows from `FeatureSpec.encode`; what is missing counts as unknown.
            users: ``(batch,)`` user rows or `UNKNOWN`; read only by models with a user-id table.
            times: per user, when the history's items were, in the dataset's unit, `recsys.model.elapsed.UNKNOWN_TIME`
                for any; None means all unknown. Read only by models with a time bias.

        Returns:
            ``(batch, query size)`` float32: a unit vector of full width, or, with a head per width, one for each width,
            narrowest first. An empty history without features gives what was trained on users' very first events.
        """
        bags = self.layout.user_bags(history, features or {}, users, times, item_features=self._item_features)
        if HISTORY not in bags:
            return self._encode("user", bags, len(history), batch=_BATCH)
        # The lists of a batch are padded to its longest, so lists of like length go together.
        order = np.argsort(bags[HISTORY].lengths, kind="stable")
        bags = {name: bag.take(order) for name, bag in bags.items()}
        return self._encode("user", bags, len(history), batch=_BATCH_OF_HISTORIES)[np.argsort(order)]

    @torch.inference_mode()
    def encode_items(self, items: np.ndarray, features: Mapping[str, Ragged]) -> Float[np.ndarray, "batch full"]:
        """Encode items: ``(n,)`` rows (`UNKNOWN` for an item without a trained id) and their features' rows."""
        bags = self.layout.item_bags(items, features)
        return self._encode("item", bags, len(items), batch=_BATCH)

    def _encode(self, side: Side, bags: Mapping[str, Ragged], n: int, *, batch: int) -> np.ndarray:
        if n <= batch:
            return self._encode_batch(side, bags)
        starts = range(0, n, batch)
        rows = [np.arange(start, min(start + batch, n)) for start in starts]
        parts = [{name: bag.take(some) for name, bag in bags.items()} for some in rows]
        return np.concatenate([self._encode_batch(side, part) for part in parts])

    def _encode_batch(self, side: Side, bags: Mapping[str, Ragged]) -> np.ndarray:
        tower, inputs = (
            (self.user_tower, self.layout.user_inputs) if side == "user" else (self.item_tower, self.layout.item_inputs)
        )
        read = [self._encode_histories(bags[HISTORY], bags.get(HISTORY_TIME))] if HISTORY in bags else []
        if inputs:
            read.append(self._pool([bags[each.name] for each in inputs], [each.table for each in inputs]))
        vector_BO: np.ndarray = tower(torch.cat(read, dim=-1)).numpy()
        if side == "user":
            return unit_queries(vector_BO, self.widths)
        return truncate(vector_BO, self.widths.full, self.widths)

    def _pool(self, bags: Sequence[Ragged], tables: Sequence[str]) -> Tensor:
        """Return, for each example, the means of the rows in each of its bags side by side, zeros for an empty bag."""
        if self._row_RE is None:
            means = [
                _means(self.get_parameter(f"tables.{table}.weight"), bag.values, bag.offsets[:-1])
                for bag, table in zip(bags, tables, strict=True)
            ]
            return torch.cat(means, dim=1)
        values = np.concatenate([bag.values + self._start[table] for bag, table in zip(bags, tables, strict=True)])
        before = accumulate((len(bag.values) for bag in bags[:-1]), initial=0)
        offsets = np.concatenate([bag.offsets[:-1] + total for bag, total in zip(bags, before, strict=True)])
        mean_IE = _means(self._row_RE, values, offsets)
        return mean_IE.view(len(bags), -1, mean_IE.shape[1]).transpose(0, 1).flatten(1)

    def _encode_histories(self, history: Ragged, times: Ragged | None) -> Tensor:
        assert self.history is not None
        item_TE = nn.functional.embedding(
            torch.from_numpy(history.values), self.get_parameter(f"tables.{ITEM_TABLE}.weight")
        )
        time_T = None if times is None else torch.from_numpy(times.values)
        return encode_whole(self.history, item_TE, torch.from_numpy(history.lengths), time_T)

    def save(self, folder: Path) -> None:
        """Write weights (safetensors) and layout (JSON) into an existing folder."""
        content = {name: value.contiguous() for name, value in self.state_dict().items()}
        for name, lists in self._item_features.items():
            values, offsets = _list_names(name)
            content |= {values: torch.from_numpy(lists.values), offsets: torch.from_numpy(lists.offsets)}
        save_file(content, folder / WEIGHTS)
        (folder / LAYOUT).write_text(json.dumps(self.layout.to_json(), indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> ExportedTowers:
        """Read what `save` wrote.

        Raises:
            ArtifactError: a file is missing or damaged, or weights and layout do not belong together.
        """
        try:
            layout, content = Layout.from_json(json.loads((folder / LAYOUT).read_text())), load_file(folder / WEIGHTS)
            item_features = {
                name: Ragged(*(content.pop(part).numpy() for part in _list_names(name))) for name in _kept(layout)
            }
            towers = cls(layout, item_features)
            towers.load_state_dict(content)
        except (OSError, SafetensorError, json.JSONDecodeError, KeyError, TypeError, RuntimeError) as error:
            raise ArtifactError(f"{folder}: not a pair of exported towers: {error}") from error
        return towers


def _means(row_RE: Tensor, values: np.ndarray, starts: np.ndarray) -> Tensor:
    """Return the mean of each bag's rows; bags begin at ``starts``."""
    return nn.functional.embedding_bag(torch.from_numpy(values), row_RE, torch.from_numpy(starts))


def _kept(layout: Layout) -> list[str]:
    """Return the features of items that the towers have to keep."""
    return [spec.name for spec in layout.item_specs] if layout.config.history_features else []


def _list_names(feature: str) -> tuple[str, str]:
    """Return what the values and the offsets of a kept feature are called among the weights."""
    return f"item_features.{feature}.values", f"item_features.{feature}.offsets"
