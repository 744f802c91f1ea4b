"""How long preparing and training will take and how much memory, before either has run: an estimate, and said to be.

What is measured here and now: one pass over the log, and how fast this machine multiplies matrices. The rest is
formulae:

* preparing makes five such passes (checks, counts of users and of items, coding, sorting and splitting) and takes
  0.2 kB for each event that is sorted at a time, 0.2 kB for each user and item, and 0.3 GB for libraries;
* training does, per row of a batch, 6 operations per coordinate of the full width for each of the batch's positives and
  drawn negatives, and 6 per weight of each tower; it reaches a fifth of the speed of bare products, since it also looks
  up rows, draws, moves and normalises. A row is an event; or a user with all of their items, where no history is read
  and rows are not asked to be events; or, in a log without times, a user with half of them. It takes 4 bytes per
  coordinate of each table, and more for its optimizer, 100 bytes per user, and 1 GB for libraries; events stay on disk.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from recsys.config import TrainConfig

_PASSES = 5
_START_S = 4.0
_SHARE_OF_PRODUCTS = 0.2
_MATRIX = 1024
_LEAST_MEASURED_S = 0.2


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Estimates: seconds and bytes."""

    prepare_s: float
    prepare_bytes: float
    epoch_s: float
    max_epochs: int
    train_bytes: float


def estimate_costs(
    config: TrainConfig,
    *,
    num_events: int,
    ordered: bool,
    num_users: int,
    num_items: int,
    num_feature_rows: int,
    pass_s: float,
    max_rows: int,
) -> Costs:
    """Estimate what preparing with its defaults and training will take on this machine.

    Args:
        config: settings of the training.
        num_events: of the log.
        ordered: whether it has times.
        num_users: who have some.
        num_items: likewise.
        num_feature_rows: rows of all features' tables together.
        pass_s: seconds that one pass over the log takes.
        max_rows: events that are sorted at a time.
    """
    model = config.model
    by_user = config.rows == "auto" and (model.history == "none" or not ordered)
    num_rows = num_users if by_user else num_events
    per_user = num_events / num_users * (1 if model.history == "none" else 0.5)
    positives = config.batch_size * (per_user if by_user else 1)
    # An item that several rows want is encoded once: so many different ones are met in random draws.
    samples = num_items * -math.expm1(-positives / num_items) + config.loss.num_uniform_negatives
    flops = num_rows * _flops_per_row(config, samples)
    return Costs(
        prepare_s=_START_S + _PASSES * pass_s,
        prepare_bytes=0.3e9 + 200 * min(num_events, max_rows) + 200 * (num_users + num_items),
        epoch_s=_START_S / config.epochs + flops / (_SHARE_OF_PRODUCTS * measured_flops_per_s()),
        max_epochs=config.epochs,
        train_bytes=1e9
        + 100 * num_users
        + _table_bytes(config, num_items + num_feature_rows + num_users * model.user_id),
    )


def measured_flops_per_s() -> float:
    """Return how many operations per second products of float32 matrices reach here, in a fifth of a second."""
    one = np.ones((_MATRIX, _MATRIX), dtype=np.float32)
    one @ one  # the first product starts threads
    started, rounds = perf_counter(), 0
    while perf_counter() - started < _LEAST_MEASURED_S:
        one @ one
        rounds += 1
    return 2 * _MATRIX**3 * rounds / (perf_counter() - started)


def _flops_per_row(config: TrainConfig, samples: float) -> float:
    model = config.model
    logits = 6 * samples * model.widths[-1]
    inputs = len(model.windows) + (model.encoded_history > 0) + model.user_id
    sizes = [model.embedding_dim * inputs, *model.hidden, model.widths[-1]]
    weights = sum(one * other for one, other in itertools.pairwise(sizes))
    # The item tower encodes each sample once for the whole batch.
    return logits + 6 * weights * (1 + samples / config.batch_size)


def _table_bytes(config: TrainConfig, num_rows: int) -> float:
    """Return what tables take with their optimizer: a number per row, or gradients and two moments for each number."""
    copies = 4 if config.table_optimizer == "adam" else 1 + 1 / config.model.embedding_dim
    return num_rows * config.model.embedding_dim * 4 * copies
