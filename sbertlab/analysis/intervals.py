"""How sure a score is, and which differences are real: intervals, paired comparisons, groups of ties.

All of it works from a value and its bootstrap replicates (`resampling.Examples`), in any unit. The construction was
chosen by simulation, with populations whose true score is known (`tests/test_intervals.py` measures the coverage):

- The true score is the expected score of samples of this size. For a mean it is that of the population; a V-measure is
  inflated by a finite sample, alike for all models on the same texts, so it is compared with its like.
- The bootstrap tells the spread, not the ends. So the interval stands around the value, with the quantiles of Student's
  t for the number of examples (and of resamples); of average precision only those labelled 1 count, which it averages.
- A clustering has luck of its own: the replicates of one score may take the starts of a clusterer in turn, and what
  moves from start to start counts with as many degrees of freedom as there are starts, less one.
- Scores near 1 are skewed. So a score is put on the scale of the inverse hyperbolic tangent, Fisher's for correlations.
- A difference is hardly skewed, and its two biases nearly cancel: taking them off costs more than it mends. So it lies
  in the middle.

Known limit: three seeds tell their own spread badly. Tables of identical models err in 5 % as long as the variance over
the seeds is up to a third of that over the examples, in 9 % where it is three times as large: the rule of Welch and
Satterthwaite is too bold there, and rules that never are (Cochran and Cox, Behrens and Fisher) see next to nothing with
two degrees of freedom. More seeds mend it.
"""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_letters
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEAST_REST = 0.1
"""Least distance of a replicate from 1, as a share of the value's own: a replicate of 1 would be at infinity."""

ROUNDING = 1e-12
"""Share of the scores below which differences are rounding: equal models must not differ by the order of a sum."""


def interval(
    value: float,
    replicates: ArrayLike,
    confidence: float = 0.95,
    *,
    examples: float = np.inf,
    starts: int = 1,
) -> tuple[float, float]:
    """Return the interval that covers the true score with this confidence.

    `tanh(z -+ t error(z*))` with `z = artanh(value)`, `z*` the replicates on that scale, their standard error as in
    `compare` and t the quantile of Student's distribution. Where the value reaches 1 or a replicate goes beyond, so
    that it is no score, the same formula without artanh.

    Source: the normal interval, Davison and Hinkley, 1997, Bootstrap Methods and their Application, section 5.2, on the
    scale of Fisher, 1921, On the probable error of a coefficient of correlation.

    Args:
        value: the statistic of the examples.
        replicates: the statistic of their resamples, `(resamples,)`, at least 2 of each start.
        confidence: between 0 and 1.
        examples: how many there are; of one alone nothing is known.
        starts: of the clusterer that the replicates take in turn; 1 where there is none.

    Raises:
        ValueError: numbers that are not finite, too few replicates, a confidence outside of 0 to 1.

    >>> low, high = interval(0.0, [-0.1, 0.1])  # standard deviation 0.1 * sqrt(2), times 12.7 with two replicates
    >>> round(low, 2), round(high, 2)
    (-0.95, 0.95)
    >>> low, high = interval(0.8, np.tile([0.7, 0.8, 0.9], 100))
    >>> round(low, 2), round(high, 2)  # longer to the left
    (0.54, 0.92)
    """
    drawn, level = _checked(value, replicates, starts), _level(confidence)
    score = abs(value) < 1 and bool(np.abs(drawn).max() <= 1)
    most = 1 - LEAST_REST * (1 - abs(value))
    on_scale = np.arctanh(np.clip(drawn, -most, most)) if score else drawn
    centre = np.arctanh(value) if score else value
    error, freedom = _spread(on_scale, examples, starts)
    ends = centre + np.array([-1, 1]) * _t(0.5 + level / 2, freedom) * error
    low, high = np.tanh(ends) if score else ends
    return float(low), float(high)


