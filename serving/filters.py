"""From what a request says about items to the set of those that it may get."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from recsys.bundle import Bundle
from recsys.errors import RequestError
from recsys.index.item_set import ItemSet
from recsys.item_values import ItemValues
from serving.query import Filter, shown


@dataclass(frozen=True, kw_only=True)
class Allowed:
    """What a request may get.

    Args:
        items: the items.
        num_unknown_values: values of its filter that no item has.
    """

    items: ItemSet
    num_unknown_values: int = 0


def allowed(bundle: Bundle, where: Filter, *, exclude: Sequence[str]) -> Allowed:
    """Return the items that pass a filter and are not among those to leave out.

    Raises:
        RequestError: a feature is not one that the catalogue's items can be filtered by.
    """
    items = ItemSet.all_but(bundle.items.rows(exclude), len(bundle.items))
    if where.include_ids:
        items = items & ItemSet.of(bundle.items.rows(where.include_ids), len(bundle.items))
    num_unknown = 0
    for name, values in where.include.items():
        known = _values_of(bundle, name, path="filter.include")
        items, num_unknown = items & known.items(values), num_unknown + _num_unknown(known, values)
    for name, values in where.exclude.items():
        known = _values_of(bundle, name, path="filter.exclude")
        items, num_unknown = items - known.items(values), num_unknown + _num_unknown(known, values)
    return Allowed(items=items, num_unknown_values=num_unknown)


def _values_of(bundle: Bundle, name: str, *, path: str) -> ItemValues:
    if name not in bundle.item_values:
        known = sorted(bundle.item_values)
        raise RequestError(f"{path}[{shown(name)}]", f"got an unknown item feature, expected one of {known}")
    return bundle.item_values[name]


def _num_unknown(known: ItemValues, values: Sequence[str]) -> int:
    return sum(value not in known for value in values)
