"""The verbs as a person types them: the whole path on a slice of a log, and what is said when something is wrong."""

from __future__ import annotations

import io
import json
import re
import shlex
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from recsys.cli import VERBS, main
from recsys.command import EXIT_CODES
from recsys.data.dataset import Dataset
from recsys.index.calibrate import MAX_RUNGS, MIN_RUNGS
from recsys.index.rungs import Ladder
from recsys.testing import small_bundle
from serving.client import Client

BIN = Path(sys.executable).parent


def here(*words: str | Path) -> tuple[int, str, str]:
    """Run a verb in this process, to its end; returns exit code, standard output and standard error."""
    code, out, err = 0, io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["recsys", *map(str, words)])
        patch.setenv("NO_COLOR", "1")
        patch.setenv("COLUMNS", "200")
        try:
            main()
        except SystemExit as stop:
            code = stop.code
    return code, out.getvalue(), err.getvalue()


def done(*words: str | Path) -> str:
    """Run a verb that succeeds; returns its standard output."""
    code, out, err = here(*words)
    assert code == 0, out + err
    return out


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Everything the verbs write, one after the other, from real MovieLens-100K; trained on a slice of it."""
    work = tmp_path_factory.mktemp("path")
    done("prepare", "--recipe", "ml-100k", "--out", work / "dataset")
    (work / "train.toml").write_text("epochs = 1\nbatch_size = 128\n[model]\nwidths = [4, 8]\nembedding_dim = 8\n")
    done(
        "train", "--config-file", work / "train.toml", "--dataset", work / "dataset", "--out", work / "run",
        "--model.hidden", "16", "--max-events-per-user", "10", "--device", "cpu",
    )  # fmt: skip
    said = done("evaluate", "--run", work / "run", "--dataset", work / "dataset", "--json")
    assert json.loads(said) == json.loads((work / "run" / "evaluation-test.json").read_text())
    done(
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
    words = ["recommend", "--user", "42", "--k", "4", "--width", "4", "--address", address]
    said = subprocess.run([BIN / "recsys", *words], capture_output=True, text=True, timeout=60, check=True).stdout
    titles = Dataset(path / "dataset").item_frame["title"].to_list()
    lines = said.strip().splitlines()
    assert len(lines) == 5
    assert all(any(title in line for title in titles) for line in lines[:4])
    assert lines[4].startswith("width 4 by ")


def test_recommend_filters_by_the_values_of_features(path, address):
    said = done(
        "recommend", "--user", "42", "--include", "genres=Comedy", "genres=Drama", "--exclude", "genres=Romance",
        "--json", "--address", address,
    )  # fmt: skip
    items = Dataset(path / "dataset").item_frame
    found = items.filter(items["id"].is_in([item["item_id"] for item in json.loads(said)["items"]]))
    assert len(found) == 10
    assert all({"Comedy", "Drama"} & set(genres) and "Romance" not in genres for genres in found["genres"])


def test_recommend_as_json(address):
    answer = json.loads(done("recommend", "--user", "nobody", "--k", "3", "--json", "--address", address))
    assert len(answer["items"]) == 3
    assert answer["cold"] is True
    assert answer["report"]["width"] == 8


def test_another_dataset_of_the_same_size_is_refused(path, tmp_path):
    done("prepare", "--recipe", "ml-100k", "--protocol", "global-time", "--out", tmp_path / "other")
    both = ["--run", path / "run", "--dataset", tmp_path / "other"]
    for words in (["evaluate", *both], ["publish", *both, "--out", tmp_path / "bundles"]):
        code, _, said = here(*words)
        assert code == 2
        assert f"recsys {words[0]}: error: dataset: got" in said
        assert "Traceback" not in said
    assert not (tmp_path / "bundles").exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["prepar"], 2, "unknown verb 'prepar', did you mean prepare? Expected one of init, prepare, train"),
        (["prepare", "--recipe", "ml-10m", "--out", "x"], 2, "ml-10m"),
        (
            ["prepare", "--interactions", "no.csv", "--time-column", "t", "--protocol", "global-time", "--out", "x"],
            2,
            "no.csv",
        ),
        (["train", "--dataset", "nowhere", "--out", "x"], 2, "nowhere: got no manifest.json there"),
        (["train", "--config-file", "none.toml", "--dataset", "d", "--out", "x"], 2, "none.toml: no such file"),
        (["train", "--config-file"], 2, "--config-file: got no file"),
        (["train", "--dataset", "d", "--out", "x", "--batch-size", "0"], 2, "batch_size: got 0"),
        (["train", "--dataset", "d", "--out", "x", "--model.widths", "8", "4"], 2, "strictly increasing"),
        (["train", "--dataset", "d", "--out", "x", "--epocs", "3"], 2, "--epochs"),
        (["publish", "--run", "r", "--dataset", "d", "--out", "x", "--num-querys", "3"], 2, "--num-queries"),
        (["evaluate", "--run", "nowhere", "--dataset", "d"], 2, "nowhere: no such run folder"),
        (["report", "--run", "nowhere", "--dataset", "d", "--out", "x"], 2, "nowhere: no such run folder"),
        (["publish", "--run", "nowhere", "--dataset", "d", "--out", "x"], 2, "nowhere: no such run folder"),
        (["rollback", "--bundles", "nowhere"], 2, "nowhere"),
        (["recommend", "--user", "1", "--address", "127.0.0.1:1"], 1, "127.0.0.1:1"),
        (["recommend", "--user", "1", "--k", "-1"], 2, "k: got -1"),
        (["recommend", "--user", "1", "--include", "Comedy"], 2, "include: got 'Comedy', expected FEATURE=VALUE"),
    ],
)
def test_mistakes_are_explained_without_a_traceback(tmp_path, monkeypatch, words, code, message):
    monkeypatch.chdir(tmp_path)
    ended, out, err = here(*words)
    assert ended == code
    assert message in err
    assert "Traceback" not in err
    assert not out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [[], ["--help"], ["help"]])
def test_help_lists_the_verbs_and_the_exit_codes(words):
    _, said, _ = here(*words)
    assert all(verb in said for verb in ("prepare", "train", "evaluate", "publish", "recommend", "recsys-serve"))
    assert all(f"  {code:>3}  {meaning}" in said for code, meaning in EXIT_CODES.items())


def test_a_traceback_is_shown_to_those_who_ask_for_it():
    code, _, said = here("evaluate", "--run", "nowhere", "--dataset", "d", "--debug")
    assert code == 2
    assert "Traceback (most recent call last)" in said
    assert "recsys evaluate: error:" in said


def test_what_no_user_could_help_is_a_failure_in_a_line(tmp_path):
    (tmp_path / "file").touch()
    code, _, said = here("prepare", "--recipe", "ml-100k", "--out", tmp_path / "file" / "dataset")
    assert code == 1
    assert said.startswith("recsys prepare: failed: [Errno 17] File exists")
    assert "Traceback" not in said


def test_a_pipe_that_closes_early_is_no_news():
    command = f"{shlex.quote(str(BIN / 'recsys'))} prepare --help | head -1"
    said = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout.startswith("usage: recsys prepare")
    assert not said.stderr


def test_any_verb_reads_a_file_that_the_command_line_overrides(tmp_path):
    file, dataset = tmp_path / "prepare.toml", tmp_path / "dataset"
    file.write_text(f'recipe = "ml-100k"\nprotocol = "global-time"\nout = "{dataset}"\nseed = 3\n')
    code, out, err = here("prepare", "--config-file", file, "--protocol", "leave-last-out", "--json")
    assert (code, err) == (0, "")
    said = json.loads(out)
    assert (said["dataset"], said["protocol"], said["seed"]) == (str(dataset), "leave-last-out", 3)
    assert said["counts"]["rows_read"] == 100_000


@pytest.mark.parametrize(
    ("verb", "text", "message"),
    [
        ("prepare", "receipt = 'ml-100k'", "unknown setting 'receipt'; did you mean 'recipe'?"),
        ("prepare", "seed = 'one'", "seed: got 'one', expected int"),
        ("train", "dataset = 'd'\n[model]\nwidth = [4]", "model: unknown setting 'width'; did you mean 'widths'?"),
        ("train", "epochs = 0", "epochs: got 0, expected above 0"),
        ("publish", "num_querys = 3", "unknown setting 'num_querys'; did you mean 'num_queries'?"),
        ("publish", "[space]\nengine = ['ivf']", "space: unknown setting 'engine'; did you mean 'engines'?"),
        ("rollback", "bundle = 'b'", "unknown setting 'bundle'; did you mean 'bundles'?"),
    ],
)
def test_mistakes_in_a_file_are_named_with_their_place(tmp_path, verb, text, message):
    file = tmp_path / "options.toml"
    file.write_text(text + "\n")
    code, out, err = here(verb, "--config-file", file)
    assert code == 2
    assert f"recsys {verb}: error: {file}: {message}" in err
    assert not out


def test_ctrl_c_in_training_says_how_to_go_on_and_that_works(simulated, tmp_path):
    words = ["train", "--dataset", simulated, "--out", tmp_path / "run", "--batch-size", "16", "--epochs", "100000"]
    words += ["--patience", "100000", "--model.hidden", "8", "--model.widths", "4", "8", "--model.embedding-dim", "8"]
    with subprocess.Popen([BIN / "recsys", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as one:
        until = time.monotonic() + 200
        while not list(tmp_path.glob("run/tensorboard/*")) and time.monotonic() < until:
            time.sleep(0.02)
        one.send_signal(signal.SIGINT)
        said = one.communicate(timeout=60)
    assert one.returncode == 130, said
    assert not said[0]
    first, second = said[1].strip().splitlines()[-2:]
    assert first == "recsys train: interrupted"
    assert list(tmp_path.glob("run/checkpoints/step-*"))
    again = shlex.split(second.removeprefix("recsys train: to go on: "))
    assert again == ["recsys", *map(str, words), "--resume"]
    code, out, _ = here(*again[1:], "--epochs", "1", "--json")
    done = json.loads(out)
    assert code == 0
    assert done["epochs"] >= 1
    assert done["plan"]["tables"]["item"]["num_rows"] > 0
    assert Path(done["towers"]).is_dir()


def test_ctrl_c_elsewhere_leaves_nothing_behind(path, tmp_path):
    words = ["publish", "--run", path / "run", "--dataset", path / "dataset", "--out", tmp_path / "bundles"]
    with subprocess.Popen([BIN / "recsys", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as one:
        until = time.monotonic() + 200
        while not list(tmp_path.glob("bundles/.staging-*")) and time.monotonic() < until:
            time.sleep(0.02)
        one.send_signal(signal.SIGINT)
        said = one.communicate(timeout=60)
    assert one.returncode == 130, said
    assert said[1].strip() == "recsys publish: interrupted"
    assert not list((tmp_path / "bundles").iterdir())


@pytest.mark.parametrize("name", VERBS)
def test_help_teaches_by_an_example_whose_options_there_are(name):
    _, out, _ = here(name, "--help")
    said = " ".join(out.split())
    shown, explained = said.split(f"For example: recsys {name} ")[1].split(" ", 1)
    options = re.findall(r"--[a-z.-]+", VERBS[name].example)
    assert shown == VERBS[name].example.split()[0]
    assert all(re.search(rf"{option}[ ,|]", explained.replace(VERBS[name].example, "")) for option in options)


def test_rollback_makes_the_bundle_before_current_again(tmp_path):
    first, second = (small_bundle(tmp_path, num_items=60, seed=seed).name for seed in (1, 2))
    assert f"{tmp_path / first} is CURRENT again" in here("rollback", "--bundles", tmp_path)[1]
    assert (tmp_path / "CURRENT").read_text().strip() == first
    assert json.loads(here("rollback", "--bundles", tmp_path, "--json")[1]) == {"bundle": str(tmp_path / second)}
    assert (tmp_path / "CURRENT").read_text().strip() == second
