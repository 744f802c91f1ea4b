"""Questions and answers of the data plane: plain values, checked against the limits before any work is done.

Errors name the field by its path in the request (``users[3].history.item_ids``), whoever the caller is.

What every call makes anew, here and beside, is a plain dataclass: a frozen one takes twice the time to make, and a call
makes a dozen. Nobody changes them, all the same.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from recsys.errors import RequestError
from recsys.index.rungs import Rung
from recsys.texts import PickedTexts
from serving.admission import Priority
from serving.budget import Budget, Degraded
from serving.price import FREE, Price
from serving.settings import Limits

_SHOWN = 60


@dataclass(kw_only=True)
class User:
    """Who to recommend for: exactly one of ``id`` and ``history``.

    Args:
        id: a user of the training log; an unknown one gets the cold answer.
        history: item ids, oldest first; unknown ones are ignored and counted.
        features: values by user feature name; for a known user they replace the stored ones.
    """

    id: str | None = None
    history: Sequence[str] | None = None
    features: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def check(self, path: str, limits: Limits) -> None:
        """Raise `RequestError` where this names nobody, or somebody twice, or is too long."""
        if (self.id is None) == (self.history is None):
            got = "neither id nor history" if self.id is None else "both id and history"
            raise RequestError(path, f"got {got}, expected exactly one of them")
        if self.id == "":
            raise RequestError(f"{path}.id", "got an empty id, expected a user's id, or a history instead")
        at_most(f"{path}.history.item_ids", len(self.history or ()), limits.max_history, "items")


@dataclass(kw_only=True)
class Filter:
    """Which items may be returned: those that pass every part of it. Parts that rule each other out leave none.

    Args:
        include_ids: nothing but these items, unless it is empty; unknown ones are ignored.
        include: values by item feature name; an item must have at least one of each feature's.
        exclude: values by item feature name; an item must have none of them.
    """

    include_ids: Sequence[str] = ()
    include: Mapping[str, Sequence[str]] = field(default_factory=dict)
    exclude: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def check(self, limits: Limits) -> None:
        """Raise `RequestError` where it is too large, or names a feature without a value."""
        if not (self.include_ids or self.include or self.exclude):
            return
        at_most("filter.include_item_ids", len(self.include_ids), limits.max_filter_items, "items")
        num_values = 0
        for path, values_of in (("filter.include", self.include), ("filter.exclude", self.exclude)):
            num_values += sum(len(values) for values in values_of.values())
            at_most(path, num_values, limits.max_filter_values, "values")
            for name, values in values_of.items():
                if not values:
                    raise RequestError(f"{path}[{shown(name)}]", "got no values, expected at least one")


@dataclass(kw_only=True)
class Ask:
    """What every question says.

    Args:
        k: items wanted.
        exclude: item ids to leave out; unknown ones are ignored.
        where: which items may be returned.
        budget: what the call may spend.
        include_titles: whether to return titles, where the catalogue has them.
        priority: whose call it is, where not all can be answered, or not as well.
    """

    k: int
    exclude: Sequence[str] = ()
    where: Filter = field(default_factory=Filter)
    budget: Budget = field(default_factory=Budget)
    include_titles: bool = False
    priority: Priority = Priority.NORMAL

    @property
    def num_searches(self) -> int:
        """How many searches it takes."""
        return 1

    @property
    def num_encoded(self) -> int:
        """What encoding grows with: users, and items of the histories that came with them."""
        return 0

    def check(self, limits: Limits) -> None:
        """Raise `RequestError` for the first field that is out of its limits."""
        if not 1 <= self.k <= limits.max_k:
            raise RequestError("k", f"got {self.k}, expected 1 to {limits.max_k}")
        at_most("exclude_item_ids", len(self.exclude), limits.max_exclusions, "items")
        self.where.check(limits)


@dataclass(kw_only=True)
class Query(Ask):
    """Items for one user; ``exclude_seen`` None means what the bundle does by default."""

    user: User
    exclude_seen: bool | None = None

    @property
    def num_encoded(self) -> int:
        """The user, and the items of a history that came with the question."""
        return 1 + len(self.user.history or ())

    def check(self, limits: Limits) -> None:
        """Raise `RequestError` for the first field that is out of its limits."""
        super().check(limits)
        self.user.check("user", limits)


@dataclass(kw_only=True)
class BatchQuery(Ask):
    """Items for several users; the budget is for all of them together."""

    users: Sequence[User]
    exclude_seen: bool | None = None

    @property
    def num_searches(self) -> int:
        """One for each user."""
        return len(self.users)

    @property
    def num_encoded(self) -> int:
        """The users, and the items of histories that came with them."""
        return sum(1 + len(user.history or ()) for user in self.users)

    def check(self, limits: Limits) -> None:
        """Raise `RequestError` for the first field that is out of its limits."""
        super().check(limits)
        if not self.users:
            raise RequestError("users", "got none, expected at least one")
        at_most("users", len(self.users), limits.max_batch, "users")
        for place, user in enumerate(self.users):
            user.check(f"users[{place}]", limits)


@dataclass(kw_only=True)
class SimilarQuery(Ask):
    """The items nearest to an item."""

    item_id: str


@dataclass(kw_only=True)
class Call:
    """When a call came and when it must be answered, on the clock of `time.perf_counter`.

    Args:
        arrived_s: when the server got it, before any queueing.
        started_s: when a worker took it up.
        deadline_ms: from its arrival to its deadline; None when it has none.
        price: what it costs others that a slot is taken, in answers.
    """

    arrived_s: float
    started_s: float
    deadline_ms: float | None = None
    price: Price = FREE

    @classmethod
    def now(cls, *, deadline_ms: float | None = None) -> Call:
        """Return a call that comes and starts at this moment."""
        now_s = time.perf_counter()
        return cls(arrived_s=now_s, started_s=now_s, deadline_ms=deadline_ms)

    @property
    def queue_ms(self) -> float:
        """Time spent waiting for a worker."""
        return (self.started_s - self.arrived_s) * 1e3

    def elapsed_ms(self) -> float:
        """Time spent since arrival."""
        return (time.perf_counter() - self.arrived_s) * 1e3


@dataclass(kw_only=True)
class Candidates:
    """Items for one user, best first.

    Args:
        ids: the items.
        scores: float32, their inner products with the user at the rung's width or, where it reranks, at the full width,
            by the bundle's norm (`recsys.widths`): cosines at every width, or at a narrower one a part of a cosine.
        titles: their titles, when asked for and known.
        cold: nothing is known of the user's past.
        num_unknown_history_items: items of the request's history that the bundle's model was not trained with.
    """

    ids: PickedTexts
    scores: Float[np.ndarray, " items"]
    titles: list[str] | None
    cold: bool = False
    num_unknown_history_items: int = 0

    @property
    def item_ids(self) -> list[str]:
        """The items, as strings."""
        return self.ids.to_list()


@dataclass(kw_only=True)
class Timings:
    """Milliseconds by stage: waiting for a worker, encoding users, scanning, and scoring again at full width."""

    queue_ms: float
    encode_ms: float
    scan_ms: float
    rerank_ms: float


@dataclass(kw_only=True)
class Answer:
    """Candidates for each user asked about, and what was done to find them.

    ``search_ms`` has what searches took, or would have with more time, without those that a filter made unusual.
    ``num_scored`` counts the items that were scored one by one at full width, where that took the place of the rung.
    ``probed_share`` is the share of the search that there was time for, as a mean over users.
    ``num_unknown_filter_values`` counts values of the filter that no item has.
    ``predicted_ms`` is the p99 from the call's arrival to its answer, as predicted when the rung was chosen.
    """

    candidates: list[Candidates]
    rung: Rung
    expected_overlap: float
    degraded: tuple[Degraded, ...]
    timings: Timings
    bundle_version: str
    predicted_ms: float
    search_ms: Sequence[float] = ()
    num_scored: int = 0
    probed_share: float = 1.0
    num_unknown_filter_values: int = 0


def at_most(path: str, count: int, limit: int, unit: str) -> None:
    """Raise `RequestError` where a field holds more entries than are allowed."""
    if count > limit:
        raise RequestError(path, f"got {count} {unit}, expected at most {limit}")


def shown(value: str) -> str:
    """Quote a value from a request, cut short: status details travel in headers, whose size is limited."""
    return repr(value if len(value) <= _SHOWN else f"{value[:_SHOWN]}…")
