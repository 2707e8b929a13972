"""Which differences between models are real: every pair of models, on each task and in the mean over the tasks.

Two models see the same examples, so they are compared on the same draws of them; tasks are drawn independently. What
the seed of a fine-tuning changes is kept apart (`seed_error`), and both together decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from sbertlab.intervals import Difference, compare, group_letters, holm, interval, mean_difference
from sbertlab.runner import Cell

MEAN = "mean"
"""In the place of a task's name: the plain mean over the tasks of a preset."""

ALPHA = 0.05
"""How often identical models may be called different, over all pairs of a task together."""

Contender = tuple[str, str]

PAIR = ["model_a", "variant_a", "model_b", "variant_b"]

COLUMNS = ["task", *PAIR, "difference", "error", "seed_error", "low", "high", "p", "different"]
"""Of the table of comparisons: `difference` is a - b in points, `error` its standard error over the examples,
`seed_error` that over the seeds (0 where there is one), `low` and `high` its 95 % interval, `p` two-sided, `different`
whether it stays below `ALPHA` after Holm's correction over the pairs of the task."""


def with_intervals(cells: Sequence[Cell], resamples: int = 1000) -> pd.DataFrame:
    """Return the cells as rows in points, each value with its 95 % interval over the examples (`low`, `high`)."""
    rows = []
    for cell in cells:
        row = dict(cell.row, low=np.nan, high=np.nan)
        if cell.examples is not None:
            value = cell.examples.value()
            low, high = interval(value, cell.examples.replicates(resamples))
            row |= {"value": 100 * value, "low": 100 * low, "high": 100 * high}
        rows.append(row)
    return pd.DataFrame(rows)


class Scores:
    """Values and replicates, in points, of every contender on every task that all of its seeds finished.

    Args:
        cells: of one preset.
        resamples: draws of the examples.
    """

    def __init__(self, cells: Sequence[Cell], resamples: int = 1000) -> None:
        kept = [cell for cell in cells if cell.examples is not None or cell.failed]
        self.tasks = list(dict.fromkeys(cell.row["task"] for cell in kept))
        self.contenders: list[Contender] = list(
            dict.fromkeys((cell.row["model"], cell.row["variant"]) for cell in kept)
        )
        self.values: dict[tuple[Contender, str], np.ndarray] = {}  # (seeds,)
        self.replicates: dict[tuple[Contender, str], np.ndarray] = {}  # (resamples,), the mean over the seeds
        for contender in self.contenders:
            for number, task in enumerate(self.tasks):
                mine = [cell for cell in kept if _place(cell) == (contender, task)]
                examples = [cell.examples for cell in mine if cell.examples is not None]
                if mine and len(examples) == len(mine):
                    self.values[contender, task] = 100 * np.array([one.value() for one in examples])
                    drawn = [one.replicates(resamples, seed=number) for one in examples]  # each task its own draws
                    self.replicates[contender, task] = 100 * np.mean(drawn, axis=0)
            done = [task for task in self.tasks if (contender, task) in self.values]
            if done == self.tasks:
                self.values[contender, MEAN] = np.mean([self.values[contender, task] for task in done], axis=0)
                self.replicates[contender, MEAN] = np.mean([self.replicates[contender, task] for task in done], axis=0)

    def of(self, task: str) -> list[Contender]:
        """Return who has a score on the task, in the order of the cells."""
        return [contender for contender in self.contenders if (contender, task) in self.values]


def _place(cell: Cell) -> tuple[Contender, str]:
    return (cell.row["model"], cell.row["variant"]), cell.row["task"]


def comparisons(cells: Sequence[Cell], resamples: int = 1000) -> pd.DataFrame:
    """Return the comparison of every pair of contenders on every task and in their mean, with `COLUMNS`.

    A contender lacks where one of its cells failed; then it has no mean either.
    """
    scores = Scores(cells, resamples)
    tables = [_pairs(scores, task) for task in [MEAN, *scores.tasks]]
    tables = [table for table in tables if len(table)]
    return pd.concat(tables, ignore_index=True)[COLUMNS] if tables else pd.DataFrame(columns=COLUMNS)


