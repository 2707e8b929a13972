"""The figures of what a score is worth: against speed and size, and against what was published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from sbertlab.analysis.ranks import mean_of, measured_cells, standings
from sbertlab.checks import check_columns
from sbertlab.plots.benchmark import mark_of
from sbertlab.plots.benchmark_plots import broken
from sbertlab.plots.maps import place_labels
from sbertlab.plots.style import (
    Axes,
    Figure,
    MaxNLocator,
    Theme,
    canvas,
    drawable,
    open_grid,
    patheffects,
    style,
)

COSTS = {
    "sentences_per_second": ("Sentences a second (more is better)", True),
    "parameters": ("Parameters (fewer is better)", False),
    "megabytes": ("Weights in MB (fewer is better)", False),
    "dimensions": ("Dimensions of an embedding (fewer is better)", False),
}
"""What a score can be held against: how the axis is called, and whether more is better."""


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

    A model is shown as it was measured last: fine-tuned where there is such a variant. On the front it has a colour.
    Vertical bars are the intervals over the examples. Axes of cost are logarithmic. Models without one of the numbers
    are named below; a property that no model has gets no panel.

    Args:
        table: as for `benchmark_figure`, of one preset; low and high give the intervals.
        models: properties by model: a table with the models as its index, or the "models" of a preset in
            environment.json.
        against: one or more of "sentences_per_second", "parameters", "megabytes", "dimensions".
        title: a headline.
        note: added to the line below the figure.
        theme: "light" or "dark".

    Raises:
        ValueError: a table as in `benchmark_figure`, another property, or only such as no model has.
    """
    if isinstance(against, str) or not against or set(against) - set(COSTS):
        raise ValueError(f"against must be a list of some of {tuple(COSTS)}, got {against!r}")
    # "fine-tuned" sorts before "untuned", so the first row of a model is its last state
    final = standings(table).sort_index(level="variant", kind="stable").groupby(level="model").head(1)
    final = final.reset_index("variant").dropna(subset="mean")
    properties = models if isinstance(models, pd.DataFrame) else pd.DataFrame.from_dict(dict(models), orient="index")
    costs = properties.reindex(index=final.index, columns=list(against)).apply(pd.to_numeric, errors="coerce")
    costs = costs.where(costs > 0)
    shown = [name for name in against if costs[name].notna().any()]
    if not shown:
        raise ValueError(f"models gives {list(against)} of none of the models with a mean: {list(final.index)}")
    costs = costs[shown]
    lacking = [drawable(str(model), 40) for model in costs.index[costs.isna().any(axis=1)]]
    footer = f"{mean_of(measured_cells(table))}. Joined and coloured: none is better in both."
    footer += " ○ untuned, ● fine-tuned." * (len(set(final["variant"])) > 1)
    footer += f" Without a number: {', '.join(lacking)}." if lacking else ""
    with style(theme) as colors:
        size = (0.7 + 4.15 * len(shown) + 0.8 * (len(shown) == 1), 3.7)
        figure, panels = canvas(*size, title, footer=f"{footer} {note}".strip(), columns=len(shown), share=True)
        names = []
        for axes, name in zip(panels.flat, shown, strict=True):
            placed = final.assign(cost=costs[name]).dropna(subset="cost")
            front = pareto_front(placed["cost"], placed["mean"], more_is_better=COSTS[name][1])
            _draw_front(axes, placed, front, COSTS[name][1], colors)
            axes.set_xlabel(COSTS[name][0])
            _logarithmic(axes, placed["cost"])
            axes.margins(y=0.12)
            open_grid(axes)
            names.append((axes, placed, front))
        panels[0, 0].set_ylabel("Mean score")
        figure.draw_without_rendering()  # fixes the layout, from which pixels follow
        for axes, placed, front in names:
            _name_points(axes, placed, front, colors)
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


