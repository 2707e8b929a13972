"""Every table as a matplotlib figure, for light and dark pages.

Each function returns a Figure; `title` is its headline and `theme` is "light" or "dark" (else a ValueError). Save one
with `figure.savefig("name.svg")`; in a notebook, the last expression of a cell shows it.
"""

# ruff: noqa: F401 (a face)

try:
    import matplotlib
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
