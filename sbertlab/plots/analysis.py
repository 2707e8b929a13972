"""The figure of robustness and fairness: where changed sentences go, and whom a model puts nearer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from sbertlab.checks import check_columns
from sbertlab.plots.style import Axes, Figure, Rectangle, Theme, canvas, drawable, style

EXPECTATIONS: Mapping[str, str] = {"same": "should stay near", "different": "should move away"}
GROUPS: Mapping[str, str] = {"pronoun": '"her" less "his"', "role": "by role, less all roles", "name": "names"}

NAME_ROWS = 0.8
"""Room for the name of a model, in rows."""

Rows = list[tuple[str, pd.DataFrame]]
"""Blocks of rows: a heading, and the rows below it."""


def robustness_figure(
    tables: Mapping[str, pd.DataFrame],
    gaps: Mapping[str, pd.DataFrame] | None = None,
    *,
    title: str = "What moves a sentence, and what should",
    note: str = "",
    theme: str = "light",
) -> Figure:
    """Kinds of change on the way from a paraphrase to an unrelated sentence, and gaps between groups; one dot a model.

    The shaded side of a paraphrase is the wrong one: beyond it for what should stay near, before it for what should
    move away. Lines are 95 % intervals over sentences. Roles and name groups are sorted by the first model's gap.

    Args:
        tables: what `robustness` returns, by model; at most eight.
        gaps: what `associations` returns, by model; None leaves the panel out.
        title: a headline.
        note: added to the line below the figure.
        theme: "light" or "dark".

    Raises:
        ValueError: no table, too many, one without rows or columns that are needed, gaps of a model without a table.
    """
    gaps = gaps or {}
    if unknown := [name for name in gaps if name not in tables]:
        raise ValueError(f"gaps has the models {unknown}, which tables lacks; it has {list(tables)}")
    needed = ["kind", "expectation", "shift", "shift_low", "shift_high", "nearer", "nearer_low", "nearer_high"]
    for name, table in tables.items():
        check_columns(f"the table of {name}", table, needed)
    for name, table in gaps.items():
        check_columns(f"the gaps of {name}", table, ["kind", "group", "gap", "low", "high"])
    with style(theme) as colors:
        if not 0 < len(tables) <= len(colors.palette):
            raise ValueError(f"tables must hold one to {len(colors.palette)} models, got {len(tables)}")
        shades = dict(zip(tables, colors.palette, strict=False))
        blocks = [_kinds(table) for table in tables.values()]
        height = 0.9 + max(
            0.3 * (_count(blocks[0]) + NAME_ROWS * len(tables)) * max(1, len(tables) / 4), 0.21 * _count(_gaps(gaps))
        )
        ratios = [3, 1.1, 2.4] if gaps else [3, 1.1]
        footer = "Dots are means over sentences, lines their 95 % intervals. Shaded: the wrong side of a paraphrase."
        figure, grid = canvas(
            1.3 + 1.5 * sum(ratios),
            height,
            title,
            footer=f"{footer} {note}".strip(),
            columns=len(ratios),
            width_ratios=ratios,
        )
        moves, shares = grid[0, :2]
        places = _open_rows(moves, blocks[0], colors, above=NAME_ROWS * len(tables))
        _open_rows(shares, blocks[0], colors, above=NAME_ROWS * len(tables), named=False)
        for axes, column, factor in ((moves, "shift", 1), (shares, "nearer", 100)):
            for shade, block, lift in zip(shades.values(), blocks, _lifts(len(blocks)), strict=True):
                rows = pd.concat([rows for _, rows in block])
                _draw_intervals(axes, rows, column, places, factor, lift, shade)
        moves.set_title("Way from a paraphrase (0) to an unrelated sentence (1)", fontsize=8.5)
        moves.set_xlim(*_limits(moves, least=(-0.15, 1.02)))
        moves.vlines([0, 1], 0.5, max(places.values()) + 0.5, color=colors.soft, linewidth=0.9, zorder=0)
        _shade(moves, blocks[0], places, 0, colors)
        shares.set_title("Nearer than a\nparaphrase, %", fontsize=8.5)
        shares.set(xlim=(-6, 106), xticks=(0, 50, 100))
        _shade(shares, blocks[0], places, 50, colors, flipped=True)
        _name_models(moves, shades, colors)
        if gaps:
            axes = grid[0, 2]
            rows_of_all = _gaps(gaps)
            places = _open_rows(axes, rows_of_all, colors)
            for (name, shade), lift in zip(shades.items(), _lifts(len(shades)), strict=True):
                if name in gaps:
                    rows = gaps[name].assign(gap_low=gaps[name]["low"], gap_high=gaps[name]["high"])
                    rows.index = pd.Index(rows["group"])
                    _draw_intervals(axes, rows, "gap", places, 100, lift, shade)
            axes.set_title("Gap of cosine to the neutral wording, \N{MULTIPLICATION SIGN} 100", fontsize=8.5)
            axes.axvline(0, color=colors.soft, linewidth=0.9, zorder=0)
    return figure


def _kinds(table: pd.DataFrame) -> Rows:
    """The kinds of each expectation; what the scale is made of, paraphrase and unrelated, is left out."""
    shown = table[~table["kind"].isin(["paraphrase", "unrelated"])].set_index("kind", drop=False)
    return [(heading, shown[shown["expectation"] == wanted]) for wanted, heading in EXPECTATIONS.items()]


def _gaps(gaps: Mapping[str, pd.DataFrame]) -> Rows:
    """The groups of each kind, the largest gap of the first model on top."""
    if not gaps:
        return []
    first = next(iter(gaps.values())).sort_values("gap", ascending=False, kind="stable")
    first.index = pd.Index(first["group"])
    return [(heading, first[first["kind"] == kind]) for kind, heading in GROUPS.items()]


def _count(blocks: Rows) -> float:
    """How many rows high the blocks are, headings included."""
    return sum(len(rows) + 1 for _, rows in blocks)


def _lifts(count: int) -> np.ndarray:
    """Where in their row the models lie, the first on top."""
    return np.linspace(-0.5, 0.5, count) * min(0.6, 0.25 * (count - 1)) if count > 1 else np.zeros(1)


def _open_rows(axes: Axes, blocks: Rows, colors: Theme, above: float = 0, named: bool = True) -> dict[str, int]:
    """Lay the rows out below some room, each block below its heading, and return the place of each row."""
    places: dict[str, int] = {}
    heading_at, row = {}, 0
    for heading, rows in blocks:
        heading_at[row] = heading
        places |= {str(name): row + 1 + step for step, name in enumerate(rows.index)}
        row += 1 + len(rows)
    axes.set_ylim(row - 0.5, -0.5 - above)
    axes.hlines([*places.values()], 0, 1, transform=axes.get_yaxis_transform(), color=colors.line, linewidth=0.6)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    if named:
        axes.set_yticks([*heading_at, *places.values()], [*heading_at.values(), *map(drawable, places)])
        for label, is_heading in zip(
            axes.get_yticklabels(), [True] * len(heading_at) + [False] * len(places), strict=True
        ):
            label.set(color=colors.soft if is_heading else colors.ink, style="italic" if is_heading else "normal")
    else:
        axes.set_yticks([])
    return places


def _draw_intervals(
    axes: Axes, rows: pd.DataFrame, column: str, places: Mapping[str, int], factor: float, lift: float, shade: str
) -> None:
    """Dots and lines of one model in all its rows; a row without a number stays empty."""
    for name, row in rows.iterrows():
        if str(name) in places and np.isfinite(row[column]):
            height = places[str(name)] + lift
            ends = (factor * row[f"{column}_low"], factor * row[f"{column}_high"])
            axes.plot(ends, (height, height), color=shade, linewidth=1.6, alpha=0.55, solid_capstyle="butt")
            axes.plot(factor * row[column], height, "o", color=shade, markersize=4.2)


def _limits(axes: Axes, least: tuple[float, float]) -> tuple[float, float]:
    """The range of what is drawn with a margin, at least this one."""
    low, high = axes.dataLim.intervalx
    if low > high:  # no model has a scale, so nothing is drawn
        return least
    margin = 0.04 * (high - low)
    return min(low - margin, least[0]), max(high + margin, least[1])


def _shade(
    axes: Axes, blocks: Rows, places: Mapping[str, int], border: float, colors: Theme, flipped: bool = False
) -> None:
    """A faint area on the side of a paraphrase where the rows of a block should not lie."""
    low, high = axes.get_xlim()
    sides = [(border, high), (low, border)]
    for (_, rows), (start, end) in zip(blocks, sides[::-1] if flipped else sides, strict=True):
        if len(rows):
            top, bottom = places[str(rows.index[0])] - 0.5, places[str(rows.index[-1])] + 0.5
            area = Rectangle((start, top), end - start, bottom - top, color=colors.faint(colors.bad, 0.1), linewidth=0)
            area.set_zorder(-1)
            axes.add_patch(area)


def _name_models(axes: Axes, shades: Mapping[str, str], colors: Theme) -> None:
    """The models' names in their colours, in the room above the rows, one below the other."""
    top = axes.get_ylim()[1]
    for step, (name, shade) in enumerate(shades.items()):
        spot = (0.01, top + NAME_ROWS * (step + 0.5))
        look: dict[str, Any] = {"va": "center", "fontsize": 8.5, "weight": "bold", "color": colors.readable(shade)}
        axes.text(*spot, drawable(name, 48), transform=axes.get_yaxis_transform(), **look)
