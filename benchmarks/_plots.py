"""Pictures of recorded figures."""

from __future__ import annotations

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
