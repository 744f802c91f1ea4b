"""Towers, heads and losses. Only `two_tower` needs torchrec; the exported towers run on plain torch.

`MatryoshkaSoftmax` is the loss alone, for towers of one's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recsys.model.losses.standalone import MatryoshkaSoftmax

__all__ = ["MatryoshkaSoftmax"]


def __getattr__(name: str) -> Any:
    """Import the loss when it is asked for: a server, which imports towers, needs none."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from recsys.model.losses.standalone import MatryoshkaSoftmax

    return MatryoshkaSoftmax
