"""The verbs as functions, and answers without a server.

Each takes what its command line takes, by the same names (``--model.widths 4 8`` is ``model={"widths": [4, 8]}``), and
`recsys VERB --help` explains each of them.

Examples:
    >>> import recsys
    >>> dataset = recsys.prepare(recipe="ml-100k", out=work / "dataset")
    >>> run = recsys.train(
    ...     dataset=dataset, out=work / "run", epochs=1, max_events_per_user=5, batch_size=128,
    ...     model={"widths": [4, 8], "embedding_dim": 8, "hidden": [16]},
    ... )
    >>> report = recsys.evaluate(run=run, dataset=dataset)
    >>> [row.name for row in report.rows]
    ['width 4', 'width 8', 'popularity', 'popularity, 7 days', 'item-item']
    >>> bundle = recsys.publish(run=run, dataset=dataset, out=work / "bundles", num_queries=32, repeats=1)
    >>> recommender = recsys.Recommender.load(work / "bundles")
    >>> len(recommender.recommend("42", k=5, width=4))
    5
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from recsys.errors import ConfigError
from recsys.recommender import Recommender
from recsys.settings import field_values

if TYPE_CHECKING:
    from recsys.evaluate.report import Report

__all__ = ["Recommender", "evaluate", "prepare", "publish", "train"]

T = TypeVar("T")

Progress = Callable[[str, float], None]
"""Called with a stage's name and the share of it that is done, 0 to 1."""


def prepare(*, progress: Progress | None = None, **options: Any) -> Path:
    """Turn interaction logs into a dataset folder, and return it.

    Args:
        progress: told of each stage.
        options: the fields of `recsys.data.options.PrepareOptions`; ``out`` is needed, and ``recipe`` or
            ``interactions``.

    Raises:
        ConfigError: an option is unknown (the nearest known one is named), out of range, or contradicts another.
        DataError: a file, column or value cannot be used, or a filter or split leaves nothing.
        ArtifactError: the folder is there and ``overwrite`` is not set.
    """
    from recsys.data.prepare import PrepareOptions
    from recsys.data.prepare import prepare as run
    from recsys.progress import tell_nobody

    return run(_options("prepare", PrepareOptions, options), progress=progress or tell_nobody)


def train(**options: Any) -> Path:
    """Train the towers at every width, and return the run folder.

    Args:
        options: the fields of `recsys.train.trainer.TrainOptions` and of `recsys.config.TrainConfig`; ``dataset`` and
            ``out`` are needed.

    Raises:
        ConfigError: as `prepare`.
        ArtifactError: the dataset is unusable, or the run folder already holds a run and ``resume`` is not set.
        DataError: the dataset lacks what the model reads.
        TrainingError: too few examples, or a loss that is not finite.
        Interrupted: Ctrl-C came; ``resume=True`` goes on.
    """
    from recsys.train.trainer import TrainOptions
    from recsys.train.trainer import train as run

    return run(_options("train", TrainOptions, options))


def evaluate(*, progress: Progress | None = None, **options: Any) -> Report:
    """Measure every width of a run, beside the baselines, and return the report, which is also written.

    Args:
        progress: told of each stage.
        options: the fields of `recsys.evaluate.verb.EvaluateOptions`; ``run`` and ``dataset`` are needed.

    Raises:
        ConfigError: as `prepare`.
        ArtifactError: the run or the dataset is missing or damaged, or they do not belong together.
    """
    from recsys.evaluate.verb import EvaluateOptions
    from recsys.evaluate.verb import evaluate as run
    from recsys.progress import tell_nobody

    return run(_options("evaluate", EvaluateOptions, options), progress=progress or tell_nobody)


def publish(*, progress: Progress | None = None, **options: Any) -> Path:
    """Write a bundle of a run's best towers, with a measured ladder, and return its folder.

    Args:
        progress: told of each stage.
        options: the fields of `recsys.publish.PublishRunOptions` and of `recsys.bundle_writer.PublishOptions`; ``run``,
            ``dataset`` and ``out`` are needed.

    Raises:
        ConfigError: as `prepare`.
        ArtifactError: as `evaluate`.
    """
    from recsys.publish import PublishRunOptions, publish_run

    return publish_run(_options("publish", PublishRunOptions, options), progress=progress)


def _options(verb: str, kind: type[T], given: dict[str, Any]) -> T:
    values = field_values(kind, given, where=verb)
    try:
        return kind(**values)
    except TypeError as error:  # a field without a default was not given; the rest was checked
        raise ConfigError(f"{verb}: {str(error).partition('() ')[2]}") from error
