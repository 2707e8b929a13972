"""`ThresholdLab` follows its slider, goes to a precision, and exports what it shows."""

import numpy as np
import pandas as pd
import pytest

from sbertlab.analysis.thresholds import Threshold, choose_threshold
from sbertlab.evaluation.pairs import best_thresholds
from sbertlab.widgets import ThresholdLab

RANDOM = np.random.default_rng(0)
LABELS = (RANDOM.random(300) < 0.4).astype(int)
SCORES = (0.4 + 0.25 * LABELS + RANDOM.normal(0, 0.15, 300)).round(2)


def test_the_panel_follows_the_slider_goes_to_a_precision_and_exports(controls, tmp_path):
    texts = pd.DataFrame({"first": [f"<b>{n}</b>" for n in range(300)], "second": ["x"] * 300})
    lab = ThresholdLab(LABELS, SCORES, texts, tmp_path / "<b>", resamples=30)
    best, before = lab.chosen, lab._image.value
    assert best.threshold == lab._slider.value == pytest.approx(best_thresholds(LABELS, SCORES)["f1_threshold"])
    lab._slider.value = 0.62
    assert (lab.chosen.threshold, lab.chosen.goal) == (0.62, "set by hand")
    assert lab._image.value != before
    assert "&lt;b&gt;" in lab._border.value
    assert "<b>" not in lab._border.value
    lab._goal.value = 0.85
    controls(lab)["Go there"].click()
    assert lab.chosen == choose_threshold(LABELS, SCORES, "precision", 0.85, resamples=30)
    assert lab.chosen.threshold == lab._slider.value
    controls(lab)["Export"].click()
    assert Threshold.load(tmp_path / "<b>" / "threshold.json") == lab.chosen
    assert "&lt;b&gt;" in lab._saved.value
    controls(lab)["Greatest F1"].click()
    assert lab.chosen == best


def test_a_goal_that_cannot_be_reached_leaves_the_panel_where_it_is(controls):
    lab = ThresholdLab([0, 1, 0], [0.9, 0.5, 0.1], resamples=20)
    before = lab.chosen
    controls(lab)["Go there"].click()
    assert "no threshold has a precision of at least 0.9" in lab.problem
    assert lab.chosen == before
    with pytest.raises(ValueError, match="scores has 300, pairs has 1"):
        ThresholdLab(LABELS, SCORES, pd.DataFrame({"a": ["b"]}))
