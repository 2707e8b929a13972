"""Figures of a benchmark's table: the ranking with intervals and ties, the scores by task, quality against cost.

`table` is one preset's part of benchmark.csv, as `ranks.measured_cells` documents it. `comparisons` is comparisons.csv:
one row per pair of models and task, with the columns task ("mean" for the mean), model_a, variant_a, model_b, variant_b
and different (bool). A table without a measured mean and a missing pair raise a ValueError.
"""

from collections.abc import Mapping
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import EngFormatter, LogLocator

from sbertlab.analysis.intervals import tied_groups
from sbertlab.analysis.ranks import (
    VARIANTS,
    distinguishable,
    last_variants,
    mean_of,
    measured_cells,
    seed_scores,
    standings,
    task_scores,
)
from sbertlab.plots.maps import write_labels
from sbertlab.plots.style import Theme, canvas, color_table, drawable, halo, legend_entries, open_grid, style

FAILED = "\N{MULTIPLICATION SIGN}"

COSTS = {
    "sentences_per_second": ("Sentences per second (more is better)", True),
    "parameters": ("Parameters (fewer is better)", False),
}
"""What a score is plotted against: the label of the axis, and whether more is better."""


def standings_figure(
    table: pd.DataFrame,
    comparisons: pd.DataFrame | None = None,
    resolution: float | None = None,
    *,
    title: str = "Which ranks are significant?",
    note: str = "",
    theme: str = "light",
) -> Figure:
    """Models ranked by their mean score, each with its interval, its seeds and the ranks that it may have.

    A line at the right joins models that do not differ significantly; their order is arbitrary. A rank is "2" if all
    other models differ, "2–4" if up to two behind do not. Without `comparisons` there are no ranks and no lines.
    `resolution`, the smallest difference of means that the table can detect, is drawn as a scale bar.
    """
    ranking, seeds = standings(table), seed_scores(table)["mean"].sort_index()
    placed, missing = ranking.dropna(subset="mean"), ranking.index[ranking["mean"].isna()]
    if placed.empty:
        raise ValueError("table has no model with all its tasks, so there are no means to rank")
    apart = None if comparisons is None else distinguishable(comparisons, placed.index)
    ties = [] if apart is None else [group for group in tied_groups(apart) if len(group) > 1]
    scale = resolution if resolution is not None and resolution > 0 else 0.0
    bottom = len(placed) - 0.5 + 1.7 * bool(scale)
    footer = f"{mean_of(measured_cells(table))}."
    footer += " Models joined by a line, or tinted like the leader, do not differ significantly." if ties else ""
    if len(missing):
        footer += f" No mean, because cells failed: {', '.join(f'{model} ({variant})' for model, variant in missing)}."
    with style(theme) as colors:
        figure, panels = canvas(7.0, 0.98 + 0.265 * bottom, title, f"{footer} {note}")
        axes = panels[0, 0]
        for row, key in enumerate(placed.index):
            _draw_standing(axes, row, key[1], placed.loc[key], seeds.loc[key], colors)
        axes.margins(x=0.1)
        if scale:
            start = axes.dataLim.x0
            axes.plot((start, start + scale), [len(placed)] * 2, "|-", color=colors.ink, markersize=7)
            caption = f"{scale:.2g} points: smallest difference detected with 80 % power (median pair)"
            axes.text(start, len(placed) + 0.75, caption, va="center", fontsize=8, color=colors.soft)
        axes.set_yticks(range(len(placed)), [short_name(model) for model, _ in placed.index], color=colors.ink)
        axes.set(ylim=(bottom, -0.6), xlabel="Mean score")
        axes.grid(axis="x")
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        marks = legend_entries(figure)
        axes.legend(marks.values(), marks, loc="lower left", bbox_to_anchor=(0, 1), ncols=4, borderaxespad=0)
        if apart is not None:
            _draw_ranks(axes, apart, ties, colors)
    return figure


