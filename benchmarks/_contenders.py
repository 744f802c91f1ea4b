"""Ours and peers on one course: what they learn from, where ours is stopped, which of a peer's settings count."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from benchmarks._course import METRIC, Course, Goal
from benchmarks._experiment import digest, remembered
from benchmarks._harness import commit
from benchmarks._peers import Peer, Settings
from recsys.config import TrainConfig
from recsys.data.dataset import Dataset
from recsys.data.schema import SPLITS
from recsys.evaluate.towers import item_vectors
from recsys.model.exported import ExportedTowers
from recsys.settings import to_mapping
from recsys.train.noise import silenced
from recsys.train.process import joined
from recsys.train.trainer import Trainer, TrainOptions
from recsys.train.validation import Validation
from recsys.widths import query_at, truncate

_BEFORE_TEST = SPLITS[: SPLITS.index("test")]
_FINALISTS = 2
_ENDLESS = 1000
"""Epochs: the course ends them."""
OURS = "ours"
Figures = dict[str, Any]


@dataclass(frozen=True)
class Contest:
    """What everybody learns from and has to reach, and where finished courses are kept."""

    dataset: Dataset
    goal: Goal
    given: argparse.Namespace
    kept: Path

    def run(
        self, name: str, settings: Settings, training: Callable[[Course], None], *, limit_s: float, trial: bool = False
    ) -> Figures:
        """Run a course, or return what became of it when it was run before."""
        known = [self.dataset.manifest["fingerprint"], self.goal.recall, len(self.goal.sampled), self.given.threads]
        path = self.kept / f"{name.replace(' ', '-')}-{digest(*known, limit_s, trial, settings)}.json"

        def finished() -> Figures:
            with_what = "" if name == OURS else f" {dict(settings)}"
            print(f"{name}{with_what}{' (trial)' if trial else ''}, at most {limit_s:g} s", flush=True)
            found = Course(self.goal, limit_s=limit_s, sampled=trial).run(training)
            print(f"  {_told(found)}", flush=True)
            return {"settings": dict(settings), "commit": commit(), **found}

        return remembered(path, finished)


def rank(one: Figures) -> tuple[float, float]:
    """First who got there, the fastest first, then who came nearest."""
    return (one["seconds"] if one["reached"] else np.inf, -one["best"][METRIC] if one["best"] else 0.0)


class _Checkpoints(Validation):
    """Gives each epoch's towers to the course instead of validating them."""

    def __init__(self, dataset: Dataset, config: TrainConfig, course: Course) -> None:
        super().__init__(dataset, config)
        self._dataset, self._config, self._course = dataset, config, course

    def of(self, towers: ExportedTowers | None) -> dict[str, Any]:
        assert towers is not None, "one process trains"
        self._course.checkpoint(lambda: self._vectors(towers))
        return super().of(None)

    def _vectors(self, towers: ExportedTowers) -> tuple[np.ndarray, np.ndarray]:
        """Return unit vectors of full width; a user is what is known of them before the test split."""
        ladder, data = self._config.model.ladder, self._dataset
        histories, times = data.histories(*_BEFORE_TEST), data.history_times(*_BEFORE_TEST)
        user_UU = towers.encode_users(histories, data.feature_lists("user"), np.arange(data.num_users), times)
        item_ND = item_vectors(towers, data.feature_lists("item"))
        return query_at(user_UU, ladder.full, ladder), truncate(item_ND, ladder.full, ladder)


def run_ours(contest: Contest, config: TrainConfig) -> Figures:
    """Train as `recsys train` does, on all that is not test, less its record for TensorBoard."""
    dataset = contest.dataset
    config = replace(config, include_validation=True, epochs=_ENDLESS, device="cpu")

    def training(course: Course) -> None:
        with tempfile.TemporaryDirectory() as folder, silenced(), joined(config.device) as process:
            options = TrainOptions(dataset=dataset.path, out=Path(folder) / "run", track=(), config=config)
            trainer = Trainer(options, dataset, process)
            trainer.validation = _Checkpoints(dataset, config, course)
            trainer.run()

    return contest.run(OURS, to_mapping(config), training, limit_s=contest.given.limit)


def run_peer(contest: Contest, peer: Peer) -> Figures:
    """Try a peer's settings and return the best one's figures, with those of all trials."""
    peer.load()
    given, chosen = contest.given, _matrix(contest.dataset)

    def run(settings: Settings, *, trial: bool) -> Figures:
        def training(course: Course) -> None:
            peer.train(course, chosen, settings, num_threads=given.threads)

        limit_s = peer.trial_share * given.trial if trial else given.limit
        return contest.run(peer.name, settings, training, limit_s=limit_s, trial=trial)

    settings = peer.settings()
    trials = sorted((run(one, trial=True) for one in settings), key=rank) if len(settings) > 1 else []
    arrived = [one for one in trials if one["reached"]][:_FINALISTS]
    finals = [run(one["settings"], trial=False) for one in arrived or trials[:1] or [{"settings": settings[0]}]]
    return min(finals, key=rank) | {"version": peer.version(), "trials": trials}


def _matrix(dataset: Dataset) -> sparse.csr_matrix:
    """Return who chose what before the test split, by user and item row, as ones."""
    lists = dataset.histories(*_BEFORE_TEST)
    ones, shape = np.ones(len(lists.values), np.float32), (dataset.num_users, dataset.num_items)
    # Libraries' compiled code knows rows of 32 bits.
    rows, ends = lists.values.astype(np.int32), lists.offsets.astype(np.int32)
    chosen = sparse.csr_matrix((ones, rows, ends), shape=shape)
    chosen.sum_duplicates()
    chosen.data[:] = 1
    return chosen


def _told(one: Figures) -> str:
    best = one["best"]
    nearest = f", best {best[METRIC]:.4f} after {best['seconds']:.1f} s ({best['num_users']:,} users)" if best else ""
    return f"{'reached' if one['reached'] else 'NOT reached'} within {one['seconds']:.1f} s{nearest}"
