"""Who leads a benchmark's table: the models in the order of their means, and which of them can be told apart."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd

from sbertlab.benchmark_plots import VARIANTS, benchmark_intervals, benchmark_scores, in_order

KEY = ["model", "variant"]
"""What is ranked: a model as it comes and a model after fine-tuning are two."""


def standings(table: pd.DataFrame) -> pd.DataFrame:
    """Mean over the tasks of each model and variant, best first; those without a mean last.

    Returns:
        Rows (model, variant), columns mean, low and high (95 % over the examples, see `benchmark_intervals`), spread
        (standard deviation over the seeds; missing with one) and seeds.

    >>> table = pd.DataFrame({"model": ["a", "b", "b"], "value": [60.0, 70.0, 74.0], "seed": [0, 0, 1]})
    >>> table = table.assign(variant="untuned", task="x", family="STS", low=table["value"] - 3, high=table["value"] + 3)
    >>> standings(table).round(2).values.tolist()
    [[72.0, 69.0, 75.0, 2.83, 2.0], [60.0, 57.0, 63.0, nan, 1.0]]
    """
    seeds = benchmark_scores(table)["mean"].groupby(level=KEY, sort=False)
    means = pd.DataFrame({"mean": seeds.agg(partial(pd.Series.mean, skipna=False))})
    means = means.assign(**{side: benchmark_intervals(table, side)["mean"] for side in ("low", "high")})
    means = means.assign(spread=seeds.agg(partial(pd.Series.std, skipna=False)), seeds=seeds.size())
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
    ranking = standings(table)
    rows = table if "tag" not in table else table[table["tag"] != "published"]
    values = rows["value"].mask(rows["tag"] == "failed") if "tag" in rows else rows["value"]
    cells = rows.assign(value=values).groupby([*KEY, "task"], sort=False)["value"]
    wide = cells.agg(partial(pd.Series.mean, skipna=False)).unstack("task")  # noqa: PD010 (nothing to aggregate)
    family_of = rows.drop_duplicates("task").set_index("task")["family"]
    tasks = [task for family in in_order(family_of) for task in family_of.index[family_of == family]]
    order = ranking.index.append(wide.index.difference(ranking.index, sort=False))
    scores = pd.concat([ranking["mean"].reindex(order), wide.reindex(order)[tasks]], axis=1)
    last = scores.index.get_level_values("variant") == VARIANTS[-1]
    tuned = scores.index.get_level_values("model").isin(scores.index[last].get_level_values("model"))
    chosen = {"all": np.full(len(scores), True), "untuned": ~last, "fine-tuned": last, "last": last | ~tuned}[variant]
    if not chosen.any():
        raise ValueError(f"table has no {variant} model")
    return scores[chosen], family_of[tasks].tolist()
