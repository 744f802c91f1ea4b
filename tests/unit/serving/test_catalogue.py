"""The catalogue between bundles, without transport: what searches see, what is refused, what outlives the process."""

import numpy as np
import pytest

from recsys.bundle import Bundle
from recsys.bundle_writer import PublishOptions, write_bundle
from recsys.changes import LOG, ChangedItem, read_changes
from recsys.data.dataset import Dataset
from recsys.errors import ArtifactError, CapacityError, RequestError
from recsys.index.space import LadderSpace
from recsys.ragged import Ragged
from recsys.testing import small_dataset, small_towers
from serving.budget import Budget
from serving.catalogue import Catalogue
from serving.engine import Engine
from serving.query import BatchQuery, Filter, Query, SimilarQuery, User
from serving.settings import CatalogueLimits

WIDTHS = (Budget(width=4), Budget(width=8), Budget(width=16))
OPTIONS = PublishOptions(
    num_queries=8,
    repeats=1,
    space=LadderSpace(engines=("exact", "ivf"), levels=(0,), reranks=(0, 2), funnels=(), stores=("float32",)),
)
VISITOR = User(history=("i1", "i2"))


def changed(id_, genre="drama", **rest):
    return ChangedItem(id=id_, title=f"The {id_}", features={"genre": [genre]}, **rest)


@pytest.fixture
def catalogue(tmp_path):
    return Catalogue(tmp_path / "changes")


@pytest.fixture
def live(bundle, catalogue):
    return Engine(bundle, view=catalogue.follow(bundle).view)


def found(engine, *, k=20, user=VISITOR, **rest):
    query = Query(user=user, k=k, **{"budget": WIDTHS[-1], **rest})
    return engine.recommend(query).candidates[0]


def user_vector(bundle):
    return bundle.towers.encode_users(Ragged.from_lists([bundle.items.rows(VISITOR.history)]))[0]


