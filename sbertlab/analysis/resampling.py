"""What a metric is computed from, example by example, so that it can be computed again on any resample of the examples.

An evaluator hands over `Examples`: not the texts, only the few columns that its metric reads. `value` is the metric,
`replicates` is the metric on bootstrap samples, of which `intervals` makes intervals and comparisons.

A resample is a row of counts, how often each example was drawn. So the examples are sorted once, and every resample
is a weighted formula over the sorted columns. The weighted formulas give what the plain ones give on the resample
written out, ties included. Two things are otherwise with the V-measure:

- A text drawn twice lies with itself in its cluster, which inflates the measure and hides a part of its spread. So its
  replicates are linear, from what each text adds (`_v_measure`).
- Its clusters hang on the start of k-means, which may move the measure more than other texts would. So the replicates
  take the starts in turn, and their spread is of both.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Counts = NDArray[np.int32]
Statistic = Callable[[Counts], NDArray[np.float64]]
"""From counts `(resamples, n)` to the statistic of each resample, `(resamples,)`."""

BLOCK = 2**19
"""Counts held at once; a block of resamples takes some 60 bytes a count, so about 30 MB."""


@dataclass(frozen=True, eq=False)
class Examples:
    """One column an example, and the statistic over them.

    | statistic         | predictions `(k, n)`           | target `(n,)`  | undefined, hence       |
    | ----------------- | ------------------------------ | -------------- | ---------------------- |
    | mean              | value of each query            | none           |                        |
    | spearman          | similarity of each pair        | graded score   | one side constant: 0   |
    | average_precision | similarity of each pair        | 0 or 1         | no pair labelled 1: 0  |
    | v_measure         | cluster of each text           | class          | one class, cluster: 1  |

    These are the values of scipy's `spearmanr` (average ranks of ties) and scikit-learn's `average_precision_score`
    (ties enter together) and `v_measure_score`; where the statistic is undefined on a resample, scikit-learn's
    convention holds, and no correlation counts as 0.

    Args:
        statistic: one of the table.
        predictions: of k rivals (similarities, say), of which the best counts; `(n,)` stands for k = 1. Of v_measure:
            the clusters from k starts, of which the first counts and the others tell how far chance moves it.
        target: what is right.
        sets: number of the sub-set of each example. The statistic, and the best of the rivals, is taken within each
            sub-set and averaged over the sub-sets. None: one set.

    Raises:
        ValueError: an unknown statistic, columns of different lengths, no example, a value that is not finite, a label
            other than 0 and 1, a target missing or too much.

    >>> pairs = Examples("average_precision", [[0.9, 0.8, 0.1], [0.2, 0.9, 0.3]], [1, 0, 1])
    >>> round(pairs.value(), 4)  # the first rival: (1/1 + 2/3) / 2; the second: (1/2 + 2/3) / 2
    0.8333
    >>> Examples("mean", [1.0, 0.0, 0.5], sets=[0, 0, 1]).value()
    0.5
    >>> pairs.replicates(resamples=4).shape, len(pairs)
    ((4,), 3)
    """

    statistic: str
    predictions: NDArray
    target: NDArray | None = None
    sets: NDArray | None = None

    def __post_init__(self) -> None:
        if self.statistic not in _STATISTICS:
            raise ValueError(f"statistic must be one of {', '.join(_STATISTICS)}, got {self.statistic!r}")
        for name in ("predictions", "target", "sets"):
            column = getattr(self, name)
            if column is not None:
                object.__setattr__(self, name, np.atleast_2d(column) if name == "predictions" else np.asarray(column))
        if self.predictions.ndim != 2 or 0 in self.predictions.shape:
            raise ValueError(f"predictions must be (k, n) with at least one example, got {self.predictions.shape}")
        if (self.target is None) != (self.statistic == "mean"):
            raise ValueError(f"{self.statistic} {'needs a' if self.target is None else 'takes no'} target")
        for name, column in (("predictions", self.predictions), ("target", self.target), ("sets", self.sets)):
            if column is None:
                continue
            if name != "predictions" and column.shape != (len(self),):
                raise ValueError(f"{name} must have one value for each of the {len(self)} examples, got {column.shape}")
            if column.dtype.kind not in "biuf":
                raise ValueError(f"{name} must be numbers, got {str(column.flat[0])!r}; give classes and sets numbers")
            bad = np.argwhere(~np.isfinite(column))
            if len(bad):
                raise ValueError(f"{name} must be finite, got {column[tuple(bad[0])]} for example {bad[0][-1]}")
        if self.statistic == "average_precision":
            strange = set(np.unique(np.asarray(self.target)).tolist()) - {0, 1}
            if strange:
                raise ValueError(f"labels must be 0 or 1, got {min(strange)}")

    def __len__(self) -> int:
        return self.predictions.shape[1]

    @property
    def averaged(self) -> int:
        """Over how many examples the statistic is a mean: of average precision over those labelled 1, else over all."""
        return int(np.asarray(self.target).sum()) if self.statistic == "average_precision" else len(self)

    @property
    def starts(self) -> int:
        """From how many starts the texts were clustered; 1 where nothing was clustered."""
        return len(self.predictions) if self.statistic == "v_measure" else 1

    def value(self) -> float:
        """Return the statistic: 0 to 1, or -1 to 1 for a correlation."""
        first = self.predictions[:1] if self.starts > 1 else self.predictions
        once = [(np.ones((1, len(rows)), dtype=np.int32), self._prepared(rows, first)) for rows in self._parts()]
        return float(np.mean([_best(rivals)(counts)[0] for counts, rivals in once]))

    def replicates(self, resamples: int = 1000, seed: int = 0) -> NDArray[np.float64]:
        """Return the statistic on bootstrap samples, `(resamples,)`.

        Examples are drawn with replacement within each sub-set, as many as it has. Which are drawn follows from the
        number of examples, the sub-sets and the seed alone: the replicates of two models on the same examples belong
        together one by one, and more resamples go on where fewer ended. Resample b is of the start `b % starts`.

        Raises:
            ValueError: no resample.
        """
        return replicates_of([self], resamples, seed)[0]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the columns to one file, in NumPy's npz format."""
        columns: dict[str, Any] = {"predictions": self.predictions, "target": self.target, "sets": self.sets}
        given = {name: column for name, column in columns.items() if column is not None}
        with Path(path).open("wb") as file:
            np.savez(file, statistic=self.statistic, **given)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Examples:
        """Read what `save` wrote.

        Raises:
            ValueError: the file holds something else, or is damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                columns = {name: file[name] for name in file.files}
            return cls(str(columns.pop("statistic")), **columns)
        except (zipfile.BadZipFile, EOFError, KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{path} does not hold examples as save() writes them ({error}); make it anew") from error

    def sizes(self) -> tuple[int, ...]:
        """Return how many examples each sub-set has, of which follows what is drawn."""
        return tuple(map(len, self._parts()))

    def _parts(self) -> list[NDArray[np.intp]]:
        """Places of the examples of each sub-set, in the order of the sub-sets' numbers."""
        if self.sets is None:
            return [np.arange(len(self))]
        sizes = np.unique(self.sets, return_counts=True)[1]
        return np.split(np.argsort(self.sets, kind="stable"), np.cumsum(sizes)[:-1])

    def _prepared(self, rows: NDArray[np.intp], predictions: NDArray) -> list[Statistic]:
        """The statistic of each rival over some of the examples."""
        target = None if self.target is None else self.target[rows]
        return [_STATISTICS[self.statistic](rival[rows], target) for rival in predictions]


