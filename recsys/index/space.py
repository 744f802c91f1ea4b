"""The rungs on offer: a declared space of indexes, efforts and rerank depths, of which calibration takes the frontier.

A space is plain data (a TOML file can hold it) and says nothing of a catalogue's size: probes are shares of the cells,
depths multiples of k. `LadderSpace.specs` turns it into rungs for one catalogue.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from recsys.errors import ConfigError
from recsys.index.cells import num_cells
from recsys.index.specs import Code, Engine, RungSpec, StoreCode
from recsys.widths import WidthLadder

_MANY_ITEMS = 1000


@dataclass(frozen=True, kw_only=True)
class LadderSpace:
    """Which rungs calibration may choose among: all combinations that make sense, or a seeded draw of them."""

    engines: tuple[Engine, ...] = ("exact", "ivf", "certified")
    """Kinds of search: exact (scan all), ivf (scan the nearest cells), hnsw (walk a graph), certified (exact at full
    width, reading only what it must)."""
    widths: tuple[int, ...] = ()
    """Widths to scan at; none stands for every trained width."""
    routings: tuple[int, ...] = (0,)
    """Widths at which cells are made and chosen, where narrower than the scan's; 0 is the scan's own."""
    codes: tuple[Code, ...] = ("sq8", "pq2")
    """How ivf keeps vectors: float32, fp16, sq8, rabitq, pq2, pq4. Whole ones (float32) take most memory and
    were behind the others on trained catalogues."""
    levels: tuple[int, ...] = (0, 8)
    """Panorama's levels, of full-width float32 scans; 0 scans without."""
    probe_shares: tuple[float, ...] = tuple(2.0 ** (half / 2) for half in range(-16, -1))
    """Cells scanned (ivf), as shares of all cells: up to half, which is what .999 takes in a small catalogue."""
    efs: tuple[int, ...] = (64, 128, 256, 512)
    """Lengths of the list that a walk keeps (hnsw), where at least as long as what it must find."""
    reranks: tuple[float, ...] = (0, 1.25, 1.5, 2, 2.5, 3, 4, 6, 8)
    """Candidates scored again at full width, as multiples of the largest k; 0 is none."""
    funnels: tuple[tuple[float, float], ...] = ((8, 2),)
    """Candidates scored at the next wider width, and of those at full width, as multiples of the largest k."""
    stores: tuple[StoreCode, ...] = ("fp16", "sq8")
    """What is read to score again: float32, fp16, sq8."""
    max_trials: int = 2000
    """Most rungs to measure: a seeded draw where there are more."""

    def __post_init__(self) -> None:
        known = {"engines": Engine, "codes": Code, "stores": StoreCode}
        for name, kind in known.items():
            if not getattr(self, name) or not set(getattr(self, name)) <= set(get_args(kind)):
                raise ConfigError(f"{name}: got {getattr(self, name)}, expected some of {list(get_args(kind))}")
        for name in ("routings", "levels", "probe_shares", "efs", "reranks"):
            if not getattr(self, name) or min(getattr(self, name)) < 0:
                raise ConfigError(f"{name}: got {getattr(self, name)}, expected at least one, and none negative")
        if not all(0 < share <= 1 for share in self.probe_shares):
            raise ConfigError(f"probe_shares: got {self.probe_shares}, expected shares above 0 and at most 1")
        if self.max_trials < 1:
            raise ConfigError(f"max_trials: got {self.max_trials}, expected at least 1")

    def specs(self, widths: WidthLadder, *, num_items: int, k: int, seed: int) -> list[RungSpec]:
        """Return the rungs of a catalogue: always those that are exact, and every other that makes sense there.

        Cells need `recsys.index.cells.MIN_ITEMS_FOR_IVF` items, graphs and certified search a thousand. Nothing scores
        the whole catalogue again, nor at full width what was scanned there as it is.

        Args:
            widths: the trained widths.
            num_items: items in the catalogue.
            k: the largest k that is asked for.
            seed: of the draw, where there are more than ``max_trials``.

        Raises:
            WidthError: a width of the space was not trained.
        """
        for width in (*self.widths, *filter(None, self.routings)):
            widths.require(width)
        always = [RungSpec(engine="exact", width=widths.full)]
        if "certified" in self.engines and num_items >= _MANY_ITEMS:
            first = widths.widths[:-1] or (0,)
            always += [RungSpec(engine="certified", width=widths.full, routing=width) for width in first]
        others = {spec for spec in self._all(widths, num_items, k) if spec not in always and spec.depth < num_items}
        drawn = sorted(others, key=lambda spec: spec.name)
        most = max(0, self.max_trials - len(always))
        if len(drawn) > most:
            places = np.random.default_rng(seed).choice(len(drawn), most, replace=False)
            drawn = [drawn[place] for place in sorted(places)]
        return [*always, *drawn]

    def _all(self, widths: WidthLadder, num_items: int, k: int) -> Iterator[RungSpec]:
        cells = num_cells(num_items)
        for width in self.widths or widths:
            if "exact" in self.engines:
                for levels in self._levels(width, widths, "float32"):
                    for again in self._again(width, widths, "float32", k):
                        yield RungSpec(engine="exact", width=width, levels=levels, **again)
            if "ivf" in self.engines and cells:
                yield from self._ivf(width, widths, cells, k)
            if "hnsw" in self.engines and num_items >= _MANY_ITEMS:
                for ef, again in itertools.product(self.efs, self._again(width, widths, "float32", k)):
                    if ef >= max(k, again.get("rerank", 0)) and "funnel" not in again:
                        yield RungSpec(engine="hnsw", width=width, ef=ef, **again)

    def _ivf(self, width: int, widths: WidthLadder, cells: int, k: int) -> Iterator[RungSpec]:
        probes = sorted({max(1, round(cells * share)) for share in self.probe_shares})
        routings = [routing for routing in self.routings if routing < width]
        for routing, code in itertools.product(routings, self.codes):
            for levels, again in itertools.product(
                self._levels(width, widths, code), self._again(width, widths, code, k)
            ):
                for nprobe in probes:
                    yield RungSpec(
                        engine="ivf", width=width, routing=routing, code=code, levels=levels, nprobe=nprobe, **again
                    )

    def _levels(self, width: int, widths: WidthLadder, code: Code) -> list[int]:
        if width < widths.full or code != "float32":
            return [0]
        return [levels for levels in self.levels if not levels or not width % levels]

    def _again(self, width: int, widths: WidthLadder, code: Code, k: int) -> list[dict[str, Any]]:
        """Return the ways to score candidates again: not at all, at full width, or at the next wider one before."""
        if width == widths.full and code == "float32":
            return [{}]
        ways: list[dict[str, Any]] = [{"rerank": round(multiple * k)} for multiple in self.reranks if multiple]
        wider = [other for other in widths if width < other < widths.full]
        if wider:
            ways += [{"funnel": ((wider[0], round(many * k)),), "rerank": round(few * k)} for many, few in self.funnels]
        scored = [way | {"store": store} for way, store in itertools.product(ways, self.stores)]
        return [{}, *scored] if 0 in self.reranks else scored
