"""How long training takes to a quality that is of use, beside other libraries: test recall@20 of .17 on Gowalla.

LightGCN's split, all training events, 64 dimensions, every test user, the whole catalogue ranked exactly with seen
items left out (`recsys.evaluate.protocol`), the same code for everybody. Seconds are of training alone, from data in
memory to the first checkpoint that reaches the goal; evaluating stops the clock, our checkpoints' files do not. All run
on ``--threads`` processors, ours with its reading ahead too. CPU seconds are kept beside the clock's, and their ratio
as ``by_cpu_seconds``: where the two differ, the machine had other things to do.

Of each peer several settings are tried for ``--trial`` seconds each, judged on a seeded sample of test users; then the
two that got there first are run in full and the faster counts, or the best one, for ``--limit`` seconds, where none
got there. So peers' settings are chosen by what is measured, which is in their favour. Ours are those of
benchmarks/configs/gowalla.toml with a high rate that stays and a mean of the last epochs' weights
(benchmarks/results/quality.md says what that is worth on validation), and are tried once.

``time_to_quality_vs_best_peer`` is the best peer's seconds over ours. Where no peer reached the goal it is what the
limit makes of it, and ``bound`` says ``lower``; where only peers did, ours is at least the limit, and it is ``upper``.

Peers that are not installed are left out and named, and the ratio is then of the others: implicit and lightfm-next
come with the extra ``peers``. RecTools is in no extra, since what it asks for (NumPy below 2 on Pythons before 3.13)
excludes this project; CONTRIBUTING.md says how to have it in an environment of its own.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks._configs import load_benchmark
from benchmarks._contenders import OURS, Contest, Figures, rank, run_ours, run_peer
from benchmarks._course import METRIC, Goal, held_to
from benchmarks._experiment import SIMULATED, open_dataset, parse, quick_config
from benchmarks._harness import finish, parser
from benchmarks._peers import PEERS
from recsys.config import TrainConfig


def main() -> None:
    """Run everybody, one after another, compare, report."""
    given = _parse()
    with tempfile.TemporaryDirectory() as scratch, held_to(given.threads):
        work = Path(scratch) if given.quick else given.work
        dataset = open_dataset(work, SIMULATED if given.quick else "gowalla")
        goal = Goal.of(given.goal, dataset.queries("test"), num_sampled=given.sampled)
        contest = Contest(dataset, goal, given, work / "time-to-quality")
        figures = _measure(contest, quick_config() if given.quick else _high_rate(given))
    _print(figures)
    finish("time_to_quality", figures, record=given.record)


def _parse() -> argparse.Namespace:
    arguments = parser(__doc__ or "")
    names = [peer.name for peer in PEERS]
    add = arguments.add_argument
    add("--goal", type=float, default=0.17, help="recall@20 to reach (.17)")
    add("--limit", type=float, default=1500.0, help="seconds of training that each may take (1500)")
    add("--trial", type=float, default=150.0, help="seconds of training for each of a peer's settings (150)")
    add("--threads", type=int, default=1, help="processors, and threads of each library (1)")
    add("--sampled", type=int, default=4000, help="test users that decide trials, and whether to rank all (4000)")
    add("--rate", type=float, default=0.012, help="our rate of tables, which stays (.012)")
    add("--averaged-epochs", type=int, default=10, help="our epochs of which weights are averaged, about (10)")
    add("--only", nargs="*", default=names, help=f"peers by name, of {names} (all)")
    given = parse(arguments)
    for name in ("limit", "trial", "threads", "sampled", "rate", "averaged_epochs"):
        if getattr(given, name) <= 0:
            arguments.error(f"--{name.replace('_', '-')}: got {getattr(given, name)}, expected above 0")
    if unknown := set(given.only) - set(names):
        arguments.error(f"--only: got {sorted(unknown)}, expected some of {names}")
    if given.quick:
        given.goal, given.limit, given.trial = 0.05, 2.0, 0.2
    return given


def _high_rate(given: argparse.Namespace) -> TrainConfig:
    """Return the recorded settings, but for a rate that stays and towers of a running mean of weights."""
    config, rate, window = load_benchmark("gowalla").train, given.rate, given.averaged_epochs
    return replace(config, rate_schedule="constant", table_learning_rate=rate, averaged_epochs=window)


def _measure(contest: Contest, config: TrainConfig) -> Figures:
    given, dataset = contest.given, contest.dataset
    ours = run_ours(contest, config)
    peers, left_out = {}, {}
    for peer in (kind() for kind in PEERS):
        if reason := "not asked for (--only)" if peer.name not in given.only else peer.missing():
            left_out[peer.name] = reason
        else:
            peers[peer.name] = run_peer(contest, peer)
    return {
        **compare(ours, peers, limit_s=given.limit),
        "dataset": SIMULATED if given.quick else dataset.name,
        "simulated": given.quick,
        "goal": {METRIC: given.goal},
        "limit_s": given.limit,
        "trial_s": given.trial,
        "threads": given.threads,
        "num_users": len(contest.goal.queries),
        "num_items": dataset.num_items,
        "contenders": {OURS: ours} | peers,
        "left_out": left_out,
        "dataset_fingerprint": dataset.manifest["fingerprint"],
    }


def compare(ours: Figures, peers: Mapping[str, Figures], *, limit_s: float) -> Figures:
    """Return the best peer, its seconds over ours, and what kind of figure that is.

    Args:
        ours: what `Course.run` gives.
        peers: the same by name.
        limit_s: what counts as the seconds of those who did not get there, of whom more is not known.
    """
    best = min(peers, key=lambda name: rank(peers[name]), default=None)
    reached = best is not None and bool(peers[best]["reached"])
    ratio = bound = by_cpu = None
    if best is not None and (reached or ours["reached"]):
        theirs_s, ours_s = (one["seconds"] if one["reached"] else limit_s for one in (peers[best], ours))
        ratio, bound = theirs_s / ours_s, "exact" if reached and ours["reached"] else "upper" if reached else "lower"
        by_cpu = peers[best]["cpu_seconds"] / ours["cpu_seconds"] if bound == "exact" else None
    return {
        "time_to_quality_vs_best_peer": ratio,
        "by_cpu_seconds": by_cpu,
        "bound": bound,
        "best_peer": best,
        "best_peer_reached": reached,
        "ours_reached": ours["reached"],
    }


def _print(figures: Figures) -> None:
    console = Console(width=130, highlight=False)
    title = f"{METRIC} of {figures['goal'][METRIC]:g} on {figures['dataset']}, {figures['threads']} thread(s)"
    shown = Table("", "s to it", "CPU s", f"best {METRIC}", "after s", "settings", title=title)
    for name, one in figures["contenders"].items():
        best, settings = one["best"], "" if name == OURS else ", ".join(f"{k} {v}" for k, v in one["settings"].items())
        time_s = f"{one['seconds']:.1f}" if one["reached"] else f"not within {one['seconds']:.0f}"
        cells = (f"{best[METRIC]:.4f}", f"{best['seconds']:.1f}") if best else ("", "")
        shown.add_row(name, time_s, f"{one['cpu_seconds']:.1f}", *cells, settings)
    console.print(shown)
    for name, reason in figures["left_out"].items():
        console.print(f"left out: {name}: {reason}", markup=False)
    ratio, peer = figures["time_to_quality_vs_best_peer"], figures["best_peer"]
    at = {"lower": "at least ", "upper": "at most "}.get(figures["bound"] or "", "")
    said = "nothing to compare" if ratio is None else f"{peer} takes {at}{ratio:.2f} times as long as ours"
    if figures["bound"] == "lower":
        said += f" (no peer got there within {figures['limit_s']:g} s)"
    console.print(said)


if __name__ == "__main__":
    main()
