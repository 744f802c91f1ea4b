"""What is said when a training is over."""

from __future__ import annotations

from dataclasses import replace

import pytest

from recsys.config import LossConfig, TrainConfig
from recsys.train.run_folder import Progress
from recsys.train.verb import may_get_better

CONFIG, OVER = TrainConfig(epochs=5), Progress(epoch=5, best=0.1, stale_epochs=0)


def test_a_run_whose_last_epoch_was_the_best_may_go_on():
    assert may_get_better(CONFIG, OVER)


@pytest.mark.parametrize(
    ("config", "stood"),
    [
        (CONFIG, replace(OVER, stale_epochs=1)),
        (CONFIG, replace(OVER, epoch=4, stale_epochs=3)),
        (replace(CONFIG, epochs=1), replace(OVER, epoch=1)),
        (replace(CONFIG, include_validation=True), OVER),
        (replace(CONFIG, rate_schedule="cosine"), OVER),
        (replace(CONFIG, loss=LossConfig(energy_weight=1.0, energy_ramp=0.5)), OVER),
    ],
    ids=[
        "got worse",
        "stopped early",
        "one epoch says nothing",
        "nothing validates",
        "rates are used up",
        "ramp is over",
    ],
)
def test_other_runs_are_over(config, stood):
    assert not may_get_better(config, stood)