def published_figure(
    table: pd.DataFrame,
    tolerance: float | None = None,
    *,
    title: str = "Published and measured",
    note: str = "",
    theme: str = "light",
) -> Figure:
    """Figures of documents and what was measured for the same cells: on a diagonal, and as differences.

    Cells are the same when model, variant, recipe, task and metric are; the mean over the seeds counts. A difference is
    measured minus published, in points, bold where it exceeds the tolerance.

    Args:
        table: rows of any presets with the columns model, variant, task, metric, value, tag, and perhaps recipe, low
            and high; the tag "published" marks figures of documents, and "edition" what was measured on other texts.
        tolerance: how much a figure may differ, in points, shown as a band. None: no band.
        title: a headline.
        note: added to the line below the figure.
        theme: "light" or "dark".

    Raises:
        ValueError: columns are missing, a tolerance that is not positive, or no cell is both published and measured.
    """
    if tolerance is not None and not 0 < tolerance < np.inf:
        raise ValueError(f"tolerance must be a positive number, got {tolerance!r}")
    both = published_and_measured(table)
    numbers = both[["published", "measured", "low", "high"]]
    with style(theme) as colors:
        models = {
            model: colors.palette[number % len(colors.palette)] for number, model in enumerate(both["model"].unique())
        }
        footer = "Bars: 95 % over the examples, where measured." + " Bold: beyond the band." * (tolerance is not None)
        figure, panels = canvas(
            8.2,
            max(3.3, 0.6 + 0.235 * (len(both) + len(models))),
            title,
            footer=f"{footer} {note}".strip(),
            columns=2,
            width_ratios=[1, 1.1],
        )
        diagonal, rows = panels[0]
        ends = (float(np.nanmin(numbers)) - 4, float(np.nanmax(numbers)) + 4)
        diagonal.plot(ends, ends, color=colors.soft, linewidth=0.8, linestyle=":")
        diagonal.set(xlim=ends, ylim=ends, aspect="equal", anchor="NW", xlabel="published", ylabel="measured")
        rows.set(xlabel="measured \N{MINUS SIGN} published, in points")
        if tolerance is not None:
            rows.axvspan(-tolerance, tolerance, color=colors.faint(colors.good, 0.2), linewidth=0)
        rows.axvline(0, color=colors.soft, linewidth=0.8, linestyle=":")
        names: list[tuple[str, str, str]] = []  # of each row: what it says, its colour, its weight
        for model, shade in models.items():
            names.append((broken(model, 40), colors.readable(shade), "bold"))
            for cell in both[both["model"] == model].itertuples():
                _draw_difference(diagonal, rows, len(names), cell, tolerance, shade, colors)
                names.append((drawable(cell.label, 40), colors.ink, "normal"))
        rows.set_yticks(range(len(names)), [name for name, *_ in names])
        for tick, (_, color, weight) in zip(rows.get_yticklabels(), names, strict=True):
            tick.set(color=color, weight=weight)
        rows.set_ylim(max(len(names), 6) - 0.4, -0.6)
        rows.margins(x=0.1)
        for axes in (diagonal, rows):
            axes.grid(True, axis="both" if axes is diagonal else "x")
            axes.spines[:].set_visible(False)
            axes.tick_params(length=0)
            axes.xaxis.set_major_locator(MaxNLocator(5))
        diagonal.yaxis.set_major_locator(MaxNLocator(5))
    return figure


def published_and_measured(table: pd.DataFrame) -> pd.DataFrame:
    """Cells that a document and a measurement both give.

    Arguments and errors are those of `published_figure`.

    Returns:
        Columns model, label (the task, with the variant or the preset where there are several), published, measured,
        low, high.

    >>> cell = {"model": "m", "variant": "untuned", "task": "STS", "metric": "spearman"}
    >>> table = pd.DataFrame([{**cell, "value": 82.0, "tag": "published"}, {**cell, "value": 82.5, "tag": "measured"}])
    >>> published_and_measured(table).values.tolist()
    [['m', 'STS', 82.0, 82.5, nan, nan]]
    """
    key = ["model", "variant", "task", "metric"]
    check_columns("table", table, [*key, "value", "tag"])
    rows = table.assign(**{name: np.nan for name in ("low", "high") if name not in table})
    rows = rows.assign(**{name: rows[name].fillna("") if name in rows else "" for name in ("recipe", "preset")})
    key.insert(2, "recipe")
    published = rows[rows["tag"] == "published"].dropna(subset="value").rename(columns={"value": "published"})
    if (twice := published.duplicated(key)).any():
        raise ValueError(f"table holds a published cell twice: {published.loc[twice, key].iloc[0].to_dict()}")
    measured = rows[~rows["tag"].isin(["published", "failed", "edition"])].rename(columns={"value": "measured"})
    cells = measured.groupby([*key, "preset"], sort=False)[["measured", "low", "high"]].mean().reset_index()
    both = published[[*key, "published"]].merge(cells, on=key)
    if both.empty:
        raise ValueError(f"table has no cell that is both published and measured: they must agree in {key}")
    label = both["task"]
    for name in ("variant", "preset"):
        several = both.groupby(["model", "task"])[name].transform("nunique") > 1
        label = label.where(~several, label + " (" + both[name] + ")")
    return both.assign(label=label)[["model", "label", "published", "measured", "low", "high"]]


