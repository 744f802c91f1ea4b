"""The quality benchmarks: configurations that can be read, targets, verdicts, pages that show what is recorded."""

import re
from pathlib import Path

import pytest

from benchmarks._configs import Target, benchmark_names, load_benchmark
from benchmarks._harness import recorded_parts
from benchmarks.quality import BEGIN, END, PAGE, _wanted, summary, table
from recsys.errors import ConfigError

README = Path(__file__).parents[3] / "README.md"
BASELINES = {"popularity": {"ndcg@10": 0.1, "recall@20": 0.3}, "item-item": {"ndcg@10": 0.2, "recall@20": 0.2}}


def part(metric, **values):
    known = {
        "must": 0.1,
        "aim": 0.2,
        "interval": [0.1, 0.2],
        "seeds": [1, 2],
        "best_baseline": {"name": "p", "mean": 0.05},
    }
    return {"date": "2026-01-02T03:04:05", "commit": "abc", "figures": {"metrics": {metric: known | values}}}


@pytest.mark.parametrize("name", benchmark_names())
def test_every_configuration_has_targets_and_is_64_wide(name):
    benchmark = load_benchmark(name)
    assert benchmark.targets
    assert all(target.must <= target.aim for target in benchmark.targets.values())
    assert benchmark.train.model.widths[-1] == 64


@pytest.mark.parametrize("name", benchmark_names())
def test_wider_settings_are_of_the_same_data_and_of_no_published_figure(name):
    wide, benchmark = load_benchmark(name, wide=True), load_benchmark(name)
    assert (wide.recipe, wide.protocol) == (benchmark.recipe, benchmark.protocol)
    assert wide == benchmark or (wide.train.model.widths[-1] > 64 and not wide.targets)


def test_an_unknown_benchmark_is_refused():
    with pytest.raises(ConfigError, match="benchmark: got 'netflix', expected one of beauty"):
        load_benchmark("netflix")


def test_targets_may_be_multiples_of_the_best_baseline():
    relative = Target(must=1.0, aim=1.2, source="s", times_best_baseline=True)
    wanted = _wanted("ndcg@10", relative, BASELINES)
    assert (wanted["must"], wanted["best_baseline"]) == (0.2, {"name": "item-item", "mean": 0.2})
    assert wanted["aim"] == pytest.approx(0.24)
    absolute = _wanted("recall@20", Target(must=0.5, aim=0.6, source="s"), BASELINES)
    assert (absolute["must"], absolute["aim"], absolute["best_baseline"]["name"]) == (0.5, 0.6, "popularity")


@pytest.mark.parametrize(("mean", "verdict"), [(0.05, "not reached"), (0.1, ": reached"), (0.25, "aim reached")])
def test_the_table_says_what_was_reached(mean, verdict):
    rows = table({"gowalla": part("recall@20", mean=mean)}).splitlines()
    (row,) = [row for row in rows if row.startswith("| gowalla recall@20")]
    assert verdict in row
    assert f"**{mean:.4f}**".replace("0.", ".") in row
    assert sum("— | — | —" in row for row in rows) == len(rows) - 3


def test_the_summary_is_keyed_by_dataset_and_metric():
    found = summary({"toy": part("ndcg@10", mean=0.3)})
    assert found["toy/ndcg@10"]["mean"] == 0.3
    assert found["toy/ndcg@10"]["commit"] == "abc"


def test_the_page_shows_what_is_recorded():
    text = PAGE.read_text()
    assert text[text.index(BEGIN) + len(BEGIN) : text.index(END)] == table(recorded_parts("quality"))


def test_the_readme_shows_what_is_recorded_of_ml_1m():
    figures = recorded_parts("quality")["ml-1m"]["figures"]
    widths = {
        f"width {width}": {name: figure["mean"] for name, figure in found.items()}
        for width, found in figures["by_width"].items()
    }
    baselines = {
        "item-item filter": figures["baselines"]["item-item"],
        "popularity": figures["baselines"]["popularity"],
    }
    shown = re.findall(
        r"^\| (width \d+|item-item filter|popularity) \| (\S+) \| (\S+) \| (\S+) \|$", README.read_text(), re.M
    )
    names = "recall@10", "ndcg@10", "recall@100"
    recorded = widths | baselines
    assert shown == [(name, *(f"{recorded[name][metric]:.3f}"[1:] for metric in names)) for name in recorded]
