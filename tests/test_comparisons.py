"""Comparisons of pairs, means over tasks, and groups that cannot be told apart."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from sbertlab.comparisons import COLUMNS, MEAN, PAIR, Scores, comparisons, groups, over_tasks, with_intervals
from sbertlab.intervals import compare, holm
from sbertlab.resampling import Examples
from sbertlab.runner import Cell

RANDOM = np.random.default_rng(0)
HARDNESS = {task: RANDOM.normal(0.5, 0.15, 200) for task in ("x", "y", "z")}


def cell(model: str, task: str, shift: float, seed: int = 0, variant: str = "untuned") -> Cell:
    noise = np.random.default_rng([len(model), ord(task), seed]).normal(0, 0.05, 200)
    examples = Examples("mean", (HARDNESS[task] + shift + noise)[None], None, None)
    row = {"model": model, "variant": variant, "seed": seed, "task": task, "error": ""}
    return Cell(row | {"value": 100 * examples.value(), "n": 200}, examples)


def table_of(shifts: dict[str, float]) -> list[Cell]:
    return [cell(model, task, shift) for model, shift in shifts.items() for task in HARDNESS]


def test_every_pair_is_compared_on_every_task_and_in_the_mean() -> None:
    table = comparisons(table_of({"a": 0.1, "bb": 0.0, "ccc": 0.002}), resamples=200)
    assert list(table.columns) == COLUMNS
    assert table["task"].tolist() == [task for task in (MEAN, "x", "y", "z") for _ in range(3)]
    mean = table[table["task"] == MEAN].set_index(["model_a", "model_b"])
    assert mean.loc[("a", "bb"), "difference"] == pytest.approx(10, abs=1)
    real = {tuple(sorted(pair)): different for pair, different in mean["different"].items()}
    assert real == {("a", "bb"): True, ("a", "ccc"): True, ("bb", "ccc"): False}
    first = mean.loc[("a", "bb")]
    assert first["low"] < first["difference"] < first["high"]
    by_task = table[(table["model_a"] == "a") & (table["model_b"] == "bb") & (table["task"] != MEAN)]
    assert first["error"] == pytest.approx(np.sqrt((by_task["error"] ** 2).sum()) / 3, rel=0.2)


def test_the_numbers_are_those_of_compare_on_the_same_draws() -> None:
    cells = [cell("a", "x", 0.1), cell("bb", "x", 0.0)]
    (row,) = comparisons(cells, 100).query("task == 'x'").to_dict("records")
    replicates = [100 * one.examples.replicates(100) for one in cells if one.examples is not None]
    values = [100 * one.examples.value() for one in cells if one.examples is not None]
    expected = compare(*values, *replicates)
    assert row["difference"] == pytest.approx(expected.value)
    assert (row["error"], row["low"], row["p"]) == pytest.approx((expected.error, expected.low, expected.p))
    assert row["different"] == (holm([expected.p])[0] < 0.05)


def test_examples_that_both_models_find_hard_do_not_blur_their_difference() -> None:
    paired = comparisons(table_of({"a": 0.0, "bb": 0.02}), 300).query("task == 'mean'")["error"].item()
    scores = Scores(table_of({"a": 0.0, "bb": 0.02}), 300)
    apart = np.hypot(*(scores.replicates[name, MEAN].std(ddof=1) for name in (("a", "untuned"), ("bb", "untuned"))))
    assert paired < apart / 2


def test_the_spread_over_seeds_is_kept_apart_and_counts() -> None:
    seeds = [cell("a", task, 0.1 * seed, seed, "fine-tuned") for seed in range(3) for task in HARDNESS]
    table = comparisons([*seeds, *table_of({"bb": 0.0})], 200).query("task == 'mean'")
    (row,) = table.to_dict("records")
    assert row["seed_error"] == pytest.approx(np.std([0, 10, 20], ddof=1) / np.sqrt(3), rel=0.1)
    assert row["difference"] == pytest.approx(10, abs=1.5)
    assert not row["different"], "three seeds that differ by 10 points each do not make 10 points real"
    assert comparisons(table_of({"a": 0.1, "bb": 0.0}), 200)["seed_error"].max() == 0


def test_a_model_with_a_failed_cell_has_no_mean_and_is_compared_where_it_can_be() -> None:
    broken = Cell({"model": "a", "variant": "untuned", "seed": 0, "task": "y", "error": "out of memory"})
    cells = [one for one in table_of({"a": 0.1, "bb": 0.0}) if (one.row["model"], one.row["task"]) != ("a", "y")]
    table = comparisons([*cells, broken], 100)
    assert table["task"].tolist() == ["x", "z"]
    assert comparisons([broken], 100).empty


def test_the_mean_over_some_tasks_follows_from_the_comparisons_on_each() -> None:
    seeds = [cell("a", task, 0.02 * seed, seed, "fine-tuned") for seed in range(3) for task in HARDNESS]
    cells = [*seeds, *table_of({"bb": 0.0, "ccc": 0.1})]
    rows, pairs = with_intervals(cells, 50), comparisons(cells, 400)
    whole = over_tasks(pairs, rows, ["x", "y", "z"]).set_index(PAIR)
    mean = pairs[pairs["task"] == MEAN].set_index(PAIR).loc[[tuple(pair) for pair in whole.index]]
    for column, tolerance in (("difference", 1e-9), ("seed_error", 1e-9), ("error", 0.1 * mean["error"].max())):
        np.testing.assert_allclose(whole[column], mean[column], atol=tolerance)
    assert whole["different"].tolist() == mean["different"].tolist()
    one = over_tasks(pairs, rows, ["y"]).set_index(PAIR)
    alone = pairs[pairs["task"] == "y"].set_index(PAIR).loc[[tuple(pair) for pair in one.index]]
    np.testing.assert_allclose(one["difference"], alone["difference"])
    np.testing.assert_allclose(one["error"], alone["error"])
    with pytest.raises(ValueError, match=r"some of x, y, z, got \['w'\]"):
        over_tasks(pairs, rows, ["w"])


def test_intervals_stand_around_the_values_in_points() -> None:
    broken = Cell({"model": "a", "variant": "untuned", "seed": 0, "task": "y", "value": np.nan, "error": "no"})
    table = with_intervals([cell("a", "x", 0.0), broken], 200)
    assert table["low"][0] < table["value"][0] < table["high"][0]
    width = table["high"][0] - table["low"][0]
    assert width == pytest.approx(
        2 * 1.96 * 100 * np.std(cell("a", "x", 0.0).examples.predictions) / np.sqrt(200), rel=0.2
    )  # type: ignore[union-attr]
    assert table.loc[1, ["value", "low", "high"]].isna().all()


def test_groups_stand_in_the_order_of_the_means_and_of_another_task() -> None:
    table = comparisons(table_of({"a": 0.1, "bb": 0.0, "ccc": 0.001, "dddd": -0.2}), 200)
    letters = groups(table)
    assert letters.index[0] == ("a", "untuned")
    assert letters.index[-1] == ("dddd", "untuned")
    assert letters.tolist() == ["a", "b", "b", "c"]
    assert set(groups(table, "x").index) == set(letters.index)
    assert groups(pd.DataFrame(columns=COLUMNS)).empty
