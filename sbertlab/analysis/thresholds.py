"""Where to draw the line: precision and recall of "these two are alike" against the threshold, and how sure they are.

People take 0.8 by feel. Here the threshold comes from labelled pairs, with bands that say what another sample of pairs
would have given.
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

MEASURES = ("precision", "recall", "f1")

Goal = Literal["f1", "precision", "recall"]


@dataclass(frozen=True)
class Threshold:
    """A threshold, and what calling everything from it upwards alike leads to; each with its interval.

    Args:
        threshold: of the similarity.
        threshold_low: end of the interval of the threshold, over other samples of pairs.
        threshold_high: the other end.
        precision: share of right ones among those called alike.
        precision_low: end of its interval at this threshold.
        precision_high: the other end.
        recall: share of the alike ones that are found.
        recall_low: end of its interval at this threshold.
        recall_high: the other end.
        f1: harmonic mean of precision and recall.
        f1_low: end of its interval at this threshold.
        f1_high: the other end.
        goal: what the threshold was chosen for, in words.
        pairs: how many pairs it was chosen on.
        confidence: of the intervals.
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
        """Write it as JSON, for the program that will use it."""
        Path(path).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Threshold:
        """Read what `save` wrote.

        Raises:
            ValueError: the file is not one of a threshold.
        """
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
    """Return precision, recall and F1 at evenly spaced thresholds, with bands by bootstrap over the pairs.

    Args:
        labels: 0 or 1 for each pair; 1 is alike.
        scores: similarity of each pair; a score at or above the threshold is called alike.
        points: thresholds, from the least score to the greatest.
        resamples: draws of the pairs.
        seed: of the draws.
        confidence: of the bands, pointwise.

    Returns:
        Columns threshold, and for each of `MEASURES` the value, `_low` and `_high`. Where nothing is called alike the
        precision is 1: no call is wrong.

    Raises:
        ValueError: labels other than 0 and 1 or of one kind only, scores that are not finite, different lengths.

    >>> curve = threshold_curve([1, 0, 1, 0], [0.9, 0.5, 0.4, 0.1], points=3, resamples=10)
    >>> curve[["threshold", "precision", "recall"]].values.tolist()
    [[0.1, 0.5, 1.0], [0.5, 0.5, 0.5], [0.9, 1.0, 0.5]]
    """
    right, similar = _checked(labels, scores)
    if points < 2:
        raise ValueError(f"points must be at least 2, got {points}")
    grid = np.linspace(similar.min(), similar.max(), points)
    grid[-1] = similar.max()  # not a rounding above it
    called = np.searchsorted(-similar, -grid, side="right")  # how many scores reach each threshold
    values = _measures(np.ones((1, len(right))), right, called)
    drawn = [_measures(counts, right, called) for counts in _draws(len(right), resamples, seed)]
    ends = _ends(np.concatenate(drawn, axis=1), confidence)  # (2, measures, points)
    columns = {"threshold": grid}
    for place, name in enumerate(MEASURES):
        columns |= {name: values[place, 0], f"{name}_low": ends[0, place], f"{name}_high": ends[1, place]}
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
    """Return the best threshold for a goal, with intervals over other samples of pairs.

    Args:
        labels: 0 or 1 for each pair; 1 is alike.
        scores: similarity of each pair.
        goal: "f1": the greatest F1, as `BinaryClassificationEvaluator` finds it. "precision": the lowest threshold
            whose precision is at least `at_least`. "recall": the highest whose recall is.
        at_least: for the goals "precision" and "recall", from 0 to 1.
        resamples: draws of the pairs.
        seed: of the draws.
        confidence: of the intervals.

    Raises:
        ValueError: as `threshold_curve`; an unknown goal; `at_least` missing, out of range or out of reach.

    >>> found = choose_threshold([1, 0, 1, 0], [0.9, 0.5, 0.4, 0.1], resamples=50)
    >>> found.threshold, found.f1
    (0.25, 0.8)
    >>> choose_threshold([1, 0, 1, 0], [0.9, 0.5, 0.4, 0.1], "precision", at_least=0.9, resamples=50).threshold
    0.7
    """
    right, similar = _checked(labels, scores)
    if goal not in ("f1", "precision", "recall"):
        raise ValueError(f'goal must be "f1", "precision" or "recall", got {goal!r}')
    if goal != "f1" and (at_least is None or not 0 < at_least <= 1):
        raise ValueError(f"goal={goal!r} needs at_least, a share above 0 and up to 1, got {at_least!r}")
    last = np.append(np.flatnonzero(np.diff(similar)), len(similar) - 1)  # last of each run of equal scores
    cuts = (similar[last] + similar[np.minimum(last + 1, len(similar) - 1)]) / 2
    best = _best(_measures(np.ones((1, len(right))), right, last + 1), goal, at_least)
    if best[0] < 0:
        raise ValueError(f"no threshold has a {goal} of at least {at_least}; ask for less, or improve the model")
    threshold = float(cuts[best[0]])
    chosen = [
        _best(_measures(counts, right, last + 1), goal, at_least) for counts in _draws(len(right), resamples, seed)
    ]
    places = np.concatenate(chosen)
    others = cuts[places[places >= 0]]
    tail = 50 * (1 - confidence)
    low, high = np.percentile(others, [tail, 100 - tail]) if len(others) else (threshold, threshold)
    wanted = "greatest F1" if goal == "f1" else f"{goal} of at least {at_least:g}"
    return threshold_at(labels, scores, threshold, resamples, seed, confidence, wanted, (float(low), float(high)))


