"""The quick form of the benchmarks: simulated data, no folder of datasets, figures in the last line."""

import json
import os
import subprocess
import sys
from importlib import import_module

import pytest
import torch

from benchmarks._peers import PEERS
from benchmarks.ladder import HEADLINES as LADDER_HEADLINES
from benchmarks.training import HEADLINES as TRAINING_HEADLINES
from benchmarks.widths import HEADLINES

METRIC = {"mean", "interval", "by_seed", "seeds", "must", "aim", "source", "best_baseline"}


@pytest.fixture
def printed(monkeypatch, capsys):
    """Runs a benchmark in this process, which has imported already what takes long."""

    def run(name, *options):
        monkeypatch.delenv("RECSYS_DATASETS", raising=False)
        monkeypatch.setattr(sys, "argv", [name, "--quick", *options])
        import_module(f"benchmarks.{name}").main()
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return run


def last_line(name):
    environment = {key: value for key, value in os.environ.items() if key != "RECSYS_DATASETS"}
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick"]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.deep
def test_widths():
    figures = last_line("widths")
    assert figures.keys() == HEADLINES.keys()
    assert all(len(one["by_seed"]) == 2 and one["dataset"] == "simulated" for one in figures.values())
    assert 0 < figures["containment_quarter_x2"]["mean"] <= 1
    assert 1 / 8 <= figures["panorama_share"]["mean"] <= 1


def test_quality(printed):
    figures = printed("quality")
    assert list(figures) == ["simulated-refit/ndcg@10"]
    one = figures["simulated-refit/ndcg@10"]
    assert one.keys() >= METRIC
    assert one["aim"] == pytest.approx(1.2 * one["best_baseline"]["mean"])


def test_rerank(printed):
    figures = printed("rerank")
    assert figures["num_candidates"] == 1000
    assert all(ms > 0 for ms in figures["p50_ms"].values())
    assert {"float32, nothing known", "fp16, 64 known", "NumPy"} < figures["p50_ms"].keys()


def test_search(printed):
    figures = printed("search")
    assert figures["simulated"].keys() == {"drawn", "score", "best_epoch"}
    assert 0 < figures["simulated"]["score"] < 1


@pytest.mark.deep
def test_large_table(printed):
    figures = printed("large_table")
    checks = figures.pop("checks")
    assert not checks.pop("full_size")
    assert all(checks.values()), checks
    assert not figures["large_table_ok"]
    assert 0 < figures["resumed_at_step"] == figures["checkpoint_step"] < figures["steps"]
    assert figures["checkpoint_bytes"] > figures["table_bytes"] == figures["rows"] * 64 * 4
    assert figures["peak_bytes"].keys() == {"small table", "killed", "resumed", "never stopped"}


@pytest.mark.deep
def test_serving():
    figures = last_line("serving")
    loads = {point["load"] for point in figures["points"]}
    assert loads == {0.25, 0.5, 1, 1.5, 2, 3}
    assert {"ladder", "ladder without dimmer"} < {point["server"] for point in figures["points"]}
    assert all(0 <= point["overlap_delivered"] <= 1 for point in figures["points"])
    assert 0 <= figures["min_attainment_admitted"] <= 1
    assert 0 <= figures["goodput_3x_vs_peak"] <= 1
    assert 0 <= figures["max_calibration_error"] <= 1
    assert figures["rate_vs_echo"] > 0
    assert figures["min_gain_vs_best_fixed"] <= figures["gain_vs_best_fixed_at_1x"]
    assert list(figures["budget_ms"]) == sorted(figures["budget_ms"])
    assert figures["transit_p99_ms"] <= figures["transit_p999_ms"] < figures["budget_ms"][0]
    assert figures["saturation_per_second"] > 0
    assert {float(load) for load in figures["tool"]} == loads
    assert all(0 < one["p50_ms"] <= one["p99_ms"] and one["unsent_share"] < 1 for one in figures["tool"].values())
    assert 0 <= figures["stolen_share"] < 1


@pytest.mark.deep
def test_servers():
    figures = last_line("servers")
    kinds = [measured for measured in figures.values() if isinstance(measured, dict)]
    assert len(kinds) == 3
    assert all(measured["per_second"] > 0 and measured["p50_ms"] <= measured["p99_ms"] for measured in kinds)


@pytest.mark.deep
def test_ladder():
    figures = last_line("ladder")
    assert list(figures) == ["simulated-3000"]
    one = figures["simulated-3000"]
    assert tuple(one) == LADDER_HEADLINES
    assert one["best_at_099"]["overlap"] >= 0.99
    assert one["best_at_099"]["speedup"] > 0
    assert one["certified_speedup"] > 0
    assert 0 <= one["frontier_share"] <= 1
    assert one["calibration_minutes"] < 5
    # The exact scan is among the rungs and everyone finds it all.
    assert one["speed_ratio_to_best_rival_at_0999"] > 0
    assert one["speed_ratio_to_best_rival_on_twin"] > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_gpu_says_what_it_leaves_out_without_one(printed):
    figures = printed("gpu")
    assert figures["device"] == "none"
    assert figures["skipped"].keys() == {"loss", "step", "ml-1m", "search"}
    assert set(figures["skipped"].values()) == {"torch finds no CUDA device"}


@pytest.mark.deep
def test_gpu_on_a_cpu_measures_all_that_needs_no_datasets(printed):
    figures = printed("gpu", "--device", "cpu")
    assert figures["skipped"].keys() == {"ml-1m"}
    for precision in ("highest", "high", "medium"):
        assert (
            0 < figures["loss"][precision]["share_of_roofline"] < figures["loss"][precision]["share_of_kernel_roofline"]
        )
    assert figures["step"]["examples_per_s"] > 0
    overlaps = {name: one["overlap"] for name, one in figures["search"]["rungs"].items()}
    assert overlaps["exact32"] == 1 >= overlaps["exact16"] >= overlaps["exact8"] > 0


def test_time_to_quality(printed, monkeypatch):
    for peer in PEERS:
        monkeypatch.setattr(peer, "missing", lambda _: "not for this test")
    figures = printed("time_to_quality")
    assert figures["simulated"] is True
    assert figures["dataset"] == "simulated"
    assert figures["left_out"] == {peer.name: "not for this test" for peer in PEERS}
    assert figures["time_to_quality_vs_best_peer"] is None
    ours = figures["contenders"]["ours"]
    assert ours["reached"] is figures["ours_reached"] is True
    assert ours["curve"][-1]["recall@20"] >= figures["goal"]["recall@20"]
    assert ours["curve"][-1]["seconds"] == ours["seconds"] > 0


@pytest.mark.deep
def test_training():
    figures = last_line("training")
    assert figures.keys() >= set(TRAINING_HEADLINES)
    ratios = ("all_widths_vs_one", "loss_vs_naive_speedup", "vs_plain_torch", "vs_plain_torch_with_our_loss")
    assert all(figures[name]["wall"] > 0 for name in ratios)
    assert figures["examples_per_s"] > 0
    assert figures["widths"] == [8, 16, 32]
    assert 0 < figures["data_wait_share"] < 1
    assert figures["feeding"]["large"]["events"] == 10 * figures["feeding"]["small"]["events"]