def replicates_of(several: Sequence[Examples], resamples: int = 1000, seed: int = 0) -> NDArray[np.float64]:
    """Return `Examples.replicates` of several models on the same examples, which are drawn once: `(models, resamples)`.

    Raises:
        ValueError: no resample; examples or sub-sets of different sizes.

    >>> a, b = Examples("mean", [0.0, 1.0, 1.0]), Examples("mean", [1.0, 0.0, 0.0])
    >>> both = replicates_of([a, b], resamples=5)
    >>> (both[0] == a.replicates(resamples=5)).tolist(), both.sum(axis=0).round(9).tolist()
    ([True, True, True, True, True], [1.0, 1.0, 1.0, 1.0, 1.0])
    """
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    parts = [examples._parts() for examples in several]
    if len(sizes := {tuple(map(len, each)) for each in parts}) > 1:
        raise ValueError(f"examples of several models must be the same, got sub-sets of the sizes {sorted(sizes)}")
    total = np.zeros((len(several), resamples))
    for part, places in enumerate(zip(*parts, strict=True)):
        rivals = [
            examples._prepared(rows, examples.predictions) for examples, rows in zip(several, places, strict=True)
        ]
        done = 0
        for counts in draw_counts(len(places[0]), resamples, seed, part):
            for examples, its, sums in zip(several, rivals, total, strict=True):
                statistic = _in_turn(its, done) if examples.starts > 1 else _best(its)
                sums[done : done + len(counts)] += statistic(counts)
            done += len(counts)
    return total / len(parts[0])


