"""The figure of an explanation: which pairs of tokens make two texts alike."""

from __future__ import annotations

import numpy as np

from sbertlab.analysis.explain import Explanation
from sbertlab.plots.style import Figure, LinearSegmentedColormap, canvas, drawable, style, table_axes

MOST_NUMBERED = 16
"""With more tokens than these, cells are too small for numbers."""


def explanation_figure(explanation: Explanation, *, title: str = "", theme: str = "light") -> Figure:
    """Draw the share of each pair of tokens in the score: blue pulls the texts together, orange drives them apart.

    Numbers are hundredths of the score's scale: all of them together are 100 times the cosine. At the right and below
    stand the sums of the rows and of the columns.

    Args:
        explanation: of two texts, by `explain.explain`.
        title: a headline; the score when empty.
        theme: "light" or "dark".

    Raises:
        ValueError: an unknown theme.
    """
    shares = explanation.pairs.to_numpy()
    sums = np.zeros((shares.shape[0] + 1, shares.shape[1] + 1))
    sums[:-1, :-1], sums[:-1, -1], sums[-1, :-1] = shares, shares.sum(axis=1), shares.sum(axis=0)
    sums[-1, -1] = shares.sum()
    most = float(np.abs(shares).max()) or 1.0
    left = [*(drawable(token, 16) for token in explanation.pairs.index), "sum"]
    top = [*(drawable(token, 16) for token in explanation.pairs.columns), "sum"]
    numbered = max(shares.shape) <= MOST_NUMBERED
    cell = 0.44 if numbered else max(0.44 * MOST_NUMBERED / max(shares.shape), 0.14)
    note = "of 100 times the cosine; sums at the edge"
    note += "" if explanation.exact else "; (rest) is what belongs to no token"
    with style(theme) as colors:
        width = 0.4 + 0.075 * max(map(len, left)) + cell * len(top)
        height = cell * len(left) + 0.25 + 0.062 * max(map(len, top))
        headline = title or f"cosine {explanation.score:.3f}"
        figure, panels = canvas(max(width, 3.6), height, headline, footer=note)
        axes = panels[0, 0]
        scale = LinearSegmentedColormap.from_list("shares", [colors.bad, colors.background, colors.good])
        grid = np.full_like(sums, np.nan)
        grid[:-1, :-1] = shares
        axes.pcolormesh(grid, cmap=scale, vmin=-most, vmax=most, edgecolors=colors.background, linewidth=1.2)
        axes.set(xlim=(0, len(top)), ylim=(len(left), 0))
        axes.set_aspect("equal")
        table_axes(axes, colors, left, top)
        axes.tick_params(axis="x", labelrotation=60 if max(map(len, top)) > 4 else 0)
        for label in axes.get_xticklabels():
            if max(map(len, top)) > 4:
                label.set(ha="left", rotation_mode="anchor")
        if numbered:
            for (row, column), value in np.ndenumerate(sums):
                edge = row == len(left) - 1 or column == len(top) - 1
                strong = not edge and abs(value) > 0.75 * most
                color = colors.background if strong else colors.soft if edge else colors.ink
                weight = "bold" if row == len(left) - 1 and column == len(top) - 1 else "normal"
                text = f"{100 * value:z.0f}" if edge else f"{100 * value:z.1f}"
                axes.text(
                    column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=7, color=color, weight=weight
                )
    return figure
