"""The report of a real run: its numbers are those of `evaluate`, its page is whole, and it needs nothing beside it."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest

from recsys import artifact
from recsys.config import TrainConfig
from recsys.data.dataset import Dataset
from recsys.errors import ArtifactError, ConfigError
from recsys.evaluate.metrics import overlap
from recsys.evaluate.verb import EvaluateOptions, assess, evaluate
from recsys.index.rungs import Ladder
from recsys.ragged import Ragged
from recsys.report.examples import examples_of
from recsys.report.page import answer_size
from recsys.report.verb import ReportOptions, report
from recsys.settings import from_mapping
from recsys.testing import small_bundle
from recsys.train.trainer import TrainOptions, train

VOID = {"meta", "br", "img", "link", "hr", "input"}


class Page(HTMLParser):
    """Insists that elements nest, and keeps attributes, ids, text and the cells of tables."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.attributes, self.text, self.tables = [], [], [], {}
        self._table = None
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self._table = self.tables.setdefault(dict(attrs).get("id", len(self.tables)), [])
        if tag == "tr":
            self._table.append([])
        if tag in ("th", "td"):
            self._table[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data):
        self.text.append(data)
        if "td" in self.open or "th" in self.open:
            self._table[-1][-1] += data

    @property
    def ids(self):
        return [value for _, name, value in self.attributes if name == "id"]


@pytest.fixture(scope="module")
def options(simulated, run, bundles, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    return ReportOptions(run=run, dataset=simulated, bundles=bundles, out=folder / "report.html", png=folder / "png")


@pytest.fixture(scope="module")
def text(options):
    return report(options).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


@pytest.fixture(scope="module")
def without_bundle(simulated, run, tmp_path_factory):
    out = tmp_path_factory.mktemp("bare") / "deep" / "report.html"
    return report(ReportOptions(run=run, dataset=simulated, out=out, num_examples=0)).read_text(encoding="utf-8")


def test_elements_nest_and_names_are_unique(page):
    assert len(page.ids) == len(set(page.ids))
    links = [value[1:] for _, name, value in page.attributes if name == "href" and value.startswith("#")]
    assert links
    assert set(links) <= set(page.ids)


def test_nothing_is_loaded_from_elsewhere(text, page):
    assert not [found for found in page.attributes if found[1] in ("src", "href", "srcset") and found[2][:1] != "#"]
    assert not re.search(r"@import|<script|<link", text)
    assert all(target.startswith("#") for target in re.findall(r"url\(['\"]?([^)]*)\)", text))
    assert "http" not in text


def test_pictures_take_their_colours_from_the_theme(text):
    drawings = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert len(drawings) == 10
    for one in drawings:
        assert "var(--ink)" in one
        assert set(re.findall(r"#[0-9a-f]{6}\b", one)) <= {"#000000"}
    used = set(re.findall(r"var\((--[a-z0-9-]+)\)", text))
    light, dark = (set(re.findall(r"(--[a-z0-9-]+): #", found)) for found in re.findall(r":root \{(.*?)\}", text))
    assert used <= light == dark


def test_pictures_are_written_as_png_too(options, text):
    names = {path.name for path in options.png.iterdir()}
    assert len(names) == 10
    assert {"activity.png", "training-loss.png", "quality-ndcg-10.png", "frontier-latency.png", "energy.png"} <= names
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in options.png.iterdir())


def test_numbers_are_those_of_evaluate(page, options, tmp_path):
    evaluate(EvaluateOptions(run=options.run, dataset=options.dataset, out=tmp_path / "numbers.json"))
    rows = json.loads((tmp_path / "numbers.json").read_text())["rows"]
    header, *shown = page.tables["numbers"]
    assert [row[0] for row in shown] == [row["name"] for row in rows]
    for cells, row in zip(shown, rows, strict=True):
        for name, cell in zip(header[1:], cells[1:], strict=True):
            found = row["metrics"].get(name)
            expected = [] if found is None else [one for one in (found["mean"], found["margin95"]) if one is not None]
            assert [float(one) for one in cell.replace("±", " ").split()] == pytest.approx(expected, abs=5e-5)


def test_rungs_are_those_of_the_ladder(page, options):
    version = (options.bundles / "CURRENT").read_text().strip()
    ladder = Ladder.load(options.bundles / version / "ladder.json")
    rungs = next(rows for rows in page.tables.values() if rows[0][1:2] == ["rung"])[1:]
    assert [row[1] for row in rungs] == [rung.name for rung in ladder.rungs]
    assert [row[2] == "*" for row in rungs] == [rung.on_ladder for rung in ladder.rungs]
    assert version in "".join(page.text)


def test_narrower_answers_are_kept_lost_and_gained(options):
    evaluation = assess(options.run, options.dataset)
    k, titles = 10, evaluation.dataset.titles
    examples = examples_of(evaluation, num_users=5, k=k, seed=3)
    assert [one.user_id for one in examples] == [
        one.user_id for one in examples_of(evaluation, num_users=5, k=k, seed=3)
    ]
    for example in examples:
        place = int(np.flatnonzero(evaluation.queries.user == evaluation.dataset.users.row(example.user_id))[0])
        full = [titles[row] for row in evaluation.ranked[16][place][:k]]
        assert [item.title for item in example.full] == full
        assert [answer.width for answer in example.narrower] == [4, 8]
        for answer in example.narrower:
            narrow = [titles[row] for row in evaluation.ranked[answer.width][place][:k]]
            kept, lost, gained = ([item.title for item in found] for found in (answer.kept, answer.lost, answer.gained))
            assert sorted(kept + gained) == sorted(narrow)
            assert sorted(kept + lost) == sorted(full)
            assert not set(lost) & set(narrow)


