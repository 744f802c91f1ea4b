"""Messages of libraries about themselves that no user of this project can act on, and nothing else."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

_WARNINGS = (
    # TorchRec's sharded tables are ShardedTensors; torch asks whoever touches one to move to DTensor.
    "Please use DTensor instead and we are deprecating ShardedTensor",
    # TorchRec hands DistributedDataParallel an argument that newer torch has renamed.
    "`broadcast_buffers` is deprecated",
    # TorchRec and fbgemm import modules of theirs that script or are marked as moved.
    "`torch.jit",
    r"[\s\S]*fbgemm_gpu",
)
_LOGGERS = (
    "torchrec.distributed.planner.types",  # advises a factory that torchrec 1.6 does not have
    "torch.fx._symbolic_trace",  # TorchRec calls a function of torch.fx by its old name
)


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Leave out these warnings and log lines for the duration of the block."""
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    with warnings.catch_warnings():
        for message in _WARNINGS:
            for category in (FutureWarning, DeprecationWarning, UserWarning):
                warnings.filterwarnings("ignore", message=message, category=category)
        for name in _LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
