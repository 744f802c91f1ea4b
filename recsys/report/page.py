"""The report's page: what is drawn, what is said of it in numbers, and the template that holds both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from recsys import artifact
from recsys.evaluate.containment import containment
from recsys.evaluate.metrics import Estimate, estimate
from recsys.evaluate.verb import Evaluation
from recsys.index.calibrate import is_exact
from recsys.index.rungs import Ladder, Rung
from recsys.publish import ladder_notes
from recsys.report import figures, plots
from recsys.report.examples import examples_of
from recsys.report.profile import BANDS, Profile, band_shares, profile_of
from recsys.report.run import all_settings, changed_settings, commands
from recsys.widths import energy_shares, query_at

MAIN = ("ndcg@10", "recall@10")
"""The metrics that widths are compared by."""
CLOSE = 0.99
"""The overlap from which on a rung is called close to the exact answer."""
ENOUGH = 0.9
"""The share of the full width's quality that a narrower width should keep."""
_K = 10
DEPTHS = 1, 2, 4, 8
"""How many times longer a prefix's list may be than the answer that it is to hold."""
_LARGE, _ANSWER, _SMALL_ANSWER = 1000, 100, 10
"""From so many items on an answer of 100 says something; of fewer a tenth of that."""
_NUM_USERS = 512
"""Users that are looked at for that."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """A bundle, as far as a report needs it."""

    ladder: Ladder
    version: str
    manifest: dict[str, Any]

    @property
    def best(self) -> Rung | None:
        """The fastest rung that is close to the exact answer at the largest measured k."""
        k = max(self.ladder.rungs[0].overlap)
        close = [rung for rung in self.ladder.rungs if rung.overlap[k] >= CLOSE]
        return min(close, key=lambda rung: rung.latency_p50_ms, default=None)


@dataclass(frozen=True, kw_only=True)
class WidthRow:
    """A width beside the full one.

    Args:
        width: the width.
        size_bytes: of an item's vector in float32.
        means: the main metrics.
        kept: of each of them, the share of the full width's mean.
        difference: of each of them, this width minus the full one, query by query; None of the full width.
        overlap: with the full width's exact answer, at the largest cut-off.
        coverage: share of the catalogue that is recommended to anybody, at the smallest cut-off.
        bands: share of head, middle and tail in recommendations.
        energy: share of items' squared norm that the prefix holds.
        held: for each of `DEPTHS`, the share of the full width's exact answer that is in so many times longer a list.
    """

    width: int
    size_bytes: int
    means: dict[str, Estimate]
    kept: dict[str, float | None]
    difference: dict[str, Estimate] | None
    overlap: float
    coverage: float
    bands: list[float]
    energy: float
    held: list[float]


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Everything that there is to show."""

    evaluation: Evaluation
    profile: Profile
    published: Published | None
    history: Sequence[dict[str, Any]]
    widths: list[WidthRow]
    target_bands: list[float]
    plots: dict[str, plots.Plot]


def draw(evaluation: Evaluation, published: Published | None, *, history: Sequence[dict[str, Any]]) -> Drawn:
    """Count, compare and draw.

    Args:
        evaluation: what was measured.
        published: the bundle whose ladder is shown, if there is one.
        history: the run's record of each epoch; empty where none is left.
    """
    widths, profile = evaluation.towers.widths, profile_of(evaluation.dataset)
    vectors = {"users": query_at(evaluation.user_QU, widths.full, widths), "items": evaluation.item_ND}
    energy = {side: energy_shares(of, widths).mean(axis=0).tolist() for side, of in vectors.items()}
    rows = _width_rows(evaluation, profile, energy["items"])
    target_bands = band_shares(evaluation.queries.target.values, profile.band_N)
    shares = {"what users chose": target_bands} | {f"width {row.width}": row.bands for row in rows}
    drawn = [
        *figures.counts(profile),
        *figures.training(history, list(widths), metric=MAIN[0]),
        *figures.quality(evaluation.report, MAIN),
        figures.bands(shares),
        figures.energy(energy, list(widths)),
    ]
    if published is not None:
        drawn += figures.frontier(published.ladder, published.best)
    return Drawn(
        evaluation=evaluation,
        profile=profile,
        published=published,
        history=history,
        widths=rows,
        target_bands=target_bands,
        plots={plot.name: plot for plot in drawn},
    )