class Difference(NamedTuple):
    """A difference of two scores, a - b, and how sure it is.

    Args:
        value: the difference itself.
        error: standard error over the examples, drawn for both at once, and over the starts of a clusterer.
        freedom: its degrees of freedom.
        seed_error: standard error over the seeds; 0 where no spread is known.
        seed_freedom: its degrees of freedom.
        low: end of the interval around the value, of both errors together.
        high: the other end.
        p: two-sided; how often identical scores differ at least this much.
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
    """Compare two models on the same examples: `a - b`, with the replicates subtracted one by one.

    The variance over the examples is that of the replicates, times `examples / (examples - 1)`; with several starts it
    is that within the starts, and the variance between their means is added. The errors over examples and over seeds
    add in quadrature. For models with several seeds, give the mean over the seeds as the value and as the replicates.
    For the mean over tasks see `mean_difference`.

    Args:
        value_a: score of a.
        value_b: score of b.
        replicates_a: of a, `(resamples,)`.
        replicates_b: of b on the same draws.
        seeds_a: scores of a, one a seed. None or one score: no spread over seeds is known, and none is assumed.
        seeds_b: the same of b; the seeds of a and b are independent.
        confidence: of low and high.
        examples: how many there are; of one alone nothing is known.
        starts: of the clusterer that the replicates take in turn; 1 where there is none.

    Raises:
        ValueError: replicates that do not belong together, or as in `interval`.

    >>> compare(0.5, 0.3, [0.4, 0.6], [0.3, 0.3])._asdict()["value"]
    0.2
    >>> same = compare(0.5, 0.5, [0.4, 0.6], [0.4, 0.6])
    >>> same.error, same.p  # however much both move, they move together
    (0.0, 1.0)
    """
    a, b = _checked(value_a, replicates_a, starts), _checked(value_b, replicates_b, starts)
    if a.shape != b.shape:
        raise ValueError(f"the replicates belong together one by one, but there are {len(a)} of a and {len(b)} of b")
    rounding = ROUNDING * max(np.abs(a).max(), np.abs(b).max())
    value, drawn = float(value_a) - float(value_b), a - b
    if abs(value) <= rounding and (np.abs(drawn) <= rounding).all():
        value, drawn = 0.0, np.zeros_like(drawn)
    return _verdict(value, *_spread(drawn, examples, starts), (seeds_a, seeds_b), confidence)


def mean_difference(
    differences: Sequence[Difference],
    seeds_a: ArrayLike | None = None,
    seeds_b: ArrayLike | None = None,
    confidence: float = 0.95,
) -> Difference:
    """Return the difference of the means over tasks from the differences on each task.

    Only `value`, `error` and `freedom` of each are read. The examples of tasks are independent, so
    `error = sqrt(sum error^2) / tasks`. The seeds are not: a good seed is good on many tasks. So their spread comes
    from the means over the tasks, seed by seed.

    Args:
        differences: one a task.
        seeds_a: mean over the tasks of each seed of a.
        seeds_b: the same of b.
        confidence: of low and high.

    Raises:
        ValueError: no difference; a task with a seed error, while the seeds' means are missing.

    >>> one = Difference(1.0, 0.3, np.inf, 0.0, np.inf, 0.4, 1.6, 0.001)
    >>> two = Difference(0.0, 0.4, np.inf, 0.0, np.inf, -0.8, 0.8, 1.0)
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
    value, count = float(np.mean([one.value for one in differences])), len(differences)
    error, freedom = joined([((one.error / count) ** 2, one.freedom) for one in differences])
    return _verdict(value, error, freedom, (seeds_a, seeds_b), confidence)


def _verdict(
    value: float, error: float, freedom: float, seeds: Sequence[ArrayLike | None], confidence: float
) -> Difference:
    """Join the errors over the examples and over the seeds of both."""
    spreads = [np.asarray(scores, dtype=float) for scores in seeds if scores is not None and np.size(scores) > 1]
    seed_error, seed_freedom = joined(
        [(float(scores.var(ddof=1)) / scores.size, scores.size - 1) for scores in spreads]
    )
    total, of_total = joined([(error**2, freedom), (seed_error**2, seed_freedom)])
    half = _t(0.5 + _level(confidence) / 2, of_total) * total
    p = 2 * _t_below(-abs(value) / total, of_total) if total else float(value == 0)
    return Difference(value, error, freedom, seed_error, seed_freedom, value - half, value + half, p)


def _spread(drawn: NDArray[np.float64], examples: float, starts: int) -> tuple[float, float]:
    """Standard error and degrees of freedom of replicates that take the starts of a clusterer in turn."""
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
    """Return standard error and degrees of freedom of a sum, from variance and degrees of freedom of each of its parts.

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


def group_letters(apart: NDArray[np.bool_]) -> list[str]:
    """Return the letters of each model: two that share a letter cannot be told apart, two that share none can.

    Args:
        apart: who differs from whom, as for `tied_groups`, best first; the groups of the best get the first letters.

    Returns:
        A string a model; beyond 52 groups, letters carry a number.

    >>> group_letters(np.array([[False, False, True], [False, False, False], [True, False, False]]))
    ['a', 'ab', 'b']
    """
    letters = [""] * len(apart)
    for number, group in enumerate(tied_groups(apart)):
        for rank in group:
            letters[rank] += ascii_letters[number % 52] + (str(number // 52) if number >= 52 else "")
    return letters


def smallest_difference(error: float, power: float = 0.8, alpha: float = 0.05, freedom: float = np.inf) -> float:
    """Return the true difference that is seen with this power: `(t(1 - alpha / 2) + t(power)) * error`.

    Args:
        error: standard error of the difference.
        power: how often the difference is to be seen.
        alpha: how often none is taken for one; with m pairs under Holm's correction, `0.05 / m` is on the safe side.
        freedom: degrees of freedom of the error.

    Raises:
        ValueError: a share outside of 0 to 1, or a negative error.

    >>> round(smallest_difference(1.0), 3)  # 1.960 + 0.842
    2.802
    """
    if not error >= 0:
        raise ValueError(f"error must be a standard error, at least 0, got {error}")
    return (_t(1 - _level(alpha) / 2, freedom) + _t(_level(power), freedom)) * error


def _t(share: float, freedom: float) -> float:
    """Quantile of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, share))


def _t_below(t: float, freedom: float) -> float:
    """Share of Student's t below t."""
    from scipy.special import stdtr

    return float(stdtr(freedom, t))


def _checked(value: float, replicates: ArrayLike, starts: int) -> NDArray[np.float64]:
    drawn = np.asarray(replicates, dtype=float)
    if drawn.ndim != 1 or len(drawn) < 2 * starts:
        of_each = f" of each of {starts} starts" if starts > 1 else ""
        raise ValueError(f"a spread needs at least 2 replicates{of_each} in a row, got the shape {drawn.shape}")
    if not (np.isfinite(value) and np.isfinite(drawn).all()):
        raise ValueError(f"value and replicates must be finite, got {value} and {np.isnan(drawn).sum()} times NaN")
    return drawn


def _level(share: float) -> float:
    if not 0 < share < 1:
        raise ValueError(f"confidence, power and alpha must lie between 0 and 1, got {share}")
    return share
