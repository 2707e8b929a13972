"""Means of a benchmark's table over tasks and seeds, their order, and which models differ significantly.

A table has one row per model, variant ("untuned" or "fine-tuned"), seed and task of one preset, with the columns model,
variant, seed, task, family and value (a percentage), and optionally low and high (95 % interval over the examples) and
tag. A failed cell has no value, and a mean over it is missing.
"""

from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from sbertlab.checks import check_choice, check_columns

FAMILIES = ("STS", "duplicates", "reranking", "retrieval", "clustering")
"""Families of tasks, in the order in which they are shown."""

VARIANTS = ("untuned", "fine-tuned")

KEY = ["model", "variant"]
"""What is ranked: a model before and after fine-tuning are two entries."""

OVER_SEEDS = {"mean": partial(pd.Series.mean, skipna=False), "spread": partial(pd.Series.std, skipna=False)}
"""Statistics over seeds; missing if one of them failed, the spread also for a single seed."""


def measured_cells(table: pd.DataFrame) -> pd.DataFrame:
    """Return the checked rows that were measured, not published; failed cells have no value."""
    check_columns("table", table, [*KEY, "seed", "task", "family", "value"])
    tags = table["tag"] if "tag" in table else pd.Series("measured", table.index)
    if tags.isin(["published", "failed"]).all():
        raise ValueError(f"table has no measured row; its tags are {sorted(set(tags))}")
    rows, failed = table[tags != "published"], (tags == "failed")[tags != "published"]
    presets = list(rows["preset"].unique()) if "preset" in rows else []
    if len(presets) > 1:
        raise ValueError(f"table holds the presets {presets}; choose one: table[table['preset'] == {presets[0]!r}]")
    rows = rows.assign(seed=rows["seed"].fillna(0), value=rows["value"].mask(failed))
    cell = [*KEY, "seed", "task"]
    if (twice := rows.duplicated(cell)).any():
        raise ValueError(f"table holds a cell twice: {rows.loc[twice, cell].iloc[0].to_dict()}; choose one recipe")
    return rows