class TestSearch:
    @pytest.mark.parametrize("budget", WIDTHS)
    def test_an_item_is_found_from_the_answer_on_at_every_width(self, live, catalogue, bundle, budget):
        done = catalogue.upsert([ChangedItem(id="new", title="A new one", vector_D=2 * user_vector(bundle))])
        answer = found(live, budget=budget, include_titles=True)
        assert (done.sequence, done.num_new, done.num_gone) == (1, 1, 0)
        assert answer.item_ids[0] == "new"
        assert answer.titles[0] == "A new one"
        assert answer.scores[0] == pytest.approx(1, abs=1e-5)
        assert len(set(answer.item_ids)) == 20

    def test_scores_are_those_of_the_full_width_while_anything_was_put_in(self, live, catalogue, bundle):
        catalogue.upsert([changed("new")])
        answer = found(live, budget=WIDTHS[0])
        rows = bundle.items.rows(answer.item_ids)
        expected = bundle.item_vectors[rows[rows >= 0]] @ user_vector(bundle)
        assert np.allclose(answer.scores[rows >= 0], expected, atol=1e-5)
        assert answer.scores.tolist() == sorted(answer.scores.tolist(), reverse=True)

    def test_a_new_item_is_placed_by_its_features_and_a_known_one_by_its_id_too(self, live, catalogue, bundle):
        catalogue.upsert([changed("new", "horror"), changed("i5", "horror")])
        specs = {spec.name: spec for spec in bundle.towers.specs}
        for id_, row in (("new", -1), ("i5", 5)):
            bags = {"genre": specs["genre"].encode(["horror"]), "title": specs["title"].encode(f"The {id_}")}
            bags = {name: Ragged.from_lists([rows]) for name, rows in bags.items()}
            expected = bundle.towers.encode_items(np.array([row]), bags)[0]
            assert np.allclose(live.view().vector(id_), expected, atol=1e-6)

    def test_a_replaced_item_comes_once_and_as_it_is_now(self, live, catalogue, bundle):
        first = found(live).item_ids
        done = catalogue.upsert([ChangedItem(id=first[0], vector_D=-user_vector(bundle))])
        assert (done.num_new, done.num_gone) == (0, 1)
        assert found(live, k=19).item_ids == first[1:]
        everything = found(live, k=1000, exclude_seen=False).item_ids
        assert everything[-1] == first[0]
        assert len(set(everything)) == 1000

    def test_a_deleted_item_is_gone_wherever_it_was(self, live, catalogue):
        first = found(live).item_ids
        catalogue.upsert([changed("new")])
        done = catalogue.delete([first[0], "new", "unheard of", first[0]])
        assert (done.sequence, done.num_gone) == (2, 2)
        assert not {first[0], "new"} & set(found(live, k=1000).item_ids)
        with pytest.raises(RequestError, match=r"^item_id: got 'new'"):
            live.similar_items(SimilarQuery(item_id="new", k=3))
        catalogue.upsert([changed("new")])
        assert "new" in found(live, k=1000).item_ids

    def test_similar_items_of_new_and_replaced_ones(self, live, catalogue, bundle):
        vector_D = bundle.item_vectors[7]
        catalogue.upsert([ChangedItem(id="twin", vector_D=vector_D), ChangedItem(id="i9", vector_D=vector_D)])
        for id_, others in (("twin", {"i7", "i9"}), ("i9", {"i7", "twin"}), ("i7", {"twin", "i9"})):
            answer = live.similar_items(SimilarQuery(item_id=id_, k=2, budget=WIDTHS[-1]))
            assert set(answer.candidates[0].item_ids) == others

    def test_exclusions_and_seen_items_may_be_new_or_replaced(self, live, catalogue, bundle):
        seen = bundle.items.ids(bundle.users.seen(bundle.users.vocabulary.row("u3")))
        catalogue.upsert([changed(seen[0]), changed("new")])
        assert "new" not in found(live, k=1000, exclude=["new"]).item_ids
        assert seen[0] not in found(live, k=1000, user=User(id="u3")).item_ids
        assert seen[0] in found(live, k=1000, user=User(id="u3"), exclude_seen=False).item_ids
        assert seen[0] not in found(live, k=1000, user=User(id="u3"), exclude_seen=False, exclude=seen).item_ids
        both = live.recommend_batch(BatchQuery(users=[User(id="u3"), VISITOR], k=1000))
        assert [seen[0] in each.item_ids for each in both.candidates] == [False, True]

    def test_a_new_item_in_a_history_is_unknown_to_the_tower_and_not_recommended_again(self, live, catalogue):
        catalogue.upsert([changed("new")])
        answer = found(live, user=User(history=("i1", "new", "i2")), k=1000)
        assert answer.num_unknown_history_items == 1
        assert "new" not in answer.item_ids

    def test_filters_ask_new_and_replaced_items_what_they_are_now(self, live, catalogue, bundle):
        dramas = bundle.item_values["genre"].items(["drama"])
        was = bundle.items.ids(dramas.rows[:2])
        catalogue.upsert(
            [changed("new"), changed("other", "horror"), changed(was[0], "horror"), changed("odd", "noir")]
        )
        catalogue.delete(was[1:])
        now = {*bundle.items.ids(dramas.rows)} - {*was} | {"new"}
        assert {*found(live, k=1000, exclude_seen=False, where=Filter(include={"genre": ["drama"]})).item_ids} == now
        rest = {*found(live, k=1000, exclude_seen=False, where=Filter(exclude={"genre": ["drama"]})).item_ids}
        assert rest == {f"i{row}" for row in range(1000)} - now - {was[1]} | {"other", "odd"}
        some = Filter(include_ids=["new", was[0], was[1], "other", "unheard of"])
        assert {*found(live, k=10, where=some).item_ids} == {"new", was[0], "other"}
        query = Query(user=VISITOR, k=5, where=Filter(include={"genre": ["noir", "no such genre"]}))
        answer = live.recommend(query)
        assert (answer.candidates[0].item_ids, answer.num_unknown_filter_values) == (["odd"], 1)

    def test_views_are_values(self, live, catalogue):
        before = live.view()
        catalogue.upsert([changed("new")])
        assert "new" not in before
        assert (before.sequence, live.view().sequence) == (0, 1)
        assert (before.num_items, live.view().num_items) == (1000, 1001)


