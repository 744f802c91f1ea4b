"""Feature specs: what one value becomes."""

import json

import pytest

from recsys.data.schema import FeatureSpec, hash_word, words
from recsys.errors import ConfigError


def test_each_kind() -> None:
    categorical = FeatureSpec(name="c", side="item", kind="categorical", values=("a", "b"))
    assert [categorical.encode(one) for one in ("b", "?", None)] == [[1], [], []]
    several = FeatureSpec(name="m", side="item", kind="multi_hot", values=("a", "b"))
    assert several.encode(["b", "?", "a"]) == [1, 0]
    bucketed = FeatureSpec(name="n", side="user", kind="bucketed", edges=(1.0, 2.0))
    assert [bucketed.encode(one) for one in (0.5, 1, 1.5, 2, float("nan"), None)] == [[0], [1], [1], [2], [], []]
    text = FeatureSpec(name="t", side="item", kind="text", num_buckets=8)
    assert text.encode("Two two") == [hash_word("two", 8)] * 2
    hashed = FeatureSpec(name="h", side="item", kind="hashed", num_buckets=8)
    assert hashed.encode(["Two two", "never seen"]) == [hash_word("Two two", 8), hash_word("never seen", 8)]
    assert [hashed.encode(one) for one in (17, None, [])] == [[hash_word("17", 8)], [], []]
    assert hashed.encode_values(["a", "b"]) == hashed.encode(["a", "b"])
    assert [spec.num_rows for spec in (categorical, several, bucketed, text, hashed)] == [2, 2, 3, 8, 8]


def test_words_and_hashes_are_fixed() -> None:
    assert words("L'Été_2: Rock'n'Roll!") == ["l", "été", "2", "rock", "n", "roll"]
    assert hash_word("story", 1 << 16) == 1080


def test_json_round_trip() -> None:
    spec = FeatureSpec(name="n", side="user", kind="bucketed", edges=(1.0, 2.5))
    assert FeatureSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_a_kind_needs_its_settings() -> None:
    with pytest.raises(ConfigError, match="a text feature needs"):
        FeatureSpec(name="t", side="item", kind="text")
    with pytest.raises(ConfigError, match="a hashed feature needs"):
        FeatureSpec(name="h", side="item", kind="hashed")
    with pytest.raises(ConfigError, match="kind: got 'words'"):
        FeatureSpec(name="t", side="item", kind="words")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["id", "price.usd"])
def test_names_that_cannot_be_tables_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="expected one without dots, other than 'id'"):
        FeatureSpec(name=name, side="item", kind="text", num_buckets=4)
