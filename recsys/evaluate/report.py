"""A quality report: one row per width, then the baselines; a table for people, JSON for programs.

The JSON holds all that was measured; the table shows the usual cut-offs of it, in 80 columns.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from recsys import artifact
from recsys.evaluate.metrics import Estimate, estimate
from recsys.evaluate.protocol import Quality

_SHOWN = (
    "recall@10",
    "recall@20",
    "recall@50",
    "recall@100",
    "ndcg@10",
    "ndcg@20",
    "mrr@10",
    "coverage@10",
    "overlap@100",
)
_COMPARED = ("recall@10", "ndcg@10")
_INTERVAL = "mean ± 95% normal interval over users"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The full width against the best baseline, query by query.

    Args:
        metric: what is compared.
        width: the full width.
        baseline: name of the baseline with the best mean.
        difference: the full width's number minus the baseline's, over queries.
    """

    metric: str
    width: int
    baseline: str
    difference: Estimate


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was measured, of what.

    Args:
        dataset: the dataset's name.
        split: ``validation`` or ``test``.
        mask_seen: whether seen items were left out of the rankings.
        num_items: size of the catalogue that was ranked.
        widths: quality by width, narrowest first.
        baselines: quality of each baseline, on the same queries.
        about: anything that a program should find beside the numbers (fingerprints of the run and of the dataset, ...).
    """

    dataset: str
    split: str
    mask_seen: bool
    num_items: int
    widths: Sequence[Quality]
    baselines: Sequence[Quality]
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> tuple[Quality, ...]:
        """The widths, then the baselines."""
        return (*self.widths, *self.baselines)

    @property
    def num_queries(self) -> int:
        """How many queries each row was measured on."""
        return len(next(iter(self.rows[0].per_query.values())))

    def comparisons(self) -> list[Comparison]:
        """Compare the full width with the best baseline of each main metric; nothing where either is missing."""
        if not self.widths or not self.baselines:
            return []
        full, found = self.widths[-1], []
        for metric in (metric for metric in _COMPARED if metric in full.per_query):
            rival = max(self.baselines, key=lambda quality: quality.mean(metric))
            difference = estimate(full.per_query[metric] - rival.per_query[metric])
            assert full.width is not None
            found.append(Comparison(metric=metric, width=full.width, baseline=rival.name, difference=difference))
        return found

    def ahead(self) -> list[str]:
        """Return the names of baselines whose advance over the full width is more than chance, in any main metric."""
        differences = [(one.baseline, one.difference) for one in self.comparisons()]
        sure = [name for name, found in differences if found.margin is not None and found.mean + found.margin < 0]
        return list(dict.fromkeys(sure))

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values: every metric of every row as mean and 95% margin."""
        return {
            "dataset": self.dataset,
            "split": self.split,
            "num_queries": self.num_queries,
            "num_items": self.num_items,
            "mask_seen": self.mask_seen,
            "interval": _INTERVAL,
            "rows": [_row(quality) for quality in self.rows],
            "full_width_against_best_baseline": [
                {"metric": one.metric, "width": one.width, "baseline": one.baseline, **_numbers(one.difference)}
                for one in self.comparisons()
            ],
            "about": self.about,
        }

    def __rich__(self) -> Group:
        """Show people a title, a table (the best of each column in bold) and how the full width compares."""
        seen = "seen ones left out" if self.mask_seen else "seen ones ranked too"
        title = f"{self.dataset} {self.split}: {self.num_queries:,} users, {self.num_items:,} items, {seen}"
        remarks = [_INTERVAL, *map(_sentence, self.comparisons()), *map(_advice, self.ahead())]
        return Group(Text(title, style="bold"), self._table(), *map(Text, remarks))

    def _table(self) -> Table:
        columns = [name for name in _SHOWN if any(name in _means(quality) for quality in self.rows)]
        table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_edge=False)
        table.add_column("", min_width=11)
        for name in columns:
            table.add_column(name.replace("@", "\n@"), justify="right", no_wrap=True)
        best = {name: max(_means(quality).get(name, 0.0) for quality in self.rows) for name in columns}
        for place, quality in enumerate(self.rows):
            cells = [_cell(quality, name, best=best[name]) for name in columns]
            table.add_row(quality.name, *cells, end_section=place == len(self.widths) - 1)
        return table

    def write(self, path: Path) -> None:
        """Write `to_json` to a file, creating its folder where there is none."""
        artifact.write_whole(path, json.dumps(self.to_json(), indent=2, allow_nan=False) + "\n")


def _row(quality: Quality) -> dict[str, Any]:
    estimates = {name: _numbers(estimate(value_Q)) for name, value_Q in quality.per_query.items()}
    coverages = {name: {"mean": share, "margin95": None} for name, share in quality.coverage.items()}
    return {"name": quality.name, "width": quality.width, "metrics": estimates | coverages}


def _numbers(found: Estimate) -> dict[str, float | None]:
    return {"mean": found.mean, "margin95": found.margin}


def _means(quality: Quality) -> dict[str, float]:
    return {name: quality.mean(name) for name in quality.per_query} | quality.coverage


def _cell(quality: Quality, name: str, *, best: float) -> str:
    mean = _means(quality).get(name)
    if mean is None:
        return ""
    # Overlap says how near a width is to the full one, whose 1 is no achievement.
    text = f"[bold]{_short(mean)}[/bold]" if mean == best and not name.startswith("overlap") else _short(mean)
    margin = estimate(quality.per_query[name]).margin if name in _COMPARED else None
    return text if margin is None else f"{text}\n[dim]±{_short(margin)}[/dim]"


def _short(number: float) -> str:
    """Four decimals without the zero before the point: ``.0416``."""
    return f"{number:.4f}".removeprefix("0") if number < 1 else f"{number:.3f}"


def _sentence(one: Comparison) -> str:
    difference = one.difference
    margin = "" if difference.margin is None else f" ± {difference.margin:.4f}"
    return f"width {one.width} minus {one.baseline}, user by user: {one.metric} {difference.mean:+.4f}{margin}"


def _advice(baseline: str) -> str:
    return f"{baseline} is ahead by more than chance; what to try: docs/guides/own-data.md#where-a-baseline-is-ahead"
