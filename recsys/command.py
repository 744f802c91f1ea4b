"""From words on a command line to a function call, with errors for people: shared by every verb.

A verb is a dataclass of options, which is its command line, and a function that takes them, prints for people to `out`,
and returns what it did as plain values. `Manners` are what every verb can be told beside its own options; `EXIT_CODES`
is how each ends.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from recsys.errors import ConfigError, Interrupted, RecsysError
from recsys.settings import field_values, read_toml

CONFIG_FILE = "--config-file"

EXIT_CODES = {
    0: "done",
    1: "failed: what was given is fine, but the work did not get done (training diverged, no server answers, ...)",
    2: "bad input: an option, a settings file, a log or a folder cannot be used; the message says what to change",
    130: "interrupted by Ctrl-C: nothing is left half-written, and training says how to go on",
}

out = Console(highlight=False)
"""What a verb tells people; silent where a program asks for JSON."""
err = Console(stderr=True, highlight=False)
"""Errors, progress and remarks."""

Loaded = tuple[Any, Callable[[Any], Mapping[str, Any]]]
"""A verb's options (a dataclass, or an instance with its defaults) and its function."""


@dataclass(frozen=True, kw_only=True)
class Manners:
    """What every command can be told."""

    config_file: Path | None = None
    """TOML file with any of these options (``--batch-size 64`` is ``batch_size = 64``; dotted ones are tables). What
    the command line says counts more."""
    debug: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Show the traceback of an error."""


@dataclass(frozen=True, kw_only=True)
class VerbManners(Manners):
    """What every verb can be told: it ends with a result, which a server does not."""

    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print the result as one JSON object, and nothing else, on standard output."""


def execute(
    name: str,
    summary: str,
    load: Callable[[], Loaded],
    words: Sequence[str],
    *,
    manners: type[Manners] = VerbManners,
) -> None:
    """Parse the words into options and call the function; exit with a code and a message where either fails.

    Args:
        name: the command, for usage and errors.
        summary: what it does and an example, for ``--help``.
        load: imports what the verb needs; returns its options and its function.
        words: the command line, without the command itself.
        manners: what it can be told beside its own options.
    """
    try:
        options, function = load()
        given, told = _parse(name, summary, options, words, manners)
        as_json = isinstance(told, VerbManners) and told.json
        out.quiet = as_json
        done = function(given)
        if as_json and os.environ.get("RANK", "0") == "0":
            sys.stdout.write(json.dumps(done, default=str) + "\n")
        sys.stdout.flush()
    except BrokenPipeError as error:
        # Whoever read has enough. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from error
    except (Exception, KeyboardInterrupt) as error:
        if "--debug" in words:
            traceback.print_exc()
        for line in _explain(name, error, words):
            err.print(f"{name}: {line}", markup=False, soft_wrap=True)
        raise SystemExit(_code(error)) from error


def _explain(name: str, error: BaseException, words: Sequence[str]) -> list[str]:
    """Say what was wrong and what to do."""
    if isinstance(error, Interrupted) and "RANK" in os.environ:
        return ["interrupted", "to go on, give torchrun the same words and --resume"]
    if isinstance(error, Interrupted):
        again = [*name.split(), *words, *([] if error.go_on in words else [error.go_on])]
        return ["interrupted", f"to go on: {shlex.join(again)}"]
    if isinstance(error, KeyboardInterrupt):
        return ["interrupted"]
    if isinstance(error, RecsysError):
        return [f"error: {error}"]
    if isinstance(error, OSError):
        return [f"failed: {error}"]
    return [
        f"failed: {type(error).__name__}: {error}",
        "this should not happen; --debug shows the traceback, which a report of it needs",
    ]


def _code(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        return 130
    return error.exit_code if isinstance(error, RecsysError) else 1


def _parse(name: str, summary: str, options: Any, words: Sequence[str], manners: type[Manners]) -> tuple[Any, Manners]:
    """Return a verb's options, from a file where one is named and then from the words, and its manners."""
    if (path := _config_file(words)) is not None:
        options = _with_defaults(options, read_toml(path), where=str(path))
    kind = options if isinstance(options, type) else type(options)
    default = {} if kind is options else {"default": options}
    unnamed = tyro.conf.arg(name="")
    whole = dataclasses.make_dataclass(
        "Words",
        [
            ("options", Annotated[kind, unnamed], dataclasses.field(**default)),
            ("manners", Annotated[manners, unnamed], dataclasses.field(default=manners())),
        ],
        kw_only=True,
    )
    parsed: Any = tyro.cli(whole, prog=name, description=summary, args=list(words))
    return parsed.options, parsed.manners


def _config_file(words: Sequence[str]) -> Path | None:
    for place, word in enumerate(words):
        if word.startswith(f"{CONFIG_FILE}="):
            return Path(word.partition("=")[2])
        if word == CONFIG_FILE:
            if place + 1 == len(words):
                raise ConfigError(f"{CONFIG_FILE}: got no file, expected a TOML file of settings")
            return Path(words[place + 1])
    return None


def _with_defaults(options: Any, content: Mapping[str, Any], *, where: str) -> Any:
    """Return options with a file's values as their defaults, not checked as a whole: words may still come."""
    kind = options if isinstance(options, type) else type(options)
    values = {one.name: _default(options, one) for one in dataclasses.fields(kind)}
    bare: Any = object.__new__(kind)
    for key, value in (values | field_values(kind, content, where=where)).items():
        object.__setattr__(bare, key, value)
    return bare


def _default(options: Any, one: dataclasses.Field[Any]) -> Any:
    if not isinstance(options, type):
        return getattr(options, one.name)
    if one.default_factory is not dataclasses.MISSING:
        return one.default_factory()
    return tyro.MISSING if one.default is dataclasses.MISSING else one.default
