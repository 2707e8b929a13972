"""Which differences between models are real: every pair of models, on each task and in the mean over the tasks.

Two models see the same examples, so they are compared on the same draws of them; tasks are drawn independently. What
the seed of a fine-tuning changes is kept apart (`seed_error`), and both together decide.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from sbertlab.analysis.intervals import Difference, compare, holm, interval, mean_difference
from sbertlab.analysis.resampling import Examples, replicates_of
from sbertlab.benchmark.runner import Cell

MEAN = "mean"
"""In the place of a task's name: the plain mean over the tasks of a preset."""

ALPHA = 0.05
"""How often identical models may be called different, over all pairs of a task together."""

TOGETHER = 16
"""Cells whose examples are drawn once for all of them; more would take more memory, and hardly less time."""

Contender = tuple[str, str]

PAIR = ["model_a", "variant_a", "model_b", "variant_b"]

COLUMNS = [
    *("task", *PAIR, "difference", "error", "freedom", "seed_error", "seed_freedom"),
    *("low", "high", "p", "different"),
]
"""Of the table of comparisons: `difference` is a - b in points, `error` its standard error over the examples (and the
starts of a clusterer), `seed_error` that over the seeds (0 where there is one), each with its degrees of freedom, `low`
and `high` its 95 % interval, `p` two-sided, `different` whether it stays below `ALPHA` after Holm's correction over the
pairs of the task."""


class Scores:
    """Cells with the replicates of their scores, in points, which are drawn once for all that is said of them.

    Args:
        cells: of one preset.
        resamples: draws of the examples.

    Attributes:
        table: a row a cell, each value with its 95 % interval over the examples (`low`, `high`).
        tasks: their names, in the order of the cells.
    """

    def __init__(self, cells: Sequence[Cell], resamples: int = 1000) -> None:
        self.cells = [cell for cell in cells if cell.examples is not None or cell.failed]
        drawn = _drawn(self.cells, resamples)
        self._drawn: dict[tuple[Contender, str], list[np.ndarray | None]] = {}
        for cell, replicates in zip(self.cells, drawn, strict=True):
            self._drawn.setdefault(_place(cell), []).append(replicates)
        self.table = pd.DataFrame([_row(cell, its) for cell, its in zip(self.cells, drawn, strict=True)])
        self.tasks = list(dict.fromkeys(cell.row["task"] for cell in self.cells))

    def of(self, task: str) -> dict[Contender, Measured]:
        """Return what was measured on the task of those whose seeds all finished it, in the order of the cells."""
        found: dict[Contender, list[Cell]] = {}
        for cell in self.cells:
            if cell.row["task"] == task:
                found.setdefault(_place(cell)[0], []).append(cell)
        return {
            who: Measured(
                np.array([cell.row["value"] for cell in cells]),
                np.mean([drawn for drawn in self._drawn[who, task] if drawn is not None], axis=0),
                cells[0].examples,
            )
            for who, cells in found.items()
            if not any(cell.failed for cell in cells)
        }


class Measured(NamedTuple):
    """A contender on a task: the value of each seed, the replicates of their mean, and the examples of one of them."""

    values: np.ndarray
    replicates: np.ndarray
    examples: Any


def _place(cell: Cell) -> tuple[Contender, str]:
    return (cell.row["model"], cell.row["variant"]), cell.row["task"]


def _drawn(cells: Sequence[Cell], resamples: int) -> list[np.ndarray | None]:
    """The replicates of each cell; each task has draws of its own, the same in every run."""
    alike: dict[tuple[str, tuple[int, ...]], list[tuple[int, Examples]]] = {}
    for place, cell in enumerate(cells):
        if cell.examples is not None:
            alike.setdefault((cell.row["task"], cell.examples.sizes()), []).append((place, cell.examples))
    groups = [
        (zlib.crc32(task.encode()), every[first : first + TOGETHER])
        for (task, _), every in alike.items()
        for first in range(0, len(every), TOGETHER)
    ]

    def replicates(group: tuple[int, list[tuple[int, Examples]]]) -> np.ndarray:
        return 100 * replicates_of([examples for _, examples in group[1]], resamples, group[0])

    drawn: list[np.ndarray | None] = [None] * len(cells)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for (_, group), rows in zip(groups, threads.map(replicates, groups), strict=True):
            for (place, _), its in zip(group, rows, strict=True):
                drawn[place] = its
    return drawn


