"""Evaluate a trained run on a dataset: every width, beside the baselines."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from recsys.evaluate.protocol import evaluate_baselines, evaluate_vectors
from recsys.evaluate.report import Report
from recsys.evaluate.towers import item_vectors, query_vectors
from recsys.model.best import load_towers_and_dataset


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """What to evaluate, and where to write the numbers."""

    run: Path
    """Run folder that `recsys train` wrote; its best towers are evaluated."""
    dataset: Path
    """Folder that `recsys prepare` wrote."""
    split: Literal["validation", "test"] = "test"
    """Whose targets are to be found; histories hold everything before the split."""
    out: Path | None = None
    """JSON file to write; RUN/evaluation-SPLIT.json where missing."""
    recent_days: int = 7
    """Window of the recent-popularity baseline, in days."""


def evaluate(options: EvaluateOptions) -> Report:
    """Rank the whole catalogue exactly for every user of the split, at every width and by every baseline.

    Raises:
        ArtifactError: the run or the dataset is missing or damaged, or the towers were trained on another dataset.
    """
    towers, dataset, manifest = load_towers_and_dataset(options.run, options.dataset)
    queries = dataset.queries(options.split)
    user_QU = query_vectors(towers, queries, dataset.feature_lists("user"))
    quality = evaluate_vectors(queries, user_QU, item_vectors(towers, dataset.feature_lists("item")), towers.widths)
    report = Report(
        dataset=dataset.name,
        split=options.split,
        mask_seen=dataset.mask_seen,
        num_items=len(dataset.items),
        widths=list(quality.values()),
        baselines=evaluate_baselines(dataset, options.split, recent_days=options.recent_days),
        about={
            "run": str(options.run),
            "towers_fingerprint": manifest["fingerprint"],
            "dataset_fingerprint": dataset.manifest["fingerprint"],
            "protocol": dataset.manifest["protocol"],
        },
    )
    report.write(options.out or options.run / f"evaluation-{options.split}.json")
    return report
