"""How sure a score is, and which differences are real: intervals, paired comparisons, groups of ties.

All of it works from a value and its bootstrap replicates (`resampling.Examples`), in any unit. The construction was
chosen by simulation, with populations whose true score is known (`tests/test_intervals.py` measures the coverage):

- The true score is the expected score of samples of this size. For a mean it is that of the population; a V-measure is
  inflated by a finite sample, alike for all models on the same texts, so it is compared with its like.
- The bootstrap tells the spread, not the ends. Percentiles of replicates fail for the V-measure, because drawing with
  replacement inflates it once more. So the interval stands around the value.
- Scores near 1 are skewed. So a score is put on the scale of the inverse hyperbolic tangent, Fisher's for correlations.
- A difference is hardly skewed, and its two biases nearly cancel: taking them off costs more than it mends. So it lies
  in the middle, with the quantiles of Student's t for the number of seeds (and of resamples).

Known limit: with few texts a class a V-measure's spread is seen too small: at 12 texts for each of 48 classes its 95 %
intervals cover some 92 %, at 48 texts for each of 12 some 94 %.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from statistics import NormalDist
from string import ascii_letters
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

NORMAL = NormalDist()

LEAST_REST = 0.1
"""Least distance of a replicate from 1, as a share of the value's own: a replicate of 1 would be at infinity."""

ROUNDING = 1e-12
"""Share of the scores below which differences are rounding: equal models must not differ by the order of a sum."""


def interval(value: float, replicates: ArrayLike, confidence: float = 0.95) -> tuple[float, float]:
    """Return the interval that covers the true score with this confidence.

    `tanh(z -+ q sd(z*))` with `z = artanh(value)`, `z*` the replicates on that scale and q the quantile of the normal
    distribution. Where the value reaches 1 or a replicate goes beyond, so that it is no score, the same formula without
    artanh. For the mean over tasks, give the means of the values and of the replicates.

    Source: the normal interval, Davison and Hinkley, 1997, Bootstrap Methods and their Application, section 5.2, on the
    scale of Fisher, 1921, On the probable error of a coefficient of correlation.

    Args:
        value: the statistic of the examples.
        replicates: the statistic of their resamples, `(resamples,)`, at least 2.
        confidence: between 0 and 1.

    Raises:
        ValueError: numbers that are not finite, fewer than 2 replicates, a confidence outside of 0 to 1.

    >>> low, high = interval(0.0, [-0.1, 0.1])  # standard deviation 0.1 * sqrt(2), times 1.96
    >>> round(low, 2), round(high, 2)
    (-0.27, 0.27)
    >>> low, high = interval(0.8, [0.7, 0.8, 0.9])
    >>> round(low, 2), round(high, 2)  # longer to the left
    (0.46, 0.94)
    """
    drawn, quantile = _checked(value, replicates), _quantile(confidence)
    score = abs(value) < 1 and bool(np.abs(drawn).max() <= 1)
    most = 1 - LEAST_REST * (1 - abs(value))
    on_scale = np.arctanh(np.clip(drawn, -most, most)) if score else drawn
    centre = np.arctanh(value) if score else value
    ends = centre + np.array([-1, 1]) * quantile * on_scale.std(ddof=1)
    low, high = np.tanh(ends) if score else ends
    return float(low), float(high)


class Difference(NamedTuple):
    """A difference of two scores, a - b, and how sure it is.

    Args:
        value: the difference itself.
        error: standard error over the examples, drawn for both at once.
        seed_error: standard error over the seeds; 0 where no spread is known.
        low: end of the interval around the value, of both errors together.
        high: the other end.
        p: two-sided; how often identical scores differ at least this much.
    """

    value: float
    error: float
    seed_error: float
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
) -> Difference:
    """Compare two models on the same examples: `a - b`, with the replicates subtracted one by one.

    The errors over examples and over seeds add in quadrature. For models with several seeds, give the mean over the
    seeds as the value and as the replicates. For the mean over tasks, give the means over the tasks.

    Args:
        value_a: score of a.
        value_b: score of b.
        replicates_a: of a, `(resamples,)`.
        replicates_b: of b on the same draws.
        seeds_a: scores of a, one a seed. None or one score: no spread over seeds is known, and none is assumed.
        seeds_b: the same of b; the seeds of a and b are independent.
        confidence: of low and high.

    Raises:
        ValueError: replicates that do not belong together, or as in `interval`.

    >>> compare(0.5, 0.3, [0.4, 0.6], [0.3, 0.3])._asdict()["value"]
    0.2
    >>> same = compare(0.5, 0.5, [0.4, 0.6], [0.4, 0.6])
    >>> same.error, same.p  # however much both move, they move together
    (0.0, 1.0)
    """
    a, b = _checked(value_a, replicates_a), _checked(value_b, replicates_b)
    if a.shape != b.shape:
        raise ValueError(f"the replicates belong together one by one, but there are {len(a)} of a and {len(b)} of b")
    rounding = ROUNDING * max(np.abs(a).max(), np.abs(b).max())
    value, drawn = float(value_a) - float(value_b), a - b
    if abs(value) <= rounding and (np.abs(drawn) <= rounding).all():
        value, drawn = 0.0, np.zeros_like(drawn)
    return _verdict(value, float(drawn.std(ddof=1)), len(drawn), (seeds_a, seeds_b), confidence)


