"""The results of a benchmark as a page: one row a cell, their means, spreads and intervals, and who is really ahead."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from sbertlab.analysis.intervals import group_letters, joined, smallest_difference
from sbertlab.analysis.ranks import KEY, OVER_SEEDS, VARIANTS, mean_of, seed_scores, standings, told_apart
from sbertlab.benchmark import comparisons

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
    "edition": "measured here, on another edition of the set than the published figures of that task",
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


def rows_of(table: pd.DataFrame, preset: str) -> pd.DataFrame:
    """Return the cells of a preset, without figures of documents."""
    return table[(table["preset"] == preset) & (table["tag"] != "published")]


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Return mean and spread over the seeds for each model, variant and task, and for the mean over the tasks.

    Args:
        table: with `COLUMNS`, of one preset.

    Returns:
        Rows (model, variant, task), "mean" first, in the order of the table; columns mean and spread (standard
        deviation; missing with one seed). What lacks a failed cell is missing.

    >>> cells = [("a", "untuned", 0, "x", 50.0), ("a", "untuned", 0, "y", 60.0), ("a", "untuned", 1, "x", 54.0)]
    >>> cells += [("a", "untuned", 1, "y", 60.0)]
    >>> table = pd.DataFrame(cells, columns=["model", "variant", "seed", "task", "value"]).assign(family="STS")
    >>> summarise(table).round(2).values.tolist()
    [[56.0, 1.41], [52.0, 2.83], [60.0, 0.0]]
    """
    seeds = seed_scores(table).groupby(level=KEY, sort=False)
    tables = {name: seeds.agg(over) for name, over in OVER_SEEDS.items()}
    return pd.DataFrame({name: table.stack(future_stack=True) for name, table in tables.items()})  # noqa: PD013


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
        part = rows_of(table, preset)
        if len(part):
            lines += ["", f"## {title}", "", *_section(part, pairs[pairs["preset"] == preset])]
    known = table[table["tag"] == "published"]
    if len(known):
        cells = known.assign(value=known["value"].map("{:.2f}".format))
        lines += ["", "## Published figures", "", markdown_table(cells[["model", "recipe", "task", "metric", "value"]])]
    return "\n".join(lines) + "\n"


def ranking(part: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """Return one row a model and variant, best mean first: its mean over the tasks, how sure it is and who is tied.

    Args:
        part: the cells of one preset.
        pairs: its comparisons.

    Returns:
        Columns model, variant, those of `standings` and group (letters: two models that share one cannot be told apart;
        empty where a task is missing).
    """
    order = standings(part)
    placed = order.index[order["mean"].notna()]
    letters = pd.Series(group_letters(told_apart(pairs, placed)), placed, dtype=object)
    return order.assign(group=letters.reindex(order.index).fillna("")).reset_index()


def table_resolution(pairs: pd.DataFrame) -> float:
    """Return the true difference of two means that the table would see four times in five, in points.

    Of the median pair of models, whose errors over the examples and over the seeds count together; Bonferroni's share
    of the level stands for Holm's, which lies between it and the whole. NaN without a pair.
    """
    means = pairs[pairs["task"] == comparisons.MEAN]
    sizes = []
    for row in means[["error", "freedom", "seed_error", "seed_freedom"]].to_numpy(dtype=float).tolist():
        error, freedom = joined([(row[0] ** 2, row[1]), (row[2] ** 2, row[3])])
        sizes.append(smallest_difference(error, alpha=comparisons.ALPHA / len(means), freedom=freedom))
    return float(np.median(sizes)) if sizes else float("nan")


def readme_block(table: pd.DataFrame, pairs: pd.DataFrame) -> str:
    """Return the rankings of the presets that were measured, as Markdown for the README."""
    blocks = []
    for preset, title in PRESETS.items():
        part = rows_of(table, preset)
        if not part["value"].notna().any():
            continue
        order = ranking(part, pairs[pairs["preset"] == preset])
        shown = order.assign(score=_scores(order))[["model", "variant", "score", "group"]]
        means = mean_of(part)
        blocks.append(f"{title}, {means[0].lower()}{means[1:]} (± over the seeds):\n\n{markdown_table(shown)}\n")
    return "\n".join(blocks)


def _section(part: pd.DataFrame, pairs: pd.DataFrame) -> list[str]:
    """The lines of one preset: the ranking, the tasks, and what failed."""
    failed = part[part["tag"] == "failed"]
    lines = _measured(part, pairs) if len(failed) < len(part) else ["Nothing could be measured."]
    if len(failed):
        lines += ["", "Failed cells:", "", markdown_table(failed[["model", "variant", "seed", "task", "error"]])]
    return lines


def _measured(part: pd.DataFrame, pairs: pd.DataFrame) -> list[str]:
    order, sees = ranking(part, pairs), table_resolution(pairs)
    wide: Any = _scores(summarise(part)).unstack("task", sort=False)  # noqa: PD010 (nothing to aggregate)
    wide = wide.loc[pd.MultiIndex.from_frame(order[KEY])].reset_index()
    wide.insert(2, "group", order["group"])
    tasks = part[part["tag"] != "failed"].drop_duplicates("task")
    once = order["variant"].eq(VARIANTS[-1]) & order["seeds"].eq(1)
    return [
        "Mean ± standard deviation over the seeds, where there are several. Models that share a letter cannot be told",
        "apart."
        if np.isnan(sees)
        else f"apart; of the median pair, means that truly differ by {sees:.1f} are told apart four times in five.",
        *(["Fine-tuned with one seed alone: what another one would change is in no verdict."] if once.any() else []),
        "",
        markdown_table(wide),
        "",
        markdown_table(tasks[["task", "family", "metric", "n", "tag"]]),
    ]


def _scores(means: pd.DataFrame) -> pd.Series:
    """Mean ± spread as text, "-" where there is no mean."""
    spread = means["spread"].map(" ± {:.1f}".format).where(means["spread"].notna(), "")
    return (means["mean"].map("{:.1f}".format) + spread).where(means["mean"].notna(), "-")


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
