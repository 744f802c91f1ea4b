"""Config dataclasses from TOML or plain values, and back: every mistake is named with the place it was made in."""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from recsys.errors import ConfigError, WidthError

T = TypeVar("T")


def from_toml(kind: type[T], path: Path) -> T:
    """Read a config dataclass from a TOML file.

    Raises:
        ConfigError: the file is missing or not TOML, a key is unknown (the nearest known one is named), or a value
            has the wrong type or is out of range.
    """
    return from_mapping(kind, read_toml(path), where=str(path))


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file as plain values.

    Raises:
        ConfigError: the file is missing or not TOML.
    """
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error


def from_mapping(kind: type[T], content: Mapping[str, Any], *, where: str) -> T:
    """Build a (nested) config dataclass from plain values, as read from TOML or JSON; ``where`` opens every error."""
    assert dataclasses.is_dataclass(kind)
    hints = typing.get_type_hints(kind)
    values = {}
    for key, value in content.items():
        if key not in hints:
            raise unknown_setting(key, hints, where=where)
        values[key] = convert(hints[key], value, where=f"{where}: {key}")
    for one in dataclasses.fields(kind):
        if one.name not in values and one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{where}: the setting {one.name!r} is missing")
    try:
        return kind(**values)
    except (ConfigError, WidthError) as error:
        raise type(error)(f"{where}: {error}") from error


def field_values(kind: type[Any], content: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """Return the fields of a command's options that plain values give, by the names that the command line has for them.

    A field without a name of its own there (``tyro.conf.arg(name="")``) lends its fields their place.

    Raises:
        ConfigError: a key is unknown, or a value has the wrong type or is out of range.
    """
    hints, parts = typing.get_type_hints(kind), _unnamed(kind)
    inside = {key: part for part in parts for key in typing.get_type_hints(hints[part])}
    values: dict[str, Any] = {}
    own: dict[str, dict[str, Any]] = {part: {} for part in parts}
    for key, value in content.items():
        if key in inside:
            own[inside[key]][key] = value
        elif key in hints and key not in parts:
            values[key] = convert(hints[key], value, where=f"{where}: {key}")
        else:
            raise unknown_setting(key, [*(hints.keys() - parts), *inside], where=where)
    return values | {part: from_mapping(hints[part], given, where=where) for part, given in own.items() if given}


def _unnamed(kind: type[Any]) -> set[str]:
    """Return the fields that are options only through their own fields."""
    return {
        key
        for key, hint in typing.get_type_hints(kind, include_extras=True).items()
        if any(getattr(one, "name", None) == "" for one in getattr(hint, "__metadata__", ()))
    }


def unknown_setting(key: str, known: Iterable[str], *, where: str) -> ConfigError:
    """Return the error for a key that nothing reads, which names the nearest known one."""
    nearest = difflib.get_close_matches(key, known := list(known), n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else f"; known: {sorted(known)}"
    return ConfigError(f"{where}: unknown setting {key!r}{hint}")


def to_mapping(config: Any) -> dict[str, Any]:
    """Return a config as plain values that JSON can hold; `from_mapping` is the way back."""
    return dataclasses.asdict(config)


def convert(hint: Any, value: Any, *, where: str) -> Any:
    """Return a plain value as the type that a setting has; ``where`` opens every error.

    Raises:
        ConfigError: it is of another type.
    """
    if dataclasses.is_dataclass(hint):
        if isinstance(value, typing.cast("type[Any]", hint)):
            return value
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: got {value!r}, expected a table of settings")
        return from_mapping(typing.cast("type[Any]", hint), value, where=where)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        return convert(_member(arguments, value, where=where), value, where=where)
    if origin is typing.Literal:
        if value not in arguments:
            raise ConfigError(f"{where}: got {value!r}, expected one of {list(arguments)}")
        return value
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: got {value!r}, expected a table")
        return {key: convert(arguments[1], one, where=f"{where}.{key}") for key, one in value.items()}
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where}: got {value!r}, expected a list")
        return tuple(convert(arguments[0], one, where=where) for one in value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{where}: got {value!r}, expected {hint.__name__}")
    return value


def _member(members: tuple[Any, ...], value: Any, *, where: str) -> Any:
    """Choose the member of a union that a value is for: by type, or, among dataclasses, by the default of ``name``."""
    members = tuple(one for one in members if one is not type(None))
    if not all(dataclasses.is_dataclass(one) for one in members):
        return next((one for one in members if isinstance(one, type) and isinstance(value, one)), members[0])
    if len(members) == 1 or not isinstance(value, Mapping):
        return members[0]
    named = {one.name: one for one in members}
    if value.get("name") not in named:
        raise ConfigError(f"{where}: name: got {value.get('name')!r}, expected one of {list(named)}")
    return named[value["name"]]
