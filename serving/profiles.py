"""From the ids, histories and feature values of a request to the rows that the user tower reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Float

from recsys.bundle import Bundle
from recsys.data.schema import FeatureSpec, Side
from recsys.errors import DataError, RequestError
from recsys.ids import UNKNOWN
from recsys.model.elapsed import UNKNOWN_TIME
from recsys.ragged import Ragged
from serving.query import User, shown

Features: TypeAlias = Mapping[str, Sequence[int] | np.ndarray]


@dataclass(kw_only=True)
class Profile:
    """What is known of one user.

    Args:
        row: the user's row, or `UNKNOWN`.
        history: int64 rows of `Bundle.history_items`, oldest first, all known.
        seen: int64 item rows that the user has interacted with; those that are `UNKNOWN` say nothing.
        features: rows by user feature name; a missing feature is an unknown one.
        num_unknown: items of the request's history that were ignored.
        times: int64, when the history's items were, where that is known and the model reads it.
        published: the bundle has the vector of just this: a known user, of whom the request says nothing else.
        has_vector: the model learned a vector for this very user from what they did.
    """

    row: int
    history: np.ndarray
    seen: np.ndarray
    features: Features
    num_unknown: int = 0
    times: np.ndarray | None = None
    published: bool = False
    has_vector: bool = False

    @property
    def cold(self) -> bool:
        """Whether nothing of the user's past is in the answer."""
        return len(self.history) == 0 and not self.has_vector


def resolve(bundle: Bundle, user: User, *, path: str) -> Profile:
    """Look a user up.

    Raises:
        RequestError: a feature has a name that the model does not know, or values that its kind does not take;
            ``path`` is the user's place in the request.
    """
    specs = {spec.name: spec for spec in bundle.towers.specs if spec.side == "user"}
    given = feature_rows(specs, user.features, path=path, side="user")
    if user.id is not None:
        row = bundle.users.vocabulary.row(user.id)
        if row == UNKNOWN:
            return Profile(row=row, history=_NOTHING, seen=_NOTHING, features=given)
        if bundle.user_vectors is not None and not given:
            history, seen = bundle.users.history(row), bundle.users.seen(row)
            has_vector = _has_vector(bundle, seen)
            return Profile(row=row, history=history, seen=seen, features=given, published=True, has_vector=has_vector)
        return _stored(bundle, row, given=given)
    assert user.history is not None, "a checked user has an id or a history"
    rows = bundle.history_items.rows(user.history)
    known = rows[rows != UNKNOWN]
    # Rows outside the catalogue are never returned anyway.
    seen = known if bundle.history_items is bundle.items else bundle.items.rows(user.history)
    return Profile(row=UNKNOWN, history=known, seen=seen, features=given, num_unknown=len(rows) - len(known))


def encode(bundle: Bundle, profiles: Sequence[Profile]) -> Float[np.ndarray, "batch query"]:
    """Return unit queries, ready to search with: published ones, or what the user tower makes of all profiles."""
    if bundle.user_vectors is not None and all(profile.published for profile in profiles):
        published_BU: np.ndarray = bundle.user_vectors[[profile.row for profile in profiles]]
        return published_BU
    return _encode(bundle, [_whole(bundle, profile) for profile in profiles])


def _whole(bundle: Bundle, profile: Profile) -> Profile:
    """Return a profile with all that the tower reads: a published one among others is encoded with them."""
    if not profile.published:
        return profile
    return _stored(bundle, profile.row, given={})


def _stored(bundle: Bundle, row: int, *, given: Features) -> Profile:
    stored = {name: lists.values for name, lists in bundle.users.features(row).items()}
    times, seen = bundle.users.times(np.array([row])), bundle.users.seen(row)
    return Profile(
        row=row,
        history=bundle.users.history(row),
        seen=seen,
        features={**stored, **given},
        times=None if times is None else times.values,
        has_vector=_has_vector(bundle, seen),
    )


def _has_vector(bundle: Bundle, seen: np.ndarray) -> bool:
    return bundle.towers.layout.config.user_id and len(seen) > 0


def _encode(bundle: Bundle, profiles: Sequence[Profile]) -> Float[np.ndarray, "batch query"]:
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


def feature_rows(
    specs: Mapping[str, FeatureSpec], features: Mapping[str, Sequence[str]], *, path: str, side: Side
) -> dict[str, list[int]]:
    """Return the embedding rows of a request's feature values.

    Args:
        specs: the features that the model reads, by name.
        features: values by feature name.
        path: of the features' owner in the request.
        side: whose features they are.

    Raises:
        RequestError: a feature has a name that the model does not know, or values that its kind does not take.
    """
    rows = {}
    for name, values in features.items():
        spec = specs.get(name)
        where = f"{path}.features[{shown(name)}]"
        if spec is None:
            raise RequestError(where, f"got an unknown {side} feature, expected one of {sorted(specs)}")
        try:
            rows[name] = spec.encode_values(values)
        except DataError as error:
            raise RequestError(where, str(error)) from error
    return rows


_NOTHING = np.zeros(0, dtype=np.int64)
