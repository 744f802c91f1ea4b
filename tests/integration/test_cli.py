"""The verbs as a person types them: the whole path on a slice of a log, and what is said when something is wrong."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from recsys.cli import VERBS
from recsys.data.dataset import Dataset
from recsys.index.calibrate import MAX_RUNGS, MIN_RUNGS
from recsys.index.rungs import Ladder
from recsys.testing import small_bundle
from serving.client import Client

BIN = Path(sys.executable).parent


def recsys(*words: str | Path, expect: int = 0) -> subprocess.CompletedProcess[str]:
    finished = subprocess.run(
        [BIN / "recsys", *words], capture_output=True, text=True, timeout=240, check=False,
        env=os.environ | {"COLUMNS": "200", "NO_COLOR": "1"},
    )  # fmt: skip
    assert finished.returncode == expect, finished.stdout + finished.stderr
    return finished


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Everything the verbs write, one after the other, from real MovieLens-100K; trained on a slice of it."""
    work = tmp_path_factory.mktemp("path")
    recsys("prepare", "--recipe", "ml-100k", "--out", work / "dataset")
    (work / "train.toml").write_text("epochs = 1\nbatch_size = 128\n[model]\nwidths = [4, 8]\nembedding_dim = 8\n")
    recsys(
        "train", "--config-file", work / "train.toml", "--dataset", work / "dataset", "--out", work / "run",
        "--model.hidden", "16", "--max-events-per-user", "10", "--device", "cpu",
    )  # fmt: skip
    recsys("evaluate", "--run", work / "run", "--dataset", work / "dataset")
    recsys(
        "publish", "--run", work / "run", "--dataset", work / "dataset", "--out", work / "bundles",
        "--num-queries", "40", "--repeats", "1",
    )  # fmt: skip
    return work


@pytest.fixture(scope="module")
def address(path):
    process = subprocess.Popen(
        [BIN / "recsys-serve", "--bundles", path / "bundles", "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    address = process.stdout.readline().strip().removeprefix("listening on ")
    with Client(address) as client:
        client.wait_until_serving(timeout_s=60)
    yield address
    process.terminate()
    process.stdout.close()
    assert process.wait(timeout=30) == 0


def test_settings_come_from_the_file_and_then_from_the_command_line(path):
    config = json.loads((path / "run" / "config.json").read_text())["config"]
    assert config["model"]["widths"] == [4, 8]
    assert config["model"]["hidden"] == [16]
    assert config["batch_size"] == 128


def test_evaluation_covers_every_width_and_baseline(path):
    report = json.loads((path / "run" / "evaluation-test.json").read_text())
    names = [row["name"] for row in report["rows"]]
    assert names[:2] == ["width 4", "width 8"]
    assert names[2:] == ["popularity", "popularity, 7 days", "item-item"]
    assert all(0 <= row["metrics"]["ndcg@10"]["mean"] <= 1 for row in report["rows"])


def test_the_published_ladder_has_rungs_enough(path):
    current = (path / "bundles" / "CURRENT").read_text().strip()
    ladder = Ladder.load(path / "bundles" / current / "ladder.json")
    assert MIN_RUNGS <= len(ladder.rungs) <= MAX_RUNGS
    assert {rung.width for rung in ladder.rungs} == {4, 8}
    assert max(rung.mean_overlap for rung in ladder.steps) == 1


def test_recommend_prints_titles_and_what_was_done(path, address):
    said = recsys("recommend", "--user", "42", "--k", "4", "--width", "4", "--address", address).stdout
    titles = Dataset(path / "dataset").item_frame["title"].to_list()
    lines = said.strip().splitlines()
    assert len(lines) == 5
    assert all(any(title in line for title in titles) for line in lines[:4])
    assert lines[4].startswith("width 4 by ")


def test_recommend_as_json(address):
    answer = json.loads(recsys("recommend", "--user", "nobody", "--k", "3", "--json", "--address", address).stdout)
    assert len(answer["items"]) == 3
    assert answer["cold"] is True
    assert answer["report"]["width"] == 8


def test_another_dataset_of_the_same_size_is_refused(path, tmp_path):
    recsys("prepare", "--recipe", "ml-100k", "--protocol", "global-time", "--out", tmp_path / "other")
    both = ["--run", path / "run", "--dataset", tmp_path / "other"]
    for words in (["evaluate", *both], ["publish", *both, "--out", tmp_path / "bundles"]):
        said = recsys(*words, expect=1).stderr
        assert f"recsys {words[0]}: error: dataset: got" in said
        assert "Traceback" not in said
    assert not (tmp_path / "bundles").exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["prepar"], 2, "unknown verb 'prepar', did you mean prepare? Expected one of prepare, train"),
        (["prepare", "--recipe", "ml-10m", "--out", "x"], 1, "ml-10m"),
        (
            ["prepare", "--interactions", "no.csv", "--time-column", "t", "--protocol", "global-time", "--out", "x"],
            1,
            "no.csv",
        ),
        (["train", "--dataset", "nowhere", "--out", "x"], 1, "nowhere: got no manifest.json there"),
        (["train", "--config-file", "none.toml", "--dataset", "d", "--out", "x"], 1, "none.toml: no such file"),
        (["train", "--config-file"], 1, "--config-file: got no file"),
        (["train", "--dataset", "d", "--out", "x", "--batch-size", "0"], 1, "batch_size: got 0"),
        (["train", "--dataset", "d", "--out", "x", "--model.widths", "8", "4"], 2, "strictly increasing"),
        (["train", "--dataset", "d", "--out", "x", "--epocs", "3"], 2, "--epochs"),
        (["evaluate", "--run", "nowhere", "--dataset", "d"], 1, "nowhere: no such run folder"),
        (["publish", "--run", "nowhere", "--dataset", "d", "--out", "x"], 1, "nowhere: no such run folder"),
        (["rollback", "--bundles", "nowhere"], 1, "nowhere"),
        (["recommend", "--user", "1", "--address", "127.0.0.1:1"], 1, "127.0.0.1:1"),
        (["recommend", "--user", "1", "--k", "-1"], 1, "k: got -1"),
    ],
)
def test_mistakes_are_explained_without_a_traceback(tmp_path, monkeypatch, words, code, message):
    monkeypatch.chdir(tmp_path)
    said = recsys(*words, expect=code)
    assert message in said.stderr + said.stdout
    assert "Traceback" not in said.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [[], ["--help"], ["help"]])
def test_help_lists_the_verbs(words):
    said = recsys(*words).stdout
    assert all(verb in said for verb in ("prepare", "train", "evaluate", "publish", "recommend", "recsys-serve"))


@pytest.mark.parametrize("name", VERBS)
def test_help_teaches_by_an_example_whose_options_there_are(name):
    said = " ".join(recsys(name, "--help").stdout.split())
    shown, explained = said.split(f"For example: recsys {name} ")[1].split(" ", 1)
    options = re.findall(r"--[a-z.-]+", VERBS[name].example)
    assert options[0] == shown
    assert all(re.search(rf"{option}[ ,|]", explained.replace(VERBS[name].example, "")) for option in options)


def test_rollback_makes_the_bundle_before_current_again(tmp_path):
    first, second = (small_bundle(tmp_path, num_items=60, seed=seed).name for seed in (1, 2))
    assert f"{tmp_path / first} is CURRENT again" in recsys("rollback", "--bundles", tmp_path).stdout
    assert (tmp_path / "CURRENT").read_text().strip() == first
    recsys("rollback", "--bundles", tmp_path)
    assert (tmp_path / "CURRENT").read_text().strip() == second
