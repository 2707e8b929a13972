"""Which differences between models are real: every pair of models, on each task and in the mean over the tasks.

Two models see the same examples, so they are compared on the same resamples of them; tasks are resampled independently.
The variation between the seeds of a fine-tuning is a second error (`seed_error`), and both decide.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from sbertlab.analysis.intervals import Difference, compare, holm, interval, mean_difference
from sbertlab.analysis.resampling import Examples, replicates_of
from sbertlab.benchmark.cells import Cell

MEAN = "mean"
"""In place of a task's name: the plain mean over the tasks of a preset."""

ALPHA = 0.05
"""How often identical models may be called different, over all pairs of a task together."""

TOGETHER = 16
"""Cells whose examples are resampled together; more would need more memory and save hardly any time."""

PAIR = ["model_a", "variant_a", "model_b", "variant_b"]

COLUMNS = [
    *("task", *PAIR, "difference", "error", "freedom", "seed_error", "seed_freedom"),
    *("low", "high", "p", "different"),
]
"""Of the table of comparisons: `difference` is a - b in points, `error` its standard error over the examples (and the
starts of k-means), `seed_error` that over the seeds (0 with one seed), each with its degrees of freedom, `low` and
`high` the 95 % interval, `p` two-sided, `different` whether it is below `ALPHA` after Holm's correction over the pairs
of the task."""


class Scores:
    """Cells of one preset with the replicates of their scores, in points, from which everything else follows.

    Attributes:
        cells: with a score or an error.
        replicates: of each cell, `(resamples,)`; None if it failed.
    """

    def __init__(self, cells: Sequence[Cell], resamples: int = 1000) -> None:
        self.cells = [cell for cell in cells if cell.examples is not None or cell.failed]
        self.replicates: list[np.ndarray | None] = [None] * len(self.cells)
        alike: dict[tuple[str, tuple[int, ...]], list[tuple[int, Examples]]] = {}
        for place, cell in enumerate(self.cells):
            if cell.examples is not None:
                alike.setdefault((cell.row["task"], cell.examples.sizes()), []).append((place, cell.examples))
        groups = [
            (zlib.crc32(task.encode()), group[first : first + TOGETHER])  # each task has its own seed
            for (task, _), group in alike.items()
            for first in range(0, len(group), TOGETHER)
        ]

        def resampled(group: tuple[int, list[tuple[int, Examples]]]) -> np.ndarray:
            return 100 * replicates_of([examples for _, examples in group[1]], resamples, group[0])

        with ThreadPoolExecutor(os.cpu_count()) as threads:
            for (_, group), rows in zip(groups, threads.map(resampled, groups), strict=True):
                for (place, _), replicates in zip(group, rows, strict=True):
                    self.replicates[place] = replicates

    def table(self) -> pd.DataFrame:
        """Return one row per cell, each value with its 95 % interval over the examples (`low`, `high`)."""
        rows = []
        for cell, replicates in zip(self.cells, self.replicates, strict=True):
            row: dict[str, Any] = {**cell.row, "low": np.nan, "high": np.nan}
            if cell.examples is not None and replicates is not None and cell.examples.averaged > 1:
                about: dict[str, Any] = {"examples": cell.examples.averaged, "starts": cell.examples.starts}
                low, high = interval(row["value"] / 100, replicates / 100, **about)
                row |= {"low": 100 * low, "high": 100 * high}
            rows.append(row)
        return pd.DataFrame(rows)

    def comparisons(self) -> pd.DataFrame:
        """Return the comparison of each pair of models in the mean over all tasks and on each, with `COLUMNS`.

        A model with a failed cell is left out on that task and has no mean. A ValueError says that two models were
        measured on different numbers of examples.
        """
        tasks = list(dict.fromkeys(cell.row["task"] for cell in self.cells))
        tables = [table for table in map(self._compare, tasks) if len(table)]
        pairs = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=COLUMNS)
        if not tasks or set(tasks) - set(pairs["task"]):
            return pairs
        return pd.concat(
            [over_tasks(pairs, pd.DataFrame([cell.row for cell in self.cells]), tasks), pairs], ignore_index=True
        )

    def _compare(self, task: str) -> pd.DataFrame:
        """Return the comparisons of all models whose seeds all finished the task."""
        models: dict[tuple[str, str], list[tuple[Cell, np.ndarray | None]]] = {}
        for cell, replicates in zip(self.cells, self.replicates, strict=True):
            if cell.row["task"] == task:
                models.setdefault((cell.row["model"], cell.row["variant"]), []).append((cell, replicates))
        sides = []
        for name, seeds in models.items():
            if not any(cell.failed for cell, _ in seeds):
                values = np.array([cell.row["value"] for cell, _ in seeds])
                sides.append(
                    (
                        name,
                        values,
                        np.mean([drawn for _, drawn in seeds if drawn is not None], axis=0),
                        seeds[0][0].examples,
                    )
                )
        rows = []
        a: Any
        b: Any
        for a, b in combinations(sides, 2):
            (name_a, values_a, drawn_a, examples_a), (name_b, values_b, drawn_b, examples_b) = a, b
            if len(examples_a) != len(examples_b):
                raise ValueError(
                    f"task {task!r}: {' '.join(name_a)} was measured on {len(examples_a)} examples, {' '.join(name_b)} "
                    f"on {len(examples_b)}; measure both again (fresh=True)"
                )
            about: dict[str, Any] = {"examples": examples_a.averaged, "starts": examples_a.starts}
            found = compare(values_a.mean(), values_b.mean(), drawn_a, drawn_b, values_a, values_b, **about)
            rows.append(dict(zip(PAIR, (*name_a, *name_b), strict=True)) | found._asdict())
        return _with_verdict(rows, task)


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
        if len(found) == len(tasks) and np.isfinite(np.concatenate(sides)).all():  # no mean with a failed cell
            numbers = found[["difference", *Difference._fields[1:]]].to_numpy(dtype=float)
            mean = mean_difference([Difference(*row) for row in numbers.tolist()], *sides)
            rows.append(dict(zip(PAIR, pair, strict=True)) | mean._asdict())
    return _with_verdict(rows, MEAN)


def _with_verdict(rows: list[dict[str, Any]], task: str) -> pd.DataFrame:
    """Return the comparisons of one task with the verdict on all of them together."""
    table = pd.DataFrame(rows, columns=[*PAIR, *Difference._fields]).rename(columns={"value": "difference"})
    return table.assign(task=task, different=holm(table["p"].to_numpy(dtype=float)) < ALPHA)[COLUMNS]
