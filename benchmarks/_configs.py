"""The benchmarks with published figures: one TOML file each in ``configs/``, with targets and training settings.

Published figures are of 64 dimensions. What compares widths with each other trains wider models, where there are
settings for them in ``configs/wide/``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from recsys.config import TrainConfig
from recsys.errors import ConfigError
from recsys.settings import from_toml

_FOLDER = Path(__file__).parent / "configs"
_WIDE = _FOLDER / "wide"
_SPACES = Path(__file__).parent / "spaces"


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a metric shall be."""

    must: float
    """At least this."""
    aim: float
    """Better: this."""
    source: str
    """Where the two come from."""
    times_best_baseline: bool = False
    """Whether both are multiples of the best baseline's figure on the same queries."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A dataset, its protocol, what to reach, and the settings that validation chose."""

    recipe: str
    """The recipe."""
    protocol: str | None = None
    """How to split, instead of how the recipe says."""
    refit: bool = False
    """Choose the number of epochs on validation, then train anew on train and validation together: for published
    splits, whose other results are trained on all that is not test."""
    targets: dict[str, Target] = field(default_factory=dict)
    """By metric."""
    space: str = "history"
    """The file in ``spaces/`` that a search for settings draws from."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """The settings; the seed is set by who trains."""

    def __post_init__(self) -> None:
        if not self.space_path.is_file():
            raise ConfigError(f"space: got {self.space!r}, expected the name of a file in {_SPACES}")

    @property
    def space_path(self) -> Path:
        """The search space's file."""
        return _SPACES / f"{self.space}.toml"


def benchmark_names() -> list[str]:
    """Return the names of all benchmarks, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def load_benchmark(name: str, *, wide: bool = False) -> Benchmark:
    """Read a benchmark.

    Args:
        name: of its file.
        wide: prefer the settings of ``configs/wide``, which have no targets.

    Raises:
        ConfigError: there is none of this name, or a setting in it is unknown or out of range.
    """
    if name not in benchmark_names():
        raise ConfigError(f"benchmark: got {name!r}, expected one of {', '.join(benchmark_names())}")
    wider = _WIDE / f"{name}.toml"
    return from_toml(Benchmark, wider if wide and wider.is_file() else _FOLDER / f"{name}.toml")
