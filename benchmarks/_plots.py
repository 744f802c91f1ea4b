"""Pictures of recorded figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

_PANELS = {"ndcg@20": "ndcg@20", "containment_x2": "share of the full width's top 100 in the top 200"}


def plot_widths(name: str, figures: dict[str, Any], path: Path) -> None:
    """Draw each method by width, with the 95% intervals over seeds where there are several, into a PNG file."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    panels = figure.subplots(1, len(_PANELS))
    for panel, (metric, label) in zip(panels, _PANELS.items(), strict=True):
        for number, (method, by_width) in enumerate(figures["methods"].items()):
            points = {int(width): metrics[metric] for width, metrics in by_width.items() if metric in metrics}
            if len(points) < 2:  # a model of one width holds its own answer whole
                continue
            margins = [0.0 if one["interval"] is None else one["interval"][1] - one["mean"] for one in points.values()]
            means = [one["mean"] for one in points.values()]
            panel.errorbar(list(points), means, yerr=margins, marker="o", capsize=3, color=f"C{number}", label=method)
        panel.set_xscale("log", base=2)
        panel.set_xticks(figures["widths"], list(map(str, figures["widths"])))
        panel.set_xlabel("width")
        panel.set_ylabel(label)
        panel.grid(alpha=0.3)
    panels[0].legend()
    seeds = len(figures["seeds"])
    figure.suptitle(f"{name}: test, mean of {seeds} seed(s)" + (", 95% intervals" if seeds > 1 else ""))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def plot_loads(points: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw, for each server by load, the overlap delivered in time and the answers in time, into a PNG file."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    panels = figure.subplots(1, 2)
    shown = {"overlap_delivered": "overlap delivered in time, per call", "goodput": "answers in time, per second"}
    for panel, (key, label) in zip(panels, shown.items(), strict=True):
        for name in dict.fromkeys(point["server"] for point in points):
            own = [point for point in points if point["server"] == name]
            style = "-" if name.startswith("ladder") else "--"
            panel.plot([point["load"] for point in own], [point[key] for point in own], style, marker="o", label=name)
        panel.set_xlabel("calls that come, of those that a full server answers")
        panel.set_ylabel(label)
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
    panels[0].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def plot_frontier(name: str, figures: dict[str, Any], path: Path) -> None:
    """Draw overlap against speed-up, every rung named, every rival a line of its own, into a PNG file."""
    figure = Figure(figsize=(11, 6.5), layout="constrained")
    panel = figure.subplots()
    rungs = sorted(figures["ours"]["points"], key=lambda point: float(point["speedup"]))
    for number, (rival, found) in enumerate(figures["rivals"].items()):
        points = sorted(found.get("points", []), key=lambda point: float(point["speedup"]))
        missed, speedups = [_missed(point) for point in points], [point["speedup"] for point in points]
        panel.plot(speedups, missed, marker=".", linewidth=0.8, alpha=0.8, color=f"C{number}", label=rival)
    panel.scatter(
        [rung["speedup"] for rung in rungs],
        [_missed(rung) for rung in rungs],
        marker="D",
        color="black",
        zorder=3,
        label="our rungs",
    )
    for rung in rungs:
        place = (rung["speedup"], _missed(rung))
        panel.annotate(rung["name"], place, textcoords="offset points", xytext=(5, 4), fontsize=7)
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.invert_yaxis()
    panel.set_xlabel("times as fast as the exact scan at full width (p50, one query, one thread)")
    panel.set_ylabel("share of the exact top 100 that is missed (lowest: none)")
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)
    kind = "simulated from trained items" if figures["simulated"] else "trained items"
    figure.suptitle(f"{name}: {figures['num_items']:,} {kind}")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _missed(point: dict[str, Any]) -> float:
    """Return what is missed, no less than a logarithmic axis can show."""
    return max(1 - float(point["overlap"]), 1e-4)
