"""The figures of who leads: models ranked with intervals and ties, and the table of models and tasks as colours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from sbertlab.analysis.intervals import tied_groups
from sbertlab.analysis.ranks import VARIANTS, mean_of, measured_cells, seed_scores, standings, task_scores, told_apart
from sbertlab.plots.benchmark_plots import name_rows
from sbertlab.plots.style import (
    Axes,
    Figure,
    LinearSegmentedColormap,
    Rectangle,
    Theme,
    canvas,
    drawable,
    patheffects,
    style,
    to_rgb,
)

INTERVAL, SEED = "95 % over examples", "a seed"
"""How the key calls the marks beside ring and dot."""

RANK_WIDTH, LANE_WIDTH = 0.62, 0.14
"""Of the column of ranks and of a line that joins ties, in inches."""

RESOLUTION_ROWS = 1.5
"""Height of the scale bar with its caption, in rows of the ranking."""


def standings_figure(
    table: pd.DataFrame,
    comparisons: pd.DataFrame | None = None,
    resolution: float | None = None,
    *,
    title: str = "Which ranks are real?",
    note: str = "",
    theme: str = "light",
) -> Figure:
    """Models in the order of their mean, each with its interval, its seeds and the ranks that it may have.

    A line at the right joins what cannot be told apart; models of one such line may stand in any order. A rank is
    "2" when all others differ, "2–4" when up to two of those behind do not. Rows with a tint cannot be told from the
    first. A model that lacks a cell has no mean and is named below the ranking.

    Args:
        table: as for `benchmark_figure`, of one preset; low and high give the intervals.
        comparisons: one row a pair, with the columns task, model_a, variant_a, model_b, variant_b, different (bool);
            those with the task "mean" count. None: no ranks and no lines.
        resolution: the smallest difference of two means that the table can see, drawn to scale below the ranking. None
            or NaN: not known.
        title: a headline.
        note: added to the line below the figure.
        theme: "light" or "dark".

    Raises:
        ValueError: a table as in `benchmark_figure`, a pair that is not compared, a resolution that is not positive.
    """
    ranking = standings(table)
    seen = seed_scores(table)["mean"].sort_index()
    placed = ranking.dropna(subset="mean")
    if placed.empty:
        raise ValueError("table has no model with all its tasks, so there are no means to rank")
    resolution = None if resolution is None or np.isnan(resolution) else resolution
    if resolution is not None and not 0 < resolution < np.inf:
        raise ValueError(f"resolution must be a positive number, got {resolution!r}")
    apart = None if comparisons is None else told_apart(comparisons, placed.index)
    groups = [] if apart is None else [group for group in tied_groups(apart) if len(group) > 1]
    lanes = _lanes(groups)
    count, missing = len(placed), ranking.index[ranking["mean"].isna()]
    footer = f"{mean_of(measured_cells(table))}."
    footer += " Joined at the right: cannot be told apart. Tinted: nor from the first." if groups else ""
    with style(theme) as colors:
        right = RANK_WIDTH + LANE_WIDTH * (max(lanes, default=-1) + 1)
        figure, panels = canvas(
            7.0,
            0.62 + 0.265 * (count + RESOLUTION_ROWS * (resolution is not None) + 0.7 * bool(len(missing))),
            title,
            footer=f"{footer} {note}".strip(),
            columns=1 if apart is None else 2,
            width_ratios=None if apart is None else [6 - right, right],
            share=True,
        )
        axes = panels[0, 0]
        for row, key in enumerate(placed.index):
            page = colors.background
            if groups and apart is not None and not apart[0, row]:
                page = colors.faint(colors.good, 0.11)
                axes.axhspan(row - 0.5, row + 0.5, color=page, linewidth=0)
            _draw_standing(axes, row, key[1], placed.loc[key], seen.loc[key], page, colors)
        name_rows(axes, range(count), [model for model, _ in placed.index], colors)
        bottom = count - 0.4
        axes.margins(x=0.1)
        if resolution is not None:
            _draw_resolution(axes, bottom + 0.4, resolution, colors)
            bottom += RESOLUTION_ROWS
        if len(missing):
            names_of = ", ".join(f"{drawable(model, 30)} ({variant})" for model, variant in missing)
            lacking = f"{len(missing)} without a mean, as cells failed: {drawable(names_of, 56)}"
            axes.text(
                0,
                bottom + 0.35,
                lacking,
                transform=axes.get_yaxis_transform(),
                fontsize=7.5,
                color=colors.soft,
                in_layout=False,
            )
            bottom += 0.7
        axes.set_ylim(bottom, -0.6)
        axes.grid(axis="x")
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        _draw_key(axes, colors)
        if apart is not None:
            _draw_ranks(panels[0, 1], apart, groups, lanes, colors)
    return figure


def score_heatmap(
    table: pd.DataFrame,
    comparisons: pd.DataFrame | None = None,
    variant: str = "last",
    *,
    title: str = "Scores by task",
    note: str = "",
    theme: str = "light",
) -> Figure:
    """Scores of models on tasks; the stronger a cell's colour, the fewer points it is behind the best of its column.

    The best of a column is bold. It and all that cannot be told from it are framed. Tasks stand by family, the mean
    over all of them first, and the rows in its order. A cell is the mean over seeds; it has "×" when a seed failed.

    Args:
        table: as for `benchmark_figure`, of one preset; failed cells may be in it.
        comparisons: as for `standings_figure`, with every task. None: no frames.
        variant: "untuned", "fine-tuned", "all", or "last": of each model the fine-tuned one where there is one.
        title: a headline.
        note: added to the line below the figure.
        theme: "light" or "dark".

    Raises:
        ValueError: a table as in `benchmark_figure`, another variant, a pair that is not compared.
    """
    scores, families = task_scores(table, variant)
    framed = np.zeros(scores.shape, dtype=bool)
    for column, (task, values) in enumerate(scores.items() if comparisons is not None else ()):
        order = values.dropna().sort_values(ascending=False, kind="stable").index
        if comparisons is not None and len(order):
            framed[scores.index.get_indexer(order), column] = ~told_apart(comparisons, order, str(task))[0]
    groups = ["", *families]
    names_need = max(0.076 * len(family) / families.count(family) for family in families)
    cell = float(np.clip(names_need, 0.41, 0.8))
    gaps = np.cumsum([before != family for before, family in zip([groups[0], *groups], groups, strict=False)])
    left = np.arange(len(groups)) + 0.12 / cell * gaps
    behind = (scores.max() - scores).to_numpy()
    scale = max(float(np.nanmax(behind, initial=0)), 1e-9)
    footer = "○ untuned, ● fine-tuned. Bold: best of its column."
    footer += " Framed: cannot be told from it." if comparisons is not None else ""
    footer += f" The fainter, the further behind (up to {scale:.1f})." + " \N{MULTIPLICATION SIGN} failed." * bool(
        scores.isna().to_numpy().any()
    )
    longest = min(max(len(model) for model, _ in scores.index), 28)
    tall = 0.068 * max(len(drawable(str(task), 30)) for task in scores)
    with style(theme) as colors:
        figure, panels = canvas(
            max(0.5 + 0.072 * longest + cell * (left[-1] + 1) + 0.8 * max(tall - 0.9, 0), 7.0),
            0.6 + 0.77 * tall + 0.29 * len(scores),
            title,
            footer=f"{footer} {note}".strip(),
        )
        axes = panels[0, 0]
        shades = LinearSegmentedColormap.from_list("behind", [colors.good, colors.faint(colors.good, 0.06)])
        for (row, column), value in np.ndenumerate(scores.to_numpy()):
            spot, middle = (float(left[column]), float(row)), (float(left[column]) + 0.5, row + 0.5)
            look: dict[str, Any] = {"edgecolor": colors.background, "linewidth": 1.5}
            text: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8}
            if np.isnan(value):
                axes.add_patch(Rectangle(spot, 1, 1, facecolor=colors.background, **look))
                axes.text(*middle, "\N{MULTIPLICATION SIGN}", color=colors.soft, **text)
                continue
            share = behind[row, column] / scale
            axes.add_patch(Rectangle(spot, 1, 1, facecolor=shades(share**0.5), **look))
            weight = "bold" if behind[row, column] == 0 else "normal"
            axes.text(*middle, f"{value:z.1f}", color=_letters_on(shades(share**0.5), colors), weight=weight, **text)
            if framed[row, column]:
                box = Rectangle(
                    (spot[0] + 0.05, row + 0.07), 0.9, 0.86, fill=False, edgecolor=colors.ink, linewidth=1.3
                )
                axes.add_patch(box)
        _name_cells(axes, scores, groups, left, cell, colors)
    return figure


def mark_of(variant: str, colors: Theme) -> dict[str, Any]:
    """How a variant is drawn: untuned as a grey ring, fine-tuned as a coloured dot."""
    shade = colors.good if variant == VARIANTS[-1] else colors.soft
    face = shade if variant == VARIANTS[-1] else colors.background
    return {"marker": "o", "color": shade, "markerfacecolor": face, "markeredgewidth": 1.4, "linestyle": "none"}


def _letters_on(cell: np.ndarray, colors: Theme) -> str:
    """Of the page's and the text's colour the one that is easier to read on a cell."""

    def contrast(letters: str) -> float:
        rgb = np.array([cell[:3], to_rgb(letters)])
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        dark, light = sorted(linear @ [0.2126, 0.7152, 0.0722] + 0.05)
        return float(light / dark)

    return max(colors.background, colors.ink, key=contrast)


def _draw_standing(
    axes: Axes, row: int, variant: str, place: pd.Series, seeds: pd.Series, page: str, colors: Theme
) -> None:
    """One row: interval, seeds, ring or dot, and the number."""
    mark, right = mark_of(variant, colors), float(place["mean"])
    shade = mark["color"]
    if place[["low", "high"]].notna().all():
        bar: dict[str, Any] = {"color": colors.faint(shade, 0.45), "linewidth": 5, "solid_capstyle": "butt"}
        axes.plot(place[["low", "high"]].tolist(), (row, row), label=INTERVAL, **bar)
        right = max(right, float(place["high"]))
    axes.plot(place["mean"], row, markersize=6, label=variant, **mark)
    if len(seeds) > 1:
        below = np.full(len(seeds), row + 0.33)
        axes.plot(seeds, below, "|", markersize=4, markeredgewidth=0.9, color=shade, label=SEED)
    halo = [patheffects.withStroke(linewidth=2.6, foreground=page)]
    text: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": 8, "path_effects": halo}
    axes.annotate(f"{place['mean']:.1f}", (right, row), (7, 0), color=colors.readable(shade), **text)


def _draw_key(axes: Axes, colors: Theme) -> None:
    """What the marks mean, above the rows."""
    drawn = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    says = [kind for kind in (*VARIANTS, INTERVAL, SEED) if kind in drawn]
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 4, "borderaxespad": 0}
    look: dict[str, Any] = {"handlelength": 1.2, "handletextpad": 0.4, "columnspacing": 1.2, "borderpad": 0.2}
    lines = [drawn[kind] for kind in says]
    axes.legend(lines, says, labelcolor=colors.soft, fontsize=8, frameon=False, **look, **place).set_in_layout(False)


def _draw_resolution(axes: Axes, row: float, resolution: float, colors: Theme) -> None:
    """A scale bar, as on a map, and what it says."""
    low, high = axes.get_xlim()
    start = low + 0.02 * (high - low)
    axes.set_xlim(low, max(high, start + 1.1 * resolution))
    axes.plot((start, start + resolution), (row, row), color=colors.ink, linewidth=1.4, marker="|", markersize=7)
    says = f"{resolution:.2g} points: the smallest difference seen four times in five, for the median pair"
    axes.text(start, row + 0.75, says, va="center", fontsize=8, color=colors.soft, in_layout=False)


def _draw_ranks(axes: Axes, apart: np.ndarray, groups: list[list[int]], lanes: list[int], colors: Theme) -> None:
    """The ranks that each row may have, and a line a group with a knot at each of its members."""
    axes.set_xlim(0, RANK_WIDTH + LANE_WIDTH * (max(lanes, default=-1) + 1))
    axes.set_axis_off()
    middle = 0.45 * RANK_WIDTH
    axes.text(middle, -0.75, "rank", ha="center", va="bottom", fontsize=8, color=colors.soft)
    for row, differs in enumerate(apart):
        first, last = 1 + int(differs[:row].sum()), len(apart) - int(differs[row:].sum())
        real = first == last
        look: dict[str, Any] = {"weight": "bold", "color": colors.ink} if real else {"color": colors.soft}
        says = f"{first}" if real else f"{first}\N{EN DASH}{last}"
        axes.text(middle, row, says, ha="center", va="center", fontsize=8.5, **look)
    for group, lane in zip(groups, lanes, strict=True):
        place = RANK_WIDTH + LANE_WIDTH * (lane + 0.5)
        knots: dict[str, Any] = {"marker": "o", "markersize": 3.2, "linewidth": 1.6, "color": colors.ink}
        axes.plot([place] * len(group), group, **knots)


def _lanes(groups: list[list[int]]) -> list[int]:
    """For each group the first lane in which it runs beside no other.

    >>> _lanes([[0, 1, 2], [1, 3], [4, 5]])
    [0, 1, 0]
    """
    ends: list[int] = []
    lanes = []
    for group in groups:
        lane = next((number for number, end in enumerate(ends) if end < group[0]), len(ends))
        ends[lane:] = [group[-1], *ends[lane + 1 :]]
        lanes.append(lane)
    return lanes


def _name_cells(
    axes: Axes, scores: pd.DataFrame, groups: list[str], left: np.ndarray, cell: float, colors: Theme
) -> None:
    """Models at the left with ring or dot, tasks slanted on top, and below a line and a name for each family."""
    axes.set(xlim=(left[0], left[-1] + 1), ylim=(len(scores) + 0.75, 0))
    axes.set_aspect(0.29 / cell, anchor="W")  # cells of a small table stay small
    axes.spines[:].set_visible(False)
    name_rows(axes, np.arange(len(scores)) + 0.5, [model for model, _ in scores.index], colors)
    axes.set_xticks(left + 0.5, [drawable(str(task), 30) for task in scores])
    axes.tick_params(length=0, labelcolor=colors.ink, top=True, labeltop=True, bottom=False, labelbottom=False)
    axes.tick_params(axis="x", labelrotation=50)
    axes.tick_params(axis="y", pad=14)
    for row, (_, variant) in enumerate(scores.index):
        axes.plot(-0.11 / cell, row + 0.5, markersize=5, clip_on=False, scalex=False, **mark_of(variant, colors))
    for label in axes.get_xticklabels():
        label.set(ha="left", rotation_mode="anchor")
    for family in dict.fromkeys(groups[1:]):
        places = left[[group == family for group in groups]]
        ends, below = (places[0] + 0.06, places[-1] + 0.94), len(scores) + 0.16
        axes.plot(ends, (below, below), color=colors.soft, linewidth=1)
        text: dict[str, Any] = {"ha": "center", "va": "top", "fontsize": 8, "color": colors.soft}
        axes.text(sum(ends) / 2, below + 0.12, drawable(family, 24), **text)
