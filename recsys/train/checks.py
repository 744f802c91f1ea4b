"""What is refused before training starts."""

from __future__ import annotations

from recsys.config import TrainConfig
from recsys.data.dataset import Dataset
from recsys.errors import ConfigError, DataError


def check_divides(batch_size: int, world_size: int) -> None:
    """Refuse a batch that processes cannot share evenly.

    Args:
        batch_size: rows per step.
        world_size: number of processes.

    Raises:
        ConfigError: the number does not divide the batch.
    """
    if batch_size % world_size:
        near = max(world_size, round(batch_size / world_size) * world_size)
        raise ConfigError(
            f"batch_size: got {batch_size} rows per step for {world_size} processes, expected a multiple of "
            f"{world_size}, such as {near}"
        )


def check_readable(config: TrainConfig, dataset: Dataset) -> None:
    """Refuse settings that ask of a dataset what it does not hold.

    Args:
        config: the settings.
        dataset: what to train on.

    Raises:
        DataError: it lacks an order, times, or features of items.
    """
    model = config.model
    if model.history == "sequence" and not dataset.ordered:
        raise DataError(f"history: got 'sequence', expected another one: the log of {dataset.path} has no order")
    if model.time_bias and not dataset.has_times:
        raise DataError(f"time_bias: got true, expected false: {dataset.path} does not say when events were")
    if config.recency_half_life is not None and not (dataset.ordered and dataset.has_times):
        got = config.recency_half_life
        raise DataError(f"recency_half_life: got {got}, expected none: {dataset.path} does not say when events were")
    if not model.projection and dataset.specs:
        raise DataError(
            f"projection: got false, expected true: {dataset.path} has features, such as {dataset.specs[0].name!r}"
        )
    has_item_features = any(spec.side == "item" for spec in dataset.specs)
    for name, expected in (("item_id_dropout", "0"), ("history_features", "none")):
        if (got := getattr(model, name)) and not has_item_features:
            raise DataError(f"{name}: got {got}, expected {expected}: the items of {dataset.path} have no features")
