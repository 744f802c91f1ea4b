"""The right width under a deadline, at any load: a server with its ladder beside servers of one rung each.

One more server has the ladder but no dimmer. Every server is a real process on a bundle of one catalogue (``--items``:
grown from a trained model's, simulated, benchmarks._catalogue says how). k6 makes calls at constant rates, on a core of
its own, each call with a budget of a mix, which is also its deadline. Loads and servers take turns in a seeded order
with the same calls, three times over, so that a slow moment of the machine meets more than one of them. What is
delivered is overlap with the exact answer: of answers in time only, a late, failed or shed one delivers nothing.
Admitted are the calls that a server says it answered (its Prometheus counter): a refusal that comes after its client
has left looks like a late answer from outside (``attainment_seen`` counts it as one).

Budgets span the ladder on any machine: what a call takes on its way (p99.9, k6's at a quarter of a closed loop's rate,
the median of three runs) and in the server beside its search (p99), and 2, 5, 10, 25 or 50 twentieths of what the
ladder's slowest step takes (p99). Servers keep back of a deadline what calls take on their way. Saturation is what the
ladder answers in time, a second, when calls come at the rate of a closed loop. That rate itself is out of reach for
it: where each stream waits for its answer, nobody comes while many wait already. ``tool`` is what the same loads seem
to take from a server that does nothing: what a latency has of k6 itself. ``stolen_share`` is the part of the
processors' time under load that a hypervisor gave to others: from some hundredths on, calls are late that no server
could have answered in time.
"""

from __future__ import annotations

import argparse
import socket
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from benchmarks._catalogue import Catalogue
from benchmarks._configs import Benchmark, benchmark_names, load_benchmark
from benchmarks._echo import METHOD, echo
from benchmarks._experiment import SIMULATED, open_dataset, parse, quick_config, trained
from benchmarks._harness import RESULTS, finish, parser, processor_seconds, server
from benchmarks._k6 import Call, on_cores, open_loop, pinned, split_cores, tool_latency
from benchmarks._load import RECOMMEND, client_process, closed_loop, in_turns
from benchmarks._outcomes import K, Seen, Traffic
from benchmarks._plots import plot_loads
from benchmarks._published import publish_vectors, with_rung_alone
from recsys.bundle import Bundle
from recsys.bundle_writer import PublishOptions
from recsys.errors import ConfigError
from recsys.evaluate.towers import item_vectors, query_vectors
from recsys.index.learned_cells import MAX_LEARNED_FROM
from recsys.index.rungs import Ladder, Rung
from recsys.index.truth import Truth
from recsys.model.best import load_towers
from serving.v1 import candidates_pb2 as pb

LOADS = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0)
_PARTS = (2, 5, 10, 25, 50)
_ROUNDS = 3
_MAX_UNREAD = 16  # what budgets of tens of milliseconds want
_LADDER, _NO_DIMMER = "ladder", "ladder without dimmer"
_STREAMS = 8
_QUIET, _LEAST = 0.25, 0.1
_CONNECTIONS = 64


def main() -> None:
    """Publish, put every server under every load, and report."""
    given = _parse()
    with tempfile.TemporaryDirectory() as scratch, client_process() as client:
        work = Path(scratch) if given.quick else given.work
        figures = measure(given, work, Path(scratch), client)
        _print(figures)
        finish("serving", figures, record=given.record)
        # Only now: a picture that changed would make the commit that is recorded look changed.
        plot_loads(figures["points"], (RESULTS if given.record else work) / "serving.png")


def _parse() -> argparse.Namespace:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--dataset", default="gowalla", help=f"one of {', '.join(benchmark_names())} (gowalla)")
    arguments.add_argument("--items", type=int, default=1_000_000, help="size of the catalogue (1,000,000)")
    arguments.add_argument("--epochs", type=int, help="train for so many epochs instead of the settings' own")
    arguments.add_argument("--users", type=int, default=1000, help="test users who ask (1000)")
    arguments.add_argument("--seconds", type=float, default=20.0, help="length of each load (20)")
    arguments.add_argument("--budget", type=float, default=300.0, help="seconds of calibration (300)")
    given = parse(arguments)
    if given.quick:
        given.items, given.users, given.seconds, given.budget = 3000, 100, 1.0, 2.0
    return given


