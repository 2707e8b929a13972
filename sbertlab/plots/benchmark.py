"""Figures of a benchmark's table: the ranking with intervals and ties, the scores by task, quality against cost.

`table` is one preset's part of benchmark.csv, as `ranks.measured_cells` documents it, and each figure raises the
`ValueError` of that function. `comparisons` is that of comparisons.csv: one row per pair of models and task, with the
columns task ("mean" for the mean), model_a, variant_a, model_b, variant_b and different (bool). `note` is added to the
line below the figure. `theme` is "light" or "dark".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from sbertlab.analysis.intervals import tied_groups
from sbertlab.analysis.ranks import VARIANTS, mean_of, measured_cells, seed_scores, standings, task_scores, told_apart
from sbertlab.checks import checked_number
from sbertlab.plots.maps import write_labels
from sbertlab.plots.style import (
    Axes,
    Figure,
    LinearSegmentedColormap,
    Rectangle,
    Theme,
    canvas,
    drawable,
    halo,
    open_grid,
    slant,
    style,
)

INTERVAL, SEED = "95 % interval", "single seed"
"""Names of the marks beside ring and dot."""

RANK_WIDTH, LANE_WIDTH = 0.62, 0.14
"""Width in inches of the column of ranks, and of a line that joins ties."""

COSTS = {
    "sentences_per_second": ("Sentences per second (more is better)", True),
    "parameters": ("Parameters (fewer is better)", False),
    "megabytes": ("Weights in MB (fewer is better)", False),
    "dimensions": ("Embedding dimensions (fewer is better)", False),
}
"""What a score can be plotted against: the label of the axis, and whether more is better."""


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
    `resolution`, the smallest difference of two means that the table can detect, is drawn as a scale bar.

    Raises:
        ValueError: no model has all its tasks, a pair is missing from `comparisons`, or `resolution` is not positive.
    """
    ranking = standings(table)
    placed, missing = ranking.dropna(subset="mean"), ranking.index[ranking["mean"].isna()]
    if placed.empty:
        raise ValueError("table has no model with all its tasks, so there are no means to rank")
    if resolution is not None and not np.isnan(resolution):
        checked_number("resolution", resolution, above=True)
    else:
        resolution = None
    apart = None if comparisons is None else told_apart(comparisons, placed.index)
    ties = [] if apart is None else [group for group in tied_groups(apart) if len(group) > 1]
    count, lanes = len(placed), _lanes(ties)
    bottom = count - 0.5 + 1.7 * (resolution is not None)
    footer = f"{mean_of(measured_cells(table))}."
    footer += " Models joined by a line, or tinted like the leader, do not differ significantly." if ties else ""
    if len(missing):
        names = ", ".join(f"{drawable(model, 30)} ({variant})" for model, variant in missing)
        footer += f" No mean, because cells failed: {drawable(names, 120)}."
    right = RANK_WIDTH + LANE_WIDTH * (max(lanes, default=-1) + 1)
    ratios: Any = {} if apart is None else {"columns": 2, "width_ratios": [6 - right, right]}
    with style(theme) as colors:
        height = 0.85 + 0.265 * (bottom + 0.5)
        figure, panels = canvas(7.0, height, title, f"{footer} {note}".strip(), share=True, **ratios)
        axes = panels[0, 0]
        seeds = seed_scores(table)["mean"].sort_index()
        for row, key in enumerate(placed.index):
            tinted = bool(ties) and apart is not None and not apart[0, row]
            page = colors.faint(colors.good, 0.11) if tinted else colors.background
            if tinted:
                axes.axhspan(row - 0.5, row + 0.5, color=page, linewidth=0)
            _draw_standing(axes, row, key[1], placed.loc[key], seeds.loc[key], page, colors)
        _name_rows(axes, range(count), [model for model, _ in placed.index], colors)
        axes.margins(x=0.1)
        if resolution is not None:
            _draw_resolution(axes, count, resolution, colors)
        axes.set_ylim(bottom, -0.6)
        axes.grid(axis="x")
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        axes.set_xlabel("Mean score")
        _draw_key(axes)
        if apart is not None:
            _draw_ranks(panels[0, 1], apart, ties, lanes, colors)
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
    """Scores of models on tasks, by family; the fainter a cell, the further it is behind the best of its column.

    The best of a column is bold; it and all that do not differ significantly from it are framed. A cell is the mean
    over the seeds, or a cross if a seed failed. `variant` is "untuned", "fine-tuned", "all", or "last": the fine-tuned
    model where there is one.

    Raises:
        ValueError: `variant` is unknown, or a pair is missing from `comparisons`.
    """
    scores, families = task_scores(table, variant)
    framed = np.zeros(scores.shape, dtype=bool)
    for column, (task, values) in enumerate(scores.items() if comparisons is not None else ()):
        order = values.dropna().sort_values(ascending=False, kind="stable").index
        if comparisons is not None and len(order):
            framed[scores.index.get_indexer(order), column] = ~told_apart(comparisons, order, str(task))[0]
    behind = (scores.max() - scores).to_numpy()
    most = max(float(np.nanmax(behind, initial=0)), 1e-9)
    footer = "○ untuned, ● fine-tuned. Bold: best of the column."
    footer += " Framed: not significantly different from it." if comparisons is not None else ""
    footer += f" The fainter a cell, the further behind the best (up to {most:.1f} points)."
    footer += " \N{MULTIPLICATION SIGN}: a seed failed." * bool(scores.isna().to_numpy().any())
    groups = ["", *families]
    cell = float(np.clip(max(0.076 * len(family) / families.count(family) for family in families), 0.41, 0.8))
    gaps = np.cumsum([before != family for before, family in zip(["", *groups], groups, strict=False)])
    left = np.arange(len(groups)) + 0.12 / cell * gaps
    longest = min(max(len(model) for model, _ in scores.index), 28)
    tall = 0.068 * max(len(drawable(str(task), 30)) for task in scores)
    width = max(0.5 + 0.072 * longest + cell * (left[-1] + 1) + 0.8 * max(tall - 0.9, 0), 7.0)
    with style(theme) as colors:
        figure, panels = canvas(width, 0.6 + 0.77 * tall + 0.29 * len(scores), title, f"{footer} {note}".strip())
        axes = panels[0, 0]
        shades = LinearSegmentedColormap.from_list("behind", [colors.faint(colors.good, s) for s in (0.6, 0.06)])
        look: dict[str, Any] = {"edgecolor": colors.background, "linewidth": 1.5}
        text: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8}
        for (row, column), value in np.ndenumerate(scores.to_numpy()):
            x = float(left[column])
            if np.isnan(value):
                axes.text(x + 0.5, row + 0.5, "\N{MULTIPLICATION SIGN}", color=colors.soft, **text)
                continue
            face = shades((behind[row, column] / most) ** 0.5)
            axes.add_patch(Rectangle((x, row), 1, 1, facecolor=face, **look))
            weight = "normal" if behind[row, column] else "bold"
            axes.text(x + 0.5, row + 0.5, f"{value:z.1f}", color=colors.letters_on(face), weight=weight, **text)
            if framed[row, column]:
                frame = Rectangle((x + 0.05, row + 0.07), 0.9, 0.86, fill=False, edgecolor=colors.ink, linewidth=1.3)
                axes.add_patch(frame)
        _name_cells(axes, scores, groups, left, cell, colors)
    return figure


