"""Where to draw the line between similar and different: precision and recall against the threshold, with intervals.

Pairs with a score at or above the threshold are called similar. Arguments that the functions share:

- `labels`: 1 for each similar pair, 0 for each different one; both must occur.
- `scores`: similarity of each pair, finite.
- `resamples`, `seed`: bootstrap samples of the pairs, at least 2.
- `confidence`: of the intervals, between 0 and 1.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from sbertlab.analysis.resampling import draw_counts
from sbertlab.checks import check_choice, checked_number, checked_numbers

MEASURES = ("precision", "recall", "f1")

Goal = Literal["f1", "precision", "recall"]


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
    confidence: float

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fields as JSON."""
        Path(path).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Threshold:
        """Read a file that `save` wrote."""
        try:
            return cls(**json.loads(Path(path).read_text(encoding="utf-8")))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a threshold written by Threshold.save: {error}") from error

    def __str__(self) -> str:
        shares = ", ".join(
            f"{'F1' if name == 'f1' else name} {getattr(self, name):.2f} ({getattr(self, f'{name}_low'):.2f} to "
            f"{getattr(self, f'{name}_high'):.2f})"
            for name in MEASURES
        )
        return f"threshold {self.threshold:.3f} ({self.threshold_low:.3f} to {self.threshold_high:.3f}): {shares}"


