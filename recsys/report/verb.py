"""Write the report of a run: one HTML file that needs nothing beside it, and its pictures as PNG if asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from recsys import artifact
from recsys.bundle import current_version
from recsys.current import KIND
from recsys.errors import ArtifactError, ConfigError
from recsys.evaluate.verb import Evaluation, Split, assess
from recsys.index.rungs import Ladder
from recsys.model.exported import LAYOUT, WEIGHTS
from recsys.report.page import Published, draw, render
from recsys.report.plots import write_pngs
from recsys.train.run_folder import read_progress

_LADDER = "ladder.json"


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """What to report on, and where to."""

    run: Path
    """Run folder that `recsys train` wrote; its best towers are measured."""
    dataset: Path
    """Folder that `recsys prepare` wrote, the one that the run was trained on."""
    out: Path
    """HTML file to write; one that is there is replaced."""
    bundles: Path | None = None
    """Folder of bundles: the current one's ladder is shown. It must have been published from this run."""
    png: Path | None = None
    """Folder for the pictures as PNG files, too."""
    split: Split = "test"
    """Whose targets are to be found."""
    recent_days: int = 7
    """Window of the recent-popularity baseline, in days."""
    num_examples: int = 4
    """Users whose answers are shown."""
    seed: int = 1
    """Fixes who they are."""

    def __post_init__(self) -> None:
        if self.num_examples < 0:
            raise ConfigError(f"num_examples: got {self.num_examples}, expected 0 or more")


def report(options: ReportOptions, *, progress: Callable[[str], None] = lambda _stage: None) -> Path:
    """Measure the run as `recsys evaluate` does, draw what there is to see, and write the file.

    Args:
        options: what and where.
        progress: called with the name of each stage.

    Returns:
        the HTML file.

    Raises:
        ArtifactError: the run, the dataset or the bundle is missing or damaged, or they do not belong together.
        ConfigError: the towers were trained on the split that they are to be measured on.
    """
    progress("measure every width and baseline")
    evaluation = assess(options.run, options.dataset, split=options.split, recent_days=options.recent_days)
    published = None if options.bundles is None else _published(options.bundles, evaluation)
    state = read_progress(options.run)
    progress("draw")
    drawn = draw(evaluation, published, history=[] if state is None else state.history)
    if options.png is not None:
        write_pngs(list(drawn.plots.values()), options.png)
    text = render(drawn, run=options.run, bundles=options.bundles, num_examples=options.num_examples, seed=options.seed)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    temporary = options.out.with_name(f".{options.out.name}.writing")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(options.out)
    return options.out


def _published(bundles: Path, evaluation: Evaluation) -> Published:
    """Read the current bundle's ladder, if it is of these towers."""
    folder = bundles / current_version(bundles)
    manifest = artifact.read_manifest(folder, KIND)
    files, ours = manifest["files"], evaluation.manifest["files"]
    for name in (WEIGHTS, LAYOUT):
        if files[name]["sha256"] != ours[name]["sha256"]:
            raise ArtifactError(
                f"bundles: got {folder}, whose {name} is not the run's; expected a bundle that was published from it"
            )
    if (got := artifact.sha256(folder / _LADDER)) != files[_LADDER]["sha256"]:
        raise ArtifactError(f"{folder / _LADDER}: SHA-256: got {got}, expected {files[_LADDER]['sha256']}")
    return Published(ladder=Ladder.load(folder / _LADDER), version=folder.name, manifest=manifest)
