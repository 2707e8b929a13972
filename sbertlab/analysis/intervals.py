"""How certain a score is and which differences are real: intervals, paired comparisons, groups of ties.

Everything starts from a value and its bootstrap replicates (`resampling.Examples`), and intervals are at 95 %. The
method was chosen by simulation: `tests/analysis/test_intervals.py` measures coverage and false positives, notebook 06
explains it. Known limit: three seeds estimate their own spread badly. Where it is three times that over the examples,
9 % of tables of identical models show a difference instead of 5 %. Arguments that functions share:

- `examples`: number of examples that the score averages over, at least 2, for quantiles of Student's t.
- `starts`: number of clustering starts that the replicates take in turn; 1 without clustering.
- `seeds_a`, `seeds_b`: one score per seed of each model. None or one score: no spread over seeds is known or assumed.
"""

from collections.abc import Sequence
from string import ascii_letters
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit

SHARE = 0.5 + 0.95 / 2
"""The quantile at the upper end of a 95 % interval."""

LEAST_REST = 0.1
"""Least distance of a replicate from 1, as a share of the value's own: a replicate of 1 would be at infinity."""

ROUNDING = 1e-12
"""Differences below this share of the scores are rounding."""


def interval(value: float, replicates: ArrayLike, *, examples: float = np.inf, starts: int = 1) -> tuple[float, float]:
    """Return the interval of the true score: `tanh(artanh(value) -+ t * error)`, because scores near 1 are skewed.

    The error is that of the replicates after artanh; without artanh if the value or a replicate is not below 1.
    Source: Davison and Hinkley, 1997, Bootstrap Methods, section 5.2; artanh as in Fisher, 1921.

    >>> low, high = interval(0.8, np.tile([0.7, 0.8, 0.9], 100))
    >>> round(low, 2), round(high, 2)  # longer to the left
    (0.54, 0.92)
    """
    drawn = np.asarray(replicates, dtype=float)
    score = abs(value) < 1 and bool(np.abs(drawn).max() <= 1)
    most = 1 - LEAST_REST * (1 - abs(value))
    error, freedom = _spread(np.arctanh(np.clip(drawn, -most, most)) if score else drawn, examples, starts)
    centre = np.arctanh(value) if score else value
    ends = centre + np.array([-1, 1]) * float(stdtrit(freedom, SHARE)) * error
    low, high = np.tanh(ends) if score else ends
    return float(low), float(high)


class Difference(NamedTuple):
    """A difference of two scores, a - b, its interval from both errors, and its two-sided p-value.

    `error` is the standard error over the examples, drawn for both models at once, and over clustering starts;
    `seed_error` that over the seeds, 0 if no spread is known. `freedom` are their degrees of freedom.
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
    a, b = np.asarray(replicates_a, dtype=float), np.asarray(replicates_b, dtype=float)
    rounding = ROUNDING * max(np.abs(a).max(), np.abs(b).max())
    value, drawn = float(value_a) - float(value_b), a - b
    if abs(value) <= rounding and (np.abs(drawn) <= rounding).all():
        value, drawn = 0.0, np.zeros_like(drawn)
    return _difference(value, *_spread(drawn, examples, starts), (seeds_a, seeds_b))


def mean_difference(
    differences: Sequence[Difference], seeds_a: ArrayLike | None = None, seeds_b: ArrayLike | None = None
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
    value, count = float(np.mean([one.value for one in differences])), len(differences)
    error, freedom = joined([((one.error / count) ** 2, one.freedom) for one in differences])
    return _difference(value, error, freedom, (seeds_a, seeds_b))


def _difference(value: float, error: float, freedom: float, seeds: Sequence[ArrayLike | None]) -> Difference:
    """Join the errors over examples and over the seeds of both models."""
    scores = [np.asarray(each, dtype=float) for each in seeds if each is not None and np.size(each) > 1]
    seed_error, seed_freedom = joined([(float(each.var(ddof=1)) / each.size, each.size - 1) for each in scores])
    total, of_total = joined([(error**2, freedom), (seed_error**2, seed_freedom)])
    half = float(stdtrit(of_total, SHARE)) * total
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
    groups = [frozenset(range(len(different)))]
    for pair in np.argwhere(np.triu(different)).tolist():
        split = [group - {one} for group in groups if group.issuperset(pair) for one in pair]
        groups = list(dict.fromkeys([group for group in groups if not group.issuperset(pair)] + split))
        groups = [group for group in groups if not any(group < other for other in groups)]
    return sorted(sorted(group) for group in groups)


def group_letters(different: NDArray[np.bool_]) -> list[str]:
    """Return the letters of each model, best model first: two models differ significantly if they share no letter.

    >>> group_letters(np.array([[False, False, True], [False, False, False], [True, False, False]]))
    ['a', 'ab', 'b']
    """
    groups = list(zip(ascii_letters, tied_groups(different), strict=False))
    return ["".join(letter for letter, group in groups if rank in group) for rank in range(len(different))]


def smallest_difference(error: float, power: float = 0.8, alpha: float = 0.05, freedom: float = np.inf) -> float:
    """Return the true difference that is detected with this power: `(t(1 - alpha / 2) + t(power)) * error`.

    >>> round(smallest_difference(1.0), 3)  # 1.960 + 0.842
    2.802
    """
    return float(stdtrit(freedom, 1 - alpha / 2) + stdtrit(freedom, power)) * error
