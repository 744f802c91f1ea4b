"""``recsys recommend``: ask a server once, as any client would."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from recsys.errors import RequestError
from serving.client import Client, items_where
from serving.security import ClientSecurity
from serving.v1 import candidates_pb2 as pb

_DEADLINE_MS = 10_000


@dataclass(frozen=True, kw_only=True)
class RecommendOptions:
    """Whom to recommend to, what it may cost, and who is asked."""

    user: str | None = None
    """User id; an unknown one gets the cold answer."""
    history: tuple[str, ...] = ()
    """Item ids, oldest first, instead of a user."""
    k: int = 10
    """How many items."""
    include: tuple[str, ...] = ()
    """Only items with one of these values of each feature named, as FEATURE=VALUE."""
    exclude: tuple[str, ...] = ()
    """No items with these values, as FEATURE=VALUE."""
    budget_ms: float | None = None
    """Time that the server may take, in milliseconds."""
    width: int | None = None
    """An embedding width instead of a time."""
    min_overlap: float | None = None
    """A least expected overlap with the exact full-width answer instead of a time."""
    address: str = "127.0.0.1:50051"
    """The server's host and port."""
    security: ClientSecurity = field(default_factory=ClientSecurity)
    """Whom to trust, and what to prove oneself with, where the server asks for it."""


def recommend(options: RecommendOptions) -> pb.RecommendResponse:
    """Ask a server.

    Raises:
        ConfigError: a file that the settings name cannot be used.
        RequestError: the question cannot be answered as asked; it names the field.
        ServingError: the call failed otherwise.
    """
    include, exclude = _values("include", options.include), _values("exclude", options.exclude)
    with Client(options.address, deadline_ms=_DEADLINE_MS, security=options.security) as client:
        return client.recommend(
            k=options.k,
            user_id=options.user,
            history=options.history or None,
            where=items_where(include=include, exclude=exclude),
            budget_ms=options.budget_ms,
            width=options.width,
            min_overlap=options.min_overlap,
            include_titles=True,
        )


def _values(option: str, given: Sequence[str]) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {}
    for each in given:
        name, sign, value = each.partition("=")
        if not sign:
            raise RequestError(option, f"got {each!r}, expected FEATURE=VALUE")
        values.setdefault(name, []).append(value)
    return values
