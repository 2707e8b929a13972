"""The look of all figures: light and dark pages, fonts, the frame of a figure, tables of coloured cells."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from textwrap import fill
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import font_manager, patheffects
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from sbertlab.checks import check_choice

FONTS = ("DejaVu Sans", "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans Devanagari", "Noto Sans Thai", "Noto Emoji")
"""matplotlib's own font, so that a figure looks the same everywhere; the others, if installed, for missing letters."""


Texts = Sequence[str]
Size = tuple[float, float]


@dataclass(frozen=True)
class Theme:
    """Colours of a page: background, text, secondary text, thin lines, and data."""

    background: str
    ink: str
    soft: str
    line: str
    palette: tuple[str, ...]

    @property
    def good(self) -> str:
        """Fine-tuned, positive, kept."""
        return self.palette[0]

    @property
    def bad(self) -> str:
        """Worse, negative, truncated."""
        return self.palette[1]

    def readable(self, color: str) -> str:
        """The colour mixed with that of the text, for letters."""
        return _mix(color, self.ink, 0.6)

    def faint(self, color: str, share: float = 0.18) -> str:
        """The colour mixed with the background, for areas."""
        return _mix(color, self.background, share)


BRIGHT = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8f2bd8", "#6b2a10")
PALE = ("#4ba3e3", "#ef7f3b", "#2fd6a3", "#e091bd", "#f0b53a", "#9bd6ff", "#a259f5", "#f4efa3")
"""Palettes of light and of dark pages, safe for colour-blind readers."""

THEMES = {
    "light": Theme(background="#ffffff", ink="#1b1f24", soft="#5f6873", line="#e1e5ea", palette=BRIGHT),
    "dark": Theme(background="#12161c", ink="#eceff2", soft="#9ba6b2", line="#2c343e", palette=PALE),
}
"""The two pages a figure can be drawn for."""


@contextmanager
def style(theme: str = "light") -> Iterator[Theme]:
    """Within the context, matplotlib draws in the project's style; yields the colours of the page."""
    check_choice("theme", theme, THEMES)
    colors = THEMES[theme]
    installed = font_manager.get_font_names()
    with plt.rc_context():
        plt.rc("figure", facecolor=colors.background, dpi=144)
        plt.rc("axes", facecolor=colors.background, edgecolor=colors.line, labelcolor=colors.soft, labelsize=8.5)
        plt.rc("axes", titlesize=9, titleweight="bold", titlelocation="left", axisbelow=True)
        plt.rc("axes", prop_cycle=plt.cycler(color=colors.palette))
        plt.rc("axes.spines", top=False, right=False)
        plt.rc("grid", color=colors.line)
        plt.rc("xtick", color=colors.soft, labelsize=8)
        plt.rc("ytick", color=colors.soft, labelsize=8)
        plt.rc("text", color=colors.ink, parse_math=False)
        plt.rc("legend", frameon=False, fontsize=8, labelcolor=colors.soft)
        plt.rc("font", family=[name for name in FONTS if name in installed], size=9)
        yield colors


def canvas(
    width: float, height: float, title: str = "", footer: str = "", rows: int = 1, columns: int = 1, **grid: Any
) -> tuple[Figure, np.ndarray]:
    """A figure of this size in inches plus the room for a headline and a footer, and its panels `(rows, columns)`.

    Long headlines and footers are wrapped. pyplot forgets the figure, so that a notebook shows it once. `grid` goes to
    `pyplot.subplots`.
    """
    title, footer = fill(drawable(title, 240), int(8.2 * width)), fill(drawable(footer, 400), int(15.5 * width))
    top = 0.24 * title.count("\n") + 0.42 * bool(title)
    bottom = 0.14 * footer.count("\n") + 0.28 * bool(footer)
    height += top + bottom
    rect = (0, bottom / height, 1, 1 - (top + bottom) / height)
    layout = ConstrainedLayoutEngine(rect=rect, w_pad=0.08, h_pad=0.08)
    figure, panels = plt.subplots(rows, columns, figsize=(width, height), squeeze=False, layout=layout, **grid)
    plt.close(figure)
    figure.text(0.1 / width, 1 - 0.12 / height, title, va="top", fontsize=12.5, weight="bold")
    soft = plt.rcParams["axes.labelcolor"]
    figure.text(0.1 / width, 0.1 / height, footer, va="bottom", fontsize=7.5, color=soft)
    return figure, panels


