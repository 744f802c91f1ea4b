"""The catalogue between bundles: changes are checked, written down, and then seen by every search.

A change goes through four steps: it is checked and encoded, written to the log (`recsys.changes`) and synced, made the
view that calls take from then on, and only then answered. Searches take no lock for it: they compare the log's size
with what they have read, and only where another process has written more do they read on.

Any number of processes may share a folder: each reads what the others wrote before it searches or writes itself.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from recsys.bundle import Bundle
from recsys.changes import Batch, ChangedItem, ChangeLog, last_words
from recsys.errors import ArtifactError, CapacityError, RequestError, WidthError
from recsys.ids import UNKNOWN
from recsys.widths import WidthLadder, truncate
from serving.profiles import feature_rows
from serving.query import at_most, shown
from serving.settings import CatalogueLimits
from serving.view import CatalogueView

_MAX_ID_BYTES = 512
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Changed:
    """What a change did.

    Args:
        sequence: searches that start from now on see everything up to it.
        num_new: items whose ids there were none of.
        num_gone: items that were replaced or deleted.
    """

    sequence: int
    num_new: int
    num_gone: int


class Follower:
    """A bundle's items, kept up with a catalogue; one per opened bundle."""

    def __init__(self, catalogue: Catalogue, latest: CatalogueView) -> None:
        self._catalogue = catalogue
        self.latest = latest

    def view(self) -> CatalogueView:
        """Return the items after all changes that were answered before this call."""
        self._catalogue.catch_up()
        return self.latest


class Catalogue:
    """Takes changes, and keeps the views of all opened bundles up with them. Safe for concurrent calls.

    Args:
        folder: where the log is, or shall be.
        limits: how much may change.

    Raises:
        ArtifactError: the log is damaged, or something else lies in its place.
    """

    def __init__(self, folder: Path, *, limits: CatalogueLimits | None = None) -> None:
        self.limits = limits or CatalogueLimits()
        self._log = ChangeLog(folder)
        self._lock = threading.Lock()
        self._followers: list[weakref.ref[Follower]] = []
        with self._log.writing():
            batches, self._end = self._log.read(self._log.start)
            self._log.cut(self._end)
        self._sequence = batches[-1].sequence if batches else 0
        self._claimed = self._end
        """Up to here the log is known, or is being written by this process."""

    def follow(self, bundle: Bundle) -> Follower:
        """Return a bundle's items with all changes that it does not hold yet, kept up from now on.

        Raises:
            ArtifactError: the bundle holds changes that the log lacks, or the log is damaged.
        """
        with self._lock:
            self._read_on()
            merged = self.merged_sequence(bundle)
            if merged > self._sequence:
                raise ArtifactError(
                    f"{self._log.path}: got changes up to {self._sequence}, expected those up to {merged}, which "
                    f"bundle {bundle.version} holds; put back a newer copy"
                )
            batches, _ = self._log.read(self._log.start)
            missing = [batch for batch in batches if merged < batch.sequence <= self._sequence]
            view = CatalogueView.of(bundle, sequence=merged).after(self._sequence, last_words(missing))
            follower = Follower(self, view)
            self._followers = [*(ref for ref in self._followers if ref() is not None), weakref.ref(follower)]
            _log.info(
                "bundle %s holds changes up to %d of %d; beside it %d items, %d of its own hidden",
                *(bundle.version, merged, self._sequence, len(view.items), len(view.delta.hidden)),
            )
            return follower

    def merged_sequence(self, bundle: Bundle) -> int:
        """Return the last change that a bundle holds, 0 if it knows nothing of this log."""
        merged: dict[str, Any] = bundle.manifest.get("catalogue", {})
        return int(merged["sequence"]) if merged.get("log_id") == self._log.id else 0

    def catch_up(self) -> None:
        """Read what other processes have written since."""
        if self._log.size_bytes > self._claimed:
            with self._lock:
                self._read_on()

    def upsert(self, items: Sequence[ChangedItem]) -> Changed:
        """Put items in, or in the place of those with their ids.

        Raises:
            RequestError: an item cannot be put in as asked; it names the field, and nothing was changed.
            CapacityError: there would be more items beside the bundle's than the limit.
        """
        at_most("items", len(items), self.limits.max_changes, "items")
        if not items:
            raise RequestError("items", "got none, expected at least one")
        with self._lock, self._log.writing():
            self._read_on()
            before = self._newest().latest
            given = _checked(items, before.bundle)
            num_replaced = sum(item.id in before for item in given)
            after = self._commit(upserts=given)
        return Changed(sequence=after.sequence, num_new=len(given) - num_replaced, num_gone=num_replaced)

    def delete(self, ids: Sequence[str]) -> Changed:
        """Take items out; ids that there are none of are noted for bundles to come.

        Raises:
            RequestError: there are none, too many, or one is no id; it names the field.
        """
        at_most("item_ids", len(ids), self.limits.max_changes, "ids")
        if not ids:
            raise RequestError("item_ids", "got none, expected at least one")
        for place, id_ in enumerate(ids):
            _check_id(id_, f"item_ids[{place}]")
        with self._lock, self._log.writing():
            self._read_on()
            before = self._newest().latest
            num_gone = sum(id_ in before for id_ in set(ids))
            after = self._commit(deletes=list(dict.fromkeys(ids)))
        return Changed(sequence=after.sequence, num_new=0, num_gone=num_gone)

    def _commit(self, *, upserts: Sequence[ChangedItem] = (), deletes: Sequence[str] = ()) -> CatalogueView:
        newest = self._newest()
        model_id = newest.latest.bundle.manifest["model_id"]
        batch = Batch(sequence=self._sequence + 1, model_id=model_id, upserts=upserts, deletes=deletes)
        after = newest.latest.after(batch.sequence, last_words([batch]))
        for place, item in enumerate(upserts):
            if (row := after.items.row(item.id)) == UNKNOWN or after.changed[row] is not item:
                raise RequestError(f"items[{place}]", "got no known feature value, id or vector, expected at least one")
        if upserts and len(after.items) > self.limits.max_delta_items:
            raise CapacityError(
                f"items: got {len(upserts)}, with which {len(after.items):,} would lie beside the bundle's, expected "
                f"at most {self.limits.max_delta_items:,}; publish a bundle with `recsys publish --catalogue`"
            )
        line = batch.to_line()
        self._claimed = self._end + len(line)
        try:
            self._log.append(line, end=self._end)
        except OSError:
            self._claimed = self._end
            raise
        self._end, self._sequence = self._claimed, batch.sequence
        for follower in self._alive():
            follower.latest = (
                after if follower is newest else follower.latest.after(batch.sequence, last_words([batch]))
            )
        return after

    def _read_on(self) -> None:
        """Apply what other processes have written. Only with the lock."""
        if self._log.size_bytes <= self._end:
            return
        batches, end = self._log.read(self._end)
        if not batches:
            return
        if batches[0].sequence != self._sequence + 1:
            got = f"batch {batches[0].sequence} after {self._sequence}"
            raise ArtifactError(f"{self._log.path}: byte {self._end}: got {got}, expected them one by one")
        sequence, last = batches[-1].sequence, last_words(batches)
        for follower in self._alive():
            follower.latest = follower.latest.after(sequence, last)
        self._end, self._sequence = end, sequence
        self._claimed = end

    def _alive(self) -> list[Follower]:
        return [follower for ref in self._followers if (follower := ref()) is not None]

    def _newest(self) -> Follower:
        """Return the follower of the bundle that is live or about to be."""
        alive = self._alive()
        assert alive, "a server follows a bundle before it takes changes"
        return alive[-1]