def _pairs(scores: Scores, task: str) -> pd.DataFrame:
    rows = []
    for a, b in combinations(scores.of(task), 2):
        values = scores.values[a, task], scores.values[b, task]
        seeds_a, seeds_b = (seeds if len(seeds) > 1 else None for seeds in values)
        drawn = scores.replicates[a, task], scores.replicates[b, task]
        found = compare(values[0].mean(), values[1].mean(), *drawn, seeds_a, seeds_b)
        numbers = {"difference": found.value, "error": found.error, "seed_error": found.seed_error}
        rows.append(
            dict(zip(PAIR, (*a, *b), strict=True)) | numbers | {"low": found.low, "high": found.high, "p": found.p}
        )
    table = pd.DataFrame(rows).assign(task=task)
    return table.assign(different=holm(table["p"].to_numpy()) < ALPHA) if len(table) else table


def over_tasks(pairs: pd.DataFrame, cells: pd.DataFrame, tasks: Sequence[str]) -> pd.DataFrame:
    """Return the comparisons of the means over some of the tasks, from those on each of them, with `COLUMNS`.

    Args:
        pairs: comparisons of one preset.
        cells: its cells, with columns model, variant, seed, task and value.
        tasks: names; the mean over them is called `MEAN`.

    Raises:
        ValueError: no tasks, or one that was not compared.
    """
    known = set(pairs["task"]) - {MEAN}
    if not tasks or set(tasks) - known:
        raise ValueError(f"tasks must be some of {', '.join(sorted(known))}, got {list(tasks)}")
    seeds = cells[cells["task"].isin(tasks)].groupby(["model", "variant", "seed"])["value"].agg(["mean", "size"])
    rows = []
    pair: Any
    for pair, found in pairs[pairs["task"].isin(tasks)].groupby(PAIR, sort=False):
        if len(found) == len(tasks):  # a contender with a failed cell has no mean
            sides = [seeds.loc[side, "mean"].to_numpy() for side in (pair[:2], pair[2:])]
            numbers = found[["difference", "error", "seed_error", "low", "high", "p"]].to_numpy(dtype=float)
            parts = [Difference(*row) for row in numbers.tolist()]
            seeds_a, seeds_b = (side if len(side) > 1 else None for side in sides)
            mean = mean_difference(parts, seeds_a, seeds_b)
            rows.append(dict(zip(PAIR, pair, strict=True)) | mean._asdict() | {"task": MEAN})
    table = pd.DataFrame(rows, columns=["task", *PAIR, *Difference._fields]).rename(columns={"value": "difference"})
    return table.assign(different=holm(table["p"].to_numpy()) < ALPHA)[COLUMNS]


def groups(table: pd.DataFrame, task: str = MEAN) -> pd.Series:
    """Return the letters of the groups that cannot be told apart, by (model, variant), best first.

    Two that share a letter are not different; the best group is "a".

    Args:
        table: with `COLUMNS`, of one preset.
        task: a task's name or `MEAN`.

    >>> pairs = [("x", "y", 5.0, True), ("x", "z", 8.0, True), ("y", "z", 3.0, False)]
    >>> rows = [("mean", a, "untuned", b, "untuned", value, real) for a, b, value, real in pairs]
    >>> table = pd.DataFrame(rows, columns=["task", *PAIR, "difference", "different"])
    >>> groups(table).to_dict()
    {('x', 'untuned'): 'a', ('y', 'untuned'): 'b', ('z', 'untuned'): 'b'}
    """
    rows: list[Any] = table[table["task"] == task].to_dict("records")
    pairs = [((row["model_a"], row["variant_a"]), (row["model_b"], row["variant_b"]), row) for row in rows]
    lead: dict[Contender, float] = {}
    for a, b, row in pairs:  # the sum of its leads ranks a contender as its mean does
        lead[a] = lead.get(a, 0.0) + row["difference"]
        lead[b] = lead.get(b, 0.0) - row["difference"]
    names = sorted(lead, key=lambda name: -lead[name])
    index = (
        pd.MultiIndex.from_tuples(names, names=["model", "variant"]) if names else pd.MultiIndex.from_arrays([[], []])
    )
    letters = group_letters(names, [(a, b) for a, b, row in pairs if row["different"]])
    return pd.Series(list(letters), index=index, dtype=object)
