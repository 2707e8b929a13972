"""`ThresholdLab`: move a threshold, see what it costs, export it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from sbertlab.analysis.thresholds import Goal, Threshold, choose_threshold, threshold_at, threshold_curve
from sbertlab.plots.analysis import threshold_figure
from sbertlab.plots.style import Figure
from sbertlab.widgets.panel import Panel, control, escaped, picture_box, row, table

BORDERLINE = 6
"""Number of listed pairs nearest to the threshold."""


class ThresholdLab(Panel):
    """Precision and recall of "these two are similar" against the threshold, with intervals, a slider and an export.

    The slider begins at the greatest F1, and the button "Greatest F1" returns there. "Precision of at least" goes to
    the lowest threshold with that precision. "Export" writes the threshold with its intervals as JSON, for
    `Threshold.load`.

    Args:
        labels: 1 for a similar pair, 0 for another.
        scores: similarity of each pair.
        pairs: texts of the pairs, one row per pair, to list those at the border; by default none are listed.
        folder: where "Export" writes threshold.json.
        resamples: bootstrap resamples of the pairs for the intervals.
        theme: "light" or "dark".

    Raises:
        ValueError: labels other than 0 and 1, different lengths, an unknown theme.

    >>> lab = ThresholdLab([1, 0, 1, 0], [0.9, 0.5, 0.4, 0.1], resamples=20)
    >>> lab.chosen.threshold
    0.25
    >>> lab.threshold = 0.45
    >>> lab.chosen.precision, lab.chosen.recall
    (0.5, 0.5)
    """

    def __init__(
        self,
        labels: ArrayLike,
        scores: ArrayLike,
        pairs: pd.DataFrame | None = None,
        folder: str | os.PathLike[str] = ".",
        *,
        resamples: int = 500,
        theme: str = "light",
    ) -> None:
        self.labels, self.scores = np.asarray(labels), np.asarray(scores, dtype=float)
        self.resamples, self.folder, self.pairs = resamples, Path(folder), pairs
        if pairs is not None and len(pairs) != len(self.scores):
            raise ValueError(f"pairs must have one row per score, got {len(pairs)} for {len(self.scores)} scores")
        self.curve = threshold_curve(self.labels, self.scores, resamples=resamples)
        self.chosen: Threshold = choose_threshold(self.labels, self.scores, resamples=resamples)
        low, high = float(self.scores.min()), float(self.scores.max())
        look = {"readout_format": ".3f", "continuous_update": False, "layout": {"width": "420px", "max_width": "100%"}}
        limits: dict[str, Any] = {"min": low, "max": high, "step": (high - low) / 400 or 1.0}
        self._slider = control(ipywidgets.FloatSlider, "Threshold", value=self.chosen.threshold, **limits, **look)
        limits = {"min": 0.01, "max": 1.0, "step": 0.01, "layout": {"width": "220px"}}
        self._goal = control(ipywidgets.BoundedFloatText, "Precision of at least", value=0.9, **limits)
        self._numbers, self._border, self._saved = (ipywidgets.HTML() for _ in range(3))
        self._image = picture_box("760px")
        super().__init__(theme=theme)
        self.on_change(self._slider, self._set)
        best = self.button("Greatest F1", self.choose)
        go = self.button("Go there", lambda: self.choose("precision", self._goal.value))
        export = self.button("Export", self.export, "Write the threshold and its intervals as JSON")
        controls = (row(self._slider, best), row(self._goal, go, export, self._saved))
        self.children = (*self.children, *controls, self._numbers, self._image, self._border)
        self._show(self.chosen)

    @property
    def threshold(self) -> float:
        """The chosen threshold; assigning moves the slider."""
        return self.chosen.threshold

    @threshold.setter
    def threshold(self, value: float) -> None:
        self._set(value)

    def choose(self, goal: Goal = "f1", at_least: float | None = None) -> Threshold:
        """Go to the best threshold for a goal and return it, see `thresholds.choose_threshold`.

        >>> lab = ThresholdLab([1, 0, 1, 0], [0.9, 0.5, 0.4, 0.1], resamples=20)
        >>> lab.choose("precision", at_least=0.9).threshold
        0.7
        """
        self._show(choose_threshold(self.labels, self.scores, goal, at_least, resamples=self.resamples))
        return self.chosen

    def export(self, path: str | os.PathLike[str] | None = None) -> Path:
        """Write the chosen threshold as JSON, by default to threshold.json in the panel's folder; return the path."""
        target = self.folder / "threshold.json" if path is None else Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        self.chosen.save(target)
        self._saved.value = escaped(f"Saved: {target.resolve()}")
        return target

    def static(self) -> Figure:
        """The curves with the chosen threshold, as a matplotlib figure."""
        return threshold_figure(self.curve, self.labels, self.scores, self.chosen, theme=self.theme)

    def __repr__(self) -> str:
        return f"ThresholdLab of {len(self.scores):,} pairs: {self.chosen}"

    def _set(self, value: float) -> None:
        self._show(threshold_at(self.labels, self.scores, value, resamples=self.resamples))

    def _show(self, chosen: Threshold) -> None:
        """Show a threshold, its numbers, the curves, and the pairs nearest to it."""
        self.chosen = chosen
        with self.silently():
            self._slider.value = chosen.threshold
        rows = [
            (name, *(getattr(chosen, name + end) for end in ("", "_low", "_high")))
            for name in ("threshold", "precision", "recall", "f1")
        ]
        numbers = pd.DataFrame(rows, columns=["", "value", "from", "to"]).replace("f1", "F1")
        caption = f"{chosen.goal}, on {chosen.pairs:,} pairs, {100 * chosen.confidence:g} % intervals"
        self._numbers.value = table(numbers, caption)
        self._image.value = self.picture()
        self._saved.value = ""
        if self.pairs is not None:
            near = np.argsort(np.abs(self.scores - chosen.threshold), kind="stable")[:BORDERLINE]
            near = near[np.argsort(-self.scores[near], kind="stable")]
            shown = self.pairs.iloc[near].assign(similarity=self.scores[near], similar=self.labels[near].astype(bool))
            self._border.value = table(shown, "At the border")
