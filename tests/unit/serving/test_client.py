"""What the client builds and refuses before anything is sent, and how it fails without a server."""

import grpc
import pytest

from recsys.errors import RequestError
from serving.client import Client, ServingError, items_where, user


def test_a_user_is_built_from_an_id_or_a_history():
    assert user("u1").id == "u1"
    assert not user("u1").HasField("history")
    visitor = user(history=[], features={"group": "young", "genres": ["a", "b"]})
    assert visitor.HasField("history")
    assert not visitor.HasField("id")
    assert {name: list(several.values) for name, several in visitor.features.items()} == {
        "group": ["young"],
        "genres": ["a", "b"],
    }


def test_a_filter_is_built_from_ids_and_values():
    where = items_where(include_item_ids=["i1"], include={"genre": "comedy"}, exclude={"genre": ["drama", "horror"]})
    assert list(where.include_item_ids) == ["i1"]
    assert {name: list(several.values) for name, several in where.include.items()} == {"genre": ["comedy"]}
    assert {name: list(several.values) for name, several in where.exclude.items()} == {"genre": ["drama", "horror"]}


@pytest.mark.parametrize(("field", "given"), [("k", {"k": -1}), ("budget.width", {"k": 1, "width": -8})])
def test_counts_that_the_wire_cannot_carry_are_refused_by_field(field, given):
    with Client("localhost:1") as client, pytest.raises(RequestError) as refused:
        client.recommend(user_id="u1", **given)
    assert refused.value.field == field


def test_no_server_is_a_readable_error():
    with Client("localhost:1", deadline_ms=5000) as client:
        with pytest.raises(ServingError, match="localhost:1: UNAVAILABLE") as failed:
            client.describe()
        assert failed.value.code is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(ServingError, match="localhost:1: DEADLINE_EXCEEDED"):
            client.wait_until_serving(timeout_s=0.2)
