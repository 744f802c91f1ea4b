"""The item set that is published: a dataset's items, with the changes that were made since it was prepared.

Shapes: ``vector_ND`` (items, full width), ``table_row_N`` (items,).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float, Int64

from recsys.changes import Batch, ChangedItem, Changes
from recsys.data.dataset import Dataset
from recsys.data.schema import FEATURE_PREFIX, FeatureSpec
from recsys.errors import DataError
from recsys.ids import UNKNOWN, Vocabulary
from recsys.model.exported import ExportedTowers
from recsys.ragged import Ragged
from recsys.widths import truncate

TITLE = "title"
"""The column that people see; where it is also a feature's name, an item's title is that feature's value."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CatalogueItems:
    """Items as they are published.

    Args:
        frame: ids and the catalogue's own columns, by item row.
        vector_ND: float32 unit vectors.
        table_row_N: int64 rows in the towers' item table, `UNKNOWN` for items that training did not know.
        num_trained: rows of that table.
    """

    frame: pl.DataFrame
    vector_ND: Float[np.ndarray, "items full"]
    table_row_N: Int64[np.ndarray, " items"]
    num_trained: int

    @property
    def as_trained(self) -> bool:
        """Whether item rows are those of the towers' item table."""
        return self.num_trained == len(self.table_row_N) and bool((np.diff(self.table_row_N, prepend=-1) == 1).all())

    def rows_of(self, lists: Ragged) -> Ragged:
        """Return lists of table rows as lists of item rows, without items that are gone."""
        if self.as_trained:
            return lists
        row_T = np.full(self.num_trained, UNKNOWN)
        known_N = self.table_row_N != UNKNOWN
        row_T[self.table_row_N[known_N]] = np.flatnonzero(known_N)
        row = row_T[lists.values]
        left = row != UNKNOWN
        lengths = np.bincount(lists.row_of_values()[left], minlength=len(lists))
        return Ragged.from_lengths(row[left], lengths)


def catalogue_items(
    towers: ExportedTowers, dataset: Dataset, changes: Changes | None = None, *, model_id: str = ""
) -> CatalogueItems:
    """Encode a dataset's items and do to them what a log of changes says.

    Items that nothing was said about come first, in the dataset's order, then those that were put in or replaced, in
    the order of these changes. A change that means nothing to this model (see `place_items`) is left out.

    Args:
        towers: the towers, trained on the dataset.
        dataset: the items.
        changes: what was said about them since, if anything.
        model_id: of the towers.

    Raises:
        DataError: no item is left.
    """
    frame = dataset.item_frame.select(pl.exclude(f"^{FEATURE_PREFIX}.*$"))
    table_row_N = np.arange(len(frame))
    vector_ND = towers.encode_items(table_row_N, dataset.feature_lists("item"))
    if changes is None:
        return CatalogueItems(frame=frame, vector_ND=vector_ND, table_row_N=table_row_N, num_trained=len(frame))
    placed, vector_PD = place_items(towers, list(changes.last.values()), known=dataset.items, model_id=model_id)
    deleted = [id_ for id_, (_, item) in changes.last.items() if item is None]
    kept_N = ~frame["id"].is_in(deleted + [item.id for item in placed]).to_numpy()
    if not kept_N.any() and not placed:
        raise DataError(f"{dataset.path}: the log of changes deletes every item; nothing is left to publish")
    if TITLE not in frame.columns and any(item.title is not None for item in placed):
        frame = frame.with_columns(pl.lit(None, dtype=pl.String).alias(TITLE))
    specs = {spec.name: spec for spec in towers.specs if spec.side == "item"}
    columns = [readable_column(name, dtype, placed, specs.get(name)) for name, dtype in frame.schema.items()]
    return CatalogueItems(
        frame=pl.concat([frame.filter(kept_N), pl.DataFrame(columns)]),
        vector_ND=np.concatenate([vector_ND[kept_N], vector_PD]),
        table_row_N=np.concatenate([table_row_N[kept_N], dataset.items.rows(item.id for item in placed)]),
        num_trained=dataset.num_items,
    )


