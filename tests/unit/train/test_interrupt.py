"""Ctrl-C while training, as a real signal: a checkpoint is there, and going on leads to the same losses."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from recsys.config import LossConfig, ModelConfig, TrainConfig
from recsys.data.dataset import Dataset
from recsys.errors import Interrupted
from recsys.train.noise import silenced
from recsys.train.process import joined
from recsys.train.trainer import Trainer, TrainOptions, train

CONFIG = TrainConfig(
    model=ModelConfig(widths=(4, 8), embedding_dim=8, hidden=(16,), history_windows=(1, 5)),
    loss=LossConfig(num_uniform_negatives=16),
    batch_size=256,
    epochs=2,
    device="cpu",
)


class Interrupting(Trainer):
    """A trainer whose user presses Ctrl-C during some of its steps."""

    at = (3,)

    def step(self, batches):
        if self.progress.total_steps + 1 in self.at:
            signal.raise_signal(signal.SIGINT)
            for _ in range(self.at.count(self.progress.total_steps + 1) - 1):
                signal.raise_signal(signal.SIGINT)
        return super().step(batches)


def options(simulated: Path, folder: Path, *, resume: bool = False) -> TrainOptions:
    return TrainOptions(dataset=simulated, out=folder, resume=resume, config=CONFIG)


def interrupted(given: TrainOptions, at: tuple[int, ...]) -> None:
    with silenced(), joined("cpu") as process:
        trainer = Interrupting(given, Dataset(given.dataset), process)
        trainer.at = at
        trainer.run()


def record_of(folder: Path) -> list[dict[str, object]]:
    newest = sorted((folder / "checkpoints").glob("step-*"))[-1]
    history = json.loads((newest / "progress.json").read_text())["history"]
    times = ("seconds", "examples_per_s", "data_wait_share")
    return [{name: value for name, value in record.items() if name not in times} for record in history]


@pytest.fixture(scope="module")
def whole(simulated, tmp_path_factory) -> list[dict[str, object]]:
    return record_of(train(options(simulated, tmp_path_factory.mktemp("whole") / "run")))


def test_a_run_goes_on_from_the_step_at_which_it_was_interrupted(whole, simulated, tmp_path):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match="--resume goes on"):
        interrupted(options(simulated, tmp_path / "run"), (3,))
    assert [folder.name for folder in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000003"]
    assert signal.getsignal(signal.SIGINT) is before
    assert record_of(train(options(simulated, tmp_path / "run", resume=True))) == whole


def test_a_second_one_stops_at_once_and_the_run_begins_again(whole, simulated, tmp_path):
    with pytest.raises(KeyboardInterrupt) as caught:
        interrupted(options(simulated, tmp_path / "run"), (2, 2))
    assert not isinstance(caught.value, Interrupted)
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert record_of(train(options(simulated, tmp_path / "run", resume=True))) == whole


def test_an_interrupt_in_the_last_step_comes_too_late_to_matter(whole, simulated, tmp_path):
    with pytest.raises(Interrupted):
        interrupted(options(simulated, tmp_path / "run"), (1,))
    with silenced(), joined("cpu") as process:
        last = (
            2 * Trainer(options(simulated, tmp_path / "run", resume=True), Dataset(simulated), process).steps_per_epoch
        )
    interrupted(options(simulated, tmp_path / "run", resume=True), (last,))
    assert record_of(tmp_path / "run") == whole
