"""``recsys VERB``: one word for each arrow of the data's path.

Only the chosen verb's libraries are imported, so that help is quick and publishing does not need what only training
does. What all verbs have in common, exit codes too, is in `recsys.command`.
"""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from recsys.command import EXIT_CODES, Loaded, execute
from recsys.command import err as _err
from recsys.command import out as _out
from recsys.progress import Stages


class Verb(NamedTuple):
    """One word of the command line.

    Args:
        summary: what it does, in one sentence.
        example: its options as one would type them.
        load: imports what it needs; returns its options and its function, which prints for people and returns what a
            program gets with ``--json``.
    """

    summary: str
    example: str
    load: Callable[[], Loaded]


def main() -> None:
    """Run one verb: the console script ``recsys``."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help", "help"):
        _print_verbs()
        return
    name = words[0]
    if name not in VERBS:
        near = [f", did you mean {verb}?" for verb in difflib.get_close_matches(name, VERBS, n=1)]
        _err.print(
            f"recsys: unknown verb {name!r}{''.join(near)} Expected one of {', '.join(VERBS)}",
            markup=False,
            soft_wrap=True,
        )
        raise SystemExit(2)
    verb = VERBS[name]
    taught = f"{verb.summary}\n\nFor example:\n  recsys {name} {verb.example}"
    execute(f"recsys {name}", taught, verb.load, words[1:])


def _print_verbs() -> None:
    _out.print("[bold]recsys[/bold] VERB [options]    ('recsys VERB --help' explains each option)\n")
    for name, verb in VERBS.items():
        _out.print(f"  [bold]{name:<10}[/bold] {verb.summary}", soft_wrap=True)
    _out.print("\nServing is a command of its own: [bold]recsys-serve --help[/bold]")
    _out.print(
        "Every verb takes --config-file FILE (its options from TOML), --json and --debug; serving all but --json."
    )
    _out.print("\nExit codes:")
    for code, meaning in EXIT_CODES.items():
        _out.print(f"  {code:>3}  {meaning}", soft_wrap=True)


def _load_prepare() -> Loaded:
    from recsys.data.prepare import PrepareOptions, prepare
    from recsys.data.schema import SPLITS

    def run(options: PrepareOptions) -> dict[str, Any]:
        with Stages() as stages:
            folder = prepare(options, progress=stages)
        manifest = json.loads((folder / "manifest.json").read_text())
        counts = manifest["counts"]
        _out.print(
            f"{folder}: {counts['rows_read']:,} rows read, {manifest['num_users']:,} users, "
            f"{manifest['num_items']:,} items, split by {manifest['protocol']}",
            soft_wrap=True,
        )
        for applied, left in counts["rows_after"].items():
            _out.print(f"  after {applied}: {left:,} rows", soft_wrap=True)
        for split in SPLITS:
            noted = [f"{number:,} {name.replace('_', ' ')}" for name, number in counts[split].items() if number]
            if noted:
                _out.print(f"  {split:<10} {', '.join(noted)}", soft_wrap=True)
        return {"dataset": str(folder), **manifest}

    return PrepareOptions, run


def _load_train() -> Loaded:
    from recsys.train.verb import load

    return load()


def _load_evaluate() -> Loaded:
    from recsys.evaluate.verb import EvaluateOptions, evaluate

    def run(options: EvaluateOptions) -> dict[str, Any]:
        with Stages() as stages:
            report = evaluate(options, progress=stages)
        # A table cut to a narrow terminal or a pipe would lose its numbers.
        _out.print(report, width=max(_out.width, 110))
        return report.to_json()

    return EvaluateOptions, run


def _load_report() -> Loaded:
    try:
        from recsys.report.verb import ReportOptions, report
    except ModuleNotFoundError as error:
        if error.name not in ("jinja2", "markupsafe", "matplotlib"):
            raise
        _err.print(f"recsys report: needs {error.name}: pip install jinja2 matplotlib", markup=False)
        raise SystemExit(1) from error

    def run(options: ReportOptions) -> dict[str, Any]:
        with Stages() as stages:
            path = report(options, progress=lambda stage: stages(stage, 0.0))
        _out.print(f"{path}: open it in a browser", soft_wrap=True)
        return {"report": str(path)}

    return ReportOptions, run


def _load_publish() -> Loaded:
    from recsys.index.rungs import Ladder
    from recsys.publish import PublishRunOptions, ladder_notes, ladder_table, publish_run

    def run(options: PublishRunOptions) -> dict[str, Any]:
        with Stages() as stages:
            folder = publish_run(options, progress=stages)
        ladder = Ladder.load(folder / "ladder.json")
        _out.print(ladder_table(ladder))
        _out.print(*ladder_notes(ladder), sep="\n", soft_wrap=True)
        _out.print(f"{folder} is now CURRENT" if options.publish.activate else f"{folder}", soft_wrap=True)
        return {"bundle": str(folder), "current": options.publish.activate, **ladder.to_json()}

    return PublishRunOptions, run


def _load_ladder() -> Loaded:
    from recsys.ladder import LADDER, LadderOptions, make_ladder
    from recsys.publish import ladder_notes, ladder_table

    def run(options: LadderOptions) -> dict[str, Any]:
        with Stages() as stages:
            ladder = make_ladder(options, progress=stages)
        _out.print(ladder_table(ladder))
        _out.print(*ladder_notes(ladder), sep="\n", soft_wrap=True)
        _out.print(f"{options.out / LADDER}", soft_wrap=True)
        return {"ladder": str(options.out / LADDER), **ladder.to_json()}

    return LadderOptions, run


def _load_recommend() -> Loaded:
    from serving.client import describe_report, to_json
    from serving.recommend import RecommendOptions, recommend

    def run(options: RecommendOptions) -> dict[str, Any]:
        answer = recommend(options)
        for place, item in enumerate(answer.items, start=1):
            _out.print(f"{place:>3}  {item.score:.3f}  {item.title or item.item_id}", markup=False, soft_wrap=True)
        _out.print(describe_report(answer.report), markup=False, soft_wrap=True)
        said: dict[str, Any] = json.loads(to_json(answer))
        return said

    return RecommendOptions, run


def _load_explore() -> Loaded:
    try:
        from serving.explorer.verb import ExploreOptions, explore
    except ModuleNotFoundError as error:
        if error.name not in ("starlette", "uvicorn"):
            raise
        _err.print(f"recsys explore: needs {error.name}: pip install 'matryoshka-recsys[explore]'", markup=False)
        raise SystemExit(1) from error

    def run(options: ExploreOptions) -> dict[str, Any]:
        opened: list[str] = []
        with _err.status("start") as status:

            def ready(url: str) -> None:
                status.stop()
                opened.append(url)
                _out.print(f"open {url} (Ctrl-C stops)", soft_wrap=True)

            explore(options, ready=ready)
        return {"urls": opened}

    return ExploreOptions, run


@dataclass(frozen=True, kw_only=True)
class RollbackOptions:
    """Whose bundle to take back."""

    bundles: Path
    """Folder of bundles that servers read."""


def _load_rollback() -> Loaded:
    from recsys.current import rollback

    def run(options: RollbackOptions) -> dict[str, Any]:
        bundle = options.bundles / rollback(options.bundles)
        _out.print(f"{bundle} is CURRENT again", soft_wrap=True)
        _out.print("Running servers read that on SIGHUP; another rollback undoes this one.")
        return {"bundle": str(bundle)}

    return RollbackOptions, run


def _load_init() -> Loaded:
    from recsys.init.report import print_proposal
    from recsys.init.verb import InitOptions, init

    def run(options: InitOptions) -> dict[str, Any]:
        with Stages() as stages:
            proposal = init(options, progress=stages)
        print_proposal(proposal, _out)
        return proposal.to_json()

    return InitOptions, run


VERBS = {
    "init": Verb(
        "Look at your own log, and propose a recipe for it, with a reason for each choice.",
        "purchases.csv products.csv --out recipe.toml",
        _load_init,
    ),
    "prepare": Verb(
        "Turn interaction logs into a dataset: filtered, ordered, split without leakage.",
        "--recipe ml-100k --out work/dataset",
        _load_prepare,
    ),
    "train": Verb(
        "Train the two towers at every width; Ctrl-C keeps what is done, --resume goes on.",
        "--dataset work/dataset --out work/run --epochs 20 --model.widths 16 32 64 128",
        _load_train,
    ),
    "evaluate": Verb(
        "Measure every width, beside the baselines, on held-out interactions.",
        "--run work/run --dataset work/dataset",
        _load_evaluate,
    ),
    "publish": Verb(
        "Write a bundle: towers, vectors, indexes and a measured ladder.",
        "--run work/run --dataset work/dataset --out work/bundles",
        _load_publish,
    ),
    "report": Verb(
        "Write one HTML file that shows what each width gives and what the ladder costs.",
        "--run work/run --dataset work/dataset --bundles work/bundles --out work/report.html",
        _load_report,
    ),
    "rollback": Verb("Make the bundle before the current one current again.", "--bundles work/bundles", _load_rollback),
    "ladder": Verb(
        "Find and measure a ladder for any vectors, without a model.",
        "--vectors items.npy --queries users.npy --widths 64 128 256 --out work/ladder",
        _load_ladder,
    ),
    "recommend": Verb("Ask a running server for recommendations.", "--user 42 --k 10 --budget-ms 5", _load_recommend),
    "explore": Verb(
        "Open a web page that shows what a narrower width saves and loses.", "--bundles work/bundles", _load_explore
    ),
}

if __name__ == "__main__":
    main()
