"""Where to draw the line between similar and different: precision and recall against the threshold, with intervals.

Pairs with a score at or above the threshold are called similar. `labels` are 1 for similar pairs and 0 for different
ones, `scores` their similarities; 95 % intervals come from `resamples` bootstrap samples of the pairs, at least 2.
"""

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from sbertlab.analysis.resampling import draw_counts
from sbertlab.checks import check_choice, checked_binary, checked_number, checked_numbers

MEASURES = ("precision", "recall", "f1")
ENDS = (2.5, 97.5)  # percentiles of the replicates

Goal = Literal["f1", "precision"]


@dataclass(frozen=True)
class Threshold:
    """A threshold and the precision, recall and F1 at it, each with its interval.

    `goal` says what the threshold was chosen for, `pairs` on how many pairs. The interval of the threshold itself is
    over other samples of pairs; one that was set by hand has none.
    """

    threshold: float
    threshold_low: float
    threshold_high: float
    precision: float
    precision_low: float
    precision_high: float
    recall: float
    recall_low: float
    recall_high: float
    f1: float
    f1_low: float
    f1_high: float
    goal: str
    pairs: int

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fields as JSON."""
        Path(path).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a file that `save` wrote."""
        return cls(**json.loads(Path(path).read_text(encoding="utf-8")))

    def __str__(self) -> str:
        shares = ", ".join(
            f"{'F1' if name == 'f1' else name} {getattr(self, name):.2f} ({getattr(self, f'{name}_low'):.2f} to "
            f"{getattr(self, f'{name}_high'):.2f})"
            for name in MEASURES
        )
        return f"threshold {self.threshold:.3f} ({self.threshold_low:.3f} to {self.threshold_high:.3f}): {shares}"


def threshold_curve(
    labels: ArrayLike, scores: ArrayLike, points: int = 201, resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Return precision, recall and F1 at evenly spaced thresholds, with pointwise bands `_low` and `_high`.

    The thresholds run from the lowest to the highest score. Precision is 1 where no pair is called similar.

    >>> curve = threshold_curve([1, 0, 1, 0], [0.9, 0.5, 0.4, 0.1], points=3, resamples=10)
    >>> curve[["threshold", "precision", "recall"]].values.tolist()
    [[0.1, 0.5, 1.0], [0.5, 0.5, 0.5], [0.9, 1.0, 0.5]]
    """
    similar, ranked = _sorted_pairs(labels, scores)
    return _curve(similar, ranked, np.linspace(ranked[-1], ranked[0], points), resamples, seed)


def threshold_at(
    labels: ArrayLike, scores: ArrayLike, threshold: float, resamples: int = 1000, seed: int = 0
) -> Threshold:
    """Return precision, recall and F1 at a given threshold.

    >>> found = threshold_at([1, 0, 1, 0], [0.9, 0.5, 0.4, 0.1], 0.45, resamples=50)
    >>> found.precision, found.recall
    (0.5, 0.5)
    """
    similar, ranked = _sorted_pairs(labels, scores)
    measures: dict[Any, float] = _curve(similar, ranked, np.array([threshold]), resamples, seed).iloc[0].to_dict()
    ends = {"threshold_low": float(threshold), "threshold_high": float(threshold)}
    return Threshold(**measures, **ends, goal="set by hand", pairs=len(similar))


def choose_threshold(
    labels: ArrayLike,
    scores: ArrayLike,
    goal: Goal = "f1",
    at_least: float | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Threshold:
    """Return the best threshold for a goal, halfway between two scores; a ValueError if none reaches it.

    "f1" has the highest F1, as in `BinaryClassificationEvaluator`; "precision" is the lowest threshold with a precision
    of `at_least`.

    >>> found = choose_threshold([1, 0, 1, 0], [0.9, 0.5, 0.4, 0.1], resamples=50)
    >>> found.threshold, found.f1
    (0.25, 0.8)
    >>> choose_threshold([1, 0, 1, 0], [0.9, 0.5, 0.4, 0.1], "precision", at_least=0.9, resamples=50).threshold
    0.7
    """
    check_choice("goal", goal, ("f1", "precision"))
    least = None if goal == "f1" else checked_number("at_least", at_least, 0, 1, above=True)
    similar, ranked = _sorted_pairs(labels, scores)
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)  # last of each run of equal scores
    cuts = (ranked[last] + ranked[np.minimum(last + 1, len(ranked) - 1)]) / 2
    best = _best(_measures(np.ones((1, len(similar))), similar, last + 1), least)[0]
    if best < 0:
        raise ValueError(f"no threshold has a precision of at least {least}; ask for less, or improve the model")
    drawn = [_measures(counts, similar, last + 1) for counts in draw_counts(len(similar), resamples, seed)]
    places = np.concatenate([_best(measures, least) for measures in drawn])
    others = cuts[places[places >= 0]]
    low, high = np.percentile(others, ENDS).tolist() if len(others) else [float(cuts[best])] * 2
    wanted = "greatest F1" if goal == "f1" else f"precision of at least {least:g}"
    found = threshold_at(labels, scores, float(cuts[best]), resamples, seed)
    return replace(found, threshold_low=low, threshold_high=high, goal=wanted)


def _sorted_pairs(labels: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Labels as bool and scores `(n,)`, highest score first."""
    similar = checked_binary("labels", labels).astype(bool)
    ranked = checked_numbers("scores", scores, length=len(similar))
    order = np.argsort(-ranked, kind="stable")
    return similar[order], ranked[order]


def _measures(counts: np.ndarray, similar: np.ndarray, called: np.ndarray) -> np.ndarray:
    """Precision, recall and F1 when the first `called` pairs are called similar, `(measures, draws, thresholds)`.

    `counts` `(draws, n)` says how often each pair was drawn.
    """
    none = np.zeros((len(counts), 1))
    every = np.hstack([none, counts.cumsum(axis=1)])  # (draws, n + 1)
    hits = np.hstack([none, (counts * similar).cumsum(axis=1)])
    found, asked, total = hits[:, called], every[:, called], hits[:, -1:]
    precision = np.where(asked > 0, found / np.maximum(asked, 1), 1.0)
    recall = np.where(total > 0, found / np.maximum(total, 1), 1.0)
    f1 = 2 * found / np.maximum(asked + total, 1)
    return np.stack([precision, recall, f1])


def _curve(similar: np.ndarray, ranked: np.ndarray, thresholds: np.ndarray, resamples: int, seed: int) -> pd.DataFrame:
    """One row per threshold: each measure, and the ends of its interval as `_low` and `_high`."""
    called = np.searchsorted(-ranked, -thresholds, side="right")  # number of scores at or above each threshold
    values = _measures(np.ones((1, len(similar))), similar, called)[:, 0]  # (measures, thresholds)
    drawn = [_measures(counts, similar, called) for counts in draw_counts(len(similar), resamples, seed)]
    low, high = np.percentile(np.concatenate(drawn, axis=1), ENDS, axis=1)
    curve = pd.DataFrame({"threshold": thresholds})
    for row, name in enumerate(MEASURES):
        curve[name], curve[f"{name}_low"], curve[f"{name}_high"] = values[row], low[row], high[row]
    return curve


def _best(measures: np.ndarray, least: float | None) -> np.ndarray:
    """Place of the best threshold in each draw, `(draws,)`; -1 where none has the least precision."""
    precision, _, f1 = measures
    if least is None:
        return f1.argmax(axis=1)
    return np.where(precision >= least, np.arange(precision.shape[1]), -1).max(axis=1)  # the lowest comes last
