"""Published vectors of users against what the user tower makes of the same users when they ask."""

from dataclasses import replace

import numpy as np
import pytest

from recsys.bundle import Bundle
from recsys.bundle_writer import PublishOptions, write_bundle
from recsys.data.dataset import Dataset
from recsys.index.space import LadderSpace
from recsys.testing import small_dataset, small_towers
from serving import profiles
from serving.engine import Engine
from serving.query import BatchQuery, Query, User

NAMES = ["u1", "u3", "u17", "u40"]
OPTIONS = PublishOptions(num_queries=8, repeats=1, space=LadderSpace(engines=("exact",), levels=(0,), funnels=()))


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """The same towers and users with and without vectors of users."""
    root = tmp_path_factory.mktemp("root")
    dataset = Dataset(small_dataset(root / "dataset", num_items=700))
    towers = small_towers(dataset)
    made = [
        write_bundle(root / name, towers=towers, dataset=dataset, options=replace(OPTIONS, user_vectors=kept))
        for name, kept in (("with", True), ("without", False))
    ]
    return [Bundle.open(path) for path in made]


def encoded(bundle, users):
    return profiles.encode(bundle, [profiles.resolve(bundle, user, path="user") for user in users])


def test_a_published_vector_is_what_encoding_gives(bundles):
    published, without = bundles
    assert without.user_vectors is None
    users = [User(id=id_) for id_ in without.users.vocabulary.ids(range(len(without.users)))]
    np.testing.assert_allclose(encoded(published, users), encoded(without, users), atol=1e-6)
    one_by_one = np.concatenate([encoded(without, [user]) for user in users[:20]])
    np.testing.assert_allclose(encoded(published, users[:20]), one_by_one, atol=1e-6)


@pytest.mark.parametrize(
    "other",
    [User(id="u3", features={"group": ["young"]}), User(history=["i1", "i5"]), User(id="nobody"), User(history=[])],
)
def test_who_says_more_or_is_not_known_is_encoded_as_without_alone_and_beside_others(bundles, other):
    for users in ([other], [User(id="u1"), other, User(id="u40")]):
        published, without = (encoded(bundle, users) for bundle in bundles)
        np.testing.assert_array_equal(published, without)


def test_answers_are_the_same(bundles):
    published, without = (Engine(bundle) for bundle in bundles)
    for name in NAMES:
        answers = [engine.recommend(Query(user=User(id=name), k=20)) for engine in (published, without)]
        assert answers[0].candidates[0].item_ids == answers[1].candidates[0].item_ids
    users = [User(id=name) for name in NAMES]
    for one, other in zip(
        *(engine.recommend_batch(BatchQuery(users=users, k=20)).candidates for engine in (published, without)),
        strict=True,
    ):
        assert one.item_ids == other.item_ids
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)
