"""Pictures of a report: matplotlib figures that are written as PNG, or as SVG which takes its colours from the page.

A figure is drawn in the colours of the light theme. In its SVG each of them becomes a CSS variable, so that the page
decides what it is: `css` gives the variables of both themes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure

Theme = Literal["light", "dark"]

# Name: colour in the light and in the dark theme. The light ones must differ: SVGs are searched for them.
_COLOURS = {
    "ink": ("#1d2530", "#e4e8ee"),
    "muted": ("#5d6875", "#9aa5b3"),
    "grid": ("#dfe3e9", "#333c49"),
    "paper": ("#fefefe", "#1a2029"),
    "accent": ("#b3470b", "#ff9d5c"),
    "head": ("#7a5195", "#b98bd6"),
    "middle": ("#3f8f8b", "#6cc7c2"),
    "tail": ("#c99a2c", "#e9c46a"),
}
_RAMP = {"light": ("#7db8da", "#2f7fb5", "#0b2f55"), "dark": ("#3f6f93", "#62b0e0", "#d5eeff")}
_MARKS = "osD^vPX*"


@dataclass(frozen=True)
class Plot:
    """A figure with the name of its files and what it shows, for those who cannot see it."""

    name: str
    label: str
    figure: Figure


def colour(name: str) -> str:
    """Return a colour of the light theme."""
    return _COLOURS[name][0]


def width_colours(num: int, theme: Theme = "light") -> list[str]:
    """Return a colour per width, from pale for the narrowest to strong for the full one."""
    ramp = LinearSegmentedColormap.from_list(theme, _RAMP[theme])
    return [to_hex(ramp(place / max(num - 1, 1))) for place in range(num)]


def mark(place: int) -> str:
    """Return a marker, so that colour is not all that tells lines apart."""
    return _MARKS[place % len(_MARKS)]


def css(theme: Theme, num_widths: int) -> str:
    """Return the declarations of the theme's CSS variables."""
    side = 0 if theme == "light" else 1
    named = {name: both[side] for name, both in _COLOURS.items()}
    named |= {f"width-{place}": found for place, found in enumerate(width_colours(num_widths, theme))}
    return " ".join(f"--{name}: {found};" for name, found in named.items())


@contextmanager
def drawing(name: str, label: str, *, height: float = 3.1) -> Iterator[tuple[Plot, Axes]]:
    """Yield a plot and its axes, as wide as a phone shows without making the text small."""
    style: Any = {
        "font.size": 10,
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": colour("muted"),
        "axes.labelcolor": colour("ink"),
        "text.color": colour("ink"),
        "xtick.color": colour("muted"),
        "ytick.color": colour("muted"),
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": colour("grid"),
        "figure.facecolor": colour("paper"),
        "axes.facecolor": colour("paper"),
        "legend.frameon": False,
        "legend.fontsize": 9,
        "lines.linewidth": 1.6,
        "lines.markersize": 5,
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=(5.2, height), layout="constrained")
        yield Plot(name, label, figure), figure.subplots()


def svg(plot: Plot, num_widths: int) -> Markup:
    """Return a plot as an SVG element for a page that declares `css`."""
    written = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": plot.name}):
        plot.figure.savefig(
            written, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    text = written.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text)
    text = text.replace("xlink:href=", "href=")
    # Several figures share a page, and with it the names of their parts.
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{plot.name}-", text)
    text = re.sub(r'<svg ([^>]*?)(width|height)="[^"]*pt"', r"<svg \1", text)
    text = re.sub(r'<svg ([^>]*?)(width|height)="[^"]*pt"', r"<svg \1", text)
    names = {light: name for name, (light, _) in _COLOURS.items()}
    names |= {found: f"width-{place}" for place, found in enumerate(width_colours(num_widths))}
    for light, name in names.items():
        text = text.replace(light, f"var(--{name})")
    label = Markup.escape(plot.label)
    text = text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    return Markup(text)  # noqa: S704 (matplotlib has escaped what it wrote)


def write_pngs(plots: Sequence[Plot], folder: Path) -> None:
    """Write every plot as ``folder/NAME.png``, in the light theme."""
    folder.mkdir(parents=True, exist_ok=True)
    for plot in plots:
        plot.figure.savefig(folder / f"{plot.name}.png", dpi=150)
