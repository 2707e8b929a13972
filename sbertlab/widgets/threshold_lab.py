"""`ThresholdLab`: move a threshold, see what it costs, export it."""

from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from sbertlab.analysis.thresholds import Goal, Threshold, choose_threshold, threshold_at, threshold_curve
from sbertlab.checks import check_same_length
from sbertlab.plots.analysis import threshold_figure
from sbertlab.plots.style import Figure
from sbertlab.widgets.panel import Panel, control, escaped, picture_box, row, table

BORDERLINE = 6
"""Number of listed pairs nearest to the threshold."""


class ThresholdLab(Panel):
    """Precision and recall of "these two are similar" against the threshold, with intervals, a slider and an export.

    The slider begins at the greatest F1. "Precision of at least" goes to the lowest threshold with that precision.

    Args:
        labels: 1 for a similar pair, 0 for another.
        scores: similarity of each pair.
        pairs: texts of the pairs, one row per pair, to list those at the border; by default none are listed.
        folder: where "Export" writes threshold.json, with its intervals, for `Threshold.load`.
        resamples: bootstrap resamples of the pairs for the intervals.

    >>> lab = ThresholdLab([1, 0, 1, 0], [0.9, 0.5, 0.4, 0.1], resamples=20)
    >>> lab.choose("precision", at_least=0.9).threshold
    0.7
    >>> lab.move(0.45)
    >>> lab.chosen.precision, lab.chosen.recall
    (0.5, 0.5)
    """

    def __init__(
        self,
        labels: ArrayLike,
        scores: ArrayLike,
        pairs: pd.DataFrame | None = None,
        folder: str | Path = ".",
        *,
        resamples: int = 500,
        theme: str = "light",
    ) -> None:
        super().__init__(theme=theme)
        self.labels, self.scores = np.asarray(labels), np.asarray(scores, dtype=float)
        self.pairs, self.resamples, self.folder = pairs, resamples, Path(folder)
        check_same_length(scores=self.scores, pairs=self.scores if pairs is None else pairs)
        self.curve = threshold_curve(self.labels, self.scores, resamples=resamples)
        low, high = float(self.scores.min()), float(self.scores.max())
        look = {"readout_format": ".3f", "continuous_update": False, "layout": {"width": "420px", "max_width": "100%"}}
        limits: dict[str, Any] = {"min": low, "max": high, "step": (high - low) / 400 or 1.0}
        self._slider = control(ipywidgets.FloatSlider, "Threshold", **limits, **look)
        limits = {"min": 0.01, "max": 1.0, "step": 0.01, "layout": {"width": "220px"}}
        self._goal = control(ipywidgets.BoundedFloatText, "Precision of at least", value=0.9, **limits)
        self._numbers, self._border, self._saved = (ipywidgets.HTML() for _ in range(3))
        self._image = picture_box("760px")
        self.on_change(self._slider, self.move)
        best = self.button("Greatest F1", self.choose)
        go = self.button("Go there", lambda: self.choose("precision", self._goal.value))
        export = self.button("Export", self.export)
        self.add(row(self._slider, best), row(self._goal, go, export, self._saved))
        self.add(self._numbers, self._image, self._border)
        self.choose()

    def move(self, threshold: float) -> None:
        """Go to a threshold, as the slider does."""
        self._show(threshold_at(self.labels, self.scores, threshold, resamples=self.resamples))

    def choose(self, goal: Goal = "f1", at_least: float | None = None) -> Threshold:
        """Go to the best threshold for a goal and return it, see `thresholds.choose_threshold`."""
        self._show(choose_threshold(self.labels, self.scores, goal, at_least, resamples=self.resamples))
        return self.chosen

    def export(self) -> Path:
        """Write the chosen threshold to threshold.json in `folder`; return its path."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "threshold.json"
        self.chosen.save(path)
        self._saved.value = escaped(f"Saved: {path.resolve()}")
        return path

    def static(self) -> Figure:
        """The curves with the chosen threshold, as a matplotlib figure."""
        return threshold_figure(self.curve, self.labels, self.scores, self.chosen, theme=self.theme)

    def _show(self, chosen: Threshold) -> None:
        """Show a threshold, its numbers, the curves, and the pairs nearest to it."""
        self.chosen = chosen
        with self.silently():
            self._slider.value = chosen.threshold
        sample = f"{chosen.goal}, on {chosen.pairs:,} pairs, 95 % intervals"
        self._numbers.value = escaped(f"{chosen} ({sample})", "p")
        self._image.value = self.picture()
        self._saved.value = ""
        if self.pairs is not None:
            near = np.argsort(np.abs(self.scores - chosen.threshold), kind="stable")[:BORDERLINE]
            near = near[np.argsort(-self.scores[near], kind="stable")]
            shown = self.pairs.iloc[near].assign(similarity=self.scores[near], similar=self.labels[near].astype(bool))
            self._border.value = table(shown, "At the border")
