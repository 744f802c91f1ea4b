"""Matryoshka two-tower recommendations: prepare, train, evaluate, publish; `serving` answers requests.

The verbs as functions, and answers in this very process: see `recsys.api`. Nothing is imported before it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recsys.api import Recommender, evaluate, prepare, publish, train

__all__ = ["Recommender", "evaluate", "prepare", "publish", "train"]


def __getattr__(name: str) -> Any:
    """Import what is asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("recsys.api"), name)


def __dir__() -> list[str]:
    return __all__