def quality_figure(
    table: pd.DataFrame,
    models: pd.DataFrame | Mapping[str, Mapping[str, Any]],
    against: Sequence[str] = ("sentences_per_second", "parameters"),
    *,
    title: str = "What does quality cost?",
    note: str = "",
    theme: str = "light",
) -> Figure:
    """Mean score against speed and size; a line joins the models that no other beats in both (the Pareto front).

    A model is shown fine-tuned where there is such a variant. Vertical bars are 95 % intervals; axes of cost are
    logarithmic. A property that no model has gets no panel.

    Args:
        table: see the top of this file.
        models: properties by model: a table with the models as its index, or the "models" of a preset in
            environment.json.
        against: some of "sentences_per_second", "parameters", "megabytes", "dimensions".
        title: a headline.
        note: added to the line below the figure.
        theme: "light" or "dark".

    Raises:
        ValueError: `against` has an unknown property, or only properties that no model has.
    """
    if isinstance(against, str) or not against or set(against) - set(COSTS):
        raise ValueError(f"against must be a list of some of {tuple(COSTS)}, got {against!r}")
    # "fine-tuned" sorts before "untuned", so the first row of a model is its last state
    final = standings(table).sort_index(level="variant", kind="stable").groupby(level="model").head(1)
    final = final.reset_index("variant").dropna(subset="mean")
    properties = models if isinstance(models, pd.DataFrame) else pd.DataFrame.from_dict(dict(models), orient="index")
    costs = properties.reindex(index=final.index, columns=list(against)).apply(pd.to_numeric, errors="coerce")
    costs = costs.where(costs > 0).dropna(axis="columns", how="all")
    if costs.empty or not costs.shape[1]:
        raise ValueError(f"models gives {list(against)} of none of the models with a mean: {list(final.index)}")
    lacking = [drawable(str(model), 40) for model in costs.index[costs.isna().any(axis=1)]]
    footer = f"{mean_of(measured_cells(table))}. Joined and coloured: no model is better in both."
    footer += " ○ untuned, ● fine-tuned." * (len(set(final["variant"])) > 1)
    footer += f" Unknown cost: {', '.join(lacking)}." if lacking else ""
    with style(theme) as colors:
        width = 0.7 + 4.15 * costs.shape[1] + 0.8 * (costs.shape[1] == 1)
        figure, panels = canvas(width, 3.7, title, f"{footer} {note}".strip(), columns=costs.shape[1], share=True)
        panels[0, 0].set_ylabel("Mean score")
        drawn = []
        for axes, name in zip(panels.flat, costs, strict=True):
            label, more_is_better = COSTS[str(name)]
            placed = final.assign(cost=costs[name]).dropna(subset="cost")
            placed["front"] = pareto_front(placed["cost"], placed["mean"], more_is_better)
            _draw_front(axes, placed, more_is_better, colors)
            axes.set_xlabel(label)
            _logarithmic(axes, placed["cost"])
            axes.margins(y=0.12)
            open_grid(axes)
            drawn.append((axes, placed))
        for axes, placed in drawn:
            lines = [line.get_path() for line in axes.lines if line.get_linestyle() == "-"]  # intervals and the front
            along = np.concatenate([placed[["cost", "mean"]], *(path.interpolated(12).vertices for path in lines)])
            write_labels(
                axes,
                placed[["cost", "mean"]].to_numpy(),
                [broken(str(model), 26) for model in placed.index],
                [colors.readable(colors.good) if ahead else colors.soft for ahead in placed["front"]],
                along[np.isfinite(along).all(axis=1)],
                radius=7.2,
                fontsize=7.5,
            )
    return figure


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


