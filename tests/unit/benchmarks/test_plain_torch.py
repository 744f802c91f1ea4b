"""The plain PyTorch twin is the trainer's model: same losses from the same weights, and the same learning."""

from dataclasses import replace

import numpy as np
import pytest
from training_runs import CONFIG, options

from benchmarks._plain_torch import PlainTraining, our_loss, plain_loss
from recsys.config import LossConfig
from recsys.data.dataset import Dataset
from recsys.train.noise import silenced
from recsys.train.process import joined
from recsys.train.trainer import Trainer


@pytest.fixture
def trainer_of(simulated, tmp_path):
    """Makes trainers without dropout, of one process."""
    model = replace(CONFIG.model, dropout=0.0, user_id=True)
    with silenced(), joined("cpu") as process:

        def make(**changes):
            given = options(simulated, tmp_path / "run", model=model, **changes)
            trainer = Trainer(given, Dataset(simulated), process)
            trainer.sharded.model.train()
            return trainer

        yield make


# Batches of 128 have few distinct items, so both losses meet negatives that are the positive, and counts above one.
LOSSES = {
    "batch": LossConfig(num_uniform_negatives=16, temperature=(0.1,)),
    "uniform": LossConfig(num_batch_negatives=0, num_uniform_negatives=40, temperature=(0.1, 0.3), weights=(1.0, 3.0)),
}


@pytest.mark.parametrize("loss", [plain_loss, our_loss])
@pytest.mark.parametrize("settings", LOSSES.values(), ids=LOSSES)
def test_the_twin_has_the_trainers_losses_before_and_after_steps(trainer_of, loss, settings):
    # With an Adagrad that keeps a number per coordinate, as torch's does, what is learned is the same too.
    trainer = trainer_of(loss=settings, table_optimizer="adagrad")
    twin = PlainTraining(trainer, loss)
    batches = list(trainer.batches())[:6]
    assert any((inputs.samples.count_N > 1).any() for inputs in batches)
    left = iter(batches)
    ours, its = [trainer.step(left) for _ in batches], [twin.step(inputs) for inputs in batches]
    np.testing.assert_allclose(its[0], ours[0], rtol=1e-5)
    np.testing.assert_allclose(its, ours, rtol=1e-3)


@pytest.mark.parametrize("loss", [plain_loss, our_loss])
def test_the_twin_learns(trainer_of, loss):
    trainer = trainer_of()
    twin = PlainTraining(trainer, loss)
    first, *_, last = ([twin.step(inputs) for inputs in trainer.batches()] for _ in range(4))
    assert (np.mean(last, axis=0) < np.mean(first, axis=0)).all()
