"""Figures of a benchmark's table: the ranking with intervals and ties, the scores by task, quality against cost.

`table` is one preset's part of benchmark.csv, as `ranks.measured_cells` documents it, and each figure raises the
`ValueError` of that function. `comparisons` is comparisons.csv: one row per pair of models and task, with the columns
task ("mean" for the mean), model_a, variant_a, model_b, variant_b and different (bool). `theme` is "light" or "dark".
"""

from __future__ import annotations

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
    mean_of,
    measured_cells,
    seed_scores,
    standings,
    task_scores,
)
from sbertlab.checks import checked_number
from sbertlab.plots.maps import write_labels
from sbertlab.plots.style import Theme, canvas, color_table, drawable, halo, open_grid, style

INTERVAL, SEED = "95 % interval", "single seed"
"""Names of the marks beside ring and dot."""

RANK_WIDTH, LANE_WIDTH = 0.62, 0.14
"""Width in inches of the column of ranks, and of a line that joins ties."""

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

    Raises:
        ValueError: no model has all its tasks, a pair is missing from `comparisons`, or `resolution` is not positive.
    """
    ranking = standings(table)
    placed, missing = ranking.dropna(subset="mean"), ranking.index[ranking["mean"].isna()]
    if placed.empty:
        raise ValueError("table has no model with all its tasks, so there are no means to rank")
    resolution = None if resolution is None or np.isnan(resolution) else resolution
    if resolution is not None:
        checked_number("resolution", resolution, above=True)
    apart = None if comparisons is None else distinguishable(comparisons, placed.index)
    ties = [] if apart is None else [group for group in tied_groups(apart) if len(group) > 1]
    bottom = len(placed) - 0.5 + 1.7 * (resolution is not None)
    footer = f"{mean_of(measured_cells(table))}."
    footer += " Models joined by a line, or tinted like the leader, do not differ significantly." if ties else ""
    if len(missing):
        footer += f" No mean, because cells failed: {', '.join(f'{model} ({variant})' for model, variant in missing)}."
    right = RANK_WIDTH + LANE_WIDTH * len(ties)
    grid: Any = {} if apart is None else {"columns": 2, "width_ratios": [6 - right, right]}
    with style(theme) as colors:
        figure, panels = canvas(7.0, 0.98 + 0.265 * bottom, title, f"{footer} {note}", share=True, **grid)
        axes = panels[0, 0]
        seeds = seed_scores(table)["mean"].sort_index()
        for row, key in enumerate(placed.index):
            page = colors.background
            if apart is not None and ties and not apart[0, row]:
                page = colors.faint(colors.good, 0.11)
                axes.axhspan(row - 0.5, row + 0.5, color=page, linewidth=0)
            _draw_standing(axes, row, key[1], placed.loc[key], seeds.loc[key], page, colors)
        axes.set_yticks(range(len(placed)), [short_name(model) for model, _ in placed.index], color=colors.ink)
        axes.margins(x=0.1)
        if resolution is not None:
            _draw_resolution(axes, len(placed), resolution, colors)
        axes.set(ylim=(bottom, -0.6), xlabel="Mean score")
        axes.grid(axis="x")
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        key_lines = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        names = [name for name in (*VARIANTS, INTERVAL, SEED) if name in key_lines]
        place: Any = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 4, "borderaxespad": 0, "borderpad": 0.2}
        axes.legend([key_lines[name] for name in names], names, handlelength=1.2, **place).set_in_layout(False)
        if apart is not None:
            panels[0, 1].set(xlim=(0, right))
            _draw_ranks(panels[0, 1], apart, ties, colors)
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
    over the seeds, or a cross if a seed failed. `variant` is "untuned", "fine-tuned", "all", or "last": the fine-tuned
    model where there is one.

    Raises:
        ValueError: `variant` is unknown, or a pair is missing from `comparisons`.
    """
    scores, families = task_scores(table, variant)
    behind = (scores.max() - scores).to_numpy()
    most = max(float(np.nanmax(behind, initial=0)), 1e-9)
    shades = 0.6 - 0.54 * (behind / most) ** 0.5
    numbers = [
        ["\N{MULTIPLICATION SIGN}" if np.isnan(value) else f"{value:z.1f}" for value in row]
        for row in scores.to_numpy()
    ]
    rows = [short_name(model) for model, _ in scores.index]
    columns = [drawable(str(task), 30) for task in scores]
    footer = "○ untuned, ● fine-tuned. Bold: best of the column."
    footer += " Framed: not significantly different from it." if comparisons is not None else ""
    footer += f" The fainter a cell, the further behind the best (up to {most:.1f} points)."
    footer += " \N{MULTIPLICATION SIGN}: a seed failed." * bool(scores.isna().to_numpy().any())
    cell = float(np.clip(max(0.076 * len(family) / families.count(family) for family in families), 0.41, 0.8))
    longest = max(len(line) for row in rows for line in row.split("\n"))
    tall = 0.068 * max(map(len, columns))
    width = max(0.6 + 0.072 * longest + cell * len(columns) + 0.8 * max(tall - 0.9, 0), 7.0)
    with style(theme) as colors:
        figure, panels = canvas(width, 0.6 + 0.77 * tall + 0.29 * len(rows), title, footer)
        axes = panels[0, 0]
        letters = color_table(axes, colors, shades, rows, columns, numbers)
        for (row, column), value in np.ndenumerate(behind):
            letters[row][column].set(fontsize=8, weight="normal" if value else "bold")
        for column, (task, values) in enumerate(scores.items() if comparisons is not None else ()):
            order = values.dropna().sort_values(ascending=False, kind="stable").index
            tied = ~distinguishable(comparisons, order, str(task))[0] if comparisons is not None and len(order) else []
            for row in scores.index.get_indexer(order[tied]):
                frame = Rectangle(
                    (column + 0.06, row + 0.09), 0.88, 0.82, fill=False, edgecolor=colors.ink, linewidth=1.3
                )
                axes.add_patch(frame)
        axes.set(ylim=(len(rows) + 0.75, 0))
        axes.set_aspect(0.29 / cell, anchor="W")  # cells of a small table stay small
        axes.tick_params(axis="y", pad=14)
        for row, (_, one) in enumerate(scores.index):
            axes.plot(-0.11 / cell, row + 0.5, markersize=5, clip_on=False, scalex=False, **_mark(one, colors))
        for family in dict.fromkeys(families):
            start, count = 1 + families.index(family), families.count(family)
            axes.axvline(start, color=colors.background, linewidth=6, ymin=0.75 / (len(rows) + 0.75))
            axes.plot((start + 0.1, start + count - 0.1), [len(rows) + 0.16] * 2, color=colors.soft, linewidth=1)
            name: Any = {"ha": "center", "va": "top", "fontsize": 8, "color": colors.soft}
            axes.text(start + count / 2, len(rows) + 0.28, drawable(family, 24), **name)
    return figure