def place_items(
    towers: ExportedTowers, changed: Sequence[tuple[Batch, ChangedItem | None]], *, known: Vocabulary, model_id: str
) -> tuple[list[ChangedItem], Float[np.ndarray, "placed full"]]:
    """Encode changed items, as far as they mean something to this model; deletions are passed over.

    An item is placed by its own vector, if that was made for this model; else by its features, and by its id where the
    model was trained with it. What none of these places is left out, with a line in the log.

    Args:
        towers: the towers.
        changed: items and the batches they came in.
        known: ids of the towers' item table.
        model_id: of the towers.

    Returns:
        The items that could be placed, in their order, and their float32 unit vectors.
    """
    given = [(batch, item) for batch, item in changed if item is not None]
    specs = [spec for spec in towers.specs if spec.side == "item"]
    rows = [{spec.name: _encode(item, spec) for spec in specs} for _, item in given]
    row_M = known.rows(item.id for _, item in given)
    own_M = np.array([item.vector_D is not None for _, item in given], dtype=bool)
    usable_M = np.array(
        [
            (batch.model_id == model_id and item.vector_D.shape == (towers.widths.full,))
            if item.vector_D is not None
            else bool(row != UNKNOWN or any(bags.values()))
            for (batch, item), bags, row in zip(given, rows, row_M.tolist(), strict=True)
        ],
        dtype=bool,
    )
    for place in np.flatnonzero(~usable_M).tolist():
        batch, item = given[place]
        why = "its vector is another model's" if own_M[place] else "nothing in it is known to this model"
        _log.warning("change %d: item %.60r is left out: %s", batch.sequence, item.id, why)
    vector_MD = np.zeros((len(given), towers.widths.full), dtype=np.float32)
    encoded = np.flatnonzero(usable_M & ~own_M)
    if len(encoded):
        features = {spec.name: Ragged.from_lists([rows[place][spec.name] for place in encoded]) for spec in specs}
        vector_MD[encoded] = towers.encode_items(row_M[encoded], features)
    for place in np.flatnonzero(usable_M & own_M).tolist():
        vector_MD[place] = truncate(_vector(given[place][1]), towers.widths.full, towers.widths)
    return [given[place][1] for place in np.flatnonzero(usable_M)], vector_MD[usable_M]


def values_of(item: ChangedItem, spec: FeatureSpec) -> Sequence[str]:
    """Return the values that an item has of a feature."""
    if spec.name == TITLE and spec.name not in item.features and item.title is not None:
        return [item.title]
    return item.features.get(spec.name, ())


def readable_column(name: str, dtype: pl.DataType, items: Sequence[ChangedItem], spec: FeatureSpec | None) -> pl.Series:
    """Return a column of the catalogue for changed items; null where nothing was said.

    Args:
        name: the column's name.
        dtype: its type.
        items: the items.
        spec: the feature of that name, if there is one.
    """
    values: list[Any]
    if name == "id":
        values = [item.id for item in items]
    elif name == TITLE and dtype == pl.String:
        values = [item.title if item.title is not None else _first(item.features.get(name, ())) for item in items]
    elif spec is None:
        values = [None] * len(items)
    elif isinstance(dtype, pl.List):
        values = [list(values_of(item, spec)) for item in items]
    elif dtype.is_numeric():
        values = [_number(_first(values_of(item, spec))) for item in items]
    else:
        values = [_first(values_of(item, spec)) for item in items]
    return pl.Series(name, values, dtype=dtype, strict=False)


def _encode(item: ChangedItem, spec: FeatureSpec) -> list[int]:
    """Return the rows of a feature's values; none where another model took values that this one cannot read."""
    try:
        return spec.encode_values(values_of(item, spec))
    except DataError as error:
        _log.warning("item %.60r: feature %s counts as missing: %s", item.id, spec.name, error)
        return []


def _vector(item: ChangedItem) -> np.ndarray:
    assert item.vector_D is not None
    return item.vector_D


def _first(values: Sequence[str]) -> str | None:
    return values[0] if values else None


def _number(value: str | None) -> float | None:
    try:
        return None if value is None else float(value)
    except ValueError:
        return None
