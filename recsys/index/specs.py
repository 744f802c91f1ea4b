"""What can be built over the item vectors and how it can be searched, as plain data with readable names.

A name says everything: ``ivf64r16-rabitq-p32-f128x800-r400-fp16`` scans RaBitQ codes of width 64 in the 32 cells that
are nearest at width 16, scores the best 800 at width 128 and the best 400 of those at full width, from fp16 vectors.
"""

from __future__ import annotations

import itertools
from dataclasses import MISSING, asdict, dataclass, fields
from functools import cached_property
from typing import Any, Literal, get_args

from recsys.errors import ConfigError

Engine = Literal["exact", "ivf", "hnsw", "certified"]
Code = Literal["float32", "fp16", "sq8", "rabitq", "pq2", "pq4"]
StoreCode = Literal["float32", "fp16", "sq8"]

_ROUTED: tuple[Engine, ...] = ("ivf", "certified")


@dataclass(frozen=True, kw_only=True)
class IndexSpec:
    """What one index is.

    Args:
        engine: ``exact`` scans all items, ``ivf`` those of the nearest cells, ``hnsw`` walks a graph, ``certified`` is
            exact at full width but reads only as much of each item as it takes to rule it out.
        width: embedding width of what is scanned; of certified, the full one.
        routing: width at which cells are made and chosen (ivf), or up to which every item is read (certified); 0 stands
            for ``width``.
        code: how an ivf keeps its vectors: whole, as halves, as bytes, as one bit per coordinate (RaBitQ), or with 4
            bits for every 2 or 4 coordinates (product quantiser, fast-scan).
        cells: number of cells; 0 lets the number of items decide (`recsys.index.cells.num_cells`).
        levels: equal parts in which Panorama scores a vector until it is ruled out (exact, ivf of float32); 0: at once.

    Raises:
        ConfigError: a field is out of range, or makes no sense for the engine.
    """

    engine: Engine
    width: int
    routing: int = 0
    code: Code = "float32"
    cells: int = 0
    levels: int = 0

    def __post_init__(self) -> None:
        _check_choice("engine", self.engine, get_args(Engine))
        _check_choice("code", self.code, get_args(Code))
        if self.width < 1 or min(self.routing, self.cells, self.levels) < 0:
            got = f"width {self.width}, routing {self.routing}, cells {self.cells}, levels {self.levels}"
            raise ConfigError(f"index: got {got}, expected a positive width and nothing negative")
        if (self.routing and self.engine not in _ROUTED) or (self.cells and self.engine != "ivf"):
            got = f"routing {self.routing}, cells {self.cells} for {self.engine}"
            raise ConfigError(f"index: got {got}, expected a routing for {list(_ROUTED)} only, and cells for ivf only")
        if self.code != "float32" and self.engine != "ivf":
            raise ConfigError(f"code: got {self.code} for {self.engine}, expected float32 for all but ivf")
        if self.code in ("pq2", "pq4") and self.width % int(self.code[2]):
            raise ConfigError(f"code: got {self.code} at width {self.width}, expected a multiple of {self.code[2]}")
        if self.levels and (self.engine not in ("exact", "ivf") or self.code != "float32" or self.width % self.levels):
            got = f"{self.levels} for {self.engine}{self.width} of {self.code}"
            raise ConfigError(f"levels: got {got}, expected a divisor of the width of an exact or ivf index of float32")

    @property
    def routing_width(self) -> int:
        """The width at which cells are made and chosen, or that every item is read up to."""
        return self.routing or self.width

    @cached_property
    def name(self) -> str:
        """A name for people, metrics and files, such as ``ivf64r16-rabitq``."""
        routing = f"r{self.routing}" if self.routing else ""
        cells = f"c{self.cells}" if self.cells else ""
        code = "" if self.code == "float32" else f"-{self.code}"
        levels = f"-pano{self.levels}" if self.levels else ""
        return f"{self.engine}{self.width}{routing}{cells}{code}{levels}"


