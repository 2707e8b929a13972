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
from sbertlab.widgets.panel import Panel, control, escaped, row, table

BORDERLINE = 6
"""So many of the pairs nearest to the threshold are listed."""


class ThresholdLab(Panel):
    """Precision and recall of "these two are alike" against the threshold, with bands; a slider, and an export.

    The slider begins at the greatest F1. "Greatest F1" goes back there; "Precision of at least" goes to the lowest
    threshold that has it; `choose` does both from code. "Export" writes the chosen threshold with its intervals as
    JSON, `Threshold.load` reads it.

    Args:
        labels: 0 or 1 for each pair; 1 is alike.
        scores: similarity of each pair.
        pairs: texts of the pairs, one row a pair, to list those at the border; None lists none.
        folder: where "Export" writes threshold.json.
        resamples: draws of the pairs for the bands.
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
        self.resamples, self.folder = resamples, Path(folder)
        if pairs is not None and len(pairs) != len(self.scores):
            raise ValueError(f"pairs must be one row a score, got {len(pairs)} for {len(self.scores)} scores")
        self.pairs = pairs
        self.curve = threshold_curve(self.labels, self.scores, resamples=resamples)
        self.chosen: Threshold = choose_threshold(self.labels, self.scores, resamples=resamples)
        least, greatest = float(self.scores.min()), float(self.scores.max())
        self._slider = control(
            ipywidgets.FloatSlider,
            "Threshold",
            value=self.chosen.threshold,
            min=least,
            max=greatest,
            step=(greatest - least) / 400 or 1.0,
            readout_format=".3f",
            continuous_update=False,
            layout={"width": "420px", "max_width": "100%"},
        )
        self._goal = control(
            ipywidgets.BoundedFloatText,
            "Precision of at least",
            value=0.9,
            min=0.01,
            max=1.0,
            step=0.01,
            layout={"width": "220px"},
        )
        self._best_button = control(ipywidgets.Button, "Greatest F1")
        self._goal_button = control(ipywidgets.Button, "Go there")
        self._export_button = control(
            ipywidgets.Button, "Export", tooltip="Write the threshold and its intervals as JSON"
        )
        self._words, self._border = ipywidgets.HTML(), ipywidgets.HTML()
        self._said = ipywidgets.HTML()
        self._image = ipywidgets.Image(format="png", layout={"max_width": "100%", "width": "760px"})
        self._slider.observe(self.guarded(lambda change: self._set_by_hand(change["new"])), names="value")
        self._best_button.on_click(self.guarded(lambda button: self.choose()))
        self._goal_button.on_click(self.guarded(lambda button: self.choose("precision", self._goal.value)))
        self._export_button.on_click(self.guarded(lambda button: self.export()))
        self._moving = False
        controls = [
            row(self._slider, self._best_button),
            row(self._goal, self._goal_button, self._export_button, self._said),
        ]
        super().__init__([*controls, self._words, self._image, self._border], theme)
        self._show()

    @property
    def _given(self) -> tuple[Any, Any]:
        return self.labels, self.scores

    @property
    def threshold(self) -> float:
        """The threshold that is set; assigning moves the slider."""
        return self.chosen.threshold

    @threshold.setter
    def threshold(self, value: float) -> None:
        self._set_by_hand(value)

    def choose(self, goal: Goal = "f1", at_least: float | None = None) -> Threshold:
        """Go to the best threshold for a goal and return it, as `thresholds.choose_threshold` finds it.

        Args:
            goal: "f1", "precision" or "recall".
            at_least: for the goals "precision" and "recall", a share above 0 and up to 1.

        Raises:
            ValueError: an unknown goal; `at_least` missing, out of range or out of reach. The panel stays where it is.

        >>> lab = ThresholdLab([1, 0, 1, 0], [0.9, 0.5, 0.4, 0.1], resamples=20)
        >>> lab.choose("precision", at_least=0.9).threshold, lab.choose("recall", at_least=0.5).threshold
        (0.7, 0.7)
        >>> lab.choose().threshold, lab.threshold
        (0.25, 0.25)
        """
        self._take(choose_threshold(*self._given, goal, at_least, resamples=self.resamples))
        return self.chosen

    def export(self, path: str | os.PathLike[str] | None = None) -> Path:
        """Write the chosen threshold as JSON and return the path; threshold.json in the panel's folder by default."""
        target = Path(path) if path is not None else self.folder / "threshold.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        self.chosen.save(target)
        self._said.value = escaped(f"Saved: {target.resolve()}")
        return target

    def static(self) -> Figure:
        """The curves with the chosen threshold, as a matplotlib figure."""
        return threshold_figure(self.curve, self.labels, self.scores, self.chosen, theme=self.theme)

    def __repr__(self) -> str:
        return f"ThresholdLab of {len(self.scores):,} pairs: {self.chosen}"

    def _set_by_hand(self, value: float) -> None:
        if not self._moving:
            self._take(threshold_at(*self._given, value, resamples=self.resamples))

    def _take(self, chosen: Threshold) -> None:
        """Show another threshold; the slider follows without answering."""
        self.chosen = chosen
        self._moving = True
        try:
            self._slider.value = chosen.threshold
        finally:
            self._moving = False
        self._show()

    def _show(self) -> None:
        chosen = self.chosen
        numbers = pd.DataFrame(
            [
                {
                    "": name,
                    "value": getattr(chosen, key),
                    "from": getattr(chosen, f"{key}_low"),
                    "to": getattr(chosen, f"{key}_high"),
                }
                for key, name in (
                    ("threshold", "threshold"),
                    ("precision", "precision"),
                    ("recall", "recall"),
                    ("f1", "F1"),
                )
            ]
        )
        self._words.value = table(
            numbers, f"{chosen.goal}, on {chosen.pairs:,} pairs, {100 * chosen.confidence:g} % intervals"
        )
        self._image.value = self.picture()
        self._said.value = ""
        if self.pairs is not None:
            near = np.argsort(np.abs(self.scores - chosen.threshold), kind="stable")[:BORDERLINE]
            near = near[np.argsort(-self.scores[near], kind="stable")]
            shown = self.pairs.iloc[near].assign(similarity=self.scores[near], alike=self.labels[near].astype(bool))
            self._border.value = table(shown, "At the border")
