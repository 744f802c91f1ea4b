"""The report: what programs read back, and what people see."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

from recsys.evaluate.protocol import Quality
from recsys.evaluate.report import Report


def quality(name, recall, *, width=None, overlap=None):
    per_query = {"recall@10": np.array(recall), "ndcg@10": np.array(recall) / 2}
    if overlap is not None:
        per_query["overlap@100"] = np.array(overlap)
    return Quality(name=name, width=width, per_query=per_query, coverage={"coverage@10": 0.25})


def report(**change):
    fields = {
        "dataset": "tiny",
        "split": "test",
        "mask_seen": True,
        "num_items": 1234,
        "widths": [
            quality("width 8", [0.0, 0.5, 0.5, 0.0], width=8, overlap=[0.5, 0.5, 0.5, 0.5]),
            quality("width 16", [0.5, 1.0, 0.5, 0.0], width=16, overlap=[1.0, 1.0, 1.0, 1.0]),
        ],
        "baselines": [quality("popularity", [0.0, 0.0, 0.0, 0.0]), quality("item-item", [0.5, 0.5, 0.5, 0.0])],
        "about": {"run": "abc"},
    }
    return Report(**(fields | change))


def shown(one, *, width=80):
    console = Console(width=width, record=True, file=io.StringIO(), force_terminal=True, color_system="standard")
    console.print(one)
    return console


def test_json_holds_every_number_with_its_margin(tmp_path):
    path = tmp_path / "deep" / "report.json"
    report().write(path)
    content = json.loads(path.read_text())
    assert {key: content[key] for key in ("dataset", "split", "num_queries", "num_items", "mask_seen", "about")} == {
        "dataset": "tiny",
        "split": "test",
        "num_queries": 4,
        "num_items": 1234,
        "mask_seen": True,
        "about": {"run": "abc"},
    }
    assert [(row["name"], row["width"]) for row in content["rows"]] == [
        ("width 8", 8),
        ("width 16", 16),
        ("popularity", None),
        ("item-item", None),
    ]
    found = content["rows"][0]["metrics"]
    assert found["recall@10"]["mean"] == 0.25
    assert found["recall@10"]["margin95"] == pytest.approx(1.96 * np.std([0, 0.5, 0.5, 0], ddof=1) / 2, rel=1e-4)
    assert found["coverage@10"] == {"mean": 0.25, "margin95": None}
    assert "overlap@100" not in content["rows"][2]["metrics"]


def test_the_full_width_is_compared_with_the_best_baseline_query_by_query():
    """Differences are 0, .5, 0, 0: mean .125, standard deviation .25."""
    recall, ndcg = report().to_json()["full_width_against_best_baseline"]
    assert (recall["metric"], recall["width"], recall["baseline"]) == ("recall@10", 16, "item-item")
    assert recall["mean"] == 0.125
    assert recall["margin95"] == pytest.approx(1.96 * 0.25 / 2, rel=1e-4)
    assert (ndcg["metric"], ndcg["mean"]) == ("ndcg@10", 0.0625)


def test_a_baseline_that_is_ahead_by_more_than_chance_is_named_with_where_to_read_on():
    full = quality("width 16", [0.0, 0.1, 0.0, 0.1], width=16)
    behind = report(widths=[full], baselines=[quality("popularity", [0.3] * 4), quality("item-item", [0.5] * 4)])
    assert behind.ahead() == ["item-item"]
    said = " ".join(shown(behind).export_text().split())
    assert "item-item is ahead by more than chance; what to try: docs/guides/own-data.md#where-a-baseline-is" in said
    assert report().ahead() == []
    assert report(widths=[full], baselines=[quality("item-item", [0.5, 0.0, 0.0, 0.0])]).ahead() == []
    assert "ahead" not in shown(report()).export_text()


def test_nothing_is_compared_without_baselines():
    assert report(baselines=[]).comparisons() == []
    assert report(widths=[]).comparisons() == []


def test_one_query_has_no_margin_and_stays_valid_json(tmp_path):
    one = report(widths=[quality("width 8", [0.5], width=8)], baselines=[quality("popularity", [0.0])])
    one.write(tmp_path / "report.json")
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["rows"][0]["metrics"]["recall@10"] == {"mean": 0.5, "margin95": None}


def test_people_see_a_title_the_numbers_and_the_comparison():
    lines = [line.rstrip() for line in shown(report()).export_text().splitlines()]
    assert lines[0] == "tiny test: 4 users, 1,234 items, seen ones left out"
    assert ["width", "8", ".2500", ".1250", ".2500", ".5000"] in [line.split() for line in lines]
    assert "width 16 minus item-item, user by user: recall@10 +0.1250 ± 0.2450" in lines


def test_the_best_of_each_column_is_bold_but_for_overlap():
    text = shown(report()).export_text(styles=True)
    assert "\x1b[1m.5000\x1b[0m" in text
    assert "\x1b[1m1.000\x1b[0m" not in text
    assert text.count("\x1b[1m.2500\x1b[0m") == 1 + 4  # the best ndcg, and everybody's coverage


def test_all_columns_fit_80_characters():
    names = [f"{name}@{k}" for name in ("recall", "ndcg") for k in (10, 20, 50, 100)] + ["mrr@10", "overlap@100"]
    full = Quality(
        name="width 128",
        width=128,
        per_query={name: np.array([0.0, 1.0]) for name in names},
        coverage={"coverage@10": 0.5},
    )
    rival = Quality(name="popularity, 7 days", width=None, per_query=full.per_query, coverage=full.coverage)
    text = shown(report(widths=[full], baselines=[rival])).export_text()
    assert max(map(len, text.splitlines())) <= 80
    for word in ("popularity,", "7 days", "coverage", "overlap", "@100"):
        assert word in text


def test_one_query_is_shown_without_margins():
    one = report(widths=[quality("width 8", [0.5], width=8)], baselines=[quality("popularity", [0.0])])
    assert shown(one).export_text().count("±") == 1  # in the sentence that says what it would mean
