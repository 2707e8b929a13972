"""How certain a score is and which differences are real: intervals, paired comparisons, groups of ties.

Everything starts from a value and its bootstrap replicates (`resampling.Examples`). The method was chosen by simulation
with known true scores; `tests/analysis/test_intervals.py` measures coverage and false positives, and notebook 06
explains it. Arguments that several functions share:

- `examples`: number of examples that the score averages over, at least 2. Quantiles are those of Student's t.
- `starts`: number of clustering starts that the replicates take in turn; 1 without clustering.
- `seeds_a`, `seeds_b`: one score per seed of each model. None or one score: no spread over seeds is known or assumed.
- `confidence`: of the interval, between 0 and 1.

Known limit: three seeds estimate their own spread badly. Where it is three times that over the examples, 9 % of tables
of identical models show a difference instead of 5 %; more seeds help.
"""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_letters
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit

LEAST_REST = 0.1
"""Least distance of a replicate from 1, as a share of the value's own: a replicate of 1 would be at infinity."""

ROUNDING = 1e-12
"""Differences below this share of the scores are rounding."""


def interval(
    value: float, replicates: ArrayLike, confidence: float = 0.95, *, examples: float = np.inf, starts: int = 1
) -> tuple[float, float]:
    """Return the interval of the true score: `tanh(artanh(value) -+ t * error)`, because scores near 1 are skewed.

    The error is that of the replicates after artanh; without artanh if the value or a replicate is not below 1.
    Source: Davison and Hinkley, 1997, Bootstrap Methods, section 5.2; artanh as in Fisher, 1921.

    >>> low, high = interval(0.8, np.tile([0.7, 0.8, 0.9], 100))
    >>> round(low, 2), round(high, 2)  # longer to the left
    (0.54, 0.92)
    """
    drawn = _checked(value, replicates, starts)
    score = abs(value) < 1 and bool(np.abs(drawn).max() <= 1)
    most = 1 - LEAST_REST * (1 - abs(value))
    error, freedom = _spread(np.arctanh(np.clip(drawn, -most, most)) if score else drawn, examples, starts)
    centre = np.arctanh(value) if score else value
    ends = centre + np.array([-1, 1]) * _t(0.5 + _share(confidence) / 2, freedom) * error
    low, high = np.tanh(ends) if score else ends
    return float(low), float(high)


class Difference(NamedTuple):
    """A difference of two scores, a - b, and how certain it is.

    Args:
        value: the difference.
        error: standard error over the examples, drawn for both models at once, and over clustering starts.
        freedom: degrees of freedom of `error`.
        seed_error: standard error over the seeds; 0 if no spread is known.
        seed_freedom: degrees of freedom of `seed_error`.
        low: lower end of the interval, from both errors.
        high: upper end.
        p: two-sided p-value.
    """

    value: float
    error: float
    freedom: float
    seed_error: float
    seed_freedom: float
    low: float
    high: float
    p: float


def compare(
    value_a: float,
    value_b: float,
    replicates_a: ArrayLike,
    replicates_b: ArrayLike,
    seeds_a: ArrayLike | None = None,
    seeds_b: ArrayLike | None = None,
    confidence: float = 0.95,
    *,
    examples: float = np.inf,
    starts: int = 1,
) -> Difference:
    """Compare two models on the same draws of the same examples: `a - b`, replicate by replicate.

    A model with several seeds is given by the means over its seeds, value and replicates. The errors over examples and
    over seeds add in quadrature. The interval is symmetric, because a difference is hardly skewed.

    >>> same = compare(0.5, 0.5, [0.4, 0.6], [0.4, 0.6])
    >>> same.error, same.p  # both move together
    (0.0, 1.0)
    """
    a, b = _checked(value_a, replicates_a, starts), _checked(value_b, replicates_b, starts)
    if a.shape != b.shape:
        raise ValueError(f"replicates of both models must belong together, but a has {len(a)} and b has {len(b)}")
    rounding = ROUNDING * max(np.abs(a).max(), np.abs(b).max())
    value, drawn = float(value_a) - float(value_b), a - b
    if abs(value) <= rounding and (np.abs(drawn) <= rounding).all():
        value, drawn = 0.0, np.zeros_like(drawn)
    return _difference(value, *_spread(drawn, examples, starts), (seeds_a, seeds_b), confidence)