def measure(given: argparse.Namespace, work: Path, scratch: Path, client: Executor) -> dict[str, Any]:
    """Return all figures."""
    path = _publish(given, work)
    bundle = Bundle.open(path)
    traffic = _traffic(bundle, given.users)
    with on_cores(split_cores()[1]):
        client.submit(len, ()).result()  # the process starts now, beside k6
    costs, most = _alone(path, bundle.ladder, traffic, client, given, scratch)
    traffic = replace(traffic, budget_ms=_budgets(bundle.ladder, costs))
    margin = ("--deadline-margin-ms", str(round(costs["transit_p999_ms"], 2)))
    with ExitStack() as running:
        servers = {_LADDER: running.enter_context(_served(path.parent, *margin))}
        servers[_NO_DIMMER] = running.enter_context(_served(path.parent, *margin, "--no-dimmer"))
        for rung in _fixed(bundle.ladder.steps):
            root = with_rung_alone(path, rung, scratch / "fixed" / rung.name).parent
            servers[rung.name] = running.enter_context(_served(root / rung.name, *margin))
        full = _seen(servers[_LADDER], traffic, rate=most, seconds=given.seconds, seed=0, scratch=scratch / "k6")
        # A machine that is busy otherwise may answer nothing in time; loads of nothing would say as little.
        rate = max(_LEAST * most, full.figures(traffic, seconds=given.seconds)["goodput"])
        before = processor_seconds()
        points = _under_load(servers, traffic, rate, given.seconds, scratch / "k6")
        after = processor_seconds()
    with pinned(split_cores()[0], echo("sync")) as echo_address:
        _, _, requests = traffic.calls(1000, seed=0)
        lasts = max(1.0, given.seconds / _ROUNDS)
        tool = {load: _tool(echo_address, requests, rate=load * rate, seconds=lasts, scratch=scratch) for load in LOADS}
    errors = _calibration(bundle, traffic.truth)
    figures = _headlines(points) | costs | {"max_calibration_error": max(errors.values())}
    return figures | {
        "rate_vs_echo": _rate_vs_echo(client, bundle, scratch, given),
        "saturation_per_second": rate,
        "closed_loop_per_second": most,
        "budget_ms": traffic.budget_ms,
        "dataset": SIMULATED if given.quick else given.dataset,
        "epochs": given.epochs,
        "num_items": len(bundle.items),
        "simulated": True,
        "k": K,
        "steps": {rung.name: [rung.overlap_at(K), rung.latency_p99_ms] for rung in bundle.ladder.steps},
        "calibration_error": errors,
        "tool": tool,
        "stolen_share": (after["steal"] - before["steal"]) / (sum(after.values()) - sum(before.values())),
        "points": points,
    }


def _alone(
    path: Path, ladder: Ladder, traffic: Traffic, client: Executor, given: argparse.Namespace, scratch: Path
) -> tuple[dict[str, float], float]:
    """Return what calls cost outside their search, and how many a second a closed loop gets answered."""
    with _served(path.parent) as (address, _), pinned(split_cores()[0], echo("sync")) as echo_address:
        costs = _overhead(client, address, echo_address, given)
        _, _, requests = replace(traffic, budget_ms=_budgets(ladder, costs)).calls(1000, seed=0)
        encoded = [request.SerializeToString() for request in requests]
        seconds = max(2.0, given.seconds / 2)
        most, _ = client.submit(closed_loop, address, encoded, streams=_STREAMS, seconds=seconds).result()
        # Of a thousand calls the slowest: one moment in which the machine stood still would be everybody's margin.
        quiet = [_tool(echo_address, requests, rate=_QUIET * most, seconds=seconds, scratch=scratch) for _ in range(3)]
    way_ms = float(np.median([one["p999_ms"] for one in quiet]))
    return costs | {"transit_p999_ms": max(costs["transit_p99_ms"], way_ms)}, most


