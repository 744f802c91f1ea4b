"""What calls see of the catalogue: a bundle's items, without those deleted or replaced since, and with new ones.

A view is a value: a call takes one and keeps it, and a change makes another. Rows go on where the bundle's end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from recsys.bundle import Bundle
from recsys.catalogue import place_items, readable_column
from recsys.changes import Batch, ChangedItem
from recsys.ids import UNKNOWN, Vocabulary
from recsys.index.delta import Delta
from recsys.index.item_set import ItemSet
from recsys.item_values import ItemValues
from recsys.texts import PickedTexts, Texts


@dataclass(frozen=True, kw_only=True)
class CatalogueView:
    """A bundle's items as they are after a number of changes.

    Args:
        bundle: the bundle.
        sequence: of the last change that is in it, whether by the bundle or beside it.
        items: ids of the items beside the bundle's, which are rows from the bundle's number of items on.
        changed: what was said about each of them.
        delta: their vectors, and which of the bundle's items are hidden.
    """

    bundle: Bundle
    sequence: int
    items: Vocabulary
    changed: Sequence[ChangedItem]
    delta: Delta

    @classmethod
    def of(cls, bundle: Bundle, *, sequence: int = 0) -> CatalogueView:
        """Return a bundle's items as they were published."""
        delta = Delta.none(num_items=len(bundle.items), width=bundle.widths.full)
        return cls(bundle=bundle, sequence=sequence, items=Vocabulary([]), changed=(), delta=delta)

    def after(self, sequence: int, last: Mapping[str, tuple[Batch, ChangedItem | None]]) -> CatalogueView:
        """Return the items after some more changes.

        Args:
            sequence: of the last of them.
            last: by id, what became of it; an item that means nothing to the bundle's model is left as it was.
        """
        bundle = self.bundle
        placed, vector_PD = place_items(
            bundle.towers, list(last.values()), known=bundle.history_items, model_id=bundle.manifest["model_id"]
        )
        touched = [item.id for item in placed] + [id_ for id_, (_, item) in last.items() if item is None]
        kept_M = np.ones(len(self.items), dtype=bool)
        kept_M[[row for id_ in touched if (row := self.items.row(id_)) != UNKNOWN]] = False
        changed = [item for item, kept in zip(self.changed, kept_M.tolist(), strict=True) if kept] + placed
        ids = [item.id for item in changed]
        return CatalogueView(
            bundle=bundle,
            sequence=sequence,
            items=Vocabulary(ids),
            changed=changed,
            delta=Delta(
                vector_MD=np.concatenate([self.delta.vector_MD[kept_M], vector_PD]),
                replaced_M=bundle.items.rows(ids),
                hidden=self.delta.hidden | ItemSet.of(bundle.items.rows(touched), len(bundle.items)),
            ),
        )

    @property
    def num_items(self) -> int:
        """Items that may be returned."""
        return len(self.bundle.items) - len(self.delta.hidden) + len(self.items)

    def __contains__(self, id_: str) -> bool:
        return self.vector(id_) is not None

    @cached_property
    def item_values(self) -> dict[str, ItemValues]:
        """Which items beside the bundle's have which value, by feature, as `Bundle.item_values` says of its own."""
        specs = {spec.name: spec for spec in self.bundle.towers.specs if spec.side == "item"}
        schema = self.bundle.item_frame.schema
        return {
            name: ItemValues.of(readable_column(name, schema[name], self.changed, specs[name]))
            for name in self.bundle.item_values
        }

    @cached_property
    def published(self) -> ItemSet:
        """The bundle's items that are still there."""
        everything = ItemSet.all(len(self.bundle.items))
        return everything - self.delta.hidden if len(self.delta.hidden) else everything

    @cached_property
    def ids_beside(self) -> Texts:
        """The ids of the items beside the bundle's."""
        return Texts.of(self.items.ids(range(len(self.items))))

    @cached_property
    def beside(self) -> ItemSet:
        """The items beside the bundle's."""
        return ItemSet.all(len(self.items))

    def vector(self, id_: str) -> Float[np.ndarray, " full"] | None:
        """Return an item's unit vector, None where there is no such item."""
        vector_ND, row = self.delta.vector_MD, self.items.row(id_)
        if row == UNKNOWN:
            vector_ND, row = self.bundle.item_vectors, self.bundle.items.row(id_)
            if row == UNKNOWN or self.delta.hidden.holds(np.array([row]))[0]:
                return None
        vector_D: np.ndarray = vector_ND[row]
        return vector_D

    def ids(self, row_K: Int[np.ndarray, " rows"]) -> PickedTexts:
        """Return the ids at rows, which must all exist."""
        return self.bundle.item_ids.pick(row_K, beside=self.ids_beside)

    def titles(self, rows: Sequence[int]) -> list[str] | None:
        """Return a title for each row, the id where it has none; None where the catalogue has no titles."""
        published, num = self.bundle.titles, len(self.bundle.items)
        if published is None and not any(item.title is not None for item in self.changed):
            return None
        title = self.bundle.items.id if published is None else published.__getitem__
        return [title(row) if row < num else self._title(row - num) for row in rows]

    def _title(self, place: int) -> str:
        item = self.changed[place]
        return item.id if item.title is None else item.title