def score_heatmap(
    table: pd.DataFrame,
    comparisons: pd.DataFrame | None = None,
    variant: str = "last",
    *,
    title: str = "Scores by task",
    theme: str = "light",
) -> Figure:
    """Scores of models on tasks, by family; the fainter a cell, the further it is behind the best of its column.

    The best of a column is bold; it and all that do not differ significantly from it are framed. A cell is the mean
    over the seeds, or a cross if a seed failed. `variant` is "all", or "last": the fine-tuned model
    where there is one.
    """
    scores, families = task_scores(table, variant)
    behind = (scores.max() - scores).to_numpy()
    most = max(float(np.nanmax(behind, initial=0)), 1e-9)
    numbers = scores.map(lambda score: FAILED if np.isnan(score) else f"{score:z.1f}")
    numbers.index = [f"{short_name(model)} {'●' if one == VARIANTS[-1] else '○'}" for model, one in scores.index]
    numbers.columns = [drawable(str(task), 30) for task in scores]
    footer = "○ untuned, ● fine-tuned. Bold: best of the column."
    footer += " Framed: not significantly different from it." if comparisons is not None else ""
    footer += f" The fainter, the further behind the best (up to {most:.1f} points). {FAILED}: failed."
    shades = 0.6 - 0.54 * (behind / most) ** 0.5
    figure = color_table(theme, shades, numbers, title, footer, (0.68, 0.29))
    with style(theme) as colors:
        (axes,) = figure.axes
        for text, lag in zip(axes.texts, behind.flat, strict=True):
            text.set(fontsize=8, weight="normal" if lag else "bold")
        if comparisons is not None:
            _frame_ties(axes, scores, comparisons, colors)
        axes.set_ylim(len(scores) + 0.75, 0)
        for family in dict.fromkeys(families):
            start, count = 1 + families.index(family), families.count(family)
            axes.axvline(start, color=colors.background, linewidth=6, ymin=0.75 / (len(scores) + 0.75))
            axes.plot((start + 0.1, start + count - 0.1), [len(scores) + 0.16] * 2, color=colors.soft, linewidth=1)
            name = drawable(family, 24)
            axes.text(start + count / 2, len(scores) + 0.28, name, ha="center", va="top", fontsize=8, color=colors.soft)
    return figure


