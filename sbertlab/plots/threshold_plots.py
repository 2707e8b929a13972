"""The figure of a threshold: precision, recall and F1 with their bands, above the scores of both kinds of pairs."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from sbertlab.analysis.thresholds import MEASURES, Threshold
from sbertlab.checks import check_columns
from sbertlab.plots.style import Figure, style


def threshold_figure(
    curve: pd.DataFrame,
    labels: ArrayLike,
    scores: ArrayLike,
    chosen: Threshold | None = None,
    *,
    title: str = "",
    theme: str = "light",
) -> Figure:
    """Draw what `thresholds.threshold_curve` returned, and how the scores of alike and unlike pairs lie below it.

    Args:
        curve: with columns threshold, and precision, recall and f1 with their `_low` and `_high`.
        labels: 0 or 1 for each pair.
        scores: similarity of each pair.
        chosen: a threshold to mark, with its interval.
        title: a headline.
        theme: "light" or "dark".

    Raises:
        ValueError: columns are missing, labels and scores of different lengths, or an unknown theme.
    """
    needed = ["threshold", *(f"{name}{end}" for name in MEASURES for end in ("", "_low", "_high"))]
    check_columns("curve", curve, needed)
    alike, similar = np.asarray(labels).astype(bool), np.asarray(scores, dtype=float)
    if alike.shape != similar.shape:
        raise ValueError(f"labels and scores must be one a pair, got the shapes {alike.shape} and {similar.shape}")
    from matplotlib import pyplot

    with style(theme) as colors:
        figure, (above, below) = pyplot.subplots(
            2, 1, figsize=(7.2, 4.4), sharex=True, layout="constrained", height_ratios=[2.6, 1]
        )
        pyplot.close(figure)  # a notebook shows the returned one
        if title:
            figure.suptitle(title, x=0.01, ha="left", weight="bold")
        shades = dict(zip(MEASURES, (colors.good, colors.bad, colors.ink), strict=True))
        for name, shade in shades.items():
            label = "F1" if name == "f1" else name
            above.fill_between(
                curve["threshold"], curve[f"{name}_low"], curve[f"{name}_high"], color=shade, alpha=0.16, linewidth=0
            )
            above.plot(curve["threshold"], curve[name], color=shade, linewidth=1.8, label=label)
        above.set_ylim(0, 1.03)
        above.legend(frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)
        above.set_ylabel("share")
        if chosen is not None:
            for axes in (above, below):
                axes.axvspan(chosen.threshold_low, chosen.threshold_high, color=colors.soft, alpha=0.18, linewidth=0)
                axes.axvline(chosen.threshold, color=colors.ink, linewidth=1.2, linestyle="--")
        edges = np.histogram_bin_edges(similar, 40)
        for kind, shade, name in ((False, colors.bad, "unlike pairs"), (True, colors.good, "alike pairs")):
            below.hist(similar[alike == kind], edges, color=shade, alpha=0.55, label=name)
        below.legend(frameon=False, ncols=2, loc="upper left", fontsize=8)
        below.set_ylabel("pairs")
        below.set_xlabel(str(chosen) if chosen is not None else "threshold of the similarity", loc="left", fontsize=8.5)
        for axes in (above, below):
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(axis="y", linewidth=0.5, alpha=0.5)
    return figure
