"""Recipes: those that come with the project, and what a wrong one is told."""

import copy
import json
from pathlib import Path

import pytest

from recsys.data.recipes import FeatureRecipe, Recipe, load_recipe, recipe_names
from recsys.errors import ConfigError

MINIMAL = {"name": "x", "log": {"files": ["a.csv"], "user": "u", "item": "i", "time": "t"}}
LAST_OUT = {**MINIMAL, "protocol": {"name": "leave-last-out"}}


def changed(section: str, **values: object) -> dict[str, object]:
    content = copy.deepcopy(LAST_OUT)
    content[section] = {**content.get(section, {}), **values}
    return content


def read(content: dict[str, object]) -> Recipe:
    return Recipe.from_mapping(content, where="test")


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_of_the_project_is_whole(name: str) -> None:
    recipe = load_recipe(name)
    tables = [table.file for table in (recipe.items, recipe.users) if table]
    assert set(recipe.files) == {*recipe.log.files, *recipe.log.test_files, *tables}
    assert all(len(file.sha256 or "") == 64 and file.columns for file in recipe.files.values())
    assert recipe.description
    assert recipe.licence


def test_the_recipes_promised_are_there() -> None:
    promised = [
        "ml-100k",
        "ml-1m",
        "ml-latest-small",
        "gowalla",
        "yelp2018",
        "beauty",
        "sports",
        "goodbooks",
        "complete-journey",
    ]
    assert set(promised) <= set(recipe_names())


@pytest.mark.parametrize("name", recipe_names())
def test_json_form_reads_back_as_the_same_recipe(name: str) -> None:
    recipe = load_recipe(name)
    assert read(json.loads(json.dumps(recipe.to_json()))) == recipe


def test_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="got 'ml-1mm'; did you mean 'ml-1m'"):
        load_recipe("ml-1mm")


def test_toml_file_by_path(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(
        'name = "own"\nlog = {files = ["a"], user = "u", item = "i"}\nprotocol = {name = "strong-generalization"}'
    )
    assert load_recipe(str(path)).name == "own"
    path.write_text("name = ")
    with pytest.raises(ConfigError, match=r"own\.toml: not TOML"):
        load_recipe(str(path))
    with pytest.raises(ConfigError, match="no such recipe file"):
        load_recipe(str(tmp_path / "none.toml"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (changed("filters", min_user_event=3), "unknown setting 'min_user_event'; did you mean 'min_user_events'"),
        (changed("filters", deduplicate="all"), "filters: deduplicate: got 'all', expected one of"),
        (changed("filters", min_user_events=0), "min_user_events: got 0, expected 1 or more"),
        (changed("filters", k_core=True), "k_core: got true, but neither"),
        (changed("protocol", name="random"), "protocol: name: got 'random', expected one of"),
        (changed("protocol", test_fraction=0.1), "protocol: unknown setting 'test_fraction'"),
        (changed("log", test_files=["b.csv"]), "under the leave-last-out protocol"),
        (changed("log", item="u"), "expected a different one for each role"),
        (changed("log", files=[]), "log.files: got none"),
        ({**LAST_OUT, "files": {"b.csv": {}}}, "got 'b.csv', which nothing reads"),
        ({**LAST_OUT, "files": {"a.csv": {"header": False}}}, "header: got false without columns"),
        ({"name": "x", "log": MINIMAL["log"]}, "the setting 'protocol' is missing"),
        ({**MINIMAL, "protocol": {"name": "published"}}, "the published protocol needs test files"),
        ({**LAST_OUT, "log": {"files": ["a"], "user": "u", "item": "i"}}, "leave-last-out needs an order"),
        ({**LAST_OUT, "items": {"file": "f", "id": "i", "keep": ["id"]}}, "got the name 'id' for two columns"),
        ({**LAST_OUT, "items": {"file": "f", "id": "i", "title": "t", "keep": ["title"]}}, "the name 'title' for two"),
    ],
)
def test_a_wrong_recipe_is_told_where_and_what(content: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read(content)
    assert str(caught.value).startswith("test")


def test_global_time_needs_times_that_users_share() -> None:
    for log in ({"time_unit": "order"}, {"time": None, "time_unit": None}):
        content = {**changed("log", **log), "protocol": {"name": "global-time"}}
        with pytest.raises(ConfigError, match="global-time needs instants"):
            read(content)


def test_published_split_takes_no_filters() -> None:
    content = {**changed("log", test_files=["b"]), "protocol": {"name": "published"}, "filters": {"min_rating": 3}}
    with pytest.raises(ConfigError, match="takes its files as they are"):
        read(content)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "categorical", "edges": (1.0,)}, "a categorical feature has none"),
        ({"kind": "multi_hot", "columns": ("a",), "separator": "|"}, "expected 0/1 columns or one column"),
        ({"kind": "bucketed", "edges": (2.0, 1.0)}, "strictly increasing"),
        ({"kind": "text", "num_buckets": 1}, "expected 2 or more"),
    ],
)
def test_feature_settings_of_another_kind_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FeatureRecipe(**settings)
