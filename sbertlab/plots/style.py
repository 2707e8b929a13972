"""The look of all figures: light and dark pages, fonts, the frame of a figure, tables of coloured cells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from textwrap import fill
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import font_manager, patheffects
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex, to_rgb
from matplotlib.figure import Figure as Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from sbertlab.checks import check_choice

FONTS = ("DejaVu Sans", "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans Devanagari", "Noto Sans Thai", "Noto Emoji")
"""matplotlib's own font, so that a figure looks the same everywhere; the others, if installed, for missing letters."""

ROUND_STEPS = (1, 2, 2.5, 5, 10)
"""Steps between the numbers on an axis."""


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

    def letters_on(self, face: Any) -> str:
        """The colour of background or text that has more contrast on a cell of this RGB colour."""
        grey = [float(np.dot(to_rgb(color), (0.3, 0.6, 0.1))) for color in (tuple(face)[:3], self.background, self.ink)]
        return self.background if abs(grey[1] - grey[0]) > abs(grey[2] - grey[0]) else self.ink


THEMES = {
    "light": Theme(
        background="#ffffff",
        ink="#1b1f24",
        soft="#5f6873",
        line="#e1e5ea",
        palette=("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8f2bd8", "#6b2a10"),
    ),
    "dark": Theme(
        background="#12161c",
        ink="#eceff2",
        soft="#9ba6b2",
        line="#2c343e",
        palette=("#4ba3e3", "#ef7f3b", "#2fd6a3", "#e091bd", "#f0b53a", "#9bd6ff", "#a259f5", "#f4efa3"),
    ),
}
"""The two pages a figure can be drawn for; the palettes are safe for colour-blind readers."""


@contextmanager
def style(theme: str = "light") -> Iterator[Theme]:
    """Within the context, matplotlib draws in the project's style; yields the colours of the page.

    Raises:
        ValueError: `theme` is neither "light" nor "dark".

    >>> with style("dark") as colors:
    ...     colors.background == plt.rcParams["figure.facecolor"]
    True
    """
    check_choice("theme", theme, THEMES)
    colors = THEMES[theme]
    settings: Any = {
        "figure.facecolor": colors.background,
        "figure.dpi": 144,
        "axes.facecolor": colors.background,
        "axes.edgecolor": colors.line,
        "axes.labelcolor": colors.soft,
        "axes.labelsize": 8.5,
        "axes.titlecolor": colors.ink,
        "axes.titlesize": 9,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.prop_cycle": plt.cycler(color=colors.palette),
        "grid.color": colors.line,
        "grid.linewidth": 0.8,
        "xtick.color": colors.line,
        "ytick.color": colors.line,
        "xtick.labelcolor": colors.soft,
        "ytick.labelcolor": colors.soft,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "text.color": colors.ink,
        "text.parse_math": False,
        "legend.frameon": False,
        "legend.fontsize": 8,
        "legend.labelcolor": colors.soft,
        "font.family": _fonts(),
        "font.size": 9,
        "lines.linewidth": 1.6,
    }
    with plt.rc_context(settings):
        yield colors


def sequential(colors: Theme) -> LinearSegmentedColormap:
    """A colour scale for numbers, from near the background to the text's colour; it keeps its order in grey."""
    return LinearSegmentedColormap.from_list("numbers", [colors.faint(colors.good, 0.35), colors.good, colors.ink])


def drawable(text: str, width: int = 60) -> str:
    """The text on one line of at most `width` characters, with a box for each letter that no installed font has.

    >>> drawable("  two\\n lines <b>&</b>  "), drawable("abcdefgh", 5)
    ('two lines <b>&</b>', 'abcd…')
    """
    line = " ".join(str(text).split())
    line = line if len(line) <= width else line[: width - 1].rstrip() + "…"
    return "".join(letter if ord(letter) in _glyphs() else "□" for letter in line)


def halo(page: str) -> list[patheffects.AbstractPathEffect]:
    """Path effects that keep letters readable on top of lines, on a page of this colour."""
    return [patheffects.withStroke(linewidth=2.6, foreground=page)]


