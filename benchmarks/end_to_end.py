"""What each verb costs on MovieLens-1M, and how good its result is: every width beside the baselines, over seeds.

Leave-last-out, the whole catalogue ranked, seen items left out. Times are wall-clock of whole processes, start-up
included; memory is the largest resident set. Quality is measured once on test, per seed, with the towers that
validation chose.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks._harness import Cost, finish, parser, server, timed
from recsys.data.dataset import Dataset
from serving.client import Client

_METRICS = ("recall@10", "recall@20", "recall@50", "recall@100", "ndcg@10", "ndcg@20", "mrr@10", "coverage@10")


def main() -> None:
    """Run the verbs for each seed and report."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--recipe", help="which recipe to run (ml-1m; ml-100k, which needs no download, if --quick)")
    arguments.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="seeds of training (1 2 3)")
    arguments.add_argument("--epochs", type=int, default=6, help="passes over the training events at most (6)")
    given = arguments.parse_args()
    recipe = given.recipe or ("ml-100k" if given.quick else "ml-1m")
    seeds = given.seeds[:1] if given.quick else given.seeds
    settings = ["--epochs", "1", "--max-events-per-user", "10"] if given.quick else ["--epochs", str(given.epochs)]
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        costs = {"prepare": [timed("recsys", "prepare", "--recipe", recipe, "--out", work / "dataset")]}
        reports = []
        for seed in seeds:
            run = work / f"run-{seed}"
            both: list[str | Path] = ["--run", run, "--dataset", work / "dataset"]
            train = timed(
                "recsys", "train", "--dataset", work / "dataset", "--out", run, "--seed", str(seed), *settings
            )
            costs.setdefault("train", []).append(train)
            costs.setdefault("evaluate", []).append(timed("recsys", "evaluate", *both))
            reports.append(json.loads((run / "evaluation-test.json").read_text()))
        costs["publish"] = [timed("recsys", "publish", *both, "--out", work / "bundles")]
        serving = _serve(work / "bundles", Dataset(work / "dataset"))
    figures = _figures(costs, reports, seeds) | {"serve": serving}
    _print(figures, costs)
    finish(
        "end_to_end",
        {"dataset": recipe, "quick": given.quick, "epochs": given.epochs, **figures},
        record=given.record,
    )


def _serve(bundles: Path, dataset: Dataset, *, num_calls: int = 500, k: int = 100) -> dict[str, float]:
    """Serve the bundle to one client, one call at a time, without a budget; see `num_calls` users' answers."""
    users = dataset.users.ids(np.random.default_rng(0).choice(dataset.num_users, num_calls).tolist())
    with server(bundles) as (address, cost), Client(address) as client:
        client.wait_until_serving(timeout_s=60)
        spent_ms = []
        for user in users:
            started = time.perf_counter()
            client.recommend(user_id=user, k=k)
            spent_ms.append(1e3 * (time.perf_counter() - started))
    p50_ms, p99_ms = np.percentile(spent_ms, [50, 99])
    return cost | {"call_p50_ms": float(p50_ms), "call_p99_ms": float(p99_ms), "k": k, "num_calls": num_calls}


def _figures(costs: dict[str, list[Cost]], reports: list[dict[str, Any]], seeds: list[int]) -> dict[str, Any]:
    cost = {
        verb: {
            "seconds": statistics.median(one.seconds for one in several),
            "seconds_all": [round(one.seconds, 2) for one in several],
            "peak_mib": max(one.peak_mib for one in several),
        }
        for verb, several in costs.items()
    }
    quality: dict[str, dict[str, Any]] = {}
    for place, row in enumerate(reports[0]["rows"]):
        quality[row["name"]] = {}
        for metric in _METRICS:
            values = [_mean(report["rows"][place], metric) for report in reports]
            quality[row["name"]][metric] = {"mean": statistics.mean(values), "by_seed": values}
    return {"seeds": seeds, "num_users": reports[0]["num_queries"], "verbs": cost, "quality": quality}


def _mean(row: dict[str, Any], metric: str) -> float:
    value = row["metrics"][metric]
    return float(value["mean"] if isinstance(value, dict) else value)


def _print(figures: dict[str, Any], costs: dict[str, list[Cost]]) -> None:
    console = Console(width=120, highlight=False)
    verbs = Table("verb", "seconds (each run)", "peak MiB", title="cost of each verb, start-up included")
    for verb, several in costs.items():
        seconds = ", ".join(f"{one.seconds:.1f}" for one in several)
        verbs.add_row(verb, seconds, f"{max(one.peak_mib for one in several):,.0f}")
    console.print(verbs)
    serve = figures["serve"]
    console.print(
        f"recsys-serve: listening after {serve['seconds_to_listen']:.1f} s, peak {serve['peak_mib']:,.0f} MiB; "
        f"one client, k={serve['k']}: p50 {serve['call_p50_ms']:.2f} ms, p99 {serve['call_p99_ms']:.2f} ms a call"
    )
    quality = Table("", *_METRICS, title=f"test quality, mean over {len(figures['seeds'])} seed(s) (range)")
    for name, metrics in figures["quality"].items():
        cells = []
        for metric in _METRICS:
            values = metrics[metric]["by_seed"]
            spread = f"\n({min(values):.4f}-{max(values):.4f})" if len(set(values)) > 1 else ""
            cells.append(f"{metrics[metric]['mean']:.4f}{spread}")
        quality.add_row(name, *cells)
    console.print(quality)


if __name__ == "__main__":
    main()