def _draw_difference(
    diagonal: Axes, rows: Axes, row: int, cell: Any, tolerance: float | None, shade: str, colors: Theme
) -> None:
    """One cell: its dot on the diagonal, its difference in a row, each with its interval, and the number."""
    difference = cell.measured - cell.published
    ends = np.array([cell.low, cell.high])
    diagonal.plot([cell.published] * 2, ends, color=colors.faint(shade, 0.5), linewidth=2)
    diagonal.plot(cell.published, cell.measured, "o", color=shade, markersize=4.5)
    rows.plot(ends - cell.published, (row, row), color=colors.faint(shade, 0.5), linewidth=4, solid_capstyle="butt")
    rows.plot(difference, row, "o", color=shade, markersize=4.5)
    beyond = tolerance is not None and abs(difference) > tolerance
    look: dict[str, Any] = {"weight": "bold" if beyond else "normal", "color": colors.ink if beyond else colors.soft}
    place = rows.get_yaxis_transform()
    rows.text(
        1.02,
        row,
        f"{difference:+z.2f}".replace("-", "\N{MINUS SIGN}"),
        transform=place,
        va="center",
        fontsize=8,
        **look,
    )


def _draw_front(axes: Axes, placed: pd.DataFrame, front: pd.Series, more_is_better: bool, colors: Theme) -> None:
    """Steps along the front, and every model with its interval."""
    steps = placed[front].sort_values("cost")
    shade = colors.faint(colors.good, 0.55)
    axes.plot(
        steps["cost"],
        steps["mean"],
        color=shade,
        linewidth=1.4,
        drawstyle=f"steps-{'pre' if more_is_better else 'post'}",
    )
    for ahead, (_, place) in zip(front, placed.iterrows(), strict=True):
        mark = mark_of(place["variant"], colors)
        color = colors.good if ahead else colors.soft
        face = color if place["variant"] == "fine-tuned" else colors.background
        axes.plot(
            [place["cost"]] * 2, place[["low", "high"]].astype(float), color=colors.faint(color, 0.6), linewidth=2.2
        )
        look = mark | {"color": color, "markerfacecolor": face}
        axes.plot(place["cost"], place["mean"], markersize=6.5, **look)


def _logarithmic(axes: Axes, costs: pd.Series) -> None:
    """A logarithmic axis with round numbers on it, a tenth of its length free at both ends."""
    low, high = np.log10(costs.min()), np.log10(costs.max())
    room = 0.1 * (high - low) + 0.12
    low, high = low - room, high + room
    axes.set_xscale("log")
    axes.set_xlim(10**low, 10**high)
    factors = (1, 2, 5) if high - low < 2.2 else (1,)
    ticks = [factor * 10.0**power for power in range(int(low) - 2, int(high) + 2) for factor in factors]
    ticks = [tick for tick in ticks if low <= np.log10(tick) <= high]
    axes.set_xticks(ticks, [short(tick) for tick in ticks])
    axes.minorticks_off()


def short(number: float) -> str:
    """A round number in few letters.

    >>> [short(number) for number in (0.5, 200, 5000, 20_000_000, 1e9)]
    ['0.5', '200', '5k', '20M', '1B']
    """
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= unit:
            return f"{number / unit:g}{name}"
    return f"{number:g}"


def _name_points(axes: Axes, placed: pd.DataFrame, front: pd.Series, colors: Theme) -> None:
    """Names where `place_labels` puts them; a thin line leads to what they name."""
    to_pixels, to_data = axes.transData.transform, axes.transData.inverted().transform
    halo = [patheffects.withStroke(linewidth=2.6, foreground=colors.background)]
    common: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 7.5, "path_effects": halo, "in_layout": False}
    shades = [colors.readable(colors.good) if front[model] else colors.soft for model in placed.index]
    texts = [
        axes.text(0, 0, broken(str(model), 26), color=shade, transform=None, **common)
        for model, shade in zip(placed.index, shades, strict=True)
    ]
    boxes = [text.get_window_extent() for text in texts]
    sizes = np.array([[box.width, box.height] for box in boxes])
    anchors = to_pixels(placed[["cost", "mean"]].to_numpy())  # (models, 2)
    paths = [line.get_path() for line in axes.lines if line.get_linestyle() == "-"]  # intervals and the front
    drawn = np.concatenate([to_pixels(path.interpolated(12).vertices) for path in paths])
    area, reach = axes.get_window_extent(), 0.1 * axes.figure.dpi  # from the middle of a mark to its name
    bounds = (area.x0, area.y0, area.x1, area.y1)
    centres = place_labels(
        anchors, sizes, np.concatenate([anchors, drawn[np.isfinite(drawn).all(1)]]), bounds, clearance=reach
    )
    for text, centre, size, anchor, shade in zip(texts, centres, sizes, anchors, shades, strict=True):
        text.set(position=tuple(to_data(centre)), transform=axes.transData)
        near = np.clip(anchor, centre - size / 2 - 1, centre + size / 2 + 1)
        if np.linalg.norm(near - anchor) > reach + 4:
            line = np.array([to_data(near), to_data(anchor)]).T
            axes.plot(*line, color=shade, linewidth=0.6, scalex=False, scaley=False, zorder=1)
