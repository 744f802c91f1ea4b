"""Training in processes of its own that start within a moment: for tests that kill them, or take the disk from them."""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import traceback
from multiprocessing.connection import Connection
from pathlib import Path

from recsys.errors import RecsysError
from recsys.train.trainer import TrainOptions, train

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["recsys.train.trainer"])


def start(options: TrainOptions, *, most_bytes: int | None = None) -> tuple[multiprocessing.Process, Connection]:
    """Begin to train; the connection gets what an error said, or an empty text.

    ``most_bytes``: no file may grow larger, as if the disk were full.
    """
    ours, theirs = _CONTEXT.Pipe(duplex=False)
    child = _CONTEXT.Process(target=_train, args=(options, most_bytes, theirs))
    child.start()
    theirs.close()
    return child, ours


def finish(options: TrainOptions, *, most_bytes: int | None = None) -> str:
    """Train to the end and return what an error said, or an empty text."""
    child, said = start(options, most_bytes=most_bytes)
    text = said.recv()
    child.join()
    assert child.exitcode == 0
    return text


def _train(options: TrainOptions, most_bytes: int | None, said: Connection) -> None:
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stderr.fileno())
    if most_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    try:
        train(options)
    except RecsysError as error:
        said.send(str(error))
    except BaseException:
        said.send(traceback.format_exc())
        raise
    else:
        said.send("")
