"""What each picture of a report shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator, PercentFormatter

from recsys.evaluate.metrics import estimate
from recsys.evaluate.report import Report
from recsys.index.rungs import Ladder, Rung
from recsys.report.plots import Plot, colour, drawing, mark, width_colours
from recsys.report.profile import BANDS, Profile

_LEAST_MISSED = 1e-4
"""A logarithmic axis has no 0."""


def counts(profile: Profile) -> list[Plot]:
    """Show how many users have how many training events, and the same of items."""
    found = []
    for name, what, count_X in (
        ("activity", "users", profile.activity_U),
        ("popularity", "items", profile.popularity_N),
    ):
        with drawing(name, f"Histogram: {what} by their number of training events", height=2.6) as (plot, axes):
            some_X = count_X[count_X > 0]
            edges = np.unique(np.round(np.geomspace(1, some_X.max() + 1, 25)))
            axes.hist(some_X, bins=edges.tolist(), color=colour("middle"), edgecolor=colour("paper"), linewidth=0.6)
            _plain_logarithms(axes)
            axes.set_xlabel(f"training events of one of the {what}")
            axes.set_ylabel(what)
            axes.set_title(_without(what, int((count_X == 0).sum())), fontsize=9, color=colour("muted"), loc="left")
        found.append(plot)
    return found


def _without(what: str, num: int) -> str:
    return f"{num:,} {what} without any are not shown" if num else ""


def training(history: Sequence[Mapping[str, object]], widths: Sequence[int], *, metric: str) -> list[Plot]:
    """Show loss and validation score by epoch, a line per width; of validation only what there was.

    Args:
        history: a run's record of each epoch.
        widths: the trained widths.
        metric: the validation score.
    """
    found = []
    values = {
        "loss": [{width: record["loss"][str(width)] for width in widths} for record in history],  # type: ignore[index]
        "validation": [
            {int(width): scores[metric] for width, scores in record["validation"].items()}  # type: ignore[attr-defined]
            for record in history
        ],
    }
    for name, label in (("loss", "training loss"), ("validation", f"validation {metric}")):
        if not any(values[name]):
            continue
        with drawing(f"training-{name}", f"{label} by epoch, a line for each width") as (plot, axes):
            epochs = range(1, len(history) + 1)
            for place, (width, shade) in enumerate(zip(widths, width_colours(len(widths)), strict=True)):
                axes.plot(
                    epochs, [of[width] for of in values[name]], color=shade, marker=mark(place), label=f"width {width}"
                )
            axes.set_xlabel("epoch")
            axes.set_ylabel(label)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.legend()
        found.append(plot)
    return found


def quality(report: Report, metrics: Sequence[str]) -> list[Plot]:
    """Show each metric by width with 95% intervals, and the baselines as lines across."""
    found = []
    for metric in metrics:
        with drawing(f"quality-{metric.replace('@', '-')}", f"{metric} by width, beside the baselines") as (plot, axes):
            widths = [one.width for one in report.widths if one.width is not None]
            estimates = [estimate(one.per_query[metric]) for one in report.widths]
            axes.errorbar(
                widths,
                [one.mean for one in estimates],
                yerr=[one.margin or 0.0 for one in estimates],
                color=colour("ink"),
                marker="o",
                capsize=4,
                label="this model",
            )
            styles = ("--", ":", "-.")
            for place, baseline in enumerate(report.baselines):
                axes.axhline(
                    baseline.mean(metric),
                    color=colour("accent"),
                    linestyle=styles[place % len(styles)],
                    label=baseline.name,
                )
            _width_axis(axes, widths)
            axes.set_ylim(bottom=0)
            axes.set_ylabel(metric)
            axes.legend(ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
        found.append(plot)
    return found


def frontier(ladder: Ladder, best: Rung | None) -> list[Plot]:
    """Show what each rung misses of the exact answer against its time and its bytes; numbers as in the rungs' table.

    Args:
        ladder: the measured rungs.
        best: a rung to point out.
    """
    k = max(ladder.rungs[0].overlap)
    missed = [max(1 - rung.overlap[k], _LEAST_MISSED) for rung in ladder.rungs]
    found = []
    for name, label, costs in (
        (
            "latency",
            "search time of one query, ms (dot: p50, end of line: p99)",
            [r.latency_p50_ms for r in ladder.rungs],
        ),
        ("bytes", "MiB that the search may read", [rung.size_bytes / 2**20 for rung in ladder.rungs]),
    ):
        with drawing(f"frontier-{name}", f"Rungs: share of the exact answer missed against {label}", height=3.6) as (
            plot,
            axes,
        ):
            for number, (rung, lost, cost) in enumerate(zip(ladder.rungs, missed, costs, strict=True), start=1):
                shade = colour("accent") if rung is best else colour("ink") if rung.on_ladder else colour("muted")
                if name == "latency":
                    axes.plot([cost, rung.latency_p99_ms], [lost, lost], color=shade, linewidth=0.8)
                face = shade if rung.on_ladder or rung is best else colour("paper")
                axes.plot(cost, lost, marker="D", linestyle="", markeredgecolor=shade, markerfacecolor=face)
                axes.annotate(
                    str(number),
                    (cost, lost),
                    textcoords="offset points",
                    xytext=(0, 6),
                    ha="center",
                    fontsize=9,
                    color=shade,
                )
            axes.set_yscale("log")
            axes.set_ylim(1.0, _LEAST_MISSED / 2)
            ticks = [1.0, 0.1, 0.01, 0.001, _LEAST_MISSED]
            axes.set_yticks(ticks, ["0", ".9", ".99", ".999", "1"])
            axes.minorticks_off()
            _plain_logarithms(axes)
            axes.set_xlabel(label)
            axes.set_ylabel(f"overlap@{k} with the exact answer")
        found.append(plot)
    return found


def bands(shares: Mapping[str, Sequence[float]]) -> Plot:
    """Show what share of recommendations goes to the head, middle and tail of popularity, a bar per name."""
    height = 1.2 + 0.32 * len(shares)
    with drawing("popularity-bands", "Share of head, middle and tail items in recommendations", height=height) as (
        plot,
        axes,
    ):
        start = np.zeros(len(shares))
        for place, band in enumerate(BANDS):
            part = np.array([share[place] for share in shares.values()])
            axes.barh(list(shares), part, left=start, color=colour(band), edgecolor=colour("paper"), label=band)
            for row, (left, width) in enumerate(zip(start, part, strict=True)):
                if width > 0.07:
                    axes.text(
                        left + width / 2,
                        row,
                        f"{width:.0%}",
                        ha="center",
                        va="center",
                        color=colour("paper"),
                        fontsize=9,
                    )
            start += part
        axes.invert_yaxis()
        axes.grid(visible=False)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlim(0, 1)
        axes.legend(ncols=len(BANDS), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return plot


def energy(shares: Mapping[str, Sequence[float]], widths: Sequence[int]) -> Plot:
    """Show how much of the squared norm of users' and items' vectors the prefix of each width holds."""
    with drawing("energy", "Share of the squared norm that each prefix holds") as (plot, axes):
        for place, ((side, of), shade) in enumerate(zip(shares.items(), ("ink", "middle"), strict=True)):
            axes.plot(widths, of, color=colour(shade), marker=mark(place), label=side)
        axes.plot(widths, np.array(widths) / widths[-1], color=colour("muted"), linestyle=":", label="an even spread")
        _width_axis(axes, widths)
        axes.set_ylim(0, 1.03)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_ylabel("share of the squared norm")
        axes.legend()
    return plot


def _plain_logarithms(axes: Axes) -> None:
    """Make the horizontal axis logarithmic, with numbers that are read without thinking of powers."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    steps = (1, 2, 5) if high / low < 100 else (1,)
    axes.xaxis.set_major_locator(LogLocator(subs=steps))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:,.6g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def _width_axis(axes: Axes, widths: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(widths, list(map(str, widths)))
    axes.minorticks_off()
    axes.set_xlabel("width")