def draw_counts(n: int, resamples: int, seed: int = 0, part: int = 0) -> Iterator[Counts]:
    """Give bootstrap samples of n examples as counts `(block, n)`, block by block; every row sums to n.

    >>> [(counts.shape, counts.sum(axis=1).tolist()) for counts in draw_counts(5, resamples=2)]
    [((2, 5), [5, 5])]
    """
    random = np.random.default_rng([seed, part, n])
    block = max(1, BLOCK // n)
    for start in range(0, resamples, block):
        drawn = random.integers(n, size=(min(block, resamples - start), n))
        counts = np.empty(drawn.shape, dtype=np.int32)
        for row, examples in enumerate(drawn):
            counts[row] = np.bincount(examples, minlength=n)
        yield counts


def _best(rivals: list[Statistic]) -> Statistic:
    return lambda counts: np.max([statistic(counts) for statistic in rivals], axis=0)


def _in_turn(starts: list[Statistic], done: int) -> Statistic:
    def statistic(counts: Counts) -> NDArray[np.float64]:
        drawn = np.empty(len(counts))
        for number, of_start in enumerate(starts):
            turn = slice((number - done) % len(starts), None, len(starts))
            drawn[turn] = of_start(counts[turn])
        return drawn

    return statistic


# -- The statistics: each sorts once, and returns a function of counts -------------------------------------------------


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
    """`sum over thresholds of (recall - recall before) * precision`, the thresholds being the distinct scores."""
    order, ends, group = _sorted_groups(-scores.astype(float))
    positive = np.flatnonzero(labels[order])
    # Recall moves only where there are positives: of the thresholds, the others need not be looked at.
    hit_ends = np.flatnonzero(np.diff(group[positive], append=-1))
    seen_ends = ends[group[positive[hit_ends]]]

    def statistic(counts: Counts) -> NDArray[np.float64]:
        seen = _ends_of_sums(counts, order, seen_ends)
        hits = _ends_of_sums(counts, order[positive], hit_ends)  # (resamples, thresholds)
        found = np.diff(hits, axis=1, prepend=0)
        return np.vecdot(found, hits / np.maximum(seen, 1)) / np.maximum(found.sum(axis=1), 1)

    return statistic


def _v_measure(clusters: NDArray, classes: NDArray) -> Statistic:
    """`V = 2 I / (H(classes) + H(clusters))`, the harmonic mean of homogeneity and completeness, I mutual information.

    Of a resample, its linear part: V and, for each text as often as it was drawn, `(mean of V without one - V without
    this one) (n - 1) / n`, within 0 and 1. V without a text follows from the sizes of its class, cluster and both.

    Sources: Rosenberg and Hirschberg, 2007, V-Measure (EMNLP-CoNLL), with beta = 1; Efron, 1982, The Jackknife, the
    Bootstrap and Other Resampling Plans, chapter 6 (the jackknife as a linear bootstrap).
    """
    n = len(classes)
    x_log_x = np.arange(n + 1) * np.log(np.maximum(np.arange(n + 1), 1))
    margins = [np.unique(column, return_inverse=True)[1] for column in (classes, clusters)]
    joint = np.unique(margins[0] * (margins[1].max() + 1) + margins[1], return_inverse=True)[1]
    sizes = [np.bincount(group) for group in (*margins, joint)]
    whole = [x_log_x[size].sum() for size in sizes]
    less = [x_log_x[size - 1] - x_log_x[size] for size in sizes]  # what goes from the sum with one of the group
    value = _v_of(n, *whole)
    without = _v_of(
        n - 1, *(total + change[group] for total, change, group in zip(whole, less, (*margins, joint), strict=True))
    )
    adds = (without.mean() - without) * (n - 1) / n
    return lambda counts: np.clip(value + np.vecdot(counts.astype(float), adds), 0, 1)


def _v_of(n: int, classes: ArrayLike, clusters: ArrayLike, both: ArrayLike) -> NDArray[np.float64]:
    """V-measure of n texts from the sums of `size log size` over classes, clusters, and what they share."""
    a, b, c = (np.log(max(n, 1)) - np.asarray(total) / max(n, 1) for total in (classes, clusters, both))  # entropies
    return np.divide(2 * np.maximum(a + b - c, 0), a + b, out=np.ones(np.shape(a + b)), where=a + b > 1e-12)


_STATISTICS: dict[str, Callable[[NDArray, Any], Statistic]] = {
    "mean": _mean,
    "spearman": _spearman,
    "average_precision": _average_precision,
    "v_measure": _v_measure,
}


def _sorted_groups(values: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Sort ascending; return the order `(n,)`, where each group of ties ends `(groups,)`, and the groups `(n,)`."""
    order = np.argsort(values, kind="stable")
    new = np.diff(values[order], prepend=values[order[:1]]) != 0
    ends = np.append(np.flatnonzero(new) - 1, len(values) - 1)
    return order, ends, np.cumsum(new)


def _ends_of_sums(counts: Counts, order: NDArray, ends: NDArray) -> NDArray[np.int32]:
    """How many were drawn up to the end of each group: `(resamples, groups)`."""
    sums = np.cumsum(counts.take(order, axis=1), axis=1, dtype=np.int32)
    return sums if len(ends) == len(order) else sums.take(ends, axis=1)


def _twice_centred_ranks(counts: Counts, order: NDArray, ends: NDArray) -> tuple[NDArray, NDArray]:
    """Return `2 (rank - mean rank)` of each group, a whole number hence exact, and how many of it were drawn.

    With `before` drawn below a group and `upto` up to its end, its average rank is `(before + 1 + upto) / 2`, and the
    mean of all ranks is `(n + 1) / 2`.
    """
    upto = _ends_of_sums(counts, order, ends)
    drawn = np.diff(upto, axis=1, prepend=0)
    return (2 * upto - drawn - len(order)).astype(float), drawn