def mean_difference(
    differences: Sequence[Difference],
    seeds_a: ArrayLike | None = None,
    seeds_b: ArrayLike | None = None,
    confidence: float = 0.95,
) -> Difference:
    """Return the difference of means over tasks from the difference on each task.

    The examples of different tasks are independent: `error = sqrt(sum error^2) / tasks`. Seeds are not, because a good
    seed is good on many tasks: `seeds_a` and `seeds_b` are means over the tasks, seed by seed.

    >>> one = Difference(1.0, 0.3, np.inf, 0.0, np.inf, 0.4, 1.6, 0.001)
    >>> two = Difference(0.0, 0.4, np.inf, 0.0, np.inf, -0.8, 0.8, 1.0)
    >>> both = mean_difference([one, two])  # the error is sqrt(0.09 + 0.16) / 2
    >>> both.value, both.error, round(both.low, 2), round(both.high, 2)
    (0.5, 0.25, 0.01, 0.99)
    """
    if not differences:
        raise ValueError("differences must hold the difference of at least one task, got none")
    if seeds_a is None and seeds_b is None and any(one.seed_error for one in differences):
        raise ValueError("the tasks have seed errors: also give seeds_a and seeds_b, means over the tasks")
    value, count = float(np.mean([one.value for one in differences])), len(differences)
    error, freedom = joined([((one.error / count) ** 2, one.freedom) for one in differences])
    return _difference(value, error, freedom, (seeds_a, seeds_b), confidence)


def _difference(
    value: float, error: float, freedom: float, seeds: Sequence[ArrayLike | None], confidence: float
) -> Difference:
    """Join the errors over examples and over the seeds of both models."""
    scores = [np.asarray(each, dtype=float) for each in seeds if each is not None and np.size(each) > 1]
    seed_error, seed_freedom = joined([(float(each.var(ddof=1)) / each.size, each.size - 1) for each in scores])
    total, of_total = joined([(error**2, freedom), (seed_error**2, seed_freedom)])
    half = _t(0.5 + _share(confidence) / 2, of_total) * total
    p = 2 * float(stdtr(of_total, -abs(value) / total)) if total else float(value == 0)
    return Difference(value, error, freedom, seed_error, seed_freedom, value - half, value + half, p)


def _spread(drawn: NDArray[np.float64], examples: float, starts: int) -> tuple[float, float]:
    """Standard error and degrees of freedom of replicates: within clustering starts, plus between their means."""
    if examples < 2:
        return np.inf, 1.0
    rounds = drawn[: len(drawn) // starts * starts].reshape(-1, starts)
    within = float(rounds.var(axis=0, ddof=1).mean())
    of_examples = within * (examples / (examples - 1) if np.isfinite(examples) else 1)
    parts = [(of_examples, min(rounds.size - starts, examples - 1))]
    if starts > 1:
        parts.append((max(float(rounds.mean(axis=0).var(ddof=1)) - within / len(rounds), 0.0), starts - 1))
    return joined(parts)


def joined(parts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return standard error and degrees of freedom of a sum, from the variance and degrees of freedom of each part.

    Source: Welch, 1947, and Satterthwaite, 1946, An Approximate Distribution of Estimates of Variance Components.

    >>> error, freedom = joined([(0.09, 10.0), (0.16, np.inf)])  # 0.25^2 / (0.09^2 / 10)
    >>> error, round(freedom, 2)
    (0.5, 77.16)
    """
    total = sum(variance for variance, _ in parts)
    if not 0 < total < np.inf:
        return float(np.sqrt(total)), np.inf
    doubt = sum((variance / total) ** 2 / freedom for variance, freedom in parts)
    return float(np.sqrt(total)), 1 / doubt if doubt else np.inf


def holm(p: ArrayLike) -> NDArray[np.float64]:
    """Return p-values adjusted for their number: below 0.05, a family of tests has 5 % false positives.

    `max over the smaller ones of (m - rank + 1) p`, at most 1. Source: Holm, 1979, A Simple Sequentially Rejective
    Multiple Test Procedure.

    >>> holm([0.01, 0.04, 0.03]).round(4).tolist()  # 3 x 0.01; 2 x 0.03; the largest not below the one before
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p, dtype=float)
    if values.ndim != 1 or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"p must be a list of values from 0 to 1, got {values}")
    order = np.argsort(values)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)), 1)
    return adjusted