def quality_figure(
    table: pd.DataFrame,
    models: pd.DataFrame | Mapping[str, Mapping[str, Any]],
    *,
    title: str = "What does quality cost?",
    theme: str = "light",
) -> Figure:
    """Mean score against speed and size; a line joins the models that no other beats in both (the Pareto front).

    A model is shown fine-tuned where there is such a variant. Vertical bars are 95 % intervals; axes of cost are
    logarithmic. A property that no model has gets no panel. `models` holds sentences_per_second and parameters: a table
    with the models as its index, or the "models" of a preset in environment.json.

    Raises:
        ValueError: no model has one of the properties.
    """
    # "fine-tuned" sorts before "untuned", so the first row of a model is its last state
    final = standings(table).sort_index(level="variant", kind="stable").groupby(level="model").head(1)
    final = final.reset_index("variant").dropna(subset="mean")
    properties = models if isinstance(models, pd.DataFrame) else pd.DataFrame.from_dict(dict(models), orient="index")
    costs = properties.reindex(index=final.index, columns=list(COSTS)).apply(pd.to_numeric, errors="coerce")
    costs = costs.where(costs > 0).dropna(axis="columns", how="all")
    if not costs.size:
        raise ValueError(f"models has none of {list(COSTS)} for the models with a mean: {list(final.index)}")
    footer = f"{mean_of(measured_cells(table))}. Joined and coloured: no model is better in both."
    footer += " ○ untuned, ● fine-tuned." * (len(set(final["variant"])) > 1)
    if lacking := [str(model) for model in costs.index[costs.isna().any(axis=1)]]:
        footer += f" Unknown cost: {', '.join(lacking)}."
    with style(theme) as colors:
        width = 0.7 + 4.15 * costs.shape[1] + 0.8 * (costs.shape[1] == 1)
        figure, panels = canvas(width, 3.7, title, footer, columns=costs.shape[1], share=True)
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
        for axes, placed in drawn:
            spots, lines = (
                placed[["cost", "mean"]].to_numpy(),
                [one for one in axes.lines if one.get_linestyle() == "-"],
            )
            covered = np.concatenate([spots, *(line.get_path().interpolated(12).vertices for line in lines)])
            shades = [colors.readable(colors.good) if ahead else colors.soft for ahead in placed["front"]]
            names = [short_name(str(model)) for model in placed.index]
            covered = covered[np.isfinite(covered).all(axis=1)]
            write_labels(axes, spots, names, shades, covered, radius=7.2, fontsize=7.5)
    return figure