def canvas(
    width: float,
    height: float,
    title: str = "",
    footer: str = "",
    rows: int = 1,
    columns: int = 1,
    share: bool = False,
    **grid: Any,
) -> tuple[Figure, np.ndarray]:
    """A figure of this size in inches plus the room for a headline and a footer, and its panels `(rows, columns)`.

    Long headlines and footers are wrapped. pyplot forgets the figure, so that a notebook shows it once. `share` links
    the axes of all panels, or the y axes alone of a single row; `grid` goes to `pyplot.subplots`.
    """
    title = fill(drawable(title, 240), int(8.2 * width))
    footer = fill(drawable(footer, 400), int(15.5 * width))
    top = 0.24 * title.count("\n") + 0.42 * bool(title)
    bottom = 0.14 * footer.count("\n") + 0.28 * bool(footer)
    height += top + bottom
    rect = (0, bottom / height, 1, 1 - (top + bottom) / height)
    layout = ConstrainedLayoutEngine(rect=rect, w_pad=0.08, h_pad=0.08)
    look: dict[str, Any] = {"sharex": share and columns == 1, "sharey": share, "layout": layout, **grid}
    figure, panels = plt.subplots(rows, columns, figsize=(width, height), squeeze=False, **look)
    plt.close(figure)
    figure.text(0.1 / width, 1 - 0.12 / height, title, va="top", fontsize=12.5, weight="bold")
    soft = plt.rcParams["axes.labelcolor"]
    figure.text(0.1 / width, 0.1 / height, footer, va="bottom", fontsize=7.5, color=soft)
    return figure, panels


def cell_size(count: int) -> float:
    """Inches per cell of a table with so many rows or columns: cells of more than 16 are too small for numbers."""
    return 0.44 if count <= 16 else max(0.44 * 16 / count, 0.13)


def color_table(
    axes: Axes,
    colors: Theme,
    shades: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    numbers: Sequence[Sequence[str]] = (),
) -> list[list[Any]]:
    """Draw a table of coloured cells with row names at the left and column names on top; return what is in the cells.

    Args:
        axes: to draw into.
        colors: of the page.
        shades: `(rows, columns)`, -1 (orange) to 1 (blue); 0 and NaN have the page's own colour.
        rows: their names.
        columns: their names; slanted when one of them is long.
        numbers: what to write into the cells, row by row.
    """
    scale = LinearSegmentedColormap.from_list("diverging", [colors.bad, colors.background, colors.good])
    axes.pcolormesh(shades, cmap=scale, vmin=-1, vmax=1, edgecolors=colors.background, linewidth=1.5)
    axes.set(xlim=(0, len(columns)), ylim=(len(rows), 0))
    axes.tick_params(length=0, labelcolor=colors.ink, top=True, labeltop=True, bottom=False, labelbottom=False)
    axes.spines[:].set_visible(False)
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns)
    if max(map(len, columns)) > 4:
        for label in axes.get_xticklabels():
            label.set(rotation=50, ha="left", rotation_mode="anchor")
    look: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 7.5}
    letters: list[list[Any]] = []
    for row, words in enumerate(numbers):
        letters.append([])
        for column, text in enumerate(words):
            shade = shades[row, column]
            ink = colors.soft if np.isnan(shade) else colors.letters_on(scale((shade + 1) / 2))
            letters[-1].append(axes.text(column + 0.5, row + 0.5, text, color=ink, **look))
    return letters


def open_grid(axes: Axes) -> None:
    """Horizontal grid lines in place of the axis on the left."""
    axes.grid(axis="y")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=ROUND_STEPS))


def _mix(color: str, other: str, share: float) -> str:
    first, second = np.array(to_rgb(color)), np.array(to_rgb(other))
    return to_hex(share * first + (1 - share) * second)  # type: ignore[arg-type]


@cache
def _fonts() -> list[str]:
    return [name for name in FONTS if name in set(font_manager.get_font_names())]


@cache
def _glyphs() -> set[int]:
    """Code points that the fonts of the style can draw."""
    return {code for name in _fonts() for code in font_manager.get_font(font_manager.findfont(name)).get_charmap()}
