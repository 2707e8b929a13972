"""The figures of the benchmark: models ranked, before and after fine-tuning, by task family."""

from __future__ import annotations

from functools import partial
from textwrap import wrap
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
"""Task families in the order in which the benchmark's figure shows them."""


def benchmark_figure(
    table: pd.DataFrame,
    *,
    title: str = "Base encoders before and after fine-tuning",
    note: str = "",
    theme: str = "light",
) -> Figure:
    """A ranking of models, from untuned (ring) to fine-tuned (dot), in the mean and by task family.

    A model's mean is the plain mean over all tasks, a family's value that over its tasks; the number beside it is that
    of the dot, or of the ring where there is no dot, the best of a family in bold. Ticks below are the seeds. Models
    are ranked by the fine-tuned mean, by the untuned one where there is no other; a model that lacks a task in one of
    its seeds has no mean and comes last.

    Args:
        table: one row a model, variant, seed and task, with the columns model, variant ("untuned" or "fine-tuned"),
            seed, task, family, value (0 to 100).
        title: a headline.
        note: added to the line below the figure.
        theme: "light" or "dark".

    Raises:
        ValueError: columns are missing, no row, an unknown variant, values that are not finite.
    """
    scores = benchmark_scores(table)
    means = scores.groupby(level=["model", "variant"]).agg(partial(pd.Series.mean, skipna=False))
    # "fine-tuned" sorts before "untuned", so the first row of a model is its last state
    final = means.sort_index().groupby(level="model").head(1).droplevel("variant")
    ranking = final["mean"].sort_values(ascending=False, na_position="last", kind="stable").index
    lowest = float(np.nanmin(scores.to_numpy()))
    low = max(10 * np.floor((lowest - 8) / 10), min(10 * np.floor(lowest / 10), 0))
    seeds = table.groupby(["model", "variant"])["seed"].nunique().max()
    footer = f"Mean of {table['task'].nunique()} tasks; scores from 0 to 100."
    footer += f" Dots: mean of {seeds} seeds, ticks below: every seed." if seeds > 1 else ""
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
            axes.set_xlim(low, 100 + (0.1 if is_mean else 0.44) * (100 - low))
            axes.set_xticks(scale := [value for value in range(20, 101, 20 if is_mean else 40) if value >= low])
            axes.spines[:].set_visible(False)
            axes.tick_params(length=0)
            axes.vlines(scale, -0.5, len(ranking) - 0.5, color=colors.line, linewidth=0.8)
            for row, model in enumerate(ranking):
                axes.axhline(row + 0.5, color=colors.line, linewidth=0.8)
                seeds_of = {str(variant): seen for variant, seen in values.loc[model].groupby(level="variant")}
                place = None if is_mean else 100 + 0.44 * (100 - low)
                _draw_change(axes, row, seeds_of, colors, place, bold=is_mean or model == final[column].idxmax())
        names = ["\n".join(_lines(drawable(str(model), 60))) for model in ranking]
        grid[0, 0].set_ylim(len(ranking) - 0.5, -0.5)
        grid[0, 0].set_yticks(range(len(ranking)), names, color=colors.ink, fontsize=9)
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
    check_columns(table, ["model", "variant", "seed", "task", "family", "value"], "table")
    if unknown := set(table["variant"]) - {"untuned", "fine-tuned"}:
        raise ValueError(f'variant must be "untuned" or "fine-tuned", got {sorted(map(str, unknown))}')
    checked_numbers(table["value"], "the column value")
    rows = table.assign(seed=table["seed"].fillna(0))
    tasks = rows.pivot_table(index=["model", "variant", "seed"], columns=["family", "task"], values="value", sort=False)
    known = [family for family in FAMILIES if family in set(table["family"])]
    families = known + [family for family in table["family"].unique() if family not in known]
    scores = {family: tasks[family].mean(axis=1, skipna=False) for family in families}
    return pd.DataFrame({"mean": tasks.mean(axis=1, skipna=False), **scores})


def _lines(name: str, width: int = 24) -> list[str]:
    """Break the name of a model after its slashes, and where a part is still too long.

    >>> _lines("all-MiniLM-L6-v2/first-3-layers")
    ['all-MiniLM-L6-v2/', 'first-3-layers']
    """
    parts = [f"{part}/" for part in name.split("/")]
    parts[-1] = parts[-1].removesuffix("/")
    return [name] if len(name) <= width else [line for part in parts for line in wrap(part, width)]


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
    axes: Axes, row: int, seeds: dict[str, pd.Series], colors: Theme, numbers_at: float | None, bold: bool
) -> None:
    """One model in one panel: ring, line, dot, a tick a seed; the numbers beside them, or the last one at a place."""
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
        axes.plot(place, row, "o", markersize=size, **ring)
        if len(seeds[variant]) > 1:
            below = np.full(len(seeds[variant]), row + 0.29)
            axes.plot(seeds[variant], below, "|", markersize=4, markeredgewidth=0.9, color=shades[variant])
        strong = variant == "fine-tuned"
        text: dict[str, Any] = {"va": "center", "color": colors.readable(shades[variant]) if strong else colors.soft}
        if numbers_at is None:
            side = (-7, "right") if variant == left else (7, "left")
            text |= {"textcoords": "offset points", "fontsize": 8.5, "weight": "bold" if strong and bold else "normal"}
            axes.annotate(f"{place:.1f}", (place, row), (side[0], 0), ha=side[1], **text)
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
