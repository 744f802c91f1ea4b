"""From the ids, histories and feature values of a request to the rows that the user tower reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from recsys.bundle import Bundle
from recsys.data.schema import FeatureSpec
from recsys.errors import RequestError
from recsys.ids import UNKNOWN
from recsys.model.elapsed import UNKNOWN_TIME
from recsys.ragged import Ragged
from serving.query import User, shown


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What is known of one user.

    Args:
        row: the user's row, or `UNKNOWN`.
        history: int64 item rows, oldest first, all known.
        seen: int64 item rows that the user has interacted with.
        features: rows by user feature name; a missing feature is an unknown one.
        num_unknown: items of the request's history that were ignored.
        times: int64, when the history's items were, where that is known and the model reads it.
    """

    row: int
    history: np.ndarray
    seen: np.ndarray
    features: Mapping[str, Sequence[int] | np.ndarray]
    num_unknown: int = 0
    times: np.ndarray | None = None

    @property
    def cold(self) -> bool:
        """Whether nothing is known of the user's past."""
        return len(self.history) == 0


def resolve(bundle: Bundle, user: User, *, path: str) -> Profile:
    """Look a user up.

    Raises:
        RequestError: a feature has a name that the model does not know, or values that its kind does not take;
            ``path`` is the user's place in the request.
    """
    specs = {spec.name: spec for spec in bundle.towers.specs if spec.side == "user"}
    given: dict[str, Sequence[int] | np.ndarray] = {
        name: _feature_rows(specs, name, values, path=f"{path}.features[{shown(name)}]")
        for name, values in user.features.items()
    }
    if user.id is not None:
        row = bundle.users.vocabulary.row(user.id)
        if row == UNKNOWN:
            return Profile(row=row, history=_NOTHING, seen=_NOTHING, features=given)
        stored = {name: lists.values for name, lists in bundle.users.features(row).items()}
        times = bundle.users.times(np.array([row]))
        return Profile(
            row=row,
            history=bundle.users.history(row),
            seen=bundle.users.seen(row),
            features=stored | given,
            times=None if times is None else times.values,
        )
    assert user.history is not None, "a checked user has an id or a history"
    rows = bundle.items.rows(user.history)
    known = rows[rows != UNKNOWN]
    return Profile(row=UNKNOWN, history=known, seen=known, features=given, num_unknown=len(rows) - len(known))


def encode(bundle: Bundle, profiles: Sequence[Profile]) -> Float[np.ndarray, "batch query"]:
    """Run the user tower once for all profiles; the rows are unit queries, ready to search with."""
    features = {
        spec.name: Ragged.from_lists([profile.features.get(spec.name, ()) for profile in profiles])
        for spec in bundle.towers.specs
        if spec.side == "user"
    }
    history = Ragged.from_lists([profile.history for profile in profiles])
    users = np.array([profile.row for profile in profiles], dtype=np.int64)
    reads_times = bundle.towers.layout.config.time_bias
    times = Ragged.from_lists([_times(profile) for profile in profiles]) if reads_times else None
    query_BU: np.ndarray = bundle.towers.encode_users(history, features, users, times)
    return query_BU


def _times(profile: Profile) -> np.ndarray:
    """Return when the history's items were; those of a request come without times."""
    return profile.times if profile.times is not None else np.full(len(profile.history), UNKNOWN_TIME)


def _feature_rows(specs: Mapping[str, FeatureSpec], name: str, values: Sequence[str], *, path: str) -> list[int]:
    spec = specs.get(name)
    if spec is None:
        raise RequestError(path, f"got an unknown user feature, expected one of {sorted(specs)}")
    if spec.kind == "multi_hot":
        return spec.encode(values)
    if len(values) > 1:
        raise RequestError(path, f"got {len(values)} values, expected at most one for a {spec.kind} feature")
    try:
        return spec.encode(values[0] if values else None)
    except ValueError as error:
        raise RequestError(path, f"got {shown(values[0])}, expected a number") from error


_NOTHING = np.zeros(0, dtype=np.int64)
