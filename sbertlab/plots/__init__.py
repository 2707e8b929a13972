"""Every table as a matplotlib figure, for light and dark pages.

Each function returns a Figure; `title` is its headline and `theme` is "light" or "dark" (else a ValueError). Save one
with `figure.savefig("name.svg")`; in a notebook, the last expression of a cell shows it.
"""

from __future__ import annotations

try:
    import matplotlib  # noqa: F401
except ImportError as error:
    raise ImportError('figures need matplotlib: pip install "sbertlab[lab]"') from error

from sbertlab.plots.analysis import explanation_figure, robustness_figure, threshold_figure
from sbertlab.plots.benchmark import pareto_front, quality_figure, score_heatmap, standings_figure
from sbertlab.plots.losses import descent_figure, push_figure
from sbertlab.plots.maps import embedding_map, map_comparison
from sbertlab.plots.style import THEMES, canvas, open_grid, style
from sbertlab.plots.texts import (
    architecture,
    pooling_comparison,
    pooling_shares,
    similarity_distributions,
    similarity_heatmap,
    token_lengths,
    training_history,
)

__all__ = [
    "THEMES",
    "architecture",
    "canvas",
    "descent_figure",
    "embedding_map",
    "explanation_figure",
    "map_comparison",
    "open_grid",
    "pareto_front",
    "pooling_comparison",
    "pooling_shares",
    "push_figure",
    "quality_figure",
    "robustness_figure",
    "score_heatmap",
    "similarity_distributions",
    "similarity_heatmap",
    "standings_figure",
    "style",
    "threshold_figure",
    "token_lengths",
    "training_history",
]
