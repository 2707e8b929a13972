"""Figures of `sbertlab.analysis`: an explanation, a threshold, and the robustness and fairness of models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from sbertlab.analysis.explain import Explanation
from sbertlab.analysis.thresholds import MEASURES, Threshold
from sbertlab.checks import check_columns, check_same_length
from sbertlab.plots.style import Theme, canvas, cell_size, color_table, drawable, style

EXPECTATIONS = {"same": "should stay near", "different": "should move away"}
GROUPS = {"pronoun": '"her" minus "his"', "role": "role minus mean of roles", "name": "names"}


def explanation_figure(explanation: Explanation, *, title: str = "", theme: str = "light") -> Figure:
    """What each pair of tokens contributes to the cosine: blue pulls the texts together, orange drives them apart.

    Numbers are contributions times 100, so that they add up to 100 times the cosine; the sums of the rows and of the
    columns stand at the edges. Without a title the headline is the cosine.
    """
    pairs = explanation.pairs
    shares = np.pad(100 * pairs.to_numpy(), ((0, 1), (0, 1)), constant_values=np.nan)  # the edge has no colour
    sums = pairs.assign(sum=pairs.sum(axis=1)).to_numpy() * 100
    numbers = [[f"{value:z.1f}" for value in row[:-1]] + [f"{row[-1]:z.0f}"] for row in sums]
    numbers.append([f"{value:z.0f}" for value in sums.sum(axis=0)])
    rows = [*(drawable(token, 16) for token in pairs.index), "sum"]
    columns = [*(drawable(token, 16) for token in pairs.columns), "sum"]
    cell = cell_size(max(pairs.shape))
    note = "Contributions of token pairs to the cosine, \N{MULTIPLICATION SIGN} 100. Rows: first text; columns: second."
    note += "" if explanation.exact else " (rest): not attributable to single tokens."
    width = 0.4 + 0.075 * max(map(len, rows)) + cell * len(columns)
    height = cell * len(rows) + 0.25 + 0.062 * max(map(len, columns))
    with style(theme) as colors:
        figure, panels = canvas(max(width, 3.6), height, title or f"cosine {explanation.score:.3f}", note)
        scaled = shares / (np.nanmax(np.abs(shares), initial=0) or 1.0)
        color_table(panels[0, 0], colors, scaled, rows, columns, numbers if max(pairs.shape) <= 16 else ())
        panels[0, 0].set_aspect("equal")
    return figure


def threshold_figure(
    curve: pd.DataFrame,
    labels: ArrayLike,
    scores: ArrayLike,
    chosen: Threshold | None = None,
    *,
    title: str = "",
    theme: str = "light",
) -> Figure:
    """Precision, recall and F1 against the threshold, with bands, above the scores of similar and dissimilar pairs.

    `curve` is what `threshold_curve` returned for labels (0 or 1) and scores; `chosen` is marked with its interval.

    Raises:
        ValueError: `curve` is missing columns, or labels and scores have different lengths.
    """
    check_columns(
        "curve", curve, ["threshold", *(f"{name}{end}" for name in MEASURES for end in ("", "_low", "_high"))]
    )
    similar, values = np.asarray(labels).astype(bool), np.asarray(scores, dtype=float)
    check_same_length(labels=similar, scores=values)
    with style(theme) as colors:
        figure, panels = canvas(7.2, 4.2, title, str(chosen or ""), rows=2, sharex=True, height_ratios=[2.6, 1])
        above, below = panels[:, 0]
        for name, shade in zip(MEASURES, (colors.good, colors.bad, colors.ink), strict=True):
            band = curve[f"{name}_low"], curve[f"{name}_high"]
            above.fill_between(curve["threshold"], *band, color=shade, alpha=0.16, linewidth=0)
            above.plot(curve["threshold"], curve[name], color=shade, label="F1" if name == "f1" else name)
        edges = np.histogram_bin_edges(values, 40)
        for kind, shade, name in ((False, colors.bad, "dissimilar pairs"), (True, colors.good, "similar pairs")):
            below.hist(values[similar == kind], edges, color=shade, alpha=0.55, label=name)
        above.set(ylim=(0, 1.03), ylabel="precision, recall, F1")
        below.set(xlabel="threshold on the similarity", ylabel="pairs")
        for axes in (above, below):
            axes.grid(axis="y", linewidth=0.5)
            axes.legend(ncols=3, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)
            if chosen is not None:
                axes.axvspan(chosen.threshold_low, chosen.threshold_high, color=colors.soft, alpha=0.18, linewidth=0)
                axes.axvline(chosen.threshold, color=colors.ink, linewidth=1.2, linestyle="--")
    return figure


def robustness_figure(
    tables: Mapping[str, pd.DataFrame],
    gaps: Mapping[str, pd.DataFrame] | None = None,
    *,
    title: str = "What moves a sentence, and what should",
    theme: str = "light",
) -> Figure:
    """How far each kind of change moves a sentence, and gaps between groups of people; one dot per model.

    The shaded side of a paraphrase is the wrong one: beyond it for what should stay near, before it for what should
    move away. Groups are sorted by the first model's gap.

    Args:
        tables: what `robustness` returned, by model; at most eight.
        gaps: what `associations` returned, by model; None leaves the panel out.

    Raises:
        ValueError: no table, too many, one without rows or needed columns, or gaps of a model without a table.
    """
    gaps = gaps or {}
    if unknown := [name for name in gaps if name not in tables]:
        raise ValueError(f"gaps has the models {unknown}, which tables has not; it has {list(tables)}")
    moved, differ = {}, {}
    for name, table in tables.items():
        columns = [f"{column}{end}" for column in ("shift", "nearer") for end in ("", "_low", "_high")]
        check_columns(f"the table of {name}", table, ["kind", "expectation", *columns])
        kinds = table[~table["kind"].isin(["paraphrase", "unrelated"])].set_index("kind")  # these two are the scale
        moved[name] = kinds.assign(**100 * kinds[columns[3:]])
    for name, table in gaps.items():
        check_columns(f"the gaps of {name}", table, ["kind", "group", "gap", "low", "high"])
        rows = table.sort_values("gap", ascending=False, kind="stable").set_index("group")
        differ[name] = rows.assign(gap=100 * rows["gap"], gap_low=100 * rows["low"], gap_high=100 * rows["high"])
    with style(theme) as colors:
        if not 0 < len(tables) <= len(colors.palette):
            raise ValueError(f"tables must hold one to {len(colors.palette)} models, got {len(tables)}")
        count, groups = len(moved[next(iter(tables))]) + 2, len(next(iter(differ.values()), []))
        height = 1.1 + max(0.3 * count * max(1, len(tables) / 4), 0.21 * groups)
        ratios = [3, 1.1, 2.4] if gaps else [3, 1.1]
        footer = "Dots: means over sentences; lines: 95 % intervals. Shaded: the wrong side of a paraphrase."
        width = 1.3 + 1.5 * sum(ratios)
        figure, grid = canvas(width, height, title, footer, columns=len(ratios), width_ratios=ratios)
        shades = dict(zip(tables, colors.palette, strict=False))
        axes, share = grid[0, :2]
        blocks = _draw_rows(axes, moved, "expectation", EXPECTATIONS, "shift", shades, colors)
        _draw_rows(share, moved, "expectation", EXPECTATIONS, "nearer", shades, colors)
        low, high = axes.dataLim.intervalx
        axes.set_xlim(min(low - 0.04, -0.15), max(high + 0.04, 1.02))
        axes.set_title("Distance: 0 a paraphrase, 1 an unrelated text")
        share.set(title="closer than a\nparaphrase, %", xlim=(-6, 106), xticks=(0, 50, 100), yticks=[])
        for panel, border, areas in ((axes, 0, blocks), (share, 50, blocks[::-1])):
            limits = panel.get_xlim()
            for area, start, end in zip(areas, (border, limits[0]), (limits[1], border), strict=True):
                panel.fill_betweenx(area, start, end, color=colors.faint(colors.bad, 0.1), linewidth=0, zorder=-1)
            panel.set_xlim(*limits)
        axes.vlines([0, 1], *axes.get_ylim(), color=colors.soft, linewidth=0.9, zorder=0)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.04), ncols=4, borderaxespad=0)
        if gaps:
            _draw_rows(grid[0, 2], differ, "kind", GROUPS, "gap", shades, colors)
            grid[0, 2].set_title("Cosine gap to neutral wording, \N{MULTIPLICATION SIGN} 100")
            grid[0, 2].axvline(0, color=colors.soft, linewidth=0.9, zorder=0)
    return figure


def _draw_rows(
    axes: Axes,
    tables: Mapping[str, pd.DataFrame],
    by: str,
    headings: Mapping[str, str],
    column: str,
    shades: Mapping[str, str],
    colors: Theme,
) -> list[tuple[float, float]]:
    """One row per index of the first table, in blocks below a heading; returns top and bottom of each block."""
    names: list[str] = []
    places: dict[Any, int] = {}
    blocks = []
    first = next(iter(tables.values()))
    for value, heading in headings.items():
        names.append(heading)
        blocks.append((len(names) - 0.5, len(names) - 0.5 + (first[by] == value).sum()))
        for name in first.index[first[by] == value]:
            places[name] = len(names)
            names.append(drawable(name))
    lifts = np.linspace(-0.5, 0.5, len(shades)) * min(0.6, 0.25 * (len(shades) - 1)) if len(shades) > 1 else [0.0]
    for (model, shade), lift in zip(shades.items(), lifts, strict=True):
        if model in tables:
            rows, heights = tables[model].reindex(list(places)), np.array([*places.values()]) + lift
            axes.hlines(heights, rows[f"{column}_low"], rows[f"{column}_high"], color=shade, alpha=0.55)
            axes.plot(rows[column], heights, "o", color=shade, markersize=4.2, label=drawable(model, 48))
    axes.set_ylim(len(names) - 0.5, -0.5)
    across = axes.get_yaxis_transform()
    axes.hlines([*places.values()], 0, 1, transform=across, color=colors.line, linewidth=0.6, zorder=0)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_yticks(range(len(names)), names)
    for row, label in enumerate(axes.get_yticklabels()):
        is_name = row in places.values()
        label.set(color=colors.ink if is_name else colors.soft, style="normal" if is_name else "italic")
    return blocks
