"""The results of a benchmark: one row a cell, their means and spreads, and the page that shows them."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd

COLUMNS = ["model", "variant", "seed", "task", "family", "metric", "value", "n", "seconds", "tag", "error"]
"""Of the table of cells: `value` is the metric times 100, `n` the number of examples, `seconds` what the cell took with
the texts that no task before it had encoded, `tag` "measured" or "failed", `error` what went wrong."""


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Return mean and spread over the seeds for each model, variant and task, and for the mean over the tasks.

    The mean over the tasks is taken seed by seed, so its spread is that of whole models. What lacks a failed cell is
    missing.

    Args:
        table: with `COLUMNS`.

    Returns:
        Columns model, variant, task ("mean" first), mean, spread (standard deviation; missing with one seed) and seeds,
        in the order of the table.

    >>> cells = [("a", "untuned", 0, "x", 50.0), ("a", "untuned", 0, "y", 60.0), ("a", "untuned", 1, "x", 54.0)]
    >>> cells += [("a", "untuned", 1, "y", 60.0)]
    >>> table = pd.DataFrame(cells, columns=["model", "variant", "seed", "task", "value"])
    >>> summarise(table)[["task", "mean", "spread"]].round(2).values.tolist()
    [['mean', 56.0, 1.41], ['x', 52.0, 2.83], ['y', 60.0, 0.0]]
    """
    mean, spread = partial(pd.Series.mean, skipna=False), partial(pd.Series.std, skipna=False)
    whole = table.groupby(["model", "variant", "seed"], sort=False)["value"].agg(mean).reset_index().assign(task="mean")
    cells = pd.concat([whole, table])
    groups = cells.groupby(["model", "variant", "task"], sort=False)["value"]
    summary = groups.agg(mean=mean, spread=spread, seeds="size").reset_index()
    rows = pd.MultiIndex.from_frame(table[["model", "variant"]]).unique()
    places = rows.get_indexer(pd.MultiIndex.from_frame(summary[["model", "variant"]]))
    return summary.iloc[np.argsort(places, kind="stable")].reset_index(drop=True)


def report(table: pd.DataFrame) -> str:
    """Return the table as a page in Markdown: a row a model and variant, a column a task, `mean ± spread`."""
    summary = summarise(table)
    number = summary["mean"].map("{:.1f}".format).where(summary["mean"].notna(), "failed")
    spread = summary["spread"].map(" ± {:.1f}".format).where(summary["spread"].notna(), "")
    cells = summary.assign(cell=number + spread).set_index(["model", "variant", "task"])["cell"]
    wide = cells.unstack("task", sort=False).reset_index()  # noqa: PD010 (nothing to aggregate)
    lines = [
        "# Benchmark",
        "",
        "Metrics times 100, higher is better; mean ± standard deviation over the seeds, where there are several. Made",
        "by `python -m sbertlab benchmark` from `benchmark.csv`; `environment.json` says where and with what.",
        "",
        markdown_table(wide),
        "",
        markdown_table(table.drop_duplicates("task")[["task", "family", "metric", "n"]]),
    ]
    failed = table[table["tag"] == "failed"]
    if len(failed):
        lines += ["", "Failed cells:", "", markdown_table(failed[["model", "variant", "seed", "task", "error"]])]
    return "\n".join(lines) + "\n"


def markdown_table(frame: pd.DataFrame) -> str:
    """Return a table in Markdown whose columns are aligned when it is read as plain text, too.

    >>> print(markdown_table(pd.DataFrame({"model": ["a", "bc"], "mean": ["1.0", "20.0"]})))
    | model | mean |
    | ----- | ---- |
    | a     | 1.0  |
    | bc    | 20.0 |
    """
    columns = [[str(name), *(str(cell).replace("|", "\\|") for cell in frame[name])] for name in frame.columns]
    widths = [max(map(len, column)) for column in columns]
    rows = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in zip(*columns, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
