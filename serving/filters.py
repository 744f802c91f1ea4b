"""From what a request says about items to the set of those that it may get."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from recsys.errors import RequestError
from recsys.ids import Vocabulary
from recsys.index.item_set import ItemSet
from recsys.item_values import ItemValues
from serving.query import Filter, shown
from serving.view import CatalogueView


@dataclass(kw_only=True)
class Allowed:
    """What a request may get.

    Args:
        items: which of the bundle's items.
        beside: which of the items beside them.
        num_unknown_values: values of its filter that no item has.
    """

    items: ItemSet
    beside: ItemSet
    num_unknown_values: int = 0


def allowed(view: CatalogueView, where: Filter, *, exclude: Sequence[str]) -> Allowed:
    """Return the items that pass a filter and are not among those to leave out.

    Raises:
        RequestError: a feature is not one that the catalogue's items can be filtered by.
    """
    published = view.bundle.item_values
    num_unknown = 0
    for path, values_of in (("filter.include", where.include), ("filter.exclude", where.exclude)):
        for name, values in values_of.items():
            if name not in published:
                expected = f"expected one of {sorted(published)}"
                raise RequestError(f"{path}[{shown(name)}]", f"got an unknown item feature, {expected}")
            known = [published[name], view.item_values[name]] if len(view.items) else [published[name]]
            num_unknown += sum(not any(value in one for one in known) for value in values)
    return Allowed(
        items=_passing(view.published, view.bundle.items, published, where, exclude),
        beside=_passing(view.beside, view.items, view.item_values, where, exclude) if len(view.items) else view.beside,
        num_unknown_values=num_unknown,
    )


def _passing(
    there: ItemSet, items: Vocabulary, values_of: Mapping[str, ItemValues], where: Filter, exclude: Sequence[str]
) -> ItemSet:
    passing = there.without(items.rows(exclude)) if exclude else there
    if where.include_ids:
        passing = passing & ItemSet.of(items.rows(where.include_ids), len(items))
    for name, values in where.include.items():
        passing = passing & values_of[name].items(values)
    for name, values in where.exclude.items():
        passing = passing - values_of[name].items(values)
    return passing