def threshold_at(
    labels: ArrayLike,
    scores: ArrayLike,
    threshold: float,
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
    goal: str = "set by hand",
    ends: tuple[float, float] | None = None,
) -> Threshold:
    """Return what a threshold leads to; the arguments are those of `choose_threshold`.

    Args:
        threshold: of the similarity.
        goal: what it was chosen for, in words.
        ends: interval of the threshold itself; None: it was set, and has none.

    Raises:
        ValueError: as `threshold_curve`; a threshold that is not finite.

    >>> found = threshold_at([1, 0, 1, 0], [0.9, 0.5, 0.4, 0.1], 0.45, resamples=50)
    >>> found.precision, found.recall
    (0.5, 0.5)
    """
    right, similar = _checked(labels, scores)
    if not np.isfinite(threshold):
        raise ValueError(f"threshold must be a finite number, got {threshold}")
    called = np.array([np.searchsorted(-similar, -threshold, side="right")])
    values = _measures(np.ones((1, len(right))), right, called)[:, 0, 0]
    drawn = [_measures(counts, right, called) for counts in _draws(len(right), resamples, seed)]
    bands = _ends(np.concatenate(drawn, axis=1), confidence)[:, :, 0]  # (2, measures)
    low, high = ends or (threshold, threshold)
    shares = {
        f"{name}{end}": float(number)
        for place, name in enumerate(MEASURES)
        for end, number in (("", values[place]), ("_low", bands[0, place]), ("_high", bands[1, place]))
    }
    found = {"threshold": float(threshold), "threshold_low": low, "threshold_high": high, **shares}
    return Threshold(**found, goal=goal, pairs=len(right), confidence=confidence)


def _checked(labels: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Labels as bool and scores `(n,)`, in the order of falling scores."""
    similar, kinds = np.asarray(scores, dtype=float), np.asarray(labels)
    if similar.ndim != 1 or similar.shape != kinds.shape:
        raise ValueError(f"labels and scores must be one a pair, got the shapes {kinds.shape} and {similar.shape}")
    if not np.isfinite(similar).all():
        raise ValueError(f"scores must be finite numbers, got {similar[~np.isfinite(similar)][0]}")
    if set(np.unique(kinds).tolist()) != {0, 1}:
        raise ValueError(f"labels must be 0 and 1, and both must occur, got the values {np.unique(kinds)[:5].tolist()}")
    order = np.argsort(-similar, kind="stable")
    return kinds[order].astype(bool), similar[order]


def _draws(n: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Blocks `(draws, n)` of how often each pair is drawn."""
    if resamples < 2:
        raise ValueError(f"resamples must be at least 2, got {resamples}")
    for counts in draw_counts(n, resamples, seed):
        yield np.asarray(counts, dtype=float)


def _measures(counts: np.ndarray, right: np.ndarray, called: np.ndarray) -> np.ndarray:
    """Precision, recall and F1 when the first `called` pairs are called alike, `(measures, draws, thresholds)`."""
    none = np.zeros((len(counts), 1))
    every = np.hstack([none, counts.cumsum(axis=1)])  # (draws, n + 1)
    hits = np.hstack([none, (counts * right).cumsum(axis=1)])
    found, asked, total = hits[:, called], every[:, called], hits[:, -1:]
    precision = np.where(asked > 0, found / np.maximum(asked, 1), 1.0)
    recall = np.where(total > 0, found / np.maximum(total, 1), 1.0)
    f1 = 2 * found / np.maximum(asked + total, 1)
    return np.stack([precision, recall, f1])


def _best(measures: np.ndarray, goal: str, at_least: float | None) -> np.ndarray:
    """Place of the best threshold in each draw, `(draws,)`; -1 where none reaches the goal."""
    precision, recall, f1 = measures
    if goal == "f1":
        return f1.argmax(axis=1)
    reached = (precision if goal == "precision" else recall) >= at_least
    if goal == "recall":  # recall only grows as the threshold falls
        return np.where(reached.any(axis=1), reached.argmax(axis=1), -1)
    return np.where(reached.any(axis=1), reached.shape[1] - 1 - reached[:, ::-1].argmax(axis=1), -1)


def _ends(drawn: np.ndarray, confidence: float) -> np.ndarray:
    """Percentiles over the draws: `(measures, draws, thresholds)` -> `(2, measures, thresholds)`."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    tail = 50 * (1 - confidence)
    return np.percentile(drawn, [tail, 100 - tail], axis=1)
