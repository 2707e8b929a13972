"""The figures of the benchmark: models ranked, before and after fine-tuning, by task family."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from sbertlab.figure_style import (
    Axes,
    Figure,
    Theme,
    canvas,
    check_columns,
    checked_numbers,
    drawable,
    patheffects,
    style,
)

FAMILIES = ("STS", "duplicates", "reranking", "retrieval", "clustering")
"""Task families in the order in which the benchmark's figures show them."""

VARIANTS = ("untuned", "fine-tuned")
"""What can be measured of a model, in the order in which it comes about."""


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
    table = measured_cells(table)
    scores = benchmark_scores(table)
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
                bold = is_mean or model == final[column].idxmax()
                _draw_change(axes, row, seeds_of, reach, colors, place, bold)
        grid[0, 0].set_ylim(len(ranking) - 0.5, -0.5)
        name_rows(grid[0, 0], range(len(ranking)), list(ranking), colors)
        _name_variants(grid[0, 0], means.loc[ranking[0], "mean"], colors)
    return figure


def benchmark_scores(table: pd.DataFrame) -> pd.DataFrame:
    """Scores of each model, variant and seed (rows): the mean over all tasks, then over the tasks of each family.

    A model that misses a task has NaN there. Arguments and errors are those of `benchmark_figure`.

    >>> table = pd.DataFrame({"task": ["a", "b", "c"], "family": ["STS", "STS", "x"], "value": [60.0, 70.0, 5.0]})
    >>> table = table.assign(model="m", variant="untuned", seed=0)
    >>> benchmark_scores(table).iloc[0].to_dict()
    {'mean': 45.0, 'STS': 65.0, 'x': 5.0}
    """
    rows = measured_cells(table)
    tasks: Any = rows.pivot_table(
        index=["model", "variant", "seed"], columns=["family", "task"], values="value", sort=False
    )
    scores = {family: tasks[family].mean(axis=1, skipna=False) for family in in_order(rows["family"])}
    return pd.DataFrame({"mean": tasks.mean(axis=1, skipna=False), **scores})


def benchmark_intervals(table: pd.DataFrame, side: str) -> pd.DataFrame:
    """The low or the high end of the intervals over the examples, for the mean over all tasks and for each family.

    Tasks are taken as independent, so half the lengths add up as squares: of a mean over T tasks it is
    `sqrt(half_1^2 + ... + half_T^2) / T`, around the mean of the tasks' middles. The seeds of a model are measured on
    the same examples: the ends of their mean are the means of their ends. What moves from seed to seed is not in it.

    Args:
        table: as for `benchmark_figure`; the columns low and high are the ends of each cell's interval.
        side: "low" or "high".

    Returns:
        One row a model and variant, with the columns of `benchmark_scores`; NaN where an interval is missing.

    >>> table = pd.DataFrame({"task": ["a", "b"], "family": ["STS", "x"], "value": [60.0, 50.0], "low": [57.0, 46.0]})
    >>> table = table.assign(model="m", variant="untuned", seed=0, high=[63.0, 54.0])
    >>> benchmark_intervals(table, "low").iloc[0].to_dict()
    {'mean': 52.5, 'STS': 57.0, 'x': 46.0}
    """
    rows = measured_cells(table)
    ends = rows[["low", "high"]] if {"low", "high"} <= set(rows) else pd.DataFrame(np.nan, rows.index, ["low", "high"])
    parts = rows.assign(middle=ends.mean(axis=1, skipna=False), half=(ends["high"] - ends["low"]) / 2)
    cells = parts.groupby(["model", "variant", "family", "task"], sort=False)[["middle", "half"]].mean()
    middle: Any = cells["middle"].unstack([2, 3])  # noqa: PD010 (nothing to aggregate)
    half: Any = cells["half"].unstack([2, 3])  # noqa: PD010 (nothing to aggregate)
    means = {}
    for name in ("mean", *in_order(rows["family"])):
        middles, halves = (middle, half) if name == "mean" else (middle[name], half[name])
        reach = (halves**2).sum(axis=1, skipna=False) ** 0.5 / halves.shape[1]
        means[name] = middles.mean(axis=1, skipna=False) + (-reach if side == "low" else reach)
    return pd.DataFrame(means)


def measured_cells(table: pd.DataFrame) -> pd.DataFrame:
    """Checked rows of a benchmark's table: what was measured, without failed cells and figures of documents.

    Errors are those of `benchmark_figure`.
    """
    check_columns(table, ["model", "variant", "seed", "task", "family", "value"], "table")
    if unknown := set(table["variant"]) - set(VARIANTS):
        raise ValueError(f'variant must be "untuned" or "fine-tuned", got {sorted(map(str, unknown))}')
    rows = table[~table["tag"].isin(["failed", "published"])] if "tag" in table else table
    if rows.empty:
        raise ValueError(f"table has no measured row; its tags are {sorted(set(table['tag']))}")
    presets = list(rows["preset"].unique()) if "preset" in rows else []
    if len(presets) > 1:
        raise ValueError(
            f"table holds the presets {presets}; choose one, as in table[table['preset'] == {presets[0]!r}]"
        )
    checked_numbers(rows["value"], "the column value")
    rows = rows.assign(seed=rows["seed"].fillna(0))
    cell = ["model", "variant", "seed", "task"]
    if (twice := rows.duplicated(cell)).any():
        raise ValueError(f"table holds a cell twice: {rows.loc[twice, cell].iloc[0].to_dict()}; choose one recipe")
    return rows


def mean_of(cells: pd.DataFrame) -> str:
    """What a mean is taken over, for the line below a figure.

    >>> mean_of(pd.DataFrame({"task": ["a", "b", "a"]}))
    'Mean of 2 tasks'
    """
    count = cells["task"].nunique()
    return f"Mean of {count} tasks" if count > 1 else "One task"


def in_order(families: pd.Series) -> list[str]:
    """The families, each once: the known ones in their order, then the others.

    >>> in_order(pd.Series(["new", "clustering", "STS", "new"]))
    ['STS', 'clustering', 'new']
    """
    known = [family for family in FAMILIES if family in set(families)]
    return known + [family for family in families.unique() if family not in known]


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
    values = pd.Series(checked_numbers(scores, "scores"), index=pd.Index(scores.index, dtype=object))
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