def tied_groups(different: NDArray[np.bool_]) -> list[list[int]]:
    """Return the largest groups of models without a significant difference, from a symmetric `(models, models)` matrix.

    Ties are not transitive, so a model may be in several groups. Source: insert and absorb, Piepho, 2004, An Algorithm
    for a Letter-Based Representation of All-Pairwise Comparisons.

    >>> tied_groups(np.array([[False, False, True], [False, False, False], [True, False, False]]))
    [[0, 1], [1, 2]]
    """
    size = len(different)
    if different.shape != (size, size) or (different != different.T).any() or different.diagonal().any():
        raise ValueError(f"different must be symmetric with a False diagonal, got the shape {different.shape}")
    groups = [frozenset(range(size))] if size else []
    for pair in np.argwhere(np.triu(different)).tolist():
        split = [group - {one} for group in groups if group.issuperset(pair) for one in pair]
        groups = list(dict.fromkeys([group for group in groups if not group.issuperset(pair)] + split))
        groups = [group for group in groups if not any(group < other for other in groups)]
    return sorted(sorted(group) for group in groups)


def group_letters(different: NDArray[np.bool_]) -> list[str]:
    """Return the letters of each model, best model first: two models differ significantly if they share no letter.

    Beyond 52 groups, letters carry a number.

    >>> group_letters(np.array([[False, False, True], [False, False, False], [True, False, False]]))
    ['a', 'ab', 'b']
    """
    letters = [""] * len(different)
    for number, group in enumerate(tied_groups(different)):
        for rank in group:
            letters[rank] += ascii_letters[number % 52] + (str(number // 52) if number >= 52 else "")
    return letters


def smallest_difference(error: float, power: float = 0.8, alpha: float = 0.05, freedom: float = np.inf) -> float:
    """Return the true difference that is detected with this power: `(t(1 - alpha / 2) + t(power)) * error`.

    >>> round(smallest_difference(1.0), 3)  # 1.960 + 0.842
    2.802
    """
    if not error >= 0:
        raise ValueError(f"error must be a standard error of at least 0, got {error}")
    return (_t(1 - _share(alpha) / 2, freedom) + _t(_share(power), freedom)) * error


def _t(share: float, freedom: float) -> float:
    """Quantile of Student's t."""
    return float(stdtrit(freedom, share))


def _checked(value: float, replicates: ArrayLike, starts: int) -> NDArray[np.float64]:
    drawn = np.asarray(replicates, dtype=float)
    if drawn.ndim != 1 or len(drawn) < 2 * starts:
        raise ValueError(f"replicates must be at least 2 for each of {starts} starts, got the shape {drawn.shape}")
    if not (np.isfinite(value) and np.isfinite(drawn).all()):
        raise ValueError(f"value and replicates must be finite, got {value} and {np.isnan(drawn).sum()} times NaN")
    return drawn


def _share(value: float) -> float:
    if not 0 < value < 1:
        raise ValueError(f"confidence, power and alpha must lie between 0 and 1, got {value}")
    return value
