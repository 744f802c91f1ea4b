"""From words on a command line to a function call, with errors for people: shared by every verb.

A verb is a dataclass of options, which is its command line, and a function that takes them.

Exit codes: 0 done, 1 an error that the message explains, 2 a command line that cannot be read, 130 interrupted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console

from recsys.errors import ConfigError, RecsysError
from recsys.settings import from_toml

CONFIG_FILE = "--config-file"


def execute(name: str, summary: str, options: Any, function: Callable[[Any], object], words: Sequence[str]) -> None:
    """Parse the words into options and call the function; exit with a code and a message where either fails.

    Args:
        name: the command, for usage and errors.
        summary: one sentence, for ``--help``.
        options: a dataclass, or an instance whose values are the defaults. Where it has a field ``config``,
            ``--config-file FILE`` reads that field's defaults from TOML.
        function: what to do with the options.
        words: the command line, without the command itself.
    """
    errors = Console(stderr=True, highlight=False)
    try:
        options, rest = _with_config_file(options, list(words))
        parse: dict[str, Any] = {"prog": name, "description": summary, "args": rest}
        kind = options if isinstance(options, type) else type(options)
        if kind is not options:
            parse["default"] = options
        function(tyro.cli(kind, **parse))
    except RecsysError as error:
        errors.print(f"{name}: error: {error}", markup=False, soft_wrap=True)
        raise SystemExit(1) from error
    except KeyboardInterrupt:
        errors.print(f"{name}: interrupted")
        raise SystemExit(130) from None


def _with_config_file(options: Any, words: list[str]) -> tuple[Any, list[str]]:
    if CONFIG_FILE not in words or isinstance(options, type) or not hasattr(options, "config"):
        return options, words
    place = words.index(CONFIG_FILE)
    if place + 1 == len(words):
        raise ConfigError(f"{CONFIG_FILE}: got no file, expected a TOML file of settings")
    config = from_toml(type(options.config), Path(words[place + 1]))
    return dataclasses.replace(options, config=config), words[:place] + words[place + 2 :]
