"""Modules that can be called: ``recsys.train`` is the package, and ``recsys.train(...)`` trains.

Python binds a submodule to its name in the package as soon as anything imports it; so a verb with a module of its name
would else be a function before that and a module after.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _Verb(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # By name, since rooms know nothing of the api above them.
        return getattr(import_module("recsys.api"), self.__name__.rpartition(".")[2])(*args, **kwargs)


def make_callable(module: str) -> None:
    """Let a call of this module be one of the function of its name in `recsys.api`."""
    sys.modules[module].__class__ = _Verb