class TestRefusals:
    @pytest.mark.parametrize(
        ("field", "items"),
        [
            ("items", []),
            ("items", [ChangedItem(id=f"n{place}", title="x") for place in range(1001)]),
            ("items[0].id", [ChangedItem(id="")]),
            ("items[1].id", [changed("a"), changed("é" * 257)]),
            ("items[1].id", [changed("a"), changed("a")]),
            ("items[1].features['gnere']", [changed("a"), ChangedItem(id="b", features={"gnere": ["drama"]})]),
            ("items[0].features['title']", [ChangedItem(id="a", features={"title": ["two", "titles"]})]),
            ("items[0].vector", [ChangedItem(id="a", vector_D=np.ones(15, dtype=np.float32))]),
            ("items[0].vector", [ChangedItem(id="a", vector_D=np.full(16, np.nan, dtype=np.float32))]),
            ("items[0].vector", [ChangedItem(id="a", vector_D=np.eye(16, dtype=np.float32)[9])]),
            ("items[1]", [changed("a"), ChangedItem(id="b", features={"genre": ["no such genre"]})]),
        ],
    )
    def test_a_bad_item_is_named_and_nothing_changes(self, live, catalogue, field, items):
        with pytest.raises(RequestError) as refused:
            catalogue.upsert(items)
        assert refused.value.field == field
        assert live.view().sequence == 0
        assert catalogue.upsert([changed("a")]).sequence == 1

    def test_an_item_may_not_lose_all_that_placed_it(self, live, catalogue):
        catalogue.upsert([changed("a")])
        with pytest.raises(RequestError) as refused:
            catalogue.upsert([ChangedItem(id="a")])
        assert refused.value.field == "items[0]"

    @pytest.mark.parametrize(
        ("field", "ids"), [("item_ids", []), ("item_ids", ["x"] * 1001), ("item_ids[1]", ["x", ""])]
    )
    def test_bad_deletions(self, live, catalogue, field, ids):
        with pytest.raises(RequestError) as refused:
            catalogue.delete(ids)
        assert refused.value.field == field

    def test_past_the_limit_a_new_bundle_is_due(self, bundle, tmp_path):
        catalogue = Catalogue(tmp_path, limits=CatalogueLimits(max_delta_items=2))
        follower = catalogue.follow(bundle)
        catalogue.upsert([changed("a"), changed("b")])
        with pytest.raises(CapacityError, match="expected at most 2; publish a bundle"):
            catalogue.upsert([changed("c")])
        catalogue.upsert([changed("b", "war")])
        catalogue.delete(["a"])
        catalogue.upsert([changed("c")])
        assert follower.view().items.ids(range(2)) == ["b", "c"]