def short_name(name: str) -> str:
    """The name on at most two lines.

    >>> short_name("microsoft/MiniLM-L12-H384-uncased")
    'microsoft/MiniLM-L12-H384-\\nuncased'
    """
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


def _mark(variant: str, colors: Theme) -> dict[str, Any]:
    """How a variant is drawn: untuned as a grey ring, fine-tuned as a coloured dot."""
    tuned = variant == VARIANTS[-1]
    shade = colors.good if tuned else colors.soft
    face = shade if tuned else colors.background
    return {"marker": "o", "color": shade, "markerfacecolor": face, "markeredgewidth": 1.4, "linestyle": "none"}


def _draw_standing(
    axes: Axes, row: int, variant: str, place: pd.Series, seeds: pd.Series, page: str, colors: Theme
) -> None:
    """One row of the ranking: interval, seeds, ring or dot, and the number."""
    mark, right = _mark(variant, colors), float(place["mean"])
    shade = mark["color"]
    if place[["low", "high"]].notna().all():
        bar: dict[str, Any] = {"color": colors.faint(shade, 0.45), "linewidth": 5, "solid_capstyle": "butt"}
        axes.plot(place[["low", "high"]].tolist(), (row, row), label=INTERVAL, **bar)
        right = max(right, float(place["high"]))
    axes.plot(place["mean"], row, markersize=6, label=variant, **mark)
    if len(seeds) > 1:
        below = np.full(len(seeds), row + 0.33)
        axes.plot(seeds, below, "|", markersize=4, markeredgewidth=0.9, color=shade, label=SEED)
    text: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": 8, "path_effects": halo(page)}
    axes.annotate(f"{place['mean']:.1f}", (right, row), (7, 0), color=colors.readable(shade), **text)


def _draw_resolution(axes: Axes, row: float, resolution: float, colors: Theme) -> None:
    """A scale bar, as on a map, with its caption."""
    low, high = axes.get_xlim()
    start = low + 0.02 * (high - low)
    axes.set_xlim(low, max(high, start + 1.1 * resolution))
    axes.plot((start, start + resolution), (row, row), color=colors.ink, linewidth=1.4, marker="|", markersize=7)
    caption = f"{resolution:.2g} points: smallest difference detected with 80 % power (median pair)"
    text: dict[str, Any] = {"va": "center", "fontsize": 8, "color": colors.soft, "in_layout": False}
    axes.text(start, row + 0.75, caption, bbox={"facecolor": colors.background, "linewidth": 0, "pad": 1.5}, **text)


def _draw_ranks(axes: Axes, apart: np.ndarray, ties: list[list[int]], colors: Theme) -> None:
    """The ranks that each row may have, and for each group of ties a line with a knot at each of its members."""
    axes.set_axis_off()
    middle = 0.45 * RANK_WIDTH
    axes.text(middle, -0.75, "rank", ha="center", va="bottom", fontsize=8, color=colors.soft)
    for row, differs in enumerate(apart):
        first, last = 1 + int(differs[:row].sum()), len(apart) - int(differs[row:].sum())
        certain = first == last
        look: dict[str, Any] = {"weight": "bold", "color": colors.ink} if certain else {"color": colors.soft}
        ranks = f"{first}" if certain else f"{first}\N{EN DASH}{last}"
        axes.text(middle, row, ranks, ha="center", va="center", fontsize=8.5, **look)
    for lane, group in enumerate(ties):
        x = RANK_WIDTH + LANE_WIDTH * (lane + 0.5)
        axes.plot([x] * len(group), group, marker="o", markersize=3.2, linewidth=1.6, color=colors.ink)


def _draw_front(axes: Axes, placed: pd.DataFrame, more_is_better: bool, colors: Theme) -> None:
    """Steps along the Pareto front, and every model with its interval."""
    front = placed[placed["front"]].sort_values("cost")
    steps = f"steps-{'pre' if more_is_better else 'post'}"
    axes.plot(front["cost"], front["mean"], color=colors.faint(colors.good, 0.55), linewidth=1.4, drawstyle=steps)
    for _, place in placed.iterrows():
        tuned = place["variant"] == VARIANTS[-1]
        color = colors.good if place["front"] else colors.soft
        bar: dict[str, Any] = {"color": colors.faint(color, 0.6), "linewidth": 2.2}
        axes.plot([place["cost"]] * 2, place[["low", "high"]].astype(float), **bar)
        look = {"color": color, "markerfacecolor": color if tuned else colors.background}
        axes.plot(place["cost"], place["mean"], markersize=6.5, **_mark(place["variant"], colors) | look)
