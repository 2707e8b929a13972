"""Who leads a benchmark's table: means over tasks and seeds, their order, and which of them can be told apart.

Everything that is said or drawn of a table, as a page, a figure or a panel, is counted here. A cell that failed makes
the means missing that it belongs to.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from sbertlab.checks import check_columns, checked_numbers

FAMILIES = ("STS", "duplicates", "reranking", "retrieval", "clustering")
"""Families of tasks, in the order in which they are shown."""

VARIANTS = ("untuned", "fine-tuned")
"""What can be measured of a model, in the order in which it comes about."""

KEY = ["model", "variant"]
"""What is ranked: a model as it comes and a model after fine-tuning are two."""

OVER_SEEDS = {"mean": partial(pd.Series.mean, skipna=False), "spread": partial(pd.Series.std, skipna=False)}
"""What is said of several seeds; missing where one of them failed, the spread also where there is one alone."""


def measured_cells(table: pd.DataFrame) -> pd.DataFrame:
    """Checked rows of a benchmark's table without figures of documents; cells that failed have no value.

    Args:
        table: one row a model, variant, seed and task, of one preset, with the columns model, variant ("untuned" or
            "fine-tuned"), seed, task, family, value (0 to 100; -100 to 100 for a correlation), and perhaps low and high
            (the 95 % interval over the examples) and tag.

    Raises:
        ValueError: columns are missing, no row that was measured, an unknown variant, a cell twice, several presets,
            values that are not finite.
    """
    check_columns("table", table, [*KEY, "seed", "task", "family", "value"])
    if unknown := set(table["variant"]) - set(VARIANTS):
        raise ValueError(f'variant must be "untuned" or "fine-tuned", got {sorted(map(str, unknown))}')
    tags = table["tag"] if "tag" in table else pd.Series("measured", table.index)
    rows, failed = table[tags != "published"], (tags == "failed")[tags != "published"]
    if failed.all():
        raise ValueError(f"table has no measured row; its tags are {sorted(set(tags))}")
    presets = list(rows["preset"].unique()) if "preset" in rows else []
    if len(presets) > 1:
        raise ValueError(
            f"table holds the presets {presets}; choose one, as in table[table['preset'] == {presets[0]!r}]"
        )
    checked_numbers("the column value", rows.loc[~failed, "value"])
    rows = rows.assign(seed=rows["seed"].fillna(0), value=rows["value"].mask(failed))
    cell = [*KEY, "seed", "task"]
    if (twice := rows.duplicated(cell)).any():
        raise ValueError(f"table holds a cell twice: {rows.loc[twice, cell].iloc[0].to_dict()}; choose one recipe")
    return rows


def seed_scores(table: pd.DataFrame) -> pd.DataFrame:
    """Scores of each model, variant and seed (rows): the mean over all tasks, then each task, in the table's order.

    Arguments and errors are those of `measured_cells`.

    >>> table = pd.DataFrame({"task": ["b", "a"], "family": ["STS", "x"], "value": [60.0, 70.0]})
    >>> seed_scores(table.assign(model="m", variant="untuned", seed=0)).iloc[0].to_dict()
    {'mean': 65.0, 'b': 60.0, 'a': 70.0}
    """
    rows = measured_cells(table)
    place = [*KEY, "seed"]
    wide: Any = rows.set_index([*place, "task"])["value"].unstack("task")  # noqa: PD010 (nothing to aggregate)
    wide = wide.loc[pd.MultiIndex.from_frame(rows[place].drop_duplicates()), rows["task"].unique()]
    return pd.concat([wide.mean(axis=1, skipna=False).rename("mean"), wide], axis=1).rename_axis(columns="task")


def benchmark_scores(table: pd.DataFrame) -> pd.DataFrame:
    """Scores of each model, variant and seed (rows): the mean over all tasks, then over the tasks of each family.

    Arguments and errors are those of `measured_cells`.

    >>> table = pd.DataFrame({"task": ["a", "b", "c"], "family": ["STS", "STS", "x"], "value": [60.0, 70.0, 5.0]})
    >>> table = table.assign(model="m", variant="untuned", seed=0)
    >>> benchmark_scores(table).iloc[0].to_dict()
    {'mean': 45.0, 'STS': 65.0, 'x': 5.0}
    """
    scores = seed_scores(table)
    means = {family: scores[tasks].mean(axis=1, skipna=False) for family, tasks in tasks_by_family(table).items()}
    return pd.DataFrame({"mean": scores["mean"], **means})


def tasks_by_family(table: pd.DataFrame) -> dict[str, list[str]]:
    """The names of the tasks of each family, in the order of `FAMILIES`, then others."""
    rows = table[table["tag"] != "published"] if "tag" in table else table
    tasks = rows.drop_duplicates("task")
    return {family: tasks.loc[tasks["family"] == family, "task"].tolist() for family in in_order(tasks["family"])}


def benchmark_intervals(table: pd.DataFrame, side: str) -> pd.DataFrame:
    """The low or the high end of the intervals over the examples, for the mean over all tasks and for each family.

    Tasks are taken as independent, so half the lengths add up as squares: of a mean over T tasks it is
    `sqrt(half_1^2 + ... + half_T^2) / T`, around the mean of the tasks' middles. The seeds of a model are measured on
    the same examples: the ends of their mean are the means of their ends. What moves from seed to seed is not in it.

    Args:
        table: as for `benchmark_figure`; the columns low and high are the ends of each cell's interval.
        side: "low" or "high".

    Returns:
        One row a model and variant, with the columns of `benchmark_scores`; NaN where an interval is missing.

    >>> table = pd.DataFrame({"task": ["a", "b"], "family": ["STS", "x"], "value": [60.0, 50.0], "low": [57.0, 46.0]})
    >>> table = table.assign(model="m", variant="untuned", seed=0, high=[63.0, 54.0])
    >>> benchmark_intervals(table, "low").iloc[0].to_dict()
    {'mean': 52.5, 'STS': 57.0, 'x': 46.0}
    """
    rows = measured_cells(table)
    ends = rows[["low", "high"]] if {"low", "high"} <= set(rows) else pd.DataFrame(np.nan, rows.index, ["low", "high"])
    parts = rows.assign(middle=ends.mean(axis=1, skipna=False), half=(ends["high"] - ends["low"]) / 2)
    cells = parts.groupby([*KEY, "family", "task"], sort=False)[["middle", "half"]].mean()
    middle: Any = cells["middle"].unstack([2, 3])  # noqa: PD010 (nothing to aggregate)
    half: Any = cells["half"].unstack([2, 3])  # noqa: PD010 (nothing to aggregate)
    means = {}
    for name in ("mean", *in_order(rows["family"])):
        middles, halves = (middle, half) if name == "mean" else (middle[name], half[name])
        reach = (halves**2).sum(axis=1, skipna=False) ** 0.5 / halves.shape[1]
        means[name] = middles.mean(axis=1, skipna=False) + (-reach if side == "low" else reach)
    return pd.DataFrame(means)


def mean_of(cells: pd.DataFrame) -> str:
    """What a mean is taken over, for the line below a figure.

    >>> mean_of(pd.DataFrame({"task": ["a", "b", "a"]}))
    'Mean of 2 tasks'
    """
    count = cells["task"].nunique()
    return f"Mean of {count} tasks" if count > 1 else "One task"


def in_order(families: pd.Series) -> list[str]:
    """The families, each once: the known ones in their order, then the others.

    >>> in_order(pd.Series(["new", "clustering", "STS", "new"]))
    ['STS', 'clustering', 'new']
    """
    known = [family for family in FAMILIES if family in set(families)]
    return known + [family for family in families.unique() if family not in known]


def standings(table: pd.DataFrame) -> pd.DataFrame:
    """Mean over the tasks of each model and variant, best first; those without a mean last.

    The mean over the tasks is taken seed by seed, so its spread is that of whole models.

    Returns:
        Rows (model, variant), columns mean, low and high (95 % over the examples, see `benchmark_intervals`), spread
        (standard deviation over the seeds; missing with one) and seeds.

    >>> table = pd.DataFrame({"model": ["a", "b", "b"], "value": [60.0, 70.0, 74.0], "seed": [0, 0, 1]})
    >>> table = table.assign(variant="untuned", task="x", family="STS", low=table["value"] - 3, high=table["value"] + 3)
    >>> standings(table).round(2).values.tolist()
    [[72.0, 69.0, 75.0, 2.83, 2.0], [60.0, 57.0, 63.0, nan, 1.0]]
    """
    seeds = seed_scores(table)["mean"].groupby(level=KEY, sort=False)
    ends = {side: benchmark_intervals(table, side)["mean"] for side in ("low", "high")}
    mean, spread = (seeds.agg(over) for over in OVER_SEEDS.values())
    means = pd.DataFrame({"mean": mean, **ends, "spread": spread, "seeds": seeds.size()})
    return means.sort_values("mean", ascending=False, na_position="last", kind="stable")


def told_apart(comparisons: pd.DataFrame, ranked: pd.Index, task: str = "mean") -> np.ndarray:
    """Which of the ranked (model, variant) differ, by the comparisons of one task: `(ranked, ranked)` of bool.

    Raises:
        ValueError: columns are missing, `different` is not bool, or a pair is not compared.
    """
    pair = ["model_a", "variant_a", "model_b", "variant_b"]
    needed = ["task", *pair, "different"]
    if missing := [column for column in needed if column not in comparisons]:
        raise ValueError(f"comparisons lacks the columns {missing}; it has {list(comparisons.columns)}")
    rows = comparisons[comparisons["task"] == task]
    first = ranked.get_indexer(pd.MultiIndex.from_frame(rows[pair[:2]])) if len(rows) else np.array([], int)
    second = ranked.get_indexer(pd.MultiIndex.from_frame(rows[pair[2:]])) if len(rows) else np.array([], int)
    among = (first >= 0) & (second >= 0)
    verdicts = rows["different"].to_numpy()[among]
    if wrong := [verdict for verdict in verdicts if not isinstance(verdict, bool | np.bool_)]:
        raise ValueError(f"the column different of comparisons must be True or False, got {wrong[0]!r}")
    known, apart = np.eye(len(ranked), dtype=bool), np.zeros((len(ranked), len(ranked)), dtype=bool)
    for one, other in ((first[among], second[among]), (second[among], first[among])):
        known[one, other], apart[one, other] = True, verdicts.astype(bool)
    if not known.all():
        one, other = np.argwhere(~known)[0]
        raise ValueError(f"comparisons lacks the pair {ranked[one]} and {ranked[other]} in the task {task!r}")
    return apart


def task_scores(table: pd.DataFrame, variant: str = "last") -> tuple[pd.DataFrame, list[str]]:
    """Scores of the models (rows, best mean first): the mean, then the tasks by family; and the family of each task.

    Arguments and errors are those of `score_heatmap`. What failed in a seed is NaN.

    >>> table = pd.DataFrame({"task": ["a", "b"], "family": ["clustering", "STS"], "value": [60.0, 50.0]})
    >>> scores, families = task_scores(table.assign(model="m", variant="untuned", seed=0))
    >>> scores.iloc[0].to_dict(), families
    ({'mean': 55.0, 'b': 50.0, 'a': 60.0}, ['STS', 'clustering'])
    """
    if variant not in (choices := ("last", *VARIANTS, "all")):
        raise ValueError(f"variant must be one of {choices}, got {variant!r}")
    scores = seed_scores(table).groupby(level=KEY, sort=False).agg(OVER_SEEDS["mean"])
    families = tasks_by_family(table)
    scores = scores.loc[standings(table).index, ["mean", *(task for tasks in families.values() for task in tasks)]]
    last = scores.index.get_level_values("variant") == VARIANTS[-1]
    tuned = scores.index.get_level_values("model").isin(scores.index[last].get_level_values("model"))
    chosen = {"all": np.full(len(scores), True), "untuned": ~last, "fine-tuned": last, "last": last | ~tuned}[variant]
    if not chosen.any():
        raise ValueError(f"table has no {variant} model")
    return scores[chosen], [family for family, tasks in families.items() for _ in tasks]