def mean_difference(
    differences: Sequence[Difference],
    seeds_a: ArrayLike | None = None,
    seeds_b: ArrayLike | None = None,
    confidence: float = 0.95,
) -> Difference:
    """Return the difference of the means over tasks from the differences on each task.

    Only `value` and `error` of each are read. The examples of tasks are independent, so
    `error = sqrt(sum error^2) / tasks`. The seeds are not: a good seed is good on many tasks. So their spread comes
    from the means over the tasks, seed by seed.

    Args:
        differences: one a task.
        seeds_a: mean over the tasks of each seed of a.
        seeds_b: the same of b.
        confidence: of low and high.

    Raises:
        ValueError: no difference; a task with a seed error, while the seeds' means are missing.

    >>> one = Difference(1.0, 0.3, 0.0, 0.4, 1.6, 0.001)
    >>> two = Difference(0.0, 0.4, 0.0, -0.8, 0.8, 1.0)
    >>> both = mean_difference([one, two])  # the error is sqrt(0.09 + 0.16) / 2
    >>> both.value, both.error, round(both.low, 2), round(both.high, 2)
    (0.5, 0.25, 0.01, 0.99)
    """
    if not differences:
        raise ValueError("a mean over tasks needs the difference of at least one task, got none")
    if seeds_a is None and seeds_b is None and any(one.seed_error for one in differences):
        raise ValueError(
            "the tasks have seed errors, which go together: give seeds_a and seeds_b, means over the tasks"
        )
    error = float(np.linalg.norm([one.error for one in differences])) / len(differences)
    value = float(np.mean([one.value for one in differences]))
    return _verdict(value, error, np.inf, (seeds_a, seeds_b), confidence)


def _verdict(
    value: float, error: float, resamples: float, seeds: Sequence[ArrayLike | None], confidence: float
) -> Difference:
    """Join the errors; the degrees of freedom of Student's t by the rule of Welch (1947) and Satterthwaite (1946)."""
    from scipy.special import stdtr, stdtrit

    spreads = [np.asarray(scores, dtype=float) for scores in seeds if scores is not None and np.size(scores) > 1]
    of_seeds = [(float(scores.var(ddof=1)) / scores.size, scores.size - 1) for scores in spreads]
    seed_error = float(np.sqrt(sum(variance for variance, _ in of_seeds)))
    total = float(np.hypot(error, seed_error))
    if total == 0:
        return Difference(value, error, seed_error, value, value, float(value == 0))
    doubt = sum((variance / total**2) ** 2 / freedom for variance, freedom in [(error**2, resamples - 1), *of_seeds])
    freedom = 1 / doubt if doubt else np.inf
    half = float(stdtrit(freedom, 0.5 + _level(confidence) / 2)) * total
    p = 2 * float(stdtr(freedom, -abs(value) / total))
    return Difference(value, error, seed_error, value - half, value + half, p)