def _row(cell: Cell, replicates: np.ndarray | None) -> dict[str, Any]:
    row: dict[str, Any] = {**cell.row, "low": np.nan, "high": np.nan}
    if cell.examples is None or replicates is None:
        return row
    about: dict[str, Any] = {"examples": cell.examples.averaged, "starts": cell.examples.starts}
    if about["examples"] > 1:
        low, high = interval(cell.row["value"] / 100, replicates / 100, **about)
        row |= {"low": 100 * low, "high": 100 * high}
    return row


def comparisons(scores: Scores) -> pd.DataFrame:
    """Return the comparison of every pair of contenders in the mean over all tasks and on each, with `COLUMNS`.

    A contender lacks where one of its cells failed; then it has no mean either.

    Raises:
        ValueError: two contenders were not measured on the same number of examples.
    """
    tables = [table for table in (_pairs(scores, task) for task in scores.tasks) if len(table)]
    return with_mean(pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=COLUMNS), scores.table)


def _pairs(scores: Scores, task: str) -> pd.DataFrame:
    rows = []
    for (a, of_a), (b, of_b) in combinations(scores.of(task).items(), 2):
        if len(of_a.examples) != len(of_b.examples):
            raise ValueError(
                f"task {task!r}: {' '.join(a)} was measured on {len(of_a.examples)} examples, {' '.join(b)} on "
                f"{len(of_b.examples)}; measure both again (fresh=True)"
            )
        values, seeds = (of_a.values.mean(), of_b.values.mean()), (of_a.values, of_b.values)
        about: dict[str, Any] = {"examples": of_a.examples.averaged, "starts": of_a.examples.starts}
        found = compare(*values, of_a.replicates, of_b.replicates, *seeds, **about)
        rows.append(dict(zip(PAIR, (*a, *b), strict=True)) | found._asdict())
    return _table(rows, task)


def _table(rows: list[dict[str, Any]], task: str) -> pd.DataFrame:
    """Comparisons of one task, with the verdict on all of them together."""
    table = pd.DataFrame(rows, columns=[*PAIR, *Difference._fields]).rename(columns={"value": "difference"})
    return table.assign(task=task, different=holm(table["p"].to_numpy(dtype=float)) < ALPHA)[COLUMNS]


def with_mean(pairs: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """Return comparisons on tasks with those of the means over all tasks before them.

    Args:
        pairs: of one preset, on each task, with `COLUMNS`; where one of the tasks has none, there is no mean.
        cells: its cells, as for `over_tasks`.
    """
    tasks = cells["task"].drop_duplicates().tolist() if len(cells) else []
    if not tasks or set(tasks) - set(pairs["task"]):
        return pairs
    return pd.concat([over_tasks(pairs, cells, tasks), pairs], ignore_index=True)


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
    chosen = cells[cells["task"].isin(tasks)].set_index(["model", "variant", "seed", "task"])["value"]
    seeds = chosen.unstack("task").mean(axis=1, skipna=False)  # noqa: PD010 (nothing to aggregate)
    rows = []
    pair: Any
    for pair, found in pairs[pairs["task"].isin(tasks)].groupby(PAIR, sort=False):
        sides = [seeds.loc[side].to_numpy() for side in (pair[:2], pair[2:])]
        if len(found) == len(tasks) and np.isfinite(np.concatenate(sides)).all():  # none where a cell failed or lacks
            numbers = found[["difference", *Difference._fields[1:]]].to_numpy(dtype=float)
            mean = mean_difference([Difference(*row) for row in numbers.tolist()], *sides)
            rows.append(dict(zip(PAIR, pair, strict=True)) | mean._asdict())
    return _table(rows, MEAN)