@contextmanager
def _served(bundles: Path, *options: str) -> Iterator[tuple[str, str]]:
    """Run a server on its cores; yield its address and that of its metrics."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    cores, _ = split_cores()
    fitting = ("--workers", str(len(cores)), "--metrics-port", str(port), "--max-unread", str(_MAX_UNREAD))
    with pinned(cores, server(bundles, *fitting, *options)) as (address, _):
        yield address, f"http://127.0.0.1:{port}/metrics"


def _num_answered(metrics: str) -> int:
    """Return how many calls a server has answered, by its own count."""
    with urllib.request.urlopen(metrics) as page:  # noqa: S310 (a server of ours)
        families = text_string_to_metric_families(page.read().decode())
    samples = [sample for family in families for sample in family.samples]
    return int(sum(each.value for each in samples if each.name == "recsys_answers_total"))


def _publish(given: argparse.Namespace, work: Path) -> Path:
    """Return the bundle of a trained model's catalogue, grown to size; published before, or now."""
    name = SIMULATED if given.quick else given.dataset
    if not given.quick and name not in benchmark_names():
        raise ConfigError(f"dataset: got {name!r}, expected one of {', '.join(benchmark_names())}")
    epochs = f"-{given.epochs}-epochs" if given.epochs else ""
    root = work / "serving" / f"{name}-{given.items}-{given.users}-{given.budget:g}{epochs}"
    if (root / "CURRENT").is_file():
        return root / (root / "CURRENT").read_text().strip()
    benchmark = Benchmark(recipe=name, train=quick_config()) if given.quick else load_benchmark(name, wide=True)
    dataset = open_dataset(work, benchmark.recipe, benchmark.protocol)
    config = replace(benchmark.train, seed=1)
    if given.epochs:
        config = replace(config, epochs=given.epochs)
    towers, _ = load_towers(trained(work, dataset, config).run)
    queries = dataset.queries("test")
    # Those after the first never call: cells are learned from them.
    chosen = queries.take(np.random.default_rng(1).permutation(len(queries))[: given.users + MAX_LEARNED_FROM])
    item_ND = item_vectors(towers, dataset.feature_lists("item"))
    if given.items < len(item_ND):
        raise ConfigError(f"items: got {given.items}, expected at least the {len(item_ND)} that are trained")
    return publish_vectors(
        root,
        item_ND=Catalogue(item_ND, seed=1).vectors(given.items),
        user_UD=query_vectors(towers, chosen, dataset.feature_lists("user")),
        widths=towers.widths,
        options=PublishOptions(num_queries=min(512, given.users // 2), budget_s=given.budget, ks=(10, K)),
        num_held_out=given.users,
    )


def _traffic(bundle: Bundle, num_users: int) -> Traffic:
    rows = np.arange(num_users)
    history, features, _ = bundle.users.batch(rows)
    query_UD = bundle.towers.encode_users(history, features, rows)
    truth = Truth.find(query_UD, np.array(bundle.item_vectors), ks=[K])
    return Traffic(truth=truth, budget_ms=(1000.0,))


def _fixed(steps: Sequence[Rung]) -> list[Rung]:
    """Return the cheapest step, the best one within the median budget's share for searching, and the best of all."""
    median_ms = sorted(_PARTS)[len(_PARTS) // 2] * max(step.latency_p99_ms for step in steps) / 20
    within = [step for step in steps if step.latency_p99_ms <= median_ms] or steps[:1]
    chosen = [steps[0], within[-1], steps[-1]]
    return [step for place, step in enumerate(chosen) if step not in chosen[:place]]


def _budgets(ladder: Ladder, costs: Mapping[str, float]) -> tuple[float, ...]:
    slowest_ms = max(rung.latency_p99_ms for rung in ladder.steps)
    outside_ms = costs["beside_search_p99_ms"] + costs.get("transit_p999_ms", costs["transit_p99_ms"])
    return tuple(round(outside_ms + part * slowest_ms / 20, 2) for part in _PARTS)


def _overhead(client: Executor, address: str, echo_address: str, given: argparse.Namespace) -> dict[str, float]:
    """Compare what calls spend outside encoding and search with empty calls, in turns, one at a time."""
    requests = [
        pb.RecommendRequest(user=pb.User(id=f"u{row % given.users}"), k=K).SerializeToString()
        for row in range(max(200, min(1000, int(given.seconds * 50))))
    ]
    empty, real = client.submit(in_turns, (echo_address, METHOD), (address, RECOMMEND), requests).result()
    latency_ms = np.array([reply.latency_ms for reply in real])
    timings = [pb.RecommendResponse.FromString(reply.body).report.timings for reply in real]
    total_ms = np.array([spent.total_ms for spent in timings])
    search_ms = np.array([spent.scan_ms + spent.rerank_ms for spent in timings])
    encode_ms = np.array([spent.encode_ms for spent in timings])
    empty_p50_ms = float(np.median([reply.latency_ms for reply in empty]))
    return {
        "overhead_p50_ms": float(np.median(latency_ms - search_ms - encode_ms)) - empty_p50_ms,
        "empty_call_p50_ms": empty_p50_ms,
        "encode_p50_ms": float(np.median(encode_ms)),
        "transit_p99_ms": float(np.percentile(latency_ms - total_ms, 99)),
        "beside_search_p99_ms": float(
            np.percentile(encode_ms, 99) + np.percentile(total_ms - search_ms - encode_ms, 99)
        ),
    }


def _rate_vs_echo(client: Executor, bundle: Bundle, scratch: Path, given: argparse.Namespace) -> float:
    """Return the rate of real calls on the catalogue's first items, for ten, as a share of that of empty ones."""
    rows = np.arange(len(bundle.users.vocabulary))
    history, features, _ = bundle.users.batch(rows)
    small = publish_vectors(
        scratch / "small",
        item_ND=np.array(bundle.item_vectors[:2000]),
        user_UD=bundle.towers.encode_users(history, features, rows),
        widths=bundle.widths,
        options=PublishOptions(num_queries=min(64, given.users), budget_s=5.0, repeats=1),
    )
    requests = [
        pb.RecommendRequest(user=pb.User(id=f"u{row}"), k=10, budget=pb.Budget(min_overlap=0.01)).SerializeToString()
        for row in rows.tolist()
    ]
    rates: dict[str, list[float]] = {"echo": [], "real": []}
    cores, _ = split_cores()
    with _served(small.parent) as (address, _), pinned(cores, echo("sync")) as echo_address:
        for _ in range(3):
            for name, at, method in (("echo", echo_address, METHOD), ("real", address, RECOMMEND)):
                seconds = max(1.0, given.seconds / 5)
                rate, _ = client.submit(
                    closed_loop, at, requests, streams=_STREAMS, seconds=seconds, method=method
                ).result()
                rates[name].append(rate)
    return float(np.median(rates["real"]) / np.median(rates["echo"]))


def _calibration(bundle: Bundle, truth: Truth) -> dict[str, float]:
    """Return, by rung, how far the measured overlap of all users is from what answers say to expect."""
    errors = {}
    for rung in bundle.ladder.rungs:
        found = [bundle.searcher.search(query_1D, k=K, rung=rung).rows_BK for query_1D in truth.query_QD[:, None]]
        overlap_Q = truth.overlap(np.concatenate(found), k=K, queries=np.arange(len(found)))
        errors[rung.name] = abs(float(overlap_Q.mean()) - rung.overlap_at(K))
    return errors


def _under_load(
    servers: dict[str, tuple[str, str]], traffic: Traffic, rate: float, seconds: float, scratch: Path
) -> list[dict[str, Any]]:
    """Put every server under every load, in a seeded order; all get the same calls at the same times."""
    random = np.random.default_rng(1)
    turns = [(load, name) for load in LOADS for name in servers]
    seen = {turn: Seen() for turn in turns}
    num_rounds = max(1, min(_ROUNDS, int(seconds)))  # k6 makes no load of less than a second
    for number in range(num_rounds):
        for place in random.permutation(len(turns)).tolist():
            load, name = turns[place]
            lasts, seed = seconds / num_rounds, int(100 * load) + number
            part = _seen(servers[name], traffic, rate=load * rate, seconds=lasts, seed=seed, scratch=scratch)
            seen[load, name] = seen[load, name].and_then(part)
    return [
        {"load": load, "server": name, "unsent": seen[load, name].num_unsent}
        | seen[load, name].figures(traffic, seconds=seconds)
        for load, name in sorted(turns)
    ]


def _seen(server: tuple[str, str], traffic: Traffic, *, rate: float, seconds: float, seed: int, scratch: Path) -> Seen:
    """Put a server under a load; return what became of the calls."""
    address, metrics = server
    user_C, budget_C, requests = traffic.calls(int(rate * seconds) + 10, seed=seed)
    calls = [Call(*both) for both in zip(requests, budget_C.tolist(), strict=True)]
    before = _num_answered(metrics)
    replies, num_unsent = open_loop(
        address, calls, rate=rate, seconds=seconds, connections=_CONNECTIONS, scratch=scratch
    )
    return Seen(user_C, budget_C, replies, _num_answered(metrics) - before, num_unsent)


def _tool(
    echo_address: str, requests: Sequence[pb.RecommendRequest], *, rate: float, seconds: float, scratch: Path
) -> dict[str, float]:
    """Return what k6's calls seem to take from a server that does nothing."""
    return tool_latency(
        echo_address, requests, rate=rate, seconds=seconds, connections=_CONNECTIONS, scratch=scratch / "tool"
    )


def _headlines(points: Sequence[dict[str, Any]]) -> dict[str, Any]:
    ours = {point["load"]: point for point in points if point["server"] == _LADDER}
    undimmed = {point["load"]: point for point in points if point["server"] == _NO_DIMMER}
    fixed: dict[float, list[float]] = {load: [] for load in ours}
    for point in points:
        if point["server"] not in (_LADDER, _NO_DIMMER):
            fixed[point["load"]].append(point["overlap_delivered"])
    gain = {load: ours[load]["overlap_delivered"] / max(max(best), 1e-9) - 1 for load, best in fixed.items()}
    return {
        "min_attainment_admitted": min(point["attainment_admitted"] for point in ours.values()),
        "goodput_3x_vs_peak": ours[3.0]["goodput"] / max(1e-9, *(point["goodput"] for point in ours.values())),
        "min_gain_vs_best_fixed": min(gain.values()),
        "gain_vs_best_fixed_at_1x": gain[1.0],
        "gain_of_dimmer_at_3x": ours[3.0]["overlap_delivered"] / max(undimmed[3.0]["overlap_delivered"], 1e-9) - 1,
    }


def _print(figures: dict[str, Any]) -> None:
    console = Console(width=130, highlight=False)
    title = f"{figures['num_items']:,} items (simulated), budgets {figures['budget_ms']} ms, "
    title += f"saturation {figures['saturation_per_second']:.0f} calls/s"
    shown = Table(
        "load", "server", "attained", "seen", "goodput/s", "shed", "overlap", "in time", "p50", "p99", title=title
    )
    for point in figures["points"]:
        shares = [
            point[key]
            for key in ("attainment_admitted", "attainment_seen", "goodput", "shed_share", "overlap_delivered")
        ]
        rest = [f"{point[key]:.3f}" for key in ("overlap_in_time", "p50_ms", "p99_ms")]
        cells = [
            f"{shares[0]:.4f}",
            f"{shares[1]:.4f}",
            f"{shares[2]:.0f}",
            f"{shares[3]:.3f}",
            f"{shares[4]:.4f}",
            *rest,
        ]
        shown.add_row(f"{point['load']:g}x", point["server"], *cells)
    console.print(shown)
    for load, one in figures["tool"].items():
        said = ", ".join(f"{name} {value:.3g}" for name, value in one.items())
        console.print(f"k6 itself at {load:g}x, from a server that does nothing: {said}", markup=False)
    for name, value in figures.items():
        if isinstance(value, float):
            console.print(f"{name}: {value:.4g}", markup=False)


if __name__ == "__main__":
    main()
