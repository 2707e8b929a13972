"""Bootstrap replicates of a metric, from the few columns of an evaluator's table that the metric reads.

A sample is a row of counts, how often each example was drawn, so examples are sorted once and each sample is a weighted
formula over the sorted columns. The result equals the metric on the sample written out, ties included. The exception is
the V-measure, which is linear: a text drawn twice always shares a cluster with its copy, which would inflate it.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sbertlab.checks import check_choice, checked_numbers

Counts = NDArray[np.int32]
Statistic = Callable[[Counts], NDArray[np.float64]]
"""From counts `(resamples, n)` to the statistic of each sample, `(resamples,)`."""

BLOCK = 2**19
"""Counts held at once, at about 60 bytes each."""


@dataclass(frozen=True, eq=False)
class Examples:
    """One column per example, and the statistic over them.

    | statistic         | predictions `(k, n)`       | target `(n,)` | where undefined            |
    | ----------------- | -------------------------- | ------------- | -------------------------- |
    | mean              | value of each query        | none          |                            |
    | spearman          | similarity of each pair    | graded score  | 0 if one side is constant  |
    | average_precision | similarity of each pair    | 0 or 1        | 0 without a positive pair  |
    | v_measure         | cluster of each text       | class         | 1 for one class or cluster |

    Values equal scipy's `spearmanr` and scikit-learn's `average_precision_score` and `v_measure_score`. The best of k
    alternatives (similarities, for example) counts; `(n,)` stands for k = 1. For v_measure they are the clusters from k
    random starts: the first is the value, replicates take all in turn. With `sets`, the number of a subset for each
    example, the statistic and the best alternative are taken within each subset and averaged over them.

    >>> pairs = Examples("average_precision", [[0.9, 0.8, 0.1], [0.2, 0.9, 0.3]], [1, 0, 1])
    >>> round(pairs.value(), 4)  # the first alternative: (1/1 + 2/3) / 2; the second: (1/2 + 2/3) / 2
    0.8333
    >>> Examples("mean", [1.0, 0.0, 0.5], sets=[0, 0, 1]).value()
    0.5
    """

    statistic: str
    predictions: NDArray
    target: NDArray | None = None
    sets: NDArray | None = None

    def __post_init__(self) -> None:
        check_choice("statistic", self.statistic, _STATISTICS)
        predictions = checked_numbers("predictions", np.atleast_2d(self.predictions), dimensions=2)
        object.__setattr__(self, "predictions", predictions)
        for name in ("target", "sets"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, checked_numbers(name, getattr(self, name), length=len(self)))
        if (self.target is None) != (self.statistic == "mean"):
            raise ValueError(f"{self.statistic} {'needs a' if self.target is None else 'takes no'} target")
        kinds = np.unique(np.asarray(self.target)).tolist() if self.statistic == "average_precision" else []
        if set(kinds) - {0, 1}:
            raise ValueError(f"labels must be 0 or 1, got {kinds}")

    def __len__(self) -> int:
        return self.predictions.shape[1]

    @property
    def averaged(self) -> int:
        """Number of examples that the statistic averages over: positive pairs for average precision, else all."""
        return int(np.asarray(self.target).sum()) if self.statistic == "average_precision" else len(self)

    @property
    def starts(self) -> int:
        """Number of clustering starts; 1 for any other statistic."""
        return len(self.predictions) if self.statistic == "v_measure" else 1

    def value(self) -> float:
        """Return the statistic: 0 to 1, or -1 to 1 for a correlation."""
        once = [self._replicate(self._statistics(rows), np.ones((1, len(rows)), np.int32))[0] for rows in self._rows()]
        return float(np.mean(once))

    def replicates(self, resamples: int = 1000, seed: int = 0) -> NDArray[np.float64]:
        """Return the statistic on bootstrap samples, `(resamples,)`, see `replicates_of`."""
        return replicates_of([self], resamples, seed)[0]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the columns to one file, in NumPy's npz format."""
        given = {name: column for name, column in vars(self).items() if column is not None}
        with Path(path).open("wb") as file:
            np.savez(file, **given)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a file that `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            columns = {name: file[name] for name in file.files}
        return cls(str(columns.pop("statistic")), **columns)

    def sizes(self) -> tuple[int, ...]:
        """Return the number of examples of each subset."""
        return tuple(map(len, self._rows()))

    def _rows(self) -> list[NDArray[np.intp]]:
        """Rows of each subset, in the order of the subsets' numbers."""
        if self.sets is None:
            return [np.arange(len(self))]
        return [np.flatnonzero(self.sets == number) for number in np.unique(self.sets)]

    def _statistics(self, rows: NDArray[np.intp]) -> list[Statistic]:
        """The statistic of each alternative over some of the examples."""
        target = None if self.target is None else self.target[rows]
        return [_STATISTICS[self.statistic](row[rows], target) for row in self.predictions]

    def _replicate(self, statistics: list[Statistic], counts: Counts, done: int = 0) -> NDArray[np.float64]:
        """The best alternative of each sample, or the start whose turn it is after `done` samples."""
        if self.starts == 1:
            return np.max([statistic(counts) for statistic in statistics], axis=0)
        drawn = np.empty(len(counts))
        for number, of_start in enumerate(statistics):
            turn = slice((number - done) % self.starts, None, self.starts)
            drawn[turn] = of_start(counts[turn])
        return drawn


def replicates_of(several: Sequence[Examples], resamples: int = 1000, seed: int = 0) -> NDArray[np.float64]:
    """Return the replicates of several models on the same examples, drawn once: `(models, resamples)`.

    Examples are drawn with replacement within each subset. The draws depend on the subset sizes and the seed alone:
    replicates of two models on the same examples belong together one by one, and fewer resamples are a prefix of more.
    Replicate b uses clustering start `b % starts`.
    """
    rows_of = [examples._rows() for examples in several]
    total = np.zeros((len(several), resamples))
    for subset, rows in enumerate(zip(*rows_of, strict=True)):
        statistics = [examples._statistics(its) for examples, its in zip(several, rows, strict=True)]
        done = 0
        for counts in draw_counts(len(rows[0]), resamples, seed, subset):
            for examples, its, sums in zip(several, statistics, total, strict=True):
                sums[done : done + len(counts)] += examples._replicate(its, counts, done)
            done += len(counts)
    return total / len(rows_of[0])


def draw_counts(n: int, resamples: int, seed: int = 0, subset: int = 0) -> Iterator[Counts]:
    """Yield bootstrap samples of n examples as counts `(block, n)`, block by block; every row sums to n."""
    random = np.random.default_rng([seed, subset, n])
    block = max(1, BLOCK // n)
    for start in range(0, resamples, block):
        drawn = random.integers(n, size=(min(block, resamples - start), n))
        counts = np.empty(drawn.shape, dtype=np.int32)
        for row, examples in enumerate(drawn):
            counts[row] = np.bincount(examples, minlength=n)
        yield counts


# Each statistic sorts once and returns a function of counts.


def _mean(values: NDArray, target: None) -> Statistic:
    values = values.astype(float)
    return lambda counts: np.vecdot(counts.astype(float), values) / values.size


def _spearman(scores: NDArray, gold: NDArray) -> Statistic:
    """Pearson correlation of average ranks: `sum w r s / sqrt(sum w r^2 * sum w s^2)`, ranks r, s minus their mean."""
    (order, ends, group), (gold_order, gold_ends, gold_group) = _sorted_groups(scores), _sorted_groups(gold)
    gold_of = np.empty_like(gold_group)
    gold_of[gold_order] = gold_group
    gold_in_order = gold_of[order]

    def statistic(counts: Counts) -> NDArray[np.float64]:
        r, drawn = _twice_centred_ranks(counts, order, ends)  # (resamples, groups)
        s, gold_drawn = _twice_centred_ranks(counts, gold_order, gold_ends)
        spread = np.vecdot(drawn * r, r) * np.vecdot(gold_drawn * s, s)
        weighted = s.take(gold_in_order, axis=1) * counts.take(order, axis=1)  # (resamples, n)
        together = np.vecdot(weighted, r if len(ends) == len(order) else r.take(group, axis=1))
        return np.divide(together, np.sqrt(spread), out=np.zeros(len(counts)), where=spread > 0)

    return statistic


def _average_precision(scores: NDArray, labels: NDArray) -> Statistic:
    """`sum over thresholds of (recall - recall before) * precision`; the thresholds are the distinct scores."""
    order, ends, group = _sorted_groups(-scores.astype(float))
    positive = np.flatnonzero(labels[order])
    # Recall changes at positive pairs only, so no other threshold counts.
    hit_ends = np.flatnonzero(np.diff(group[positive], append=-1))
    seen_ends = ends[group[positive[hit_ends]]]

    def statistic(counts: Counts) -> NDArray[np.float64]:
        seen = _ends_of_sums(counts, order, seen_ends)
        hits = _ends_of_sums(counts, order[positive], hit_ends)  # (resamples, thresholds)
        found = np.diff(hits, axis=1, prepend=0)
        return np.vecdot(found, hits / np.maximum(seen, 1)) / np.maximum(found.sum(axis=1), 1)

    return statistic


def _v_measure(clusters: NDArray, classes: NDArray) -> Statistic:
    """`V = 2 I / (H(classes) + H(clusters))`, with the mutual information I and entropies H.

    Of a sample, the linear part within 0 and 1: V plus `(mean of V without one text - V without this text) (n - 1) / n`
    for each draw of a text. Sources: Rosenberg and Hirschberg, 2007, V-Measure (EMNLP-CoNLL), with beta = 1; Efron,
    1982, The Jackknife, the Bootstrap and Other Resampling Plans, chapter 6.
    """
    n = len(classes)
    x_log_x = np.arange(n + 1) * np.log(np.maximum(np.arange(n + 1), 1))
    margins = [np.unique(column, return_inverse=True)[1] for column in (classes, clusters)]
    joint = np.unique(margins[0] * (margins[1].max() + 1) + margins[1], return_inverse=True)[1]
    groups = (*margins, joint)
    sizes = [np.bincount(group) for group in groups]
    whole = [x_log_x[size].sum() for size in sizes]
    change = [x_log_x[size - 1] - x_log_x[size] for size in sizes]  # when a group loses one text
    value = _v_of(n, *whole)
    without = _v_of(n - 1, *(total + less[group] for total, less, group in zip(whole, change, groups, strict=True)))
    adds = (without.mean() - without) * (n - 1) / n
    return lambda counts: np.clip(value + np.vecdot(counts.astype(float), adds), 0, 1)


def _v_of(n: int, classes: ArrayLike, clusters: ArrayLike, both: ArrayLike) -> NDArray[np.float64]:
    """V-measure of n texts from the sums of `size log size` over classes, clusters and overlaps; 1 for one class."""
    a, b, c = (np.log(max(n, 1)) - np.asarray(total) / max(n, 1) for total in (classes, clusters, both))  # entropies
    return np.divide(2 * np.maximum(a + b - c, 0), a + b, out=np.ones(np.shape(a + b)), where=a + b > 1e-12)


_STATISTICS: dict[str, Callable[[NDArray, Any], Statistic]] = {
    "mean": _mean,
    "spearman": _spearman,
    "average_precision": _average_precision,
    "v_measure": _v_measure,
}


def _sorted_groups(values: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Sort ascending; return the order `(n,)`, the last place of each group of ties, and the group of each place."""
    order = np.argsort(values, kind="stable")
    new = np.diff(values[order], prepend=values[order[:1]]) != 0
    ends = np.append(np.flatnonzero(new) - 1, len(values) - 1)
    return order, ends, np.cumsum(new)


def _ends_of_sums(counts: Counts, order: NDArray, ends: NDArray) -> NDArray[np.int32]:
    """Number drawn up to the end of each group: `(resamples, groups)`."""
    sums = np.cumsum(counts.take(order, axis=1), axis=1, dtype=np.int32)
    return sums if len(ends) == len(order) else sums.take(ends, axis=1)


def _twice_centred_ranks(counts: Counts, order: NDArray, ends: NDArray) -> tuple[NDArray, NDArray]:
    """Return `2 (average rank - mean rank)` of each group, whole and hence exact, and how many of it were drawn."""
    upto = _ends_of_sums(counts, order, ends)
    drawn = np.diff(upto, axis=1, prepend=0)  # the average rank is (upto - drawn + 1 + upto) / 2, the mean (n + 1) / 2
    return (2 * upto - drawn - len(order)).astype(float), drawn
