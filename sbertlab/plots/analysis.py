"""Figures of `sbertlab.analysis`: an explanation, a threshold, and the robustness and fairness of models."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from sbertlab.analysis.explain import Explanation
from sbertlab.analysis.thresholds import MEASURES, Threshold
from sbertlab.checks import check_columns, check_same_length
from sbertlab.plots.style import Theme, canvas, color_table, drawable, style

MOST_NUMBERED = 16
"""With more tokens than this, cells are too small for numbers."""

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
    numbered = max(pairs.shape) <= MOST_NUMBERED
    cell = 0.44 if numbered else max(0.44 * MOST_NUMBERED / max(pairs.shape), 0.14)
    note = "Contributions of token pairs to the cosine, \N{MULTIPLICATION SIGN} 100. Rows: first text; columns: second."
    note += "" if explanation.exact else " (rest): not attributable to single tokens."
    width = 0.4 + 0.075 * max(map(len, rows)) + cell * len(columns)
    height = cell * len(rows) + 0.25 + 0.062 * max(map(len, columns))
    with style(theme) as colors:
        figure, panels = canvas(max(width, 3.6), height, title or f"cosine {explanation.score:.3f}", note)
        scaled = shares / (np.nanmax(np.abs(shares), initial=0) or 1.0)
        color_table(panels[0, 0], colors, scaled, rows, columns, numbers if numbered else ())
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

    Args:
        curve: what `thresholds.threshold_curve` returned.
        labels: 0 or 1 for each pair.
        scores: similarity of each pair.
        chosen: a threshold to mark, with its interval.

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
    note: str = "",
    theme: str = "light",
) -> Figure:
    """How far each kind of change moves a sentence, and gaps between groups of people; one dot per model.

    The shaded side of a paraphrase is the wrong one: beyond it for what should stay near, before it for what should
    move away. Lines are 95 % intervals over sentences. Groups are sorted by the first model's gap.

    Args:
        tables: what `robustness` returned, by model; at most eight.
        gaps: what `associations` returned, by model; None leaves the panel out.
        note: added to the line below the figure.

    Raises:
        ValueError: no table, too many, one without rows or needed columns, or gaps of a model without a table.
    """
    gaps = gaps or {}
    if unknown := [name for name in gaps if name not in tables]:
        raise ValueError(f"gaps has the models {unknown}, which tables has not; it has {list(tables)}")
    moved = {}
    for name, table in tables.items():
        needed = [f"{column}{end}" for column in ("shift", "nearer") for end in ("", "_low", "_high")]
        check_columns(f"the table of {name}", table, ["kind", "expectation", *needed])
        kinds = table[~table["kind"].isin(["paraphrase", "unrelated"])]  # these two are the scale
        percent = {f"nearer{end}": 100 * kinds[f"nearer{end}"] for end in ("", "_low", "_high")}
        moved[name] = kinds.assign(**percent).set_index("kind")
    differ = {}
    for name, table in gaps.items():
        check_columns(f"the gaps of {name}", table, ["kind", "group", "gap", "low", "high"])
        ends = {column: 100 * table[old] for column, old in (("gap", "gap"), ("gap_low", "low"), ("gap_high", "high"))}
        differ[name] = table.assign(**ends).sort_values("gap", ascending=False, kind="stable").set_index("group")
    with style(theme) as colors:
        if not 0 < len(tables) <= len(colors.palette):
            raise ValueError(f"tables must hold one to {len(colors.palette)} models, got {len(tables)}")
        shades = dict(zip(tables, colors.palette, strict=False))
        first = moved[next(iter(tables))]
        height = 0.9 + max(
            0.3 * (len(first) + 2) * max(1, len(tables) / 4), 0.21 * sum(map(len, [*differ.values()][:1]))
        )
        ratios = [3, 1.1, 2.4] if gaps else [3, 1.1]
        footer = "Dots: means over sentences; lines: 95 % intervals. Shaded: the wrong side of a paraphrase."
        size = (1.3 + 1.5 * sum(ratios), height + 0.2)
        figure, grid = canvas(*size, title, f"{footer} {note}".strip(), columns=len(ratios), width_ratios=ratios)
        axes, share = grid[0, :2]
        blocks = _draw_rows(axes, moved, "expectation", EXPECTATIONS, "shift", shades, colors)
        _draw_rows(share, moved, "expectation", EXPECTATIONS, "nearer", shades, colors)
        low, high = axes.dataLim.intervalx
        margin = 0.04 * (high - low)
        axes.set(
            title="Distance: 0 a paraphrase, 1 an unrelated text",
            xlim=(min(low - margin, -0.15), max(high + margin, 1.02)),
        )
        share.set(title="closer than a\nparaphrase, %", xlim=(-6, 106), xticks=(0, 50, 100), yticks=[])
        _shade(axes, blocks, 0, colors)
        _shade(share, blocks[::-1], 50, colors)
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
    """One row per index of the first table, in blocks with a heading each; returns top and bottom of the blocks."""
    first = next(iter(tables.values()))
    names: list[tuple[str, bool]] = []  # of each row: its name, and whether it is a heading
    blocks = []
    for value, heading in headings.items():
        rows = [(str(name), False) for name in first.index[first[by] == value]]
        names += [(heading, True), *rows]
        blocks.append((len(names) - len(rows) - 0.5, len(names) - 0.5))
    lifts = np.linspace(-0.5, 0.5, len(shades)) * min(0.6, 0.25 * (len(shades) - 1)) if len(shades) > 1 else [0.0]
    places = {name: row for row, (name, is_heading) in enumerate(names) if not is_heading}
    for (model, shade), lift in zip(shades.items(), lifts, strict=True):
        for name, row in tables[model].iterrows() if model in tables else ():
            if str(name) in places and np.isfinite(row[column]):
                height = places[str(name)] + lift
                ends = row[f"{column}_low"], row[f"{column}_high"]
                axes.plot(ends, (height, height), color=shade, alpha=0.55, solid_capstyle="butt")
                axes.plot(row[column], height, "o", color=shade, markersize=4.2)
        axes.plot([], [], color=shade, linewidth=3, label=drawable(model, 48))
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.hlines([*places.values()], 0, 1, transform=axes.get_yaxis_transform(), color=colors.line, linewidth=0.6)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_yticks(range(len(names)), [drawable(name) for name, _ in names])
    for label, (_, is_heading) in zip(axes.get_yticklabels(), names, strict=True):
        label.set(color=colors.soft if is_heading else colors.ink, style="italic" if is_heading else "normal")
    return blocks


def _shade(axes: Axes, blocks: list[tuple[float, float]], border: float, colors: Theme) -> None:
    """Tint where dots should not lie: right of the border in the first block, left of it in the second."""
    low, high = axes.get_xlim()
    for (top, bottom), start, end in zip(blocks, (border, low), (high, border), strict=True):
        axes.fill_betweenx([top, bottom], start, end, color=colors.faint(colors.bad, 0.1), linewidth=0, zorder=-1)
    axes.set_xlim(low, high)
