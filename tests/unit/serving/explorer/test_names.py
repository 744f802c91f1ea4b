"""Users and titles are found as people type them."""

import polars as pl
import pytest

from recsys.bundle import Bundle, open_current, read_names
from recsys.errors import ArtifactError
from recsys.testing import small_bundle
from serving.explorer.names import BundleNames, Names


@pytest.fixture(scope="module")
def names(bundles):
    return Names(open_current(bundles).path)


def titles(found):
    return [item["title"] for item in found]


def test_every_word_must_begin_a_word_of_the_title_in_any_order_and_case(names):
    found = titles(names.search_items("CALLED com"))
    assert found
    assert all(title.startswith("A comedy called") for title in found)
    assert titles(names.search_items("omedy")) == []
    assert titles(names.search_items("comedy.called,")) == found


def test_an_id_comes_first(names):
    assert [item["item_id"] for item in names.search_items("i7")] == ["i7"]


def test_whole_words_come_before_words_that_only_begin_so(names):
    assert titles(names.search_items("called 7"))[0].endswith(" called 7")


def test_what_many_chose_comes_before_what_few_did(names, bundles):
    _, users = read_names(open_current(bundles).path)
    counts = dict(users.select(row=pl.col("seen").list.explode())["row"].value_counts().iter_rows())
    found = names.search_items("A")
    assert [item["num_users"] for item in found] == sorted(counts.values(), reverse=True)[: len(found)]


@pytest.mark.parametrize("text", ["", "   ", "…!", "no such title"])
def test_nothing_is_found_without_words_or_for_unknown_ones(names, text):
    assert names.search_items(text) == []


@pytest.mark.parametrize("text", ["u1", " u1 "])
def test_the_user_of_that_id_comes_first_then_those_that_begin_with_it(names, text):
    found = [user["user_id"] for user in names.search_users(text)]
    assert found[0] == "u1"
    assert len(found) == 11
    assert all(user_id.startswith("u1") for user_id in found)


def test_without_a_text_users_of_the_whole_table_are_offered(names):
    found = [int(user["user_id"][1:]) for user in names.search_users("")]
    assert len(found) == 12
    assert found == sorted(set(found))
    assert found[-1] >= 50


def test_text_is_no_pattern(names):
    assert names.search_users("u.*") == []
    assert names.search_items("(") == []


def test_a_user_is_told_with_the_latest_first(names, bundles):
    bundle = open_current(bundles)
    history = bundle.users.history(bundle.users.vocabulary.row("u3"))
    told = names.user("u3")
    assert [item["item_id"] for item in told["latest"]] == bundle.items.ids(history[::-1][:12].tolist())
    assert told["num_items"] == len(bundle.users.seen(3))
    assert names.user("nobody") is None


def test_where_no_history_is_published_a_user_is_told_with_what_they_saw(tmp_path):
    path = small_bundle(tmp_path, history="none", user_id=True)
    bundle = Bundle.open(path)
    told = {item["item_id"] for item in Names(path).user("u3")["latest"]}
    assert len(told) > 1
    assert told <= set(bundle.items.ids(bundle.users.seen(bundle.users.vocabulary.row("u3"))))


def test_a_version_that_is_not_there_is_an_error_and_one_that_is_there_is_read_once(bundles):
    source = BundleNames(bundles)
    with pytest.raises(ArtifactError, match=str(bundles / "elsewhere")):
        source.of("elsewhere")
    version = open_current(bundles).version
    assert source.of(version) is source.of(version)
