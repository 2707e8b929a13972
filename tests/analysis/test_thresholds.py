"""Thresholds: the numbers of plain counting, intervals that cover."""

import json

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score

from sbertlab.analysis.thresholds import MEASURES, Threshold, choose_threshold, threshold_at, threshold_curve
from sbertlab.evaluation.pairs import best_thresholds
from sbertlab.plots.analysis import threshold_figure


def sample(n=300, seed=0):
    random = np.random.default_rng(seed)
    labels = (random.random(n) < 0.4).astype(int)
    return labels, (0.4 + 0.25 * labels + random.normal(0, 0.15, n)).round(2)


LABELS, SCORES = sample()


def test_the_curve_is_that_of_scikit_learn_at_every_threshold():
    curve = threshold_curve(LABELS, SCORES, points=37, resamples=20)
    for row in curve.itertuples():
        called = row.threshold <= SCORES
        assert row.precision == pytest.approx(precision_score(LABELS, called, zero_division=1))
        assert row.recall == pytest.approx(recall_score(LABELS, called))
        assert row.f1 == pytest.approx(f1_score(LABELS, called))
    assert (curve["recall"].diff().dropna() <= 0).all()
    for name in MEASURES:
        assert (curve[f"{name}_low"] <= curve[f"{name}_high"]).all()


def test_bands_are_those_of_materialised_resamples():
    from sbertlab.analysis.resampling import draw_counts

    found = threshold_at(LABELS, SCORES, 0.5, resamples=40, seed=3)
    order = np.argsort(-SCORES, kind="stable")
    values = []
    for counts in draw_counts(len(SCORES), 40, 3):
        for row in counts:
            rows = np.repeat(order, row)
            values.append(precision_score(LABELS[rows], SCORES[rows] >= 0.5))
    assert (found.precision_low, found.precision_high) == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])))
    assert np.std(values) > 0.01


def test_the_threshold_of_the_greatest_f1_is_the_evaluators():
    found, best = choose_threshold(LABELS, SCORES, resamples=50), best_thresholds(LABELS, SCORES)
    assert found.threshold == pytest.approx(best["f1_threshold"])
    assert (found.f1, found.precision, found.recall) == pytest.approx((best["f1"], best["precision"], best["recall"]))
    assert found.threshold_low < found.threshold < found.threshold_high


@pytest.mark.parametrize("share", [0.8, 0.9])
def test_a_precision_is_reached_and_no_lower_threshold_reaches_it(share):
    found = choose_threshold(LABELS, SCORES, "precision", share, resamples=30)
    assert found.precision >= share
    lower = np.unique(SCORES[found.threshold > SCORES])
    assert len(lower)
    assert all(precision_score(LABELS, cut <= SCORES) < share for cut in lower)


@pytest.mark.slow
def test_intervals_of_precision_and_recall_cover_the_truth():
    labels, scores = sample(200_000, seed=99)
    truth = threshold_at(labels, scores, 0.55, resamples=2)
    hits = dict.fromkeys(MEASURES, 0)
    for seed in range(400):
        found = threshold_at(*sample(300, seed), 0.55, resamples=200, seed=seed)
        for name in MEASURES:
            hits[name] += getattr(found, f"{name}_low") <= getattr(truth, name) <= getattr(found, f"{name}_high")
    assert all(0.91 <= count / 400 <= 0.98 for count in hits.values()), hits


def test_a_threshold_is_written_and_read_back(tmp_path):
    found = choose_threshold(LABELS, SCORES, resamples=20)
    found.save(tmp_path / "threshold.json")
    assert json.loads((tmp_path / "threshold.json").read_text())["threshold"] == found.threshold
    assert Threshold.load(tmp_path / "threshold.json") == found


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: threshold_curve([1, 1], [0.1, 0.2]), "both must occur"),
        (lambda: threshold_curve([0, 1], [0.1, np.nan]), "scores must be finite"),
        (lambda: threshold_curve([0, 1], [0.1]), "scores must have the shape"),
        (lambda: choose_threshold(LABELS, SCORES, "precision"), "at_least must be"),
        (lambda: choose_threshold([1, 0, 0], [0.5] * 3, "precision", 0.99), r"no threshold has .* at least 0\.99"),
    ],
)
def test_what_has_no_threshold_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_figure_shows_three_curves_and_both_kinds_of_pairs():
    curve = threshold_curve(LABELS, SCORES, resamples=20)
    figure = threshold_figure(curve, LABELS, SCORES, choose_threshold(LABELS, SCORES, resamples=20))
    above, below = figure.axes
    drawn = {line.get_label(): line.get_ydata() for line in above.get_lines()}
    np.testing.assert_array_equal(drawn["precision"], curve["precision"])
    assert {"precision", "recall", "F1"} <= set(drawn)
    assert sum(patch.get_height() for patch in below.patches if hasattr(patch, "get_height")) >= len(SCORES)
