"""Every error a user can cause, as one tree.

::

    ValueError
    └── RecsysError                something given to us is wrong; the message says what, where and what to do
        ├── ConfigError            a setting is out of range, unknown, or contradicts another
        ├── DataError              an input log or feature table cannot be used
        ├── ArtifactError          a dataset, run or bundle folder is missing, damaged or of another kind
        ├── WidthError             a width is not one the model was trained for, or a vector cannot be truncated to it
        ├── RequestError           a recommendation request cannot be answered; carries the offending field
        ├── CapacityError          a server holds as much as it was set up for
        └── TrainingError          training cannot start or go on (diverged loss, mismatched checkpoint)

Messages quote what was got and what was expected. What cannot happen is an ``assert``, never one of these.
`Interrupted` is no error: it says that a user's Ctrl-C stopped work that can go on.
"""

from __future__ import annotations


class RecsysError(ValueError):
    """Root of the tree: catching it catches every error that a user can cause.

    Attributes:
        exit_code: what a command ends with: 2 where something else has to be given, 1 where the work itself failed.
    """

    exit_code = 2


class ConfigError(RecsysError):
    """A setting is out of range, unknown, or contradicts another."""


class DataError(RecsysError):
    """An input log or feature table cannot be used."""


class ArtifactError(RecsysError):
    """A dataset, run or bundle folder is missing, damaged or of another kind."""


class WidthError(RecsysError):
    """A width is not a trained one, or a vector cannot be truncated to it."""


class TrainingError(RecsysError):
    """Training cannot start or go on."""

    exit_code = 1


class CapacityError(RecsysError):
    """A server holds as much as it was set up for; something has to be done before it can take more."""


class RequestError(RecsysError):
    """A request cannot be answered as asked.

    Attributes:
        field: the request's offending field, in proto path syntax (``"budget.width"``).
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class Interrupted(KeyboardInterrupt):
    """Ctrl-C stopped work, and what is done of it is kept.

    Attributes:
        go_on: the option with which the same command goes on.
    """

    def __init__(self, *, go_on: str) -> None:
        super().__init__(f"interrupted; {go_on} goes on")
        self.go_on = go_on