def threshold_curve(
    labels: ArrayLike,
    scores: ArrayLike,
    points: int = 201,
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Return precision, recall and F1 at evenly spaced thresholds, with pointwise bands `_low` and `_high`.

    The thresholds run from the lowest to the highest score. Precision is 1 where no pair is called similar.

    >>> curve = threshold_curve([1, 0, 1, 0], [0.9, 0.5, 0.4, 0.1], points=3, resamples=10)
    >>> curve[["threshold", "precision", "recall"]].values.tolist()
    [[0.1, 0.5, 1.0], [0.5, 0.5, 0.5], [0.9, 1.0, 0.5]]
    """
    similar, ranked = _sorted_pairs(labels, scores)
    grid = np.linspace(ranked.min(), ranked.max(), checked_number("points", points, 2, whole=True))
    grid[-1] = ranked.max()  # not a rounding above it
    called = np.searchsorted(-ranked, -grid, side="right")  # number of scores at or above each threshold
    values, (low, high) = _with_bands(similar, called, resamples, seed, confidence)
    columns = {"threshold": grid}
    for name, value, below, above in zip(MEASURES, values, low, high, strict=True):
        columns |= {name: value, f"{name}_low": below, f"{name}_high": above}
    return pd.DataFrame(columns)


def choose_threshold(
    labels: ArrayLike,
    scores: ArrayLike,
    goal: Goal = "f1",
    at_least: float | None = None,
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Threshold:
    """Return the best threshold for a goal, halfway between two scores; a ValueError if none reaches it.

    "f1" has the highest F1, as in `BinaryClassificationEvaluator`; "precision" is the lowest threshold with a precision
    of `at_least`, "recall" the highest with such a recall.

    >>> found = choose_threshold([1, 0, 1, 0], [0.9, 0.5, 0.4, 0.1], resamples=50)
    >>> found.threshold, found.f1
    (0.25, 0.8)
    >>> choose_threshold([1, 0, 1, 0], [0.9, 0.5, 0.4, 0.1], "precision", at_least=0.9, resamples=50).threshold
    0.7
    """
    similar, ranked = _sorted_pairs(labels, scores)
    check_choice("goal", goal, ("f1", "precision", "recall"))
    if goal != "f1" and (at_least is None or not 0 < at_least <= 1):
        raise ValueError(f"goal={goal!r} needs at_least, a share above 0 and up to 1, got {at_least!r}")
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)  # last of each run of equal scores
    cuts = (ranked[last] + ranked[np.minimum(last + 1, len(ranked) - 1)]) / 2
    best = _best(_measures(np.ones((1, len(similar))), similar, last + 1), goal, at_least)[0]
    if best < 0:
        raise ValueError(f"no threshold has a {goal} of at least {at_least}; ask for less, or improve the model")
    drawn = [_best(measures, goal, at_least) for measures in _drawn(similar, last + 1, resamples, seed)]
    places = np.concatenate(drawn)
    others = cuts[places[places >= 0]]
    ends = np.percentile(others, _tails(confidence)) if len(others) else np.repeat(cuts[best], 2)
    wanted = "greatest F1" if goal == "f1" else f"{goal} of at least {at_least:g}"
    return _threshold(similar, ranked, cuts[best], ends, wanted, resamples, seed, confidence)


def threshold_at(
    labels: ArrayLike,
    scores: ArrayLike,
    threshold: float,
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Threshold:
    """Return precision, recall and F1 at a given threshold.

    >>> found = threshold_at([1, 0, 1, 0], [0.9, 0.5, 0.4, 0.1], 0.45, resamples=50)
    >>> found.precision, found.recall
    (0.5, 0.5)
    """
    checked_number("threshold", threshold, -np.inf)
    ends = np.repeat(threshold, 2)
    return _threshold(*_sorted_pairs(labels, scores), threshold, ends, "set by hand", resamples, seed, confidence)


def _threshold(
    similar: np.ndarray,
    ranked: np.ndarray,
    threshold: float,
    ends: np.ndarray,
    goal: str,
    resamples: int,
    seed: int,
    confidence: float,
) -> Threshold:
    called = np.array([np.searchsorted(-ranked, -threshold, side="right")])
    values, (low, high) = _with_bands(similar, called, resamples, seed, confidence)
    shares = {name: float(value[0]) for name, value in zip(MEASURES, values, strict=True)}
    shares |= {f"{name}_low": float(value[0]) for name, value in zip(MEASURES, low, strict=True)}
    shares |= {f"{name}_high": float(value[0]) for name, value in zip(MEASURES, high, strict=True)}
    own = {"threshold": float(threshold), "threshold_low": float(ends[0]), "threshold_high": float(ends[1])}
    return Threshold(**own, **shares, goal=goal, pairs=len(similar), confidence=confidence)


def _sorted_pairs(labels: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Labels as bool and scores `(n,)`, highest score first."""
    kinds = np.asarray(labels)
    ranked = checked_numbers("scores", scores, length=len(kinds))
    if kinds.ndim != 1 or set(np.unique(kinds).tolist()) != {0, 1}:
        raise ValueError(f"labels must be 0 and 1, and both must occur, got the values {np.unique(kinds)[:5].tolist()}")
    order = np.argsort(-ranked, kind="stable")
    return kinds[order].astype(bool), ranked[order]


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


def _drawn(similar: np.ndarray, called: np.ndarray, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """`_measures` of bootstrap samples, block by block."""
    checked_number("resamples", resamples, 2, whole=True)
    for counts in draw_counts(len(similar), resamples, seed):
        yield _measures(counts.astype(float), similar, called)


def _with_bands(
    similar: np.ndarray, called: np.ndarray, resamples: int, seed: int, confidence: float
) -> tuple[np.ndarray, np.ndarray]:
    """Values `(measures, thresholds)` and the ends of their intervals `(2, measures, thresholds)`."""
    values = _measures(np.ones((1, len(similar))), similar, called)[:, 0]
    drawn = np.concatenate([*_drawn(similar, called, resamples, seed)], axis=1)
    return values, np.percentile(drawn, _tails(confidence), axis=1)


def _best(measures: np.ndarray, goal: str, at_least: float | None) -> np.ndarray:
    """Place of the best threshold in each draw, `(draws,)`; -1 where none reaches the goal."""
    precision, recall, f1 = measures
    if goal == "f1":
        return f1.argmax(axis=1)
    reached = (precision if goal == "precision" else recall) >= at_least
    if goal == "recall":  # recall only grows as the threshold falls
        return np.where(reached.any(axis=1), reached.argmax(axis=1), -1)
    return np.where(reached.any(axis=1), reached.shape[1] - 1 - reached[:, ::-1].argmax(axis=1), -1)


def _tails(confidence: float) -> list[float]:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    return [50 * (1 - confidence), 100 - 50 * (1 - confidence)]