def _checked(items: Sequence[ChangedItem], bundle: Bundle) -> list[ChangedItem]:
    """Return the items with their vectors at unit length, or raise `RequestError` for the first field at fault."""
    specs = {spec.name: spec for spec in bundle.towers.specs if spec.side == "item"}
    seen: set[str] = set()
    checked = []
    for place, item in enumerate(items):
        path = f"items[{place}]"
        _check_id(item.id, f"{path}.id")
        if item.id in seen:
            raise RequestError(f"{path}.id", f"got {shown(item.id)} twice, expected every id once")
        seen.add(item.id)
        feature_rows(specs, item.features, path=path, side="item")
        vector_D = None if item.vector_D is None else _unit(item.vector_D, bundle.widths, f"{path}.vector")
        checked.append(replace(item, vector_D=vector_D))
    return checked


def _check_id(id_: str, path: str) -> None:
    if not 1 <= (size := len(id_.encode())) <= _MAX_ID_BYTES:
        raise RequestError(path, f"got {size} bytes, expected 1 to {_MAX_ID_BYTES}")


def _unit(vector_D: np.ndarray, widths: WidthLadder, path: str) -> np.ndarray:
    if len(vector_D) != widths.full:
        raise RequestError(path, f"got {len(vector_D)} numbers, expected {widths.full}, the full width")
    try:
        truncate(vector_D, widths.widths[0], widths)  # the next bundle's indexes need a direction at every width
        unit_D: np.ndarray = truncate(vector_D, widths.full, widths)
    except WidthError as error:
        raise RequestError(path, str(error)) from error
    return unit_D
