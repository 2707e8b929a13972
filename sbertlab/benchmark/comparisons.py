"""Which differences between models are real: every pair of models, on each task and in the mean over the tasks.

Two models see the same examples, so they are compared on the same resamples of them; tasks are resampled independently.
The variation between the seeds of a fine-tuning is a second error (`seed_error`), and both decide.
"""

import zlib
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from sbertlab.analysis.intervals import Difference, compare, holm, interval, mean_difference
from sbertlab.analysis.ranks import KEY
from sbertlab.benchmark.cells import Cell

MEAN = "mean"
"""In place of a task's name: the plain mean over the tasks of a preset."""

ALPHA = 0.05
"""How often identical models may be called different, over all pairs of a task together."""

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
    """Cells of one preset, one row each, with `examples` and `replicates` `(resamples,)`, in points; None if failed."""

    def __init__(self, cells: Sequence[Cell], resamples: int = 1000) -> None:
        rows = []
        for cell in cells:
            replicates, low, high = None, np.nan, np.nan
            if (examples := cell.examples) is not None:  # each task has its own seed
                replicates = 100 * examples.replicates(resamples, zlib.crc32(cell.row["task"].encode()))
                if examples.averaged > 1:
                    about = {"examples": examples.averaged, "starts": examples.starts}
                    low, high = interval(cell.row["value"] / 100, replicates / 100, **about)
            found = {"examples": examples, "replicates": replicates, "low": 100 * low, "high": 100 * high}
            rows.append(cell.row | found)
        self.cells = pd.DataFrame(rows)

    def table(self) -> pd.DataFrame:
        """Return one row per cell, each value with its 95 % interval over the examples (`low`, `high`)."""
        return self.cells.drop(columns=["examples", "replicates"])

    def comparisons(self) -> pd.DataFrame:
        """Return the comparison of each pair of models in the mean over all tasks and on each, with `COLUMNS`.

        A model with a failed cell is left out on that task and has no mean.
        """
        by_task = [self._compare(str(task), cells) for task, cells in self.cells.groupby("task", sort=False)]
        compared = [table for table in by_task if len(table)]
        pairs = pd.concat(compared, ignore_index=True) if compared else pd.DataFrame(columns=COLUMNS)
        tasks = self.cells["task"].unique().tolist()
        if set(tasks) - set(pairs["task"]):
            return pairs
        return pd.concat([over_tasks(pairs, self.cells, tasks), pairs], ignore_index=True)

    def _compare(self, task: str, cells: pd.DataFrame) -> pd.DataFrame:
        """Return the comparisons of all models whose seeds all finished the task."""
        finished = [(name, seeds) for name, seeds in cells.groupby(KEY, sort=False) if seeds["error"].eq("").all()]
        rows = []
        for (name_a, a), (name_b, b) in combinations(finished, 2):
            examples = a["examples"].iloc[0]
            values = [side["value"].to_numpy() for side in (a, b)]
            drawn = [np.mean(side["replicates"].tolist(), axis=0) for side in (a, b)]
            means = [seeds.mean() for seeds in values]
            found = compare(*means, *drawn, *values, examples=examples.averaged, starts=examples.starts)
            rows.append(dict(zip(PAIR, [*name_a, *name_b], strict=True)) | found._asdict())
        return _with_verdict(rows, task)


def over_tasks(pairs: pd.DataFrame, cells: pd.DataFrame, tasks: Sequence[str]) -> pd.DataFrame:
    """Return the comparisons of the means over some of the tasks, from the comparisons on each and the cells."""
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