def color_table(
    theme: str, shades: np.ndarray, numbers: pd.DataFrame, title: str, footer: str = "", cell: Size = (0.44, 0.44)
) -> Figure:
    """A table of coloured cells, with row names at the left, column names on top and numbers in up to 16 columns.

    `shades` `(rows, columns)` are -1 (orange) to 1 (blue); 0 and NaN have the page's own colour. `cell` is the width
    and height of a cell in inches, in larger tables less.
    """
    (high, wide), columns, lines = shades.shape, list(numbers.columns), "\n".join(numbers.index).split("\n")
    width, height = np.array(cell) * max(min(16 / wide, 1), 0.3)
    longest = max(map(len, columns))
    slanted = longest > 4
    across = 0.4 + 0.072 * max(map(len, lines)) + width * wide + 0.045 * len(columns[-1]) * slanted
    with style(theme) as colors:
        figure, panels = canvas(max(across, 3.6), height * high + 0.3 + 0.062 * longest * slanted, title, footer)
        axes = panels[0, 0]
        scale = LinearSegmentedColormap.from_list("diverging", [colors.bad, colors.background, colors.good])
        look: Any = {"cmap": scale, "vmin": -1, "vmax": 1, "edgecolors": colors.background, "linewidth": 1.5}
        mesh = axes.pcolormesh(np.nan_to_num(shades), **look)
        axes.set(xlim=(0, wide), ylim=(high, 0))
        axes.set_aspect(height / width, anchor="W")
        axes.tick_params(length=0, labelcolor=colors.ink, top=True, labeltop=True, bottom=False, labelbottom=False)
        axes.spines[:].set_visible(False)
        axes.set_yticks(np.arange(high) + 0.5, numbers.index)
        axes.set_xticks(np.arange(wide) + 0.5, columns)
        if slanted:
            plt.setp(axes.get_xticklabels(), rotation=50, ha="left", rotation_mode="anchor")
        for (row, column), shade in np.ndenumerate(np.nan_to_num(shades)) if wide <= 16 else ():
            face = mesh.cmap(mesh.norm(shade))
            ink = max((colors.background, colors.ink), key=lambda ink: abs(_lightness(ink) - _lightness(face)))
            number = numbers.iloc[row, column]
            axes.text(column + 0.5, row + 0.5, number, color=ink, ha="center", va="center", fontsize=7.5)
    return figure


def sequential(colors: Theme) -> LinearSegmentedColormap:
    """A colour scale for numbers, from near the background to the text's colour; it keeps its order in grey."""
    return LinearSegmentedColormap.from_list("numbers", [colors.faint(colors.good, 0.35), colors.good, colors.ink])


def drawable(text: str, width: int = 60) -> str:
    """The text on one line of at most `width` characters.

    >>> drawable("  two\\n lines <b>&</b>  "), drawable("abcdefgh", 5)
    ('two lines <b>&</b>', 'abcd…')
    """
    line = " ".join(str(text).split())
    return line if len(line) <= width else line[: width - 1].rstrip() + "…"


def halo(page: str) -> list[patheffects.AbstractPathEffect]:
    """Path effects that keep letters readable on top of lines, on a page of this colour."""
    return [patheffects.withStroke(linewidth=2.6, foreground=page)]


def legend_entries(figure: Figure) -> dict[str, Any]:
    """What is labelled in the panels of a figure, each label once."""
    pairs = [axes.get_legend_handles_labels() for axes in figure.axes]
    return {label: handle for handles, labels in pairs for label, handle in zip(labels, handles, strict=True)}


def open_grid(axes: Axes) -> None:
    """Horizontal grid lines in place of the axis on the left."""
    axes.grid(axis="y")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.locator_params("y", nbins=4)


def _mix(color: str, other: str, share: float) -> str:
    first, second = np.array(to_rgb(color)), np.array(to_rgb(other))
    return to_hex(share * first + (1 - share) * second)  # type: ignore[arg-type]


def _lightness(color: Any) -> float:
    return float(np.dot(to_rgb(color), (0.3, 0.6, 0.1)))
