"""Evaluate a trained run on a dataset: every width, beside the baselines."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from recsys.data.dataset import Dataset, Queries
from recsys.errors import ConfigError
from recsys.evaluate.protocol import CUTOFFS, evaluate_baselines, measure_widths, rank_at_widths
from recsys.evaluate.report import Report
from recsys.evaluate.towers import item_vectors, query_vectors
from recsys.model.best import load_towers_and_dataset
from recsys.model.exported import ExportedTowers
from recsys.progress import Tell, tell_nobody

Split = Literal["validation", "test"]


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """What to evaluate, and where to write the numbers."""

    run: Path
    """Run folder that `recsys train` wrote; its best towers are evaluated."""
    dataset: Path
    """Folder that `recsys prepare` wrote."""
    split: Split = "test"
    """Whose targets are to be found; histories hold everything before the split."""
    out: Path | None = None
    """JSON file to write; RUN/evaluation-SPLIT.json where missing."""
    recent_days: int = 7
    """Window of the recent-popularity baseline, in days."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Everything that an evaluation looked at, for whoever has more to say about it than the numbers.

    Args:
        report: the numbers.
        towers: the run's best towers.
        manifest: theirs.
        dataset: what they were trained on.
        queries: what was to be found.
        user_QU: the queries' vectors, ``(queries, query size)``.
        item_ND: every item's vector, ``(items, full width)``.
        ranked: by width, narrowest first, each query's best item rows, as deep as the largest cut-off.
    """

    report: Report
    towers: ExportedTowers
    manifest: dict[str, Any]
    dataset: Dataset
    queries: Queries
    user_QU: np.ndarray
    item_ND: np.ndarray
    ranked: dict[int, np.ndarray]


def evaluate(options: EvaluateOptions, *, progress: Tell = tell_nobody) -> Report:
    """Measure the run and write the numbers.

    Raises:
        ArtifactError: as `assess`.
        ConfigError: as `assess`.
    """
    report = assess(
        options.run, options.dataset, split=options.split, recent_days=options.recent_days, progress=progress
    ).report
    report.write(options.out or options.run / f"evaluation-{options.split}.json")
    return report


def assess(
    run: Path, folder: Path, *, split: Split = "test", recent_days: int = 7, progress: Tell = tell_nobody
) -> Evaluation:
    """Rank the whole catalogue exactly for every user of the split, at every width and by every baseline.

    Args:
        run: folder that `recsys train` wrote.
        folder: the dataset that it was trained on.
        split: whose targets are to be found.
        recent_days: window of the recent-popularity baseline.
        progress: told of each stage.

    Raises:
        ArtifactError: the run or the dataset is missing or damaged, or the towers were trained on another dataset.
        ConfigError: the towers were trained on the validation split that they are to be evaluated on.
    """
    towers, dataset, manifest = load_towers_and_dataset(run, folder)
    if split == "validation" and manifest["config"].get("include_validation"):
        raise ConfigError(f"split: got 'validation', but {run} was trained on it; expected 'test'")
    progress("encode users and items", 0.0)
    queries = dataset.queries(split)
    user_QU = query_vectors(towers, queries, dataset.feature_lists("user"))
    item_ND = item_vectors(towers, dataset.feature_lists("item"))
    progress("rank at each width", 0.0)
    ranked = rank_at_widths(
        queries,
        user_QU,
        item_ND,
        towers.widths,
        k=max(CUTOFFS),
        progress=lambda share: progress("rank at each width", share),
    )
    baselines = evaluate_baselines(
        dataset, split, recent_days=recent_days, progress=lambda share: progress("baselines", share)
    )
    report = Report(
        dataset=dataset.name,
        split=split,
        mask_seen=dataset.mask_seen,
        num_items=dataset.num_items,
        widths=list(measure_widths(ranked, queries, num_items=len(item_ND)).values()),
        baselines=baselines,
        about={
            "run": str(run),
            "towers_fingerprint": manifest["fingerprint"],
            "dataset_fingerprint": dataset.manifest["fingerprint"],
            "protocol": dataset.manifest["protocol"],
        },
    )
    return Evaluation(
        report=report,
        towers=towers,
        manifest=manifest,
        dataset=dataset,
        queries=queries,
        user_QU=user_QU,
        item_ND=item_ND,
        ranked=ranked,
    )
