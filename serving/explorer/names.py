"""Users and titles to choose from, read from the folder of the bundle that answers.

The service names no users and searches no titles, on purpose: whoever may ask for candidates need not be able to list
everybody. The page reads them where the bundle lies, and without that folder still takes ids.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from recsys.bundle import read_names

_NUM_FOUND = 12
_NUM_SHOWN = 12
_WORD = r"[^\p{L}\p{N}]+"


class Names:
    """What one bundle calls its items and users.

    Args:
        path: ``root/VERSION``.

    Raises:
        ArtifactError: there is no such bundle, or its tables cannot be read.
    """

    def __init__(self, path: Path) -> None:
        items, users = read_names(path)
        title = pl.coalesce("title", "id") if items.schema.get("title") == pl.String else pl.col("id")
        counts = (
            users.select(row=pl.col("seen").explode(empty_as_null=False, keep_nulls=False))
            .group_by("row")
            .len("num_users")
        )
        self.items = (
            items.select("id", title=title)
            .with_row_index("row")
            .join(counts, on="row", how="left", maintain_order="left")
            .with_columns(pl.col("num_users").fill_null(0), searched=_searched("title"))
        )
        # Of whom a model reads no history none is published: then any items stand for it.
        past = pl.when(pl.col("history").list.len() > 0).then("history").otherwise(pl.col("seen").list.tail(_NUM_SHOWN))
        self.users = users.select("id", past=past, num_items=pl.col("seen").list.len())

    def search_items(self, text: str) -> list[dict[str, Any]]:
        """Return items whose title has words that begin like each word of ``text``, or whose id is ``text``.

        That id comes first, then titles with these very words, then those that start with the text, then what most
        users chose.
        """
        wanted = pl.select(pl.lit(text).alias("text")).select(_searched("text")).item().strip()
        searched, is_it = pl.col("searched"), pl.col("id") == text.strip()
        begun = [searched.str.contains(f" {word}", literal=True) for word in wanted.split()]
        whole = [(searched + " ").str.contains(f" {word} ", literal=True) for word in wanted.split()]
        found = self.items.filter(is_it | pl.all_horizontal(begun)) if begun else self.items.filter(is_it)
        these_words = pl.all_horizontal(searched.is_not_null(), *whole)
        order = [
            is_it,
            these_words,
            searched.str.starts_with(f" {wanted}"),
            pl.col("num_users"),
            -pl.col("row").cast(pl.Int64),
        ]
        best = found.sort(order, descending=True)
        return best.head(_NUM_FOUND).select(item_id="id", title="title", num_users="num_users").to_dicts()

    def search_users(self, text: str) -> list[dict[str, Any]]:
        """Return users whose id has ``text`` in it: that very id first, then by how much they chose.

        Without a text, users spread over the whole table.
        """
        text = text.strip()
        if text:
            found = self.users.filter(pl.col("id").str.contains(text, literal=True))
            order = [pl.col("id") == text, pl.col("id").str.starts_with(text), pl.col("num_items")]
            found = found.sort(*order, descending=True, maintain_order=True).head(_NUM_FOUND)
        else:
            active = self.users.filter(pl.col("num_items") > 0)
            found = active.gather_every(max(1, len(active) // _NUM_FOUND)).head(_NUM_FOUND)
        return found.select(user_id="id", num_items="num_items").to_dicts()

    def user(self, user_id: str) -> dict[str, Any] | None:
        """Return what a user chose last (newest first) and how many items in all; None where nobody has that id."""
        found = self.users.filter(pl.col("id") == user_id)
        if found.is_empty():
            return None
        latest = found["past"][0].to_list()[-_NUM_SHOWN:][::-1]
        return {"user_id": user_id, "num_items": found["num_items"][0], "latest": self._titled(latest)}

    def _titled(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        return self.items[list(rows)].select(item_id="id", title="title").to_dicts() if rows else []


class BundleNames:
    """The names of whichever bundle a server answers from; they are read again when that is another one.

    Args:
        root: folder of bundles.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._reading = threading.Lock()
        self._version = ""
        self._names: Names | None = None

    def of(self, version: str) -> Names:
        """Return the names of one version.

        Raises:
            ArtifactError: the folder does not have that version.
        """
        with self._reading:
            if self._names is None or version != self._version:
                self._names = Names(self._root / version)
                self._version = version
            return self._names


def _searched(column: str) -> pl.Expr:
    """Lower case, with one space before each word and nothing else between them: a search finds where words begin."""
    words = pl.col(column).str.to_lowercase().str.replace_all(_WORD, " ").str.strip_chars()
    return (pl.lit(" ") + words).alias("searched")