def render(drawn: Drawn, *, run: Path, bundles: Path | None, num_examples: int, seed: int) -> str:
    """Return the page.

    Args:
        drawn: what there is to show.
        run: the run's folder.
        bundles: the folder of bundles, if one was given.
        num_examples: users whose answers are shown.
        seed: fixes who they are.
    """
    evaluation = drawn.evaluation
    config, num_widths = evaluation.manifest["config"], len(drawn.widths)
    answer = answer_size(len(evaluation.item_ND))
    environment = Environment(
        loader=PackageLoader("recsys.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"share": _share, "signed": _signed, "mib": lambda size: f"{size / 2**20:,.2f}"}
    changed = changed_settings(config)
    return environment.get_template("report.html.jinja").render(
        report=evaluation.report,
        numbers=evaluation.report.to_json(),
        dataset=evaluation.dataset.manifest,
        has_titles=evaluation.dataset.titles is not None,
        towers=evaluation.manifest,
        profile=drawn.profile,
        published=drawn.published,
        notes=[] if drawn.published is None else ladder_notes(drawn.published.ladder),
        speedup=None if drawn.published is None else _speedup(drawn),
        history=drawn.history,
        widths=drawn.widths,
        narrow=narrowest_keeping(drawn.widths, ENOUGH),
        enough=ENOUGH,
        held_at=answer,
        depths=[answer * times for times in DEPTHS],
        main=MAIN,
        close=CLOSE,
        bands=BANDS,
        target_bands=drawn.target_bands,
        examples=examples_of(evaluation, num_users=num_examples, k=_K, seed=seed),
        seed=seed,
        k=_K,
        plots={name: plots.svg(plot, num_widths) for name, plot in drawn.plots.items()},
        css={theme: plots.css(theme, num_widths) for theme in ("light", "dark")},
        changed=changed,
        settings=all_settings(config),
        commands=commands(
            run=run, dataset=evaluation.dataset.path, split=evaluation.report.split, bundles=bundles,
            has_config=bool(changed),
        ),
        versions=artifact.versions(),
        now=datetime.now(UTC),
    )  # fmt: skip


def answer_size(num_items: int) -> int:
    """Return the size of the answer that prefixes are asked for: few items are all in a long list."""
    return _ANSWER if num_items >= _LARGE else _SMALL_ANSWER


def narrowest_keeping(rows: Sequence[WidthRow], share: float) -> WidthRow:
    """Return the narrowest width from which on all keep so much of the full width's first main metric."""
    found = rows[-1]
    for row in reversed(rows):
        kept = row.kept[MAIN[0]]
        if kept is None or kept < share:
            break
        found = row
    return found


def _width_rows(evaluation: Evaluation, profile: Profile, energy: Sequence[float]) -> list[WidthRow]:
    *_, full = evaluation.report.widths
    held = _held(evaluation)
    found = []
    for quality, share in zip(evaluation.report.widths, energy, strict=True):
        assert quality.width is not None
        overlap = next(name for name in quality.per_query if name.startswith("overlap"))
        found.append(
            WidthRow(
                width=quality.width,
                size_bytes=4 * quality.width,
                means={name: estimate(quality.per_query[name]) for name in MAIN},
                kept={name: _ratio(quality.mean(name), full.mean(name)) for name in MAIN},
                difference=None
                if quality is full
                else {name: estimate(quality.per_query[name] - full.per_query[name]) for name in MAIN},
                overlap=quality.mean(overlap),
                coverage=next(iter(quality.coverage.values())),
                bands=band_shares(np.ravel(evaluation.ranked[quality.width][:, :_K]), profile.band_N),
                energy=share,
                held=held[quality.width],
            )
        )
    return found


def _held(evaluation: Evaluation) -> dict[int, list[float]]:
    """Return by width what `WidthRow.held` has, the mean over evenly chosen users."""
    num = len(evaluation.queries)
    chosen = np.unique(np.linspace(0, num - 1, min(num, _NUM_USERS), dtype=np.int64))
    queries = evaluation.queries.take(chosen)
    by_width = containment(
        evaluation.user_QU[chosen],
        evaluation.item_ND,
        evaluation.towers.widths,
        k=answer_size(len(evaluation.item_ND)),
        multiples=DEPTHS,
        masked=queries.history if queries.mask_seen else None,
    )
    return {width: [float(share_Q.mean()) for share_Q in of.values()] for width, of in by_width.items()}


def _speedup(drawn: Drawn) -> float | None:
    """Return how many times as fast as the exact search the best rung is (p50); None where there is no such rung."""
    assert drawn.published is not None
    widths, best = drawn.evaluation.towers.widths, drawn.published.best
    exact = [rung.latency_p50_ms for rung in drawn.published.ladder.rungs if is_exact(rung, widths)]
    return min(exact) / best.latency_p50_ms if best is not None else None


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _share(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1%}" if not 0.9995 <= value < 0.99995 else f"{value:.2%}"


def _signed(found: Estimate) -> str:
    margin = "" if found.margin is None else f" ± {found.margin:.4f}"
    return f"{found.mean:+.4f}{margin}"
