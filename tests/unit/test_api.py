"""What `import recsys` gives: its names, its examples, and what it says of mistakes."""

from __future__ import annotations

import doctest
import subprocess
import sys

import pytest

import recsys
import recsys.api
import recsys.recommender
from recsys.errors import ArtifactError, ConfigError, RequestError
from recsys.recommender import Recommender
from recsys.testing import small_bundle
from serving.budget import Budget
from serving.engine import Engine
from serving.query import Query, User


def test_the_public_names_are_these():
    assert recsys.__all__ == ["Recommender", "evaluate", "prepare", "publish", "train"]
    assert recsys.api.__all__ == recsys.__all__
    assert dir(recsys) == recsys.__all__
    assert all(callable(getattr(recsys, name)) for name in recsys.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = recsys.nothing


@pytest.mark.parametrize("module", [recsys.api, recsys.recommender], ids=lambda module: module.__name__)
def test_the_examples_in_docstrings_hold(tmp_path, module):
    failed, tried = doctest.testmod(module, extraglobs={"work": tmp_path}, raise_on_error=False)
    assert tried > 5
    assert not failed


def test_importing_the_package_imports_nothing_large():
    code = "import recsys, sys; print(sorted({'torch', 'torchrec', 'polars', 'faiss', 'tyro'} & set(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout.strip() == "[]"


def test_a_verb_stays_a_function_once_its_module_is_imported():
    import recsys.publish
    import recsys.train.trainer

    with pytest.raises(ConfigError, match="train: unknown setting 'epocs'; did you mean 'epochs'"):
        recsys.train(dataset="d", out="o", epocs=3)
    with pytest.raises(ConfigError, match="publish: missing 2 required keyword-only arguments: 'dataset' and 'out'"):
        recsys.publish(run="r")
    assert recsys.train.trainer.RESUME == "--resume"


def test_mistakes_are_named_before_anything_is_read(tmp_path):
    with pytest.raises(ConfigError, match="prepare: unknown setting 'receipt'; did you mean 'recipe'"):
        recsys.prepare(receipt="ml-100k", out=tmp_path / "dataset")
    with pytest.raises(ConfigError, match="train: model: unknown setting 'width'; did you mean 'widths'"):
        recsys.train(dataset="d", out="o", model={"width": [4]})
    with pytest.raises(ConfigError, match="evaluate: split: got 'dev', expected one of"):
        recsys.evaluate(run="r", dataset="d", split="dev")
    with pytest.raises(ArtifactError, match="nowhere"):
        Recommender.load(tmp_path / "nowhere")


@pytest.fixture(scope="module")
def recommender(tmp_path_factory):
    root = tmp_path_factory.mktemp("bundles")
    small_bundle(root, num_items=700)
    return Recommender.load(root)


@pytest.mark.parametrize(
    "budget", [{"width": 4}, {"width": 16}, {"min_overlap": 0.5}, {"min_overlap": 1.0}, {}], ids=str
)
@pytest.mark.parametrize("whom", ["u3", "u11", None, "nobody"])
def test_answers_are_those_of_the_server(recommender, budget, whom):
    history = ["i5", "i77", "no such item", "i300"]
    here = recommender.recommend(whom, history=history if whom is None else None, k=10, exclude=["i1"], **budget)
    user = User(history=history) if whom is None else User(id=whom)
    there = Engine(recommender.bundle).recommend(Query(user=user, k=10, exclude=["i1"], budget=Budget(**budget)))
    (found,) = there.candidates
    assert here.ids == found.item_ids
    assert [item.score for item in here] == found.scores.tolist()
    assert (here.rung, here.expected_overlap) == (there.rung, there.expected_overlap)
    assert (here.cold, here.num_unknown) == (found.cold, found.num_unknown_history_items)


def test_a_rung_is_chosen_by_name_and_seen_items_by_wish(recommender):
    for rung in recommender.bundle.ladder.rungs:
        assert recommender.recommend("u3", k=5, rung=rung.name).rung == rung
    seen = set(recommender.bundle.items.ids(recommender.bundle.users.seen(3).tolist()))
    assert not seen & set(recommender.recommend("u3", k=690, exclude_seen=True).ids)
    assert seen <= set(recommender.recommend("u3", k=700, exclude_seen=False).ids)


def test_similar_items_begin_with_others(recommender):
    found = recommender.similar_items("i9", k=5)
    assert len(found) == 5
    assert "i9" not in found.ids
    assert all(item.title for item in found)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({}, "user"),
        ({"user": "u1", "history": ["i1"]}, "user"),
        ({"user": "u1", "k": 0}, "k"),
        ({"user": "u1", "width": 5}, "width"),
        ({"user": "u1", "width": 4, "rung": "exact4"}, "rung"),
        ({"user": "u1", "min_overlap": 1.5}, "min_overlap"),
        ({"user": "u1", "rung": "exact5"}, "rung"),
    ],
)
def test_a_question_that_cannot_be_answered_names_the_argument(recommender, arguments, field):
    with pytest.raises(RequestError) as caught:
        recommender.recommend(**arguments)
    assert caught.value.field == field
    with pytest.raises(RequestError, match="item: got 'i9999'"):
        recommender.similar_items("i9999")