@dataclass(frozen=True, kw_only=True)
class RungSpec(IndexSpec):
    """One way to search: an index, an effort, and which candidates are scored again at which widths.

    Args:
        nprobe: cells scanned (ivf).
        ef: length of the list that a walk keeps (hnsw).
        funnel: ``(width, depth)`` of each stage between the scan and the full width: the best ``depth`` candidates so
            far are scored at that width. Widths rise from the scan's (what a lossy code found may be scored at the
            scan's own first), depths fall.
        rerank: candidates scored at full width in the end; 0 answers with the scores of the stage before.
        store: the copy of the item vectors that funnel and rerank read.

    Raises:
        ConfigError: as `IndexSpec`; an effort is missing or belongs to another engine; a funnel does not narrow.
    """

    nprobe: int = 0
    ef: int = 0
    funnel: tuple[tuple[int, int], ...] = ()
    rerank: int = 0
    store: StoreCode = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_choice("store", self.store, get_args(StoreCode))
        for name, engine in (("nprobe", "ivf"), ("ef", "hnsw")):
            if (getattr(self, name) < 1) == (self.engine == engine) or getattr(self, name) < 0:
                wanted = "at least 1" if self.engine == engine else f"0: it is the effort of {engine}"
                raise ConfigError(f"{name}: got {getattr(self, name)} for {self.engine}, expected {wanted}")
        if self.rerank < 0:
            raise ConfigError(f"rerank: got {self.rerank}, expected 0 or more candidates")
        if self.engine == "certified" and (self.rerank or self.funnel):
            raise ConfigError("rerank, funnel: got them for certified, expected none: its answer is final")
        if self.store != "float32" and not (self.rerank or self.funnel):
            raise ConfigError(f"store: got {self.store}, expected float32 where no candidate is scored again")
        object.__setattr__(self, "funnel", tuple((int(width), int(depth)) for width, depth in self.funnel))
        widths = [self.width, *(width for width, _ in self.funnel)]
        depths = [*(depth for _, depth in self.funnel), *([self.rerank] if self.rerank else [])]
        first = [width + 1 for width in widths[1:2]] if self.code != "float32" else widths[1:2]
        if any(low >= high for low, high in [*zip(widths, first, strict=False), *itertools.pairwise(widths[1:])]):
            raise ConfigError(f"funnel: got widths {widths} from the scan on, expected them strictly increasing")
        if any(depth < 1 for depth in depths) or any(high < low for high, low in itertools.pairwise(depths)):
            raise ConfigError(f"funnel, rerank: got depths {depths}, expected positive ones that never rise")

    @cached_property
    def index(self) -> IndexSpec:
        """The index that this searches."""
        return IndexSpec(**{field.name: getattr(self, field.name) for field in fields(IndexSpec)})

    @property
    def depth(self) -> int:
        """Candidates that the scan has to find for the stages after it; 0 where there is none."""
        return self.funnel[0][1] if self.funnel else self.rerank

    @cached_property
    def name(self) -> str:
        """A name for people and metrics, such as ``ivf64r16-rabitq-p32-r400``."""
        effort = {"ivf": f"-p{self.nprobe}", "hnsw": f"-e{self.ef}"}.get(self.engine, "")
        stages = "".join(f"-f{width}x{depth}" for width, depth in self.funnel)
        rerank = f"-r{self.rerank}" if self.rerank else ""
        store = "" if self.store == "float32" else f"-{self.store}"
        return f"{self.index.name}{effort}{stages}{rerank}{store}"


def brief(spec: IndexSpec) -> dict[str, Any]:
    """Return the fields of an index or a rung, measured or not, that differ from their defaults."""
    defaults = {field.name: field.default for field in fields(spec) if field.default is not MISSING}
    return {key: value for key, value in asdict(spec).items() if key not in defaults or value != defaults[key]}


def _check_choice(name: str, got: object, known: tuple[str, ...]) -> None:
    if got not in known:
        raise ConfigError(f"{name}: got {got!r}, expected one of {list(known)}")