class TestFolder:
    def test_changes_outlive_the_process(self, bundle, live, catalogue, tmp_path):
        catalogue.upsert([changed("a"), changed("i5"), changed("b")])
        catalogue.delete(["i6", "b"])
        again = Engine(bundle, view=Catalogue(tmp_path / "changes").follow(bundle).view)
        for one in (live, again):
            assert (one.view().sequence, one.view().num_items) == (2, 1000)
        assert found(again, k=900).item_ids == found(live, k=900).item_ids

    def test_what_one_process_writes_another_sees_before_it_searches_or_writes(self, bundle, live, catalogue, tmp_path):
        other = Catalogue(tmp_path / "changes")
        beside = Engine(bundle, view=other.follow(bundle).view)
        for number in range(1, 7):
            writer, reader = (catalogue, beside) if number % 2 else (other, live)
            assert writer.upsert([changed(f"n{number}")]).sequence == number
            assert f"n{number}" in reader.view()
        assert list(read_changes(tmp_path / "changes").last) == [f"n{number}" for number in range(1, 7)]

    def test_a_torn_end_is_no_change_and_the_next_one_takes_its_place(self, bundle, live, catalogue, tmp_path):
        catalogue.upsert([changed("a")])
        path = tmp_path / "changes" / LOG
        whole = path.read_bytes()
        catalogue.upsert([changed("b")])
        path.write_bytes(path.read_bytes()[:-10])
        other = Catalogue(tmp_path / "changes")
        follower = other.follow(bundle)
        assert path.read_bytes() == whole
        assert other.upsert([changed("c")]).sequence == 2
        assert follower.view().items.ids(range(2)) == ["a", "c"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    dataset = Dataset(small_dataset(tmp_path_factory.mktemp("data") / "dataset"))
    return dataset, small_towers(dataset)


def publish(root, trained, changes=None, **towers):
    dataset, trained_towers = trained
    made = small_towers(dataset, **towers) if towers else trained_towers
    return Bundle.open(write_bundle(root, towers=made, dataset=dataset, options=OPTIONS, changes=changes))


class TestPublishing:
    def test_a_bundle_takes_over_what_it_was_published_with(self, trained, tmp_path):
        catalogue = Catalogue(tmp_path / "changes")
        old = Engine(first := publish(tmp_path / "root", trained), view=catalogue.follow(first).view)
        catalogue.upsert([changed("a"), changed("b"), changed("i5", "war")])
        catalogue.delete(["i6"])
        changes = read_changes(tmp_path / "changes")
        catalogue.upsert([changed("c")])
        catalogue.delete(["a"])
        new = Engine(second := publish(tmp_path / "root", trained, changes), view=catalogue.follow(second).view)
        assert (len(second.items), new.view().delta.hidden.rows.tolist()) == (81, [second.items.row("a")])
        assert new.view().items.ids(range(1)) == ["c"]
        assert new.view().sequence == old.view().sequence == 4
        before, after = found(old, k=81), found(new, k=81)
        assert set(before.item_ids) == set(after.item_ids)
        assert np.allclose(before.scores, after.scores, atol=1e-5)
        # The bundle before still knows all of it, for who has to go back.
        assert set(found(Engine(first, view=catalogue.follow(first).view), k=81).item_ids) == set(after.item_ids)

    def test_both_bundles_follow_while_one_takes_over(self, trained, tmp_path):
        catalogue = Catalogue(tmp_path / "changes")
        followers = [catalogue.follow(publish(tmp_path / "root", trained)) for _ in range(2)]
        catalogue.upsert([changed("a")])
        assert ["a" in follower.view() for follower in followers] == [True, True]

    def test_another_model_places_new_items_again_and_drops_vectors(self, trained, tmp_path, caplog):
        catalogue = Catalogue(tmp_path / "changes")
        first = catalogue.follow(publish(tmp_path / "root", trained))
        catalogue.upsert([changed("a"), ChangedItem(id="v", vector_D=np.ones(16, dtype=np.float32))])
        second = catalogue.follow(publish(tmp_path / "root", trained, seed=7))
        assert "item 'v' is left out" in caplog.text
        assert second.view().items.ids([0]) == ["a"]
        assert not np.allclose(first.view().vector("a"), second.view().vector("a"))

    def test_a_log_older_than_the_bundle_is_refused_and_another_log_is_read_whole(self, trained, tmp_path):
        catalogue = Catalogue(tmp_path / "changes")
        follower = catalogue.follow(publish(tmp_path / "root", trained))
        whole = (tmp_path / "changes" / LOG).read_bytes()
        catalogue.upsert([changed("a")])
        assert "a" in follower.view()
        bundle = publish(tmp_path / "root", trained, read_changes(tmp_path / "changes"))
        (tmp_path / "changes" / LOG).write_bytes(whole)
        with pytest.raises(ArtifactError, match="got changes up to 0, expected those up to 1"):
            Catalogue(tmp_path / "changes").follow(bundle)
        other = Catalogue(tmp_path / "other")
        follower = other.follow(bundle)
        other.upsert([changed("b")])
        assert Catalogue(tmp_path / "other").follow(bundle).view().items.ids([0]) == ["b"]
        assert follower.view().num_items == 82