def test_of_many_held_out_items_those_that_were_found_come_first_and_the_rest_is_counted(options):
    evaluation = assess(options.run, options.dataset)
    queries, num_items = evaluation.queries, len(evaluation.dataset.items)
    everything = Ragged.from_lists([np.arange(num_items)] * len(queries))
    found = replace(evaluation, queries=replace(queries, target=everything))
    for example in examples_of(found, num_users=2, k=10, seed=3):
        shown = [item.title for item in example.targets]
        assert (len(shown), example.num_targets) == (12, num_items)
        assert sorted(shown[:10]) == sorted(item.title for item in example.full)


def test_missing_parts_are_said(without_bundle):
    page = Page(without_bundle)
    said = " ".join("".join(page.text).split())
    assert "No bundle was given, so there is no ladder to show." in said
    assert "None were asked for." in said
    assert len(re.findall("<svg", without_bundle)) == 8


def test_a_run_without_checkpoints_has_no_curves(run, simulated, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "towers").symlink_to(run / "towers")
    text = report(ReportOptions(run=tmp_path / "run", dataset=simulated, out=tmp_path / "x.html")).read_text()
    assert "no training curves" in text
    assert "training-loss" not in text


def test_hostile_titles_are_text(run, simulated, tmp_path):
    """The dataset's content is part of its fingerprint, so the towers are told of the new one."""
    hostile = "<script>alert('1')</script> & \"quoted\" {{ 7 * 7 }}"
    dataset = Dataset(simulated)
    with artifact.staged(tmp_path / "dataset") as folder:
        for path in [*simulated.glob("*.parquet"), *simulated.glob("*.arrow")]:
            (folder / path.name).write_bytes(path.read_bytes())
        dataset.item_frame.with_columns(pl.lit(hostile).alias("title")).write_parquet(folder / "items.parquet")
        kept = ("fingerprint", "kind", "format", "versions", "files")
        content = {name: value for name, value in dataset.manifest.items() if name not in kept}
        artifact.seal(folder, "dataset", content | {"name": "<b>bold</b>"})
    fingerprint = Dataset(tmp_path / "dataset").manifest["fingerprint"]
    with artifact.staged(tmp_path / "run" / "towers") as folder:
        manifest = artifact.read_manifest(run / "towers", "towers")
        for name in manifest["files"]:
            (folder / name).write_bytes((run / "towers" / name).read_bytes())
        content = {name: value for name, value in manifest.items() if name not in kept}
        artifact.seal(folder, "towers", content | {"dataset_fingerprint": fingerprint})
    text = report(
        ReportOptions(run=tmp_path / "run", dataset=tmp_path / "dataset", out=tmp_path / "report.html")
    ).read_text(encoding="utf-8")
    page = Page(text)
    assert "<script" not in text
    assert "<b>bold" not in text
    assert "".join(page.text).count(hostile) >= 10


def test_a_bundle_of_another_run_is_refused(options, tmp_path):
    small_bundle(tmp_path)
    with pytest.raises(ArtifactError, match="expected a bundle that was published from it"):
        report(replace(options, bundles=tmp_path))


def test_a_ladder_that_was_altered_is_refused(options, tmp_path):
    version = (options.bundles / "CURRENT").read_text().strip()
    (tmp_path / version).mkdir()
    (tmp_path / "CURRENT").write_text(version)
    for name in ("manifest.json", "ladder.json"):
        (tmp_path / version / name).write_text((options.bundles / version / name).read_text())
    (tmp_path / version / "ladder.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"ladder\.json: SHA-256"):
        report(replace(options, bundles=tmp_path))


def test_a_negative_number_of_examples_is_refused(options):
    with pytest.raises(ConfigError, match="num_examples: got -1"):
        replace(options, num_examples=-1)


def test_a_run_that_learned_from_validation_has_no_validation_curve(simulated, run, tmp_path):
    before = from_mapping(TrainConfig, json.loads((run / "config.json").read_text())["config"], where="config")
    config = replace(before, include_validation=True, epochs=1)
    folder = train(TrainOptions(dataset=simulated, out=tmp_path / "run", config=config))
    text = report(ReportOptions(run=folder, dataset=simulated, out=tmp_path / "report.html")).read_text()
    assert "There is no validation curve" in text
    assert "training-validation" not in text


def test_prefixes_hold_more_of_the_answer_the_longer_their_lists(page, options):
    evaluation = assess(options.run, options.dataset)
    assert len(evaluation.queries) <= 512, "so that all users are looked at"
    header, *rows = page.tables["prefixes"]
    assert header[3:] == [f"in best{depth}" for depth in (10, 20, 40, 80)]
    shown = np.array([row[3:] for row in rows], dtype=float)
    ranked = evaluation.ranked
    expected = [
        [overlap(rows_QK, ranked[16], k=10, depth=depth).mean() for depth in (10, 20, 40, 80)]
        for rows_QK in ranked.values()
    ]
    np.testing.assert_allclose(shown, expected, atol=5e-5)
    assert (np.diff(shown, axis=1) >= 0).all()
    assert shown[0, 0] < shown[0, -1]
    assert (shown[-1] == 1).all()


@pytest.mark.parametrize(("num_items", "expected"), [(1, 10), (999, 10), (1000, 100), (10**6, 100)])
def test_long_answers_are_asked_of_large_catalogues(num_items, expected):
    assert answer_size(num_items) == expected