def holm(p: ArrayLike) -> NDArray[np.float64]:
    """Return the p-values adjusted for their number, in their order: below 0.05, a family of tests errs in 5 %.

    `max over the smaller ones of (m - rank + 1) p`, at most 1.

    Source: Holm, 1979, A Simple Sequentially Rejective Multiple Test Procedure.

    >>> holm([0.01, 0.04, 0.03]).round(4).tolist()  # 3 x 0.01; 2 x 0.03; the largest not below the one before
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p, dtype=float)
    if values.ndim != 1 or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"p must be a row of values from 0 to 1, got {values}")
    order = np.argsort(values)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)), 1)
    return adjusted


def tied_groups(apart: NDArray[np.bool_]) -> list[list[int]]:
    """Return the groups that cannot be told apart: the largest sets without a difference, by their first members.

    "Cannot be told apart" is not transitive, so one may be in several groups; what differs from all is a group too.

    Source: insert and absorb, Piepho, 2004, An Algorithm for a Letter-Based Representation of All-Pairwise Comparisons.

    Args:
        apart: who differs from whom, `(models, models)`, symmetric.

    Raises:
        ValueError: a matrix that is not symmetric, or by which one differs from itself.

    The middle one differs from neither end, but the ends differ:

    >>> tied_groups(np.array([[False, False, True], [False, False, False], [True, False, False]]))
    [[0, 1], [1, 2]]
    """
    size = len(apart)
    if apart.shape != (size, size) or (apart != apart.T).any() or apart.diagonal().any():
        raise ValueError(f"apart must be symmetric, none different from itself, got the shape {apart.shape}")
    groups = [frozenset(range(size))] if size else []
    for pair in np.argwhere(np.triu(apart)).tolist():
        split = [group - {one} for group in groups if group.issuperset(pair) for one in pair]
        groups = list(dict.fromkeys([group for group in groups if not group.issuperset(pair)] + split))
        groups = [group for group in groups if not any(group < other for other in groups)]
    return sorted(sorted(group) for group in groups)


def group_letters(names: Sequence[Hashable], different: Collection[tuple[Hashable, Hashable]]) -> list[str]:
    """Return the letters of each model: two that share a letter cannot be told apart, two that share none can.

    Args:
        names: of the models, best first; the groups of the best get the first letters.
        different: the pairs that can be told apart.

    Returns:
        A string a model, in the order of the names; beyond 52 groups, letters carry a number.

    Raises:
        ValueError: a name twice, a pair with an unknown name or with itself.

    >>> group_letters(["best", "second", "last"], [("best", "last")])
    ['a', 'ab', 'b']
    """
    place = {name: rank for rank, name in enumerate(names)}
    if len(place) < len(names):
        raise ValueError(f"each name may occur once, got {list(names)}")
    apart = np.zeros((len(names), len(names)), dtype=bool)
    for a, b in different:
        if a not in place or b not in place or a == b:
            raise ValueError(f"a pair must be two of the names {list(place)}, got {(a, b)}")
        apart[place[a], place[b]] = apart[place[b], place[a]] = True
    letters = [""] * len(names)
    for number, group in enumerate(tied_groups(apart)):
        for rank in group:
            letters[rank] += ascii_letters[number % 52] + (str(number // 52) if number >= 52 else "")
    return letters


def smallest_difference(error: float, power: float = 0.8, alpha: float = 0.05) -> float:
    """Return the true difference that is seen with this power: `(q(1 - alpha / 2) + q(power)) * error`.

    Args:
        error: standard error of the difference.
        power: how often the difference is to be seen.
        alpha: how often none is taken for one; with m pairs under Holm's correction, `0.05 / m` is on the safe side.

    Raises:
        ValueError: a share outside of 0 to 1, or a negative error.

    >>> round(smallest_difference(1.0), 3)  # 1.960 + 0.842
    2.802
    """
    if not error >= 0:
        raise ValueError(f"error must be a standard error, at least 0, got {error}")
    return (_quantile(1 - alpha) + NORMAL.inv_cdf(_level(power))) * error


def _checked(value: float, replicates: ArrayLike) -> NDArray[np.float64]:
    drawn = np.asarray(replicates, dtype=float)
    if drawn.ndim != 1 or len(drawn) < 2:
        raise ValueError(f"a spread needs at least 2 replicates in a row, got the shape {drawn.shape}")
    if not (np.isfinite(value) and np.isfinite(drawn).all()):
        raise ValueError(f"value and replicates must be finite, got {value} and {np.isnan(drawn).sum()} times NaN")
    return drawn


def _level(share: float) -> float:
    if not 0 < share < 1:
        raise ValueError(f"confidence, power and alpha must lie between 0 and 1, got {share}")
    return share


def _quantile(confidence: float) -> float:
    return NORMAL.inv_cdf(0.5 + _level(confidence) / 2)
