"""The look of all figures: pages, colours, fonts, and the frame that a figure is drawn into.

What the figures need of matplotlib is imported here, so that its absence is told in one place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np

try:
    import matplotlib.pyplot as plt
    from matplotlib import font_manager, patheffects
    from matplotlib.axes import Axes
    from matplotlib.colors import LinearSegmentedColormap, to_hex, to_rgb
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.patches import FancyBboxPatch, Rectangle
    from matplotlib.ticker import MaxNLocator
except ImportError as error:
    raise ImportError('figures need matplotlib: pip install "sbertlab[lab]"') from error

__all__ = [
    "THEMES",
    "Axes",
    "FancyBboxPatch",
    "Figure",
    "LinearSegmentedColormap",
    "MaxNLocator",
    "Rectangle",
    "Theme",
    "canvas",
    "drawable",
    "open_grid",
    "patheffects",
    "sequential",
    "style",
    "table_axes",
]

FONTS = ("DejaVu Sans", "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans Devanagari", "Noto Sans Thai", "Noto Emoji")
"""matplotlib's own font, so that a figure is the same everywhere; the others, where installed, for what it lacks."""


@dataclass(frozen=True)
class Theme:
    """Colours of a page: background, text, secondary text, thin lines, and of what is shown on it."""

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
        """Worse, negative, cut off."""
        return self.palette[1]

    def readable(self, color: str) -> str:
        """The colour drawn towards that of the text, for letters."""
        return _mix(color, self.ink, 0.6)

    def faint(self, color: str, share: float = 0.18) -> str:
        """The colour drawn towards the background, for areas."""
        return _mix(color, self.background, share)


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
"""The two pages a figure can be drawn for."""


@contextmanager
def style(theme: str = "light") -> Iterator[Theme]:
    """Within the context, matplotlib draws in the project's style, and the colours of the page are given.

    Args:
        theme: "light" or "dark".

    Raises:
        ValueError: another theme.

    >>> with style("dark") as colors:
    ...     colors.background == plt.rcParams["figure.facecolor"]
    True
    """
    if theme not in THEMES:
        raise ValueError(f"theme must be one of {tuple(THEMES)}, got {theme!r}")
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
        "font.family": [name for name in FONTS if name in set(font_manager.get_font_names())],
        "font.size": 9,
        "lines.linewidth": 1.6,
    }
    with plt.rc_context(settings):
        yield colors


def sequential(colors: Theme) -> LinearSegmentedColormap:
    """A colour scale for numbers, from near the background to the text's colour; it keeps its order in grey."""
    return LinearSegmentedColormap.from_list("numbers", [colors.faint(colors.good, 0.35), colors.good, colors.ink])


def drawable(text: str, width: int = 60) -> str:
    """The text on one line, at most `width` characters, with a box for what no installed font can draw.

    >>> drawable("  two\\n lines <b>&</b>  "), drawable("abcdefgh", 5)
    ('two lines <b>&</b>', 'abcd…')
    """
    line = " ".join(str(text).split())
    line = line if len(line) <= width else line[: width - 1].rstrip() + "…"
    return "".join(letter if ord(letter) in _glyphs() else "□" for letter in line)


def _mix(color: str, other: str, share: float) -> str:
    first, second = to_rgb(color), to_rgb(other)
    red, green, blue = (share * a + (1 - share) * b for a, b in zip(first, second, strict=True))
    return to_hex((red, green, blue))


@cache
def _glyphs() -> set[int]:
    """Code points that the fonts of the style can draw."""
    names = [name for name in FONTS if name in set(font_manager.get_font_names())]
    return {code for name in names for code in font_manager.get_font(font_manager.findfont(name)).get_charmap()}


def canvas(
    width: float,
    height: float,
    title: str = "",
    footer: str = "",
    rows: int = 1,
    columns: int = 1,
    width_ratios: Sequence[float] | None = None,
    share: bool = False,
) -> tuple[Figure, np.ndarray]:
    """A figure (inches) with a headline and a footer, and its panels `(rows, columns)`; pyplot forgets it at once.

    A footer that is wider than the figure goes on in a further line, for which the figure is higher.
    """
    footer = _in_lines(drawable(footer, 240), width - 0.2)
    top, bottom = 0.42 * bool(title), 0.28 * bool(footer) + 0.14 * footer.count("\n")
    height += top + bottom
    rect = (0, bottom / height, 1, 1 - (top + bottom) / height)
    figure, panels = plt.subplots(
        rows,
        columns,
        figsize=(width, height),
        squeeze=False,
        layout=ConstrainedLayoutEngine(rect=rect, w_pad=0.08, h_pad=0.08),
        width_ratios=width_ratios,
        sharex=share and columns == 1,
        sharey=share,
    )
    plt.close(figure)
    figure.text(0.1 / width, 1 - 0.12 / height, drawable(title, 120), va="top", fontsize=12.5, weight="bold")
    soft = plt.rcParams["axes.labelcolor"]
    figure.text(0.1 / width, 0.1 / height, footer, va="bottom", fontsize=FOOTER_SIZE, color=soft)
    return figure, panels


FOOTER_SIZE = 7.5
"""Points of the line below a figure."""


def _in_lines(words: str, width: float) -> str:
    """The words of a footer, on as many lines as the width (inches) asks for."""
    page = Figure()
    needed = page.text(0, 0, words, fontsize=FOOTER_SIZE).get_window_extent().width / page.dpi
    return words if needed <= width else fill(words, int(0.95 * len(words) * width / needed))


def save_both(path: Path, figure: Callable[..., Figure]) -> list[Path]:
    """Write a picture for light pages (`path.png`) and for dark ones (`path_dark.png`), and return both paths.

    Args:
        path: without an ending.
        figure: makes the figure when called with `theme="light"` or `theme="dark"`.
    """
    paths = [path.with_name(f"{path.name}.png"), path.with_name(f"{path.name}_dark.png")]
    for target, theme in zip(paths, THEMES, strict=True):
        figure(theme=theme).savefig(target, dpi=160)
    return paths


def table_axes(axes: Axes, colors: Theme, rows: Sequence[str], columns: Sequence[str]) -> None:
    """Names of rows at the left and of columns on top, at the middle of their cells."""
    axes.tick_params(length=0, labelcolor=colors.ink, top=True, labeltop=True, bottom=False, labelbottom=False)
    axes.spines[:].set_visible(False)
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns)


def open_grid(axes: Axes) -> None:
    """Level lines in place of an axis on the left."""
    axes.grid(axis="y")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
