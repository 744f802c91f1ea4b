"""The ladder benchmark: its table, the page that shows it, and refusals."""

from pathlib import Path

import pytest

from benchmarks import ladder
from benchmarks._configs import load_benchmark
from benchmarks._harness import recorded_parts
from benchmarks._plots import plot_frontier
from benchmarks.ladder import BEGIN, END, HEADLINES, PAGE, summary, table, train_config
from recsys.errors import ConfigError
from recsys.index.space import LadderSpace
from recsys.settings import from_toml, to_mapping
from recsys.widths import WidthLadder


def part(**changed):
    figures = dict.fromkeys(HEADLINES, 1.5) | {"best_at_099": {"speedup": 25.04, "name": "ivf64", "overlap": 0.9912}}
    return {"figures": figures | {"space": {}} | changed}


def test_the_table_has_a_column_for_each_catalogue():
    rows = table({"a-10": part(), "b-20": part(certified_speedup=None)}).splitlines()
    assert rows[0] == "| figure | a-10 | b-20 |"
    assert "| `best_at_099` | 25.0 times (ivf64, overlap 0.9912) | 25.0 times (ivf64, overlap 0.9912) |" in rows
    assert "| `certified_speedup` | 1.5 | — |" in rows
    assert len(rows) == 2 + len(HEADLINES)


def test_the_space_of_large_catalogues_needs_one_narrow_index_and_halves():
    space = from_toml(LadderSpace, Path(ladder.__file__).parent / "spaces" / "ladder-large.toml")
    widths = WidthLadder((32, 64, 128, 256))
    specs = space.specs(widths, num_items=10_000_000, k=100, seed=1)
    scans = [spec for spec in specs if spec.engine == "ivf"]
    assert len(specs) == len(scans) + 1
    assert {spec.index.name for spec in scans} == {"ivf128-pq2"}
    assert {spec.store for spec in scans if spec.rerank} == {"fp16"}


def test_nothing_recorded_shows_dashes():
    assert table({}).count("| — |") == len(HEADLINES)


def test_the_summary_holds_the_headlines_alone():
    assert summary({"a": part()})["a"].keys() == set(HEADLINES)


def test_the_page_shows_what_is_recorded_and_explains_it():
    text = PAGE.read_text()
    assert text[text.index(BEGIN) + len(BEGIN) : text.index(END)] == table(recorded_parts("ladder"))
    meanings = text[text.index(END) :]
    for key in HEADLINES:
        assert f"`{key.replace('_0999', '_099').replace('_095', '_099')}`" in meanings


def test_another_energy_profile_changes_nothing_else():
    benchmark = load_benchmark("gowalla", wide=True)
    plain, steep = (to_mapping(train_config(benchmark, energy_decay=decay)) for decay in (None, 10.0))
    assert plain == to_mapping(benchmark.train) | {"seed": 1}
    assert steep["loss"].pop("energy_decay") == 10
    assert plain["loss"].pop("energy_decay") == 6.5
    assert steep == plain


def test_an_energy_profile_that_the_loss_does_not_ask_for_is_refused():
    with pytest.raises(ConfigError, match=r"^energy_decay: got 10.0, but beauty trains with loss.energy_weight 0$"):
        train_config(load_benchmark("beauty", wide=True), energy_decay=10.0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--towers", "run"], "got one of them, expected both or neither"),
        (["--energy-decay", "9", "--towers", "run", "--prepared", "data"], "expected a benchmark to train"),
        (["--energy-decay", "9", "--quick"], "expected a benchmark to train"),
        (["--only", "annoy"], "got ['annoy'], expected some of"),
        (["--quick", "--record"], "got it with --quick"),
    ],
)
def test_options_that_do_not_fit_are_refused(words, message, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["ladder", *words])
    with pytest.raises(SystemExit):
        ladder._parse()
    assert message in capsys.readouterr().err


def test_the_frontier_is_drawn(tmp_path):
    point = {"name": "ivf16-p4", "speedup": 8.0, "overlap": 0.99}
    rivals = {"flat": {"points": [point | {"speedup": 1.0, "overlap": 1.0}]}, "scann": {"skipped": "not installed"}}
    figures = {"ours": {"points": [point]}, "rivals": rivals, "simulated": True, "num_items": 1000}
    plot_frontier("toy", figures, tmp_path / "plots" / "toy.png")
    assert (tmp_path / "plots" / "toy.png").stat().st_size > 10_000
