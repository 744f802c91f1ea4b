from __future__ import annotations

import json

import numpy as np
import pytest

from recsys.config import ModelConfig
from recsys.data.schema import FeatureSpec
from recsys.errors import DataError
from recsys.model.layout import Layout
from recsys.ragged import Ragged

SPECS = (
    FeatureSpec(name="genres", side="item", kind="multi_hot", values=("a", "b", "c")),
    FeatureSpec(name="age", side="user", kind="bucketed", edges=(20.0, 40.0)),
)


def layout(**settings):
    return Layout(config=ModelConfig(history_windows=(1, 3), **settings), num_items=10, num_users=4, specs=SPECS)


def lists(ragged):
    return [ragged[row].tolist() for row in range(len(ragged))]


def test_history_and_item_id_share_the_item_table():
    inputs = (*layout().user_inputs, *layout().item_inputs)
    sharing = [source.name for source in inputs if source.table == "item"]
    assert sharing == ["history_1", "history_3", "item_id"]
    assert layout().tables == {"item": 10, "item_genres": 3, "user_age": 3}


def test_a_user_table_only_if_asked():
    assert "user" not in layout().tables
    assert layout(user_id=True).tables["user"] == 4


def test_bags_hold_the_windows_and_features():
    bags = layout(user_id=True).user_bags(
        Ragged.from_lists([[1, 2, 3, 4], [], [5]]), {"age": Ragged.from_lists([[2], [], [0]])}, np.array([3, -1, 0])
    )
    assert lists(bags["history_1"]) == [[4], [], [5]]
    assert lists(bags["history_3"]) == [[2, 3, 4], [], [5]]
    assert lists(bags["user_id"]) == [[3], [], [0]]
    assert lists(bags["user_age"]) == [[2], [], [0]]


def test_bags_hold_the_features_of_the_last_items():
    made = layout(history_features=(2, 9))
    genres = Ragged.from_lists([[0], [], [1, 2], *[[2]] * 7])
    history = Ragged.from_lists([[0, 2, 1], [], [1]])
    bags = made.user_bags(history, {}, item_features={"genres": genres})
    assert lists(bags["history_2_genres"]) == [[1, 2], [], []]
    assert lists(bags["history_9_genres"]) == [[0, 1, 2], [], []]
    sharing = [source.name for source in made.user_inputs if source.table == "item_genres"]
    assert sharing == ["history_2_genres", "history_9_genres"]
    assert made.config.longest_history == 9


def test_missing_features_and_unknown_items_are_empty_bags():
    assert lists(layout().user_bags(Ragged.from_lists([[1]]), {})["user_age"]) == [[]]
    assert lists(layout().item_bags(np.array([3, -1]), {})["item_id"]) == [[3], []]


def test_features_of_another_length_are_refused():
    with pytest.raises(DataError, match="feature genres: got 1 lists, expected 2"):
        layout().item_bags(np.array([0, 1]), {"genres": Ragged.from_lists([[0]])})


def test_json_is_a_way_there_and_back():
    original = layout(user_id=True)
    assert Layout.from_json(json.loads(json.dumps(original.to_json()))) == original
