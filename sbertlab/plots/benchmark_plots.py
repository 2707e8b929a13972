"""The figures of the benchmark: models ranked, before and after fine-tuning, by task family."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from sbertlab.analysis.ranks import benchmark_intervals, benchmark_scores, mean_of, measured_cells
from sbertlab.checks import checked_numbers
from sbertlab.plots.style import (
    Axes,
    Figure,
    Theme,
    canvas,
    drawable,
    patheffects,
    style,
)


def benchmark_figure(
    table: pd.DataFrame,
    *,
    title: str = "Base encoders before and after fine-tuning",
    note: str = "",
    theme: str = "light",
) -> Figure:
    """A ranking of models, from untuned (ring) to fine-tuned (dot), in the mean and by task family.

    A model's mean is the plain mean over all tasks, a family's value that over its tasks; the number beside it is that
    of the dot, or of the ring where there is no dot, the best of a family in bold. Thin lines are the intervals over
    the examples, where the table has them; ticks below are the seeds. Models are ranked by the fine-tuned mean, by the
    untuned one where there is no other; a model that lacks a task in one of its seeds has no mean and comes last.

    Args:
        table: one row a model, variant, seed and task, with the columns model, variant ("untuned" or "fine-tuned"),
            seed, task, family, value (0 to 100), and perhaps low and high (see `benchmark_intervals`).
        title: a headline.
        note: added to the line below the figure.
        theme: "light" or "dark".

    Raises:
        ValueError: columns are missing, no measured row, an unknown variant, a cell twice, several presets, values
            that are not finite.
    """
    table, scores = measured_cells(table), benchmark_scores(table)
    if scores.isna().to_numpy().all():
        raise ValueError("table has no model that finished the tasks of a family, so there is nothing to draw")
    intervals: list[Any] = [benchmark_intervals(table, side) for side in ("low", "high")]
    means = scores.groupby(level=["model", "variant"]).agg(partial(pd.Series.mean, skipna=False))
    # "fine-tuned" sorts before "untuned", so the first row of a model is its last state
    final = means.sort_index().groupby(level="model").head(1).droplevel("variant")
    ranking = final["mean"].sort_values(ascending=False, na_position="last", kind="stable").index
    lowest, highest = float(np.nanmin(scores.to_numpy())), float(np.nanmax(scores.to_numpy()))
    room = 0.2 * (highest - lowest) + 3  # for the number beside the ring
    low = max(10 * np.floor((lowest - room) / 10), min(10 * np.floor(lowest / 10), 0))
    high = min(10 * np.ceil((highest + 2) / 10), 100)
    seeds = table.groupby(["model", "variant"])["seed"].nunique().max()
    footer = f"{mean_of(table)}; scores from 0 to 100."
    footer += f" Dots: mean of {seeds} seeds, ticks below: every seed." if seeds > 1 else ""
    footer += " Thin lines: 95 % intervals over the examples." if intervals[0].notna().to_numpy().any() else ""
    fell = (means.sort_index().groupby(level="model").diff() > 0).to_numpy().any()  # untuned less fine-tuned
    footer += " Orange: below untuned." if fell else ""
    with style(theme) as colors:
        figure, grid = canvas(
            4.2 + 1.02 * (scores.shape[1] - 1),
            0.85 + 0.44 * len(ranking),
            title,
            footer=f"{footer} {note}".strip(),
            columns=scores.shape[1],
            width_ratios=[2.1] + [1] * (scores.shape[1] - 1),
            share=True,
        )
        for axes, (column, values) in zip(grid.flat, scores.items(), strict=True):
            is_mean = column == "mean"
            axes.set_title("Mean" if is_mean else drawable(str(column), 20), pad=16)
            axes.set_xlim(low, high + (0.16 if is_mean else 0.54) * (high - low))
            step = (10 if high - low <= 50 else 20) * (1 if is_mean else 2)
            axes.set_xticks(scale := [value for value in range(0, 101, step) if low < value <= high])
            axes.spines[:].set_visible(False)
            axes.tick_params(length=0)
            axes.vlines(scale, -0.5, len(ranking) - 0.5, color=colors.line, linewidth=0.8)
            for row, model in enumerate(ranking):
                axes.axhline(row + 0.5, color=colors.line, linewidth=0.8)
                seeds_of = {str(variant): seen for variant, seen in values.loc[model].groupby(level="variant")}
                place = None if is_mean else high + 0.54 * (high - low)
                reach = {
                    variant: [float(end.loc[(model, variant), column]) for end in intervals] for variant in seeds_of
                }
                bold = is_mean or final[column][model] == final[column].max()
                _draw_change(axes, row, seeds_of, reach, colors, place, bold)
        grid[0, 0].set_ylim(len(ranking) - 0.5, -0.5)
        name_rows(grid[0, 0], range(len(ranking)), list(ranking), colors)
        _name_variants(grid[0, 0], means.loc[ranking[0], "mean"], colors)
    return figure


def name_rows(axes: Axes, places: Any, names: Sequence[str], colors: Theme, width: int = 28) -> None:
    """Write names at the left of their rows; long ones in smaller letters on two lines."""
    labels = [broken(name, width) for name in names]
    axes.set_yticks(places, labels, color=colors.ink)
    for tick, label in zip(axes.get_yticklabels(), labels, strict=True):
        tick.set(fontsize=7 if "\n" in label else 8.5, linespacing=1.1)


def broken(name: str, width: int = 28) -> str:
    """The name on one line, or on two when it is longer than `width`, cut at twice that.

    >>> broken("all-MiniLM-L6-v2/first-3-layers")
    'all-MiniLM-L6-v2/\\nfirst-3-layers'
    """
    text = drawable(str(name), 2 * width)
    if len(text) <= width:
        return text
    middle = len(text) / 2
    seams = [place for place, letter in enumerate(text, start=1) if letter in "/-_ "]
    seam = min(seams or [round(middle)], key=lambda place: abs(place - middle) - 3 * (text[place - 1] == "/"))
    return f"{text[:seam].rstrip()}\n{text[seam:]}"


def ranking_figure(
    scores: pd.Series, resolution: float, *, title: str = "", note: str = "", theme: str = "light"
) -> Figure:
    """Scores in order, each with a bar as long as the smallest difference that counts.

    Two bars overlap where the scores are closer than that, and then their order says nothing. Those that the best one
    overlaps are coloured; a dotted line goes down to them from the lower end of its bar.

    Args:
        scores: by name; higher is better.
        resolution: the smallest difference that counts, in the unit of the scores.
        title: a headline.
        note: added to the line below the figure.
        theme: "light" or "dark".

    Raises:
        ValueError: no score, one that is not finite, or a resolution that is not positive.
    """
    values = pd.Series(checked_numbers("scores", scores), index=pd.Index(scores.index, dtype=object))
    values = values.sort_values(ascending=False, kind="stable")
    if not 0 < resolution < np.inf:
        raise ValueError(f"resolution must be a positive number, got {resolution!r}")
    reach = float(values.iloc[0]) - resolution
    with style(theme) as colors:
        footer = f"Bars are {resolution:.2g} long: where two overlap, their order says nothing. {note}".strip()
        figure, panels = canvas(6.4, 0.7 + 0.3 * len(values), title, footer=footer)
        axes = panels[0, 0]
        last = int((values > reach).sum()) - 1
        if last:
            axes.vlines(
                reach + resolution / 2, 0, last + 0.5, color=colors.soft, linewidth=0.8, linestyle=":", zorder=0
            )
        halo = [patheffects.withStroke(linewidth=2.6, foreground=colors.background)]
        for row, value in enumerate(values):
            color = colors.good if value > reach else colors.soft
            ends, shade = (value - resolution / 2, value + resolution / 2), colors.faint(color, 0.4)
            axes.plot(ends, (row, row), color=shade, linewidth=7, solid_capstyle="butt")
            axes.plot(value, row, "o", color=color, markersize=5)
            text: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": 8, "path_effects": halo}
            axes.annotate(f"{value:.2f}", (ends[1], row), (6, 0), color=colors.readable(color), **text)
        axes.set_yticks(range(len(values)), [drawable(str(name), 60) for name in values.index], color=colors.ink)
        axes.set_ylim(len(values) - 0.4, -0.6)
        axes.margins(x=0.12)
        axes.grid(axis="x")
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    return figure


def _draw_change(
    axes: Axes,
    row: int,
    seeds: dict[str, pd.Series],
    reach: dict[str, list[float]],
    colors: Theme,
    numbers_at: float | None,
    bold: bool,
) -> None:
    """One model in one panel: ring, line, dot, interval, a tick a seed; the numbers beside, or the last at a place."""
    ends: dict[str, float] = {
        variant: float(seeds[variant].mean())
        for variant in ("untuned", "fine-tuned")
        if variant in seeds and seeds[variant].notna().all()
    }
    if not ends:
        return
    worse = len(ends) == 2 and ends["fine-tuned"] < ends["untuned"]
    shades = {"untuned": colors.soft, "fine-tuned": colors.bad if worse else colors.good}
    axes.plot(list(ends.values()), [row] * len(ends), color=shades["fine-tuned"], alpha=0.45, linewidth=2.4)
    size = 7 if numbers_at is None else 4.6
    left = min(ends, key=lambda variant: ends[variant]) if len(ends) == 2 else ""
    for variant, place in ends.items():
        face = colors.background if variant == "untuned" else shades[variant]
        ring: dict[str, Any] = {"markerfacecolor": face, "markeredgecolor": shades[variant], "markeredgewidth": 1.4}
        axes.plot(reach[variant], (row, row), color=shades[variant], linewidth=1.2, solid_capstyle="butt")
        axes.plot(place, row, "o", markersize=size, **ring)
        if len(seeds[variant]) > 1:
            below = np.full(len(seeds[variant]), row + 0.29)
            axes.plot(seeds[variant], below, "|", markersize=4, markeredgewidth=0.9, color=shades[variant])
        strong = variant == "fine-tuned"
        text: dict[str, Any] = {"va": "center", "color": colors.readable(shades[variant]) if strong else colors.soft}
        if numbers_at is None:
            side = (-7, "right") if variant == left else (7, "left")
            text |= {"textcoords": "offset points", "fontsize": 8.5, "weight": "bold" if strong and bold else "normal"}
            end = np.nanmax([place, reach[variant][1]]) if side[0] > 0 else np.nanmin([place, reach[variant][0]])
            axes.annotate(f"{place:.1f}", (end, row), (side[0], 0), ha=side[1], **text)
        elif variant == list(ends)[-1]:
            axes.text(
                numbers_at, row, f"{place:.1f}", ha="right", fontsize=8, weight="bold" if bold else "normal", **text
            )


def _name_variants(axes: Axes, ends: pd.Series, colors: Theme) -> None:
    """The words "untuned" and "fine-tuned" above the first row, each on its side."""
    left = ends.idxmin() if len(ends) == 2 else None
    for variant, place in ends.dropna().items():
        shade = colors.soft if variant == "untuned" else colors.readable(colors.good)
        side = (-2, "right") if variant == left else (2, "left")
        text: dict[str, Any] = {"va": "bottom", "fontsize": 8, "color": shade, "annotation_clip": False}
        axes.annotate(str(variant), (place, -0.5), (side[0], 2), textcoords="offset points", ha=side[1], **text)
