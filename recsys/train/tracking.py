"""Where an epoch's figures go beside the run's own record: TensorBoard, and MLflow where it is installed."""

from __future__ import annotations

import importlib.util
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from torch.utils.tensorboard import SummaryWriter

from recsys.errors import ConfigError

Kind = Literal["tensorboard", "mlflow"]
_FILE = "mlflow.db"


class Tracker(Protocol):
    """Takes figures of a run."""

    def record(self, figures: Mapping[str, float], *, step: int) -> None:
        """Keep figures, by name, of this step."""

    def close(self) -> None:
        """Write what is not written yet."""


class TensorBoard:
    """Event files in the run folder; of a run that goes on, those of steps that are done again no longer count.

    Args:
        run: the run folder.
        step: where the run stands.
    """

    def __init__(self, run: Path, *, step: int) -> None:
        self._writer = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1 if step else None)

    def record(self, figures: Mapping[str, float], *, step: int) -> None:
        """Keep figures, by name, of this step."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is not written yet."""
        self._writer.close()


class MLflow:
    """A run of the experiment ``recsys``, in the store that ``MLFLOW_TRACKING_URI`` names or in the run folder.

    A run that goes on is the same run there: its id is kept in the run folder.

    Args:
        run: the run folder.
        settings: what the run is done with.
    """

    def __init__(self, run: Path, *, settings: Mapping[str, Any]) -> None:
        import mlflow

        uri = None if mlflow.environment_variables.MLFLOW_TRACKING_URI.get() else f"sqlite:///{run.resolve() / _FILE}"
        self._client = mlflow.MlflowClient(tracking_uri=uri)
        known = run / "mlflow-run-id"
        if known.exists():
            self._id = known.read_text().strip()
            return
        experiment = self._client.get_experiment_by_name("recsys")
        experiment_id = experiment.experiment_id if experiment else self._client.create_experiment("recsys")
        self._id = self._client.create_run(experiment_id, run_name=run.name).info.run_id
        for name, value in flattened(settings):
            self._client.log_param(self._id, name, value)
        known.write_text(self._id + "\n")

    def record(self, figures: Mapping[str, float], *, step: int) -> None:
        """Keep figures, by name, of this step."""
        for name, value in figures.items():
            self._client.log_metric(self._id, name, value, step=step)

    def close(self) -> None:
        """Say that the run has ended."""
        self._client.set_terminated(self._id)


def check_trackers(kinds: Sequence[str]) -> None:
    """Refuse what is not known or not there.

    Raises:
        ConfigError: a tracker is unknown, or MLflow is asked for where it is not installed.
    """
    for kind in kinds:
        if kind not in (known := typing.get_args(Kind)):
            raise ConfigError(f"track: got {kind!r}, expected some of {', '.join(known)}")
    if "mlflow" in kinds and importlib.util.find_spec("mlflow") is None:
        raise ConfigError("track: got 'mlflow', which is not installed; install matryoshka-recsys[tracking]")


def open_trackers(kinds: Sequence[str], run: Path, *, settings: Mapping[str, Any], step: int) -> list[Tracker]:
    """Return the trackers of a run.

    Args:
        kinds: which.
        run: the run folder.
        settings: what the run is done with.
        step: where the run stands.
    """
    made: list[Tracker] = []
    if "tensorboard" in kinds:
        made.append(TensorBoard(run, step=step))
    if "mlflow" in kinds:
        made.append(MLflow(run, settings=settings))
    return made


def figures_of(record: Mapping[str, Any]) -> dict[str, float]:
    """Return an epoch's figures by names such as ``loss/width_64``.

    Args:
        record: what `recsys.train.trainer.Trainer` keeps of an epoch.
    """
    figures = {f"throughput/{name}": record[name] for name in ("examples_per_s", "data_wait_share")}
    figures["negatives/collision_rate"] = record["collision_rate"]
    for name in ("loss", "temperature", "weight"):
        figures |= {f"{name}/width_{width}": value for width, value in record[name].items()}
    for width, scores in record["validation"].items():
        figures |= {f"validation/{name}/width_{width}": value for name, value in scores.items()}
    for kind, column in (("energy", "width"), ("block_norm", "to")):
        for side, values in record[kind].items():
            figures |= {f"{kind}/{side}/{column}_{width}": value for width, value in values.items()}
    return figures


def flattened(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield nested settings by their path, dotted."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