def seed_scores(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row per model, variant and seed: the mean over all tasks, then each task, in the table's order."""
    rows = measured_cells(table)
    place = [*KEY, "seed"]
    wide: Any = rows.set_index([*place, "task"])["value"].unstack("task")  # noqa: PD010 (nothing to aggregate)
    wide = wide.loc[pd.MultiIndex.from_frame(rows[place].drop_duplicates()), rows["task"].unique()]
    return pd.concat([wide.mean(axis=1, skipna=False).rename("mean"), wide], axis=1).rename_axis(columns="task")


def benchmark_scores(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row per model, variant and seed: the mean over all tasks, then over the tasks of each family.

    >>> table = pd.DataFrame({"task": ["a", "b", "c"], "family": ["STS", "STS", "x"], "value": [60.0, 70.0, 5.0]})
    >>> benchmark_scores(table.assign(model="m", variant="untuned", seed=0)).iloc[0].to_dict()
    {'mean': 45.0, 'STS': 65.0, 'x': 5.0}
    """
    scores = seed_scores(table)
    means = {family: scores[tasks].mean(axis=1, skipna=False) for family, tasks in _by_family(table).items()}
    return pd.DataFrame({"mean": scores["mean"], **means})


def _by_family(table: pd.DataFrame) -> dict[str, list[str]]:
    """The measured tasks of each family: those of `FAMILIES` in their order, then others."""
    tasks = measured_cells(table).drop_duplicates("task")
    families = tasks["family"].unique()
    order = [name for name in FAMILIES if name in families] + [name for name in families if name not in FAMILIES]
    return {family: tasks.loc[tasks["family"] == family, "task"].tolist() for family in order}


def mean_of(cells: pd.DataFrame) -> str:
    """Return what a mean is taken over, for the line below a figure."""
    count = cells["task"].nunique()
    return f"Mean of {count} tasks" if count > 1 else "One task"


def standings(table: pd.DataFrame) -> pd.DataFrame:
    """Return the mean over the tasks of each (model, variant), best first; those without a mean last.

    Columns: mean; low and high, the 95 % interval over the examples; spread, the standard deviation over the seeds of
    the mean over tasks (missing with one seed); seeds.

    >>> table = pd.DataFrame({"model": ["a", "b", "b"], "value": [60.0, 70.0, 74.0], "seed": [0, 0, 1]})
    >>> table = table.assign(variant="untuned", task="x", family="STS", low=table["value"] - 3, high=table["value"] + 3)
    >>> standings(table).round(2).values.tolist()
    [[72.0, 69.0, 75.0, 2.83, 2.0], [60.0, 57.0, 63.0, nan, 1.0]]
    """
    seeds = seed_scores(table)["mean"].groupby(level=KEY, sort=False)
    mean, spread = (seeds.agg(over) for over in OVER_SEEDS.values())
    means = pd.DataFrame({"mean": mean, **_interval(table), "spread": spread, "seeds": seeds.size()})
    return means.sort_values("mean", ascending=False, na_position="last", kind="stable")


def _interval(table: pd.DataFrame) -> dict[str, pd.Series]:
    """Ends of the interval of the mean over T tasks: `mean of middles -+ sqrt(half_1^2 + ... + half_T^2) / T`.

    Tasks are independent. The seeds of a model share their examples, so the ends of a task are means over the seeds.
    """
    ends = measured_cells(table).reindex(columns=[*KEY, "family", "task", "low", "high"])
    parts = ends.assign(middle=ends[["low", "high"]].mean(axis=1, skipna=False), half=(ends["high"] - ends["low"]) / 2)
    cells = parts.groupby([*KEY, "family", "task"], sort=False)[["middle", "half"]].mean()
    middle: Any = cells["middle"].unstack([2, 3])  # noqa: PD010 (nothing to aggregate)
    half: Any = cells["half"].unstack([2, 3])  # noqa: PD010 (nothing to aggregate)
    centre = middle.mean(axis=1, skipna=False)
    reach = (half**2).sum(axis=1, skipna=False) ** 0.5 / half.shape[1]
    return {"low": centre - reach, "high": centre + reach}


def distinguishable(comparisons: pd.DataFrame, ranked: pd.Index, task: str = "mean") -> np.ndarray:
    """Return which of the ranked (model, variant) differ significantly in a task: `(ranked, ranked)` of bool."""
    first, second = ["model_a", "variant_a"], ["model_b", "variant_b"]
    rows = comparisons[comparisons["task"] == task]
    a, b = (ranked.get_indexer(pd.MultiIndex.from_frame(rows[pair])) for pair in (first, second))
    among = (a >= 0) & (b >= 0)
    different = np.full((len(ranked), len(ranked)), np.nan)
    np.fill_diagonal(different, 0)
    different[a[among], b[among]] = different[b[among], a[among]] = rows["different"].to_numpy()[among]
    if len(unknown := np.argwhere(np.isnan(different))):
        one, other = ranked[unknown[0]]
        raise ValueError(f"comparisons lacks the pair {one} and {other} in the task {task!r}")
    return different.astype(bool)


def last_variants(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the row of each model's last variant: fine-tuned, which sorts first, where it was measured."""
    return rows.sort_index(level="variant", kind="stable").groupby(level="model").head(1)


def task_scores(table: pd.DataFrame, variant: str = "last") -> tuple[pd.DataFrame, list[str]]:
    """Return one row per (model, variant), best mean first: the mean, then the tasks by family; and their families.

    `variant` is "all", or "last": fine-tuned where it was measured.

    >>> table = pd.DataFrame({"task": ["a", "b"], "family": ["clustering", "STS"], "value": [60.0, 50.0]})
    >>> scores, families = task_scores(table.assign(model="m", variant="untuned", seed=0))
    >>> scores.iloc[0].to_dict(), families
    ({'mean': 55.0, 'b': 50.0, 'a': 60.0}, ['STS', 'clustering'])
    """
    check_choice("variant", variant, ("last", "all"))
    scores = seed_scores(table).groupby(level=KEY, sort=False).agg(OVER_SEEDS["mean"])
    families = _by_family(table)
    scores = scores.loc[standings(table).index, ["mean", *(task for tasks in families.values() for task in tasks)]]
    if variant == "last":
        scores = scores[scores.index.isin(last_variants(scores).index)]
    return scores, [family for family, tasks in families.items() for _ in tasks]