def broken(name: str, width: int = 28) -> str:
    """The name on one line, or on two if it is longer than `width`; twice that is the limit.

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


def short(number: float) -> str:
    """A round number in few letters.

    >>> [short(number) for number in (0.5, 200, 5000, 20_000_000, 1e9)]
    ['0.5', '200', '5k', '20M', '1B']
    """
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= unit:
            return f"{number / unit:g}{name}"
    return f"{number:g}"


def _name_rows(axes: Axes, places: Any, names: Sequence[str], colors: Theme) -> None:
    """Write names at the left of their rows; long ones in smaller letters on two lines."""
    labels = [broken(name) for name in names]
    axes.set_yticks(places, labels, color=colors.ink)
    for tick, label in zip(axes.get_yticklabels(), labels, strict=True):
        tick.set(fontsize=7 if "\n" in label else 8.5, linespacing=1.1)


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


def _draw_key(axes: Axes) -> None:
    """The legend of the ranking, above its rows."""
    drawn = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    names = [name for name in (*VARIANTS, INTERVAL, SEED) if name in drawn]
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 4, "borderaxespad": 0}
    look: dict[str, Any] = {"handlelength": 1.2, "handletextpad": 0.4, "columnspacing": 1.2, "borderpad": 0.2}
    axes.legend([drawn[name] for name in names], names, **look, **place).set_in_layout(False)


def _draw_resolution(axes: Axes, row: float, resolution: float, colors: Theme) -> None:
    """A scale bar, as on a map, with its caption."""
    low, high = axes.get_xlim()
    start = low + 0.02 * (high - low)
    axes.set_xlim(low, max(high, start + 1.1 * resolution))
    axes.plot((start, start + resolution), (row, row), color=colors.ink, linewidth=1.4, marker="|", markersize=7)
    caption = f"{resolution:.2g} points: smallest difference detected with 80 % power (median pair)"
    text: dict[str, Any] = {"va": "center", "fontsize": 8, "color": colors.soft, "in_layout": False}
    axes.text(start, row + 0.75, caption, bbox={"facecolor": colors.background, "linewidth": 0, "pad": 1.5}, **text)


def _draw_ranks(axes: Axes, apart: np.ndarray, ties: list[list[int]], lanes: list[int], colors: Theme) -> None:
    """The ranks that each row may have, and for each group of ties a line with a knot at each of its members."""
    axes.set_xlim(0, RANK_WIDTH + LANE_WIDTH * (max(lanes, default=-1) + 1))
    axes.set_axis_off()
    middle = 0.45 * RANK_WIDTH
    axes.text(middle, -0.75, "rank", ha="center", va="bottom", fontsize=8, color=colors.soft)
    for row, differs in enumerate(apart):
        first, last = 1 + int(differs[:row].sum()), len(apart) - int(differs[row:].sum())
        certain = first == last
        look: dict[str, Any] = {"weight": "bold", "color": colors.ink} if certain else {"color": colors.soft}
        ranks = f"{first}" if certain else f"{first}\N{EN DASH}{last}"
        axes.text(middle, row, ranks, ha="center", va="center", fontsize=8.5, **look)
    for group, lane in zip(ties, lanes, strict=True):
        x = RANK_WIDTH + LANE_WIDTH * (lane + 0.5)
        axes.plot([x] * len(group), group, marker="o", markersize=3.2, linewidth=1.6, color=colors.ink)


def _lanes(groups: list[list[int]]) -> list[int]:
    """For each group the first lane in which no other group overlaps it.

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
    """Names of a heat map: models with ring or dot at the left, tasks slanted on top, families below."""
    axes.set(xlim=(left[0], left[-1] + 1), ylim=(len(scores) + 0.75, 0))
    axes.set_aspect(0.29 / cell, anchor="W")  # cells of a small table stay small
    axes.spines[:].set_visible(False)
    _name_rows(axes, np.arange(len(scores)) + 0.5, [model for model, _ in scores.index], colors)
    axes.set_xticks(left + 0.5, [drawable(str(task), 30) for task in scores])
    axes.tick_params(length=0, labelcolor=colors.ink, top=True, labeltop=True, bottom=False, labelbottom=False)
    axes.tick_params(axis="y", pad=14)
    slant(axes, 50)
    for row, (_, variant) in enumerate(scores.index):
        axes.plot(-0.11 / cell, row + 0.5, markersize=5, clip_on=False, scalex=False, **_mark(variant, colors))
    for family in dict.fromkeys(groups[1:]):
        places = left[[group == family for group in groups]]
        ends, below = (places[0] + 0.06, places[-1] + 0.94), len(scores) + 0.16
        axes.plot(ends, (below, below), color=colors.soft, linewidth=1)
        text: dict[str, Any] = {"ha": "center", "va": "top", "fontsize": 8, "color": colors.soft}
        axes.text(sum(ends) / 2, below + 0.12, drawable(family, 24), **text)


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


def _logarithmic(axes: Axes, costs: pd.Series) -> None:
    """A logarithmic axis with round numbers, a tenth of its length free at both ends."""
    low, high = np.log10(costs.min()), np.log10(costs.max())
    room = 0.1 * (high - low) + 0.12
    low, high = low - room, high + room
    factors = (1, 2, 5) if high - low < 2.2 else (1,)
    ticks = [factor * 10.0**power for power in range(int(low) - 2, int(high) + 2) for factor in factors]
    ticks = [tick for tick in ticks if low <= np.log10(tick) <= high]
    axes.set_xscale("log")
    axes.set_xlim(10**low, 10**high)
    axes.set_xticks(ticks, [short(tick) for tick in ticks])
    axes.minorticks_off()
