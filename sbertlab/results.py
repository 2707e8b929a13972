"""The results of a benchmark as a page: one row a cell, their means, spreads and intervals, and who is really ahead."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd

from sbertlab import comparisons
from sbertlab.intervals import smallest_difference

COLUMNS = [
    *("preset", "model", "revision", "variant", "recipe", "seed", "task", "family", "metric"),
    *("value", "low", "high", "n", "seconds", "tag", "error"),
]
"""Of the table of cells: `value` is the metric times 100 and `low` to `high` its 95 % interval over the `n` examples,
`seconds` what the cell took with the texts that no task before it had encoded, `tag` where the number comes from (a key
of `TAGS`), `error` what went wrong."""

TAGS = {
    "proxy": "measured here, on the corpus of the package",
    "measured": "measured here, on public sets",
    "published": "a figure of a document; nothing was computed",
    "failed": "no number, but an error",
}
"""What stands behind a number."""

PRESETS = {
    "offline": "The packaged corpus",
    "local": "Public sets from a local folder",
    "published": "The fourteen tasks of the Training Overview",
}
"""Titles, in the order of the page."""


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


def report(table: pd.DataFrame, pairs: pd.DataFrame) -> str:
    """Return the tables as a page in Markdown: a part for each preset.

    Args:
        table: of cells, with `COLUMNS`.
        pairs: of comparisons, with a column "preset".
    """
    tags = table["tag"].drop_duplicates()
    lines = [
        "# Benchmark",
        "",
        "Metrics times 100, higher is better. Made from `benchmark.csv` and `comparisons.csv` by "
        "`python -m sbertlab figures`; `environment.json` says where and with what they were measured.",
        "",
        *(f"- **{tag}**: {meaning}." for tag, meaning in TAGS.items() if tag in set(tags)),
    ]
    for preset, title in PRESETS.items():
        part = table[(table["preset"] == preset) & (table["tag"] != "published")]
        if len(part):
            lines += ["", f"## {title}", "", *_section(part, pairs[pairs["preset"] == preset])]
    known = table[table["tag"] == "published"]
    if len(known):
        cells = known.assign(value=known["value"].map("{:.2f}".format))
        lines += ["", "## Published figures", "", markdown_table(cells[["model", "recipe", "task", "metric", "value"]])]
    return "\n".join(lines) + "\n"


def ranking(part: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """Return one row a model and variant, best mean first: the mean over the tasks, its spread and who is tied.

    Args:
        part: the cells of one preset.
        pairs: its comparisons.

    Returns:
        Columns model, variant, mean, spread (standard deviation over the seeds), seeds, group (letters: two models that
        share one cannot be told apart; empty where a task is missing).
    """
    means = summarise(part)
    means = means[means["task"] == comparisons.MEAN].drop(columns="task")
    groups = comparisons.groups(pairs)
    places = pd.MultiIndex.from_frame(means[["model", "variant"]])
    means["group"] = groups.reindex(places).fillna("").to_numpy()
    return means.sort_values("mean", ascending=False, kind="stable", na_position="last").reset_index(drop=True)


def table_resolution(pairs: pd.DataFrame) -> float:
    """Return the smallest true difference of two means that the table would see four times in five, in points.

    Of the median pair of models, whose errors over the examples and over the seeds count together; Bonferroni's share
    of the level stands for Holm's, which lies between it and the whole.
    """
    means = pairs[pairs["task"] == comparisons.MEAN]
    if means.empty:
        return float("nan")
    error = float(np.median(np.hypot(means["error"], means["seed_error"])))
    return smallest_difference(error, alpha=comparisons.ALPHA / len(means))


def readme_block(table: pd.DataFrame, pairs: pd.DataFrame) -> str:
    """Return the rankings of the presets that were measured, as Markdown for the README."""
    blocks = []
    for preset, title in PRESETS.items():
        part = table[(table["preset"] == preset) & (table["tag"] != "published")]
        if part.empty:
            continue
        order = ranking(part, pairs[pairs["preset"] == preset])
        score = order["mean"].map("{:.1f}".format) + order["spread"].map(" ± {:.1f}".format).where(
            order["spread"].notna(), ""
        )
        shown = order.assign(score=score.where(order["mean"].notna(), "-"))[["model", "variant", "score", "group"]]
        tasks = part["task"].nunique()
        blocks.append(f"{title}, mean of {tasks} tasks (± over the seeds):\n\n{markdown_table(shown)}\n")
    return "\n".join(blocks)


def _section(part: pd.DataFrame, pairs: pd.DataFrame) -> list[str]:
    """The lines of one preset: the ranking, the tasks, and what failed."""
    order = ranking(part, pairs)
    summary = summarise(part)
    number = summary["mean"].map("{:.1f}".format).where(summary["mean"].notna(), "-")
    spread = summary["spread"].map(" ± {:.1f}".format).where(summary["spread"].notna(), "")
    cells = summary.assign(cell=number + spread).set_index(["model", "variant", "task"])["cell"]
    wide = cells.unstack("task", sort=False)  # noqa: PD010 (nothing to aggregate)
    wide.insert(1, "group", order.set_index(["model", "variant"])["group"])
    wide = wide.loc[pd.MultiIndex.from_frame(order[["model", "variant"]])].reset_index()
    tasks = part[part["tag"] != "failed"].drop_duplicates("task")
    lines = [
        "Mean ± standard deviation over the seeds, where there are several. Models that share a letter cannot be told",
        f"apart; two means that truly differ by {table_resolution(pairs):.1f} are told apart four times in five.",
        "",
        markdown_table(wide.fillna("-")),
        "",
        markdown_table(tasks[["task", "family", "metric", "n", "tag"]]),
    ]
    failed = part[part["tag"] == "failed"]
    if len(failed):
        lines += ["", "Failed cells:", "", markdown_table(failed[["model", "variant", "seed", "task", "error"]])]
    return lines


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
