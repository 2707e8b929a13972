"""Figures of `sbertlab.analysis`: an explanation, a threshold, and the robustness and fairness of models."""

from collections.abc import Mapping
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from sbertlab.analysis.explain import Explanation
from sbertlab.analysis.thresholds import MEASURES, Threshold
from sbertlab.plots.style import Theme, canvas, color_table, drawable, style

EXPECTATIONS = {"same": "should stay near", "different": "should move away"}
GROUPS = {"pronoun": '"her" minus "his"', "role": "role minus mean of roles", "name": "names"}


def explanation_figure(explanation: Explanation, *, title: str = "", theme: str = "light") -> Figure:
    """What each pair of tokens contributes to the cosine: blue pulls the texts together, orange drives them apart.

    Numbers are contributions times 100, so that they add up to 100 times the cosine; the sums of the rows and of the
    columns stand at the edges. Without a title the headline is the cosine.
    """
    pairs = 100 * explanation.pairs.to_numpy()  # (tokens of the first text, tokens of the second)
    sums = np.block([[pairs, pairs.sum(axis=1, keepdims=True)], [pairs.sum(axis=0), pairs.sum()]])
    rows, columns = ([*(drawable(str(token), 16) for token in side), "sum"] for side in explanation.pairs.axes)
    numbers = pd.DataFrame(sums, rows, columns).map("{:z.1f}".format)
    shades = np.pad(pairs / (np.abs(pairs).max() or 1.0), ((0, 1), (0, 1)))  # the edge has no colour
    note = "Contributions of token pairs to the cosine, \N{MULTIPLICATION SIGN} 100. Rows: first text; columns: second."
    note += "" if explanation.exact else " (rest): not attributable to single tokens."
    return color_table(theme, shades, numbers, title or f"cosine {explanation.score:.3f}", note)


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
    """
    similar, values = np.asarray(labels).astype(bool), np.asarray(scores, dtype=float)
    with style(theme) as colors:
        figure, panels = canvas(7.2, 4.2, title, str(chosen or ""), rows=2, sharex=True, height_ratios=[2.6, 1])
        above, below = panels[:, 0]
        for name, shade in zip(MEASURES, (colors.good, colors.bad, colors.ink), strict=True):
            band = curve[f"{name}_low"], curve[f"{name}_high"]
            above.fill_between(curve["threshold"], *band, color=shade, alpha=0.16, linewidth=0)
            above.plot(curve["threshold"], curve[name], color=shade, label="F1" if name == "f1" else name)
        edges = np.histogram_bin_edges(values, 40)
        below.hist(values[~similar], edges, color=colors.bad, alpha=0.55, label="dissimilar pairs")
        below.hist(values[similar], edges, color=colors.good, alpha=0.55, label="similar pairs")
        above.set(ylim=(0, 1.03), ylabel="precision, recall, F1")
        below.set(xlabel="threshold on the similarity", ylabel="pairs")
        for axes in (above, below):
            axes.grid(axis="y")
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

    `tables` holds what `robustness` returned, by model, and `gaps` what `associations` returned; None leaves that panel
    out. The shaded side of a paraphrase is the wrong one: beyond it for what should stay near, before it for what
    should move away. Groups are sorted by the first model's gap.
    """
    moved, differ = {}, {}
    for name, table in tables.items():
        kinds = table[~table["kind"].isin(["paraphrase", "unrelated"])].set_index("kind")  # these two are the scale
        moved[name] = kinds.assign(**100 * kinds[["nearer", "nearer_low", "nearer_high"]])
    for name, table in (gaps or {}).items():
        rows = table.sort_values("gap", ascending=False, kind="stable").set_index("group")
        differ[name] = rows.assign(gap=100 * rows["gap"], gap_low=100 * rows["low"], gap_high=100 * rows["high"])
    count, groups = (len(next(iter(part.values()), ())) for part in (moved, differ))
    ratios = [3, 1.1, 2.4] if gaps else [3, 1.1]
    height = 1.1 + max(0.3 * (count + 2) * max(1, len(tables) / 4), 0.21 * groups)
    footer = "Dots: means over sentences; lines: 95 % intervals. Shaded: the wrong side of a paraphrase."
    with style(theme) as colors:
        width = 1.3 + 1.5 * sum(ratios)
        figure, grid = canvas(width, height, title, footer, columns=len(ratios), width_ratios=ratios)
        shift, nearer = grid[0, :2]
        blocks = _draw_rows(shift, moved, "shift", "expectation", EXPECTATIONS, colors)
        _draw_rows(nearer, moved, "nearer", "expectation", EXPECTATIONS, colors)
        low, high = shift.dataLim.intervalx
        for axes, border, wrong in ((shift, 0, (99, -99)), (nearer, 50, (-999, 999))):
            for block, end in zip(blocks, wrong, strict=True):
                axes.fill_betweenx(block, border, end, color=colors.faint(colors.bad, 0.1), linewidth=0, zorder=-1)
        shift.set(xlim=(min(low - 0.04, -0.15), max(high + 0.04, 1.02)))
        shift.set_title("Distance: 0 a paraphrase, 1 an unrelated text")
        shift.vlines([0, 1], *shift.get_ylim(), color=colors.soft, linewidth=0.9, zorder=0)
        shift.legend(loc="lower left", bbox_to_anchor=(0, 1.04), ncols=4, borderaxespad=0)
        nearer.set(title="closer than a\nparaphrase, %", xlim=(-6, 106), xticks=(0, 50, 100), yticks=[])
        if gaps:
            _draw_rows(grid[0, 2], differ, "gap", "kind", GROUPS, colors)
            grid[0, 2].set_title("Cosine gap to neutral wording, \N{MULTIPLICATION SIGN} 100")
            grid[0, 2].axvline(0, color=colors.soft, linewidth=0.9, zorder=0)
    return figure


def _draw_rows(
    axes: Axes, tables: Mapping[str, pd.DataFrame], column: str, by: str, headings: Mapping[str, str], colors: Theme
) -> list[tuple[float, float]]:
    """One row per index of the first table, in blocks below a heading; returns top and bottom of each block."""
    first = next(iter(tables.values()))
    names: list[str] = []
    places: dict[Any, int] = {}
    blocks = []
    for value, heading in headings.items():
        rows = first.index[first[by] == value]
        blocks.append((len(names) + 0.5, len(names) + 0.5 + len(rows)))
        places |= {row: len(names) + number for number, row in enumerate(rows, 1)}
        names += [heading, *map(drawable, rows)]
    heights = np.array(list(places.values()))
    lifts = np.linspace(-0.5, 0.5, len(tables)) * min(0.6, 0.25 * (len(tables) - 1))
    for (model, table), shade, lift in zip(tables.items(), cycle(colors.palette), lifts, strict=False):
        shown = table.reindex(list(places))
        axes.hlines(heights + lift, shown[f"{column}_low"], shown[f"{column}_high"], color=shade, alpha=0.55)
        axes.plot(shown[column], heights + lift, "o", color=shade, markersize=4.2, label=drawable(model, 48))
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="y", linewidth=0.6)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_yticks(range(len(names)), names, color=colors.ink)
    for row in set(range(len(names))) - set(places.values()):
        axes.get_yticklabels()[row].set(color=colors.soft, style="italic")
    return blocks