def quality_figure(
    table: pd.DataFrame,
    models: Mapping[str, Mapping[str, Any]],
    *,
    title: str = "What does quality cost?",
    theme: str = "light",
) -> Figure:
    """Mean score against speed and size; a line joins the models that no other beats in both (the Pareto front).

    A model is shown fine-tuned where there is such a variant. Vertical bars are 95 % intervals; axes of cost are
    logarithmic. `models` holds sentences_per_second and parameters by model, as the "models" of a preset in
    environment.json do; a property that no model has gets no panel.
    """
    final = last_variants(standings(table)).reset_index("variant").dropna(subset="mean")
    costs = pd.DataFrame(models).T.reindex(index=final.index, columns=list(COSTS)).astype(float)
    costs = costs.dropna(axis="columns", how="all")
    footer = f"{mean_of(measured_cells(table))}. Joined and coloured: no model is better in both."
    footer += " ○ untuned, ● fine-tuned." * (len(set(final["variant"])) > 1)
    if lacking := [str(model) for model in costs.index[costs.isna().any(axis=1)]]:
        footer += f" Unknown cost: {', '.join(lacking)}."
    with style(theme) as colors:
        figure, panels = canvas(0.9 + 4.15 * costs.shape[1], 3.7, title, footer, columns=costs.shape[1], sharey=True)
        panels[0, 0].set_ylabel("Mean score")
        drawn = []
        for axes, name in zip(panels.flat, costs, strict=True):
            label, more_is_better = COSTS[str(name)]
            placed = final.assign(cost=costs[name]).dropna(subset="cost")
            placed["front"] = pareto_front(placed["cost"], placed["mean"], more_is_better)
            _draw_front(axes, placed, more_is_better, colors)
            axes.set(xlabel=label, xscale="log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if np.ptp(np.log10(placed["cost"])) < 2 else (1,)))
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            axes.minorticks_off()
            axes.margins(0.2, 0.12)
            open_grid(axes)
            drawn.append((axes, placed))
        for axes, placed in drawn:  # when both panels have their limits
            spots, names = placed[["cost", "mean"]].to_numpy(), [short_name(str(model)) for model in placed.index]
            shades = [colors.readable(colors.good) if ahead else colors.soft for ahead in placed["front"]]
            lines = np.concatenate([line.get_path().interpolated(12).vertices for line in axes.lines])
            write_labels(axes, spots, names, shades, lines, fontsize=7.5)
    return figure


def short_name(name: str) -> str:
    """The name on at most two lines of 28 characters."""
    return fill(drawable(name), 28, max_lines=2, placeholder="…")


def pareto_front(costs: pd.Series, scores: pd.Series, more_is_better: bool) -> pd.Series:
    """Which models no other beats in both: as good in one and better in the other.

    >>> pareto_front(pd.Series([1, 2, 3, 3]), pd.Series([50, 70, 60, 70]), more_is_better=False).tolist()
    [True, True, False, False]
    """
    cost = costs.to_numpy(dtype=float) * (-1 if more_is_better else 1)  # (models,), less is better
    score = scores.to_numpy(dtype=float)
    as_good = (cost <= cost[:, None]) & (score >= score[:, None])
    better = (cost < cost[:, None]) | (score > score[:, None])
    return pd.Series(~(as_good & better).any(axis=1), index=scores.index)


def _mark(variant: str, shade: str, colors: Theme) -> dict[str, Any]:
    """How a variant is drawn: untuned as a ring, fine-tuned as a dot."""
    face = shade if variant == VARIANTS[-1] else colors.background
    return {"marker": "o", "color": shade, "markerfacecolor": face, "markersize": 6, "linestyle": "none"}


def _draw_standing(axes: Axes, row: int, variant: str, place: pd.Series, seeds: pd.Series, colors: Theme) -> None:
    """One row of the ranking: interval, seeds, ring or dot, and the number."""
    mean, ends = place["mean"], place[["low", "high"]].tolist()
    shade = colors.good if variant == VARIANTS[-1] else colors.soft
    if np.isfinite(ends).all():
        bar = colors.faint(shade, 0.45)
        axes.plot(ends, (row, row), color=bar, linewidth=5, solid_capstyle="butt", label="95 % interval")
    axes.plot(mean, row, label=variant, **_mark(variant, shade, colors))
    if len(seeds) > 1:
        axes.plot(seeds, [row + 0.33] * len(seeds), "|", markersize=4, color=shade, label="single seed")
    text: Any = {"textcoords": "offset points", "va": "center", "fontsize": 8, "color": colors.readable(shade)}
    axes.annotate(f"{mean:.1f}", (np.nanmax([mean, *ends]), row), (7, 0), path_effects=halo(colors.background), **text)


def _draw_ranks(axes: Axes, apart: np.ndarray, ties: list[list[int]], colors: Theme) -> None:
    """At the right the ranks that each row may have, and for each group of ties a line with a knot at each member."""
    text: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "ha": "center", "va": "center"}
    axes.text(1.05, -0.9, "rank", fontsize=8, color=colors.soft, **text)
    for row, differs in enumerate(apart):
        first, last = 1 + int(differs[:row].sum()), len(apart) - int(differs[row:].sum())
        if first == last:
            axes.text(1.05, row, f"{first}", weight="bold", **text)
        else:
            axes.text(1.05, row, f"{first}\N{EN DASH}{last}", color=colors.soft, **text)
        if ties and not differs[0]:
            axes.axhspan(row - 0.5, row + 0.5, color=colors.faint(colors.good, 0.11), linewidth=0)
    for lane, group in enumerate(ties):
        look: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "clip_on": False, "markersize": 3.2}
        axes.plot([1.11 + 0.025 * lane] * len(group), group, "o-", color=colors.ink, **look)


def _frame_ties(axes: Axes, scores: pd.DataFrame, comparisons: pd.DataFrame, colors: Theme) -> None:
    """Frame the best of each task and all that do not differ significantly from it."""
    for column, (task, values) in enumerate(scores.items()):
        order = values.dropna().sort_values(ascending=False, kind="stable").index
        tied = order[~distinguishable(comparisons, order, str(task))[0]] if len(order) else order
        for row in scores.index.get_indexer(tied):
            frame = Rectangle((column + 0.06, row + 0.09), 0.88, 0.82, fill=False)
            axes.add_patch(frame).set(edgecolor=colors.ink, linewidth=1.3)


def _draw_front(axes: Axes, placed: pd.DataFrame, more_is_better: bool, colors: Theme) -> None:
    """Steps along the Pareto front, and every model with its interval."""
    front = placed[placed["front"]].sort_values("cost")
    steps = f"steps-{'pre' if more_is_better else 'post'}"
    axes.plot(front["cost"], front["mean"], color=colors.faint(colors.good, 0.55), drawstyle=steps)
    for _, place in placed.iterrows():
        shade = colors.good if place["front"] else colors.soft
        ends = place[["low", "high"]].astype(float)
        axes.plot([place["cost"]] * 2, ends, color=colors.faint(shade, 0.6), linewidth=2.2)
        axes.plot(place["cost"], place["mean"], **_mark(place["variant"], shade, colors))
