"""Comparisons of pairs, means over tasks, and groups that do not differ significantly."""

import zlib
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from sbertlab.analysis.intervals import compare, holm
from sbertlab.analysis.resampling import Examples
from sbertlab.benchmark.cells import Cell
from sbertlab.benchmark.comparisons import COLUMNS, MEAN, PAIR, Scores, over_tasks
from sbertlab.benchmark.tasks import Task, table_evaluator

RANDOM = np.random.default_rng(0)
HARDNESS = {task: RANDOM.normal(0.5, 0.15, 200) for task in ("x", "y", "z")}
BROKEN = Cell({"model": "a", "variant": "untuned", "seed": 0, "task": "y", "value": np.nan, "error": "out of memory"})


def made(model, task, examples, seed=0, variant="untuned"):
    row = {"model": model, "variant": variant, "seed": seed, "task": task, "error": "", "n": len(examples)}
    return Cell(row | {"value": 100 * examples.value()}, examples)


def cell(model, task, shift, seed=0, variant="untuned"):
    noise = np.random.default_rng([len(model), ord(task), seed]).normal(0, 0.05, 200)
    return made(model, task, Examples("mean", HARDNESS[task] + shift + noise), seed, variant)


def table_of(shifts):
    return [cell(model, task, shift) for model, shift in shifts.items() for task in HARDNESS]


def test_every_pair_is_compared_on_every_task_and_in_the_mean():
    table = Scores(table_of({"a": 0.1, "bb": 0.0, "ccc": 0.002}), resamples=200).comparisons()
    assert list(table.columns) == COLUMNS
    assert table["task"].tolist() == [task for task in (MEAN, "x", "y", "z") for _ in range(3)]
    mean = table[table["task"] == MEAN].set_index(["model_a", "model_b"])
    assert mean.loc[("a", "bb"), "difference"] == pytest.approx(10, abs=1)
    real = {tuple(sorted(pair)): different for pair, different in mean["different"].items()}
    assert real == {("a", "bb"): True, ("a", "ccc"): True, ("bb", "ccc"): False}
    first = mean.loc[("a", "bb")]
    assert first["low"] < first["difference"] < first["high"]
    by_task = table[(table["model_a"] == "a") & (table["model_b"] == "bb") & (table["task"] != MEAN)]
    assert first["error"] == pytest.approx(np.sqrt((by_task["error"] ** 2).sum()) / 3)
    assert by_task["freedom"].tolist() == [199, 199, 199]


def test_the_numbers_are_those_of_compare_on_the_same_draws_of_the_task():
    cells = [cell("a", "x", 0.1), cell("bb", "x", 0.0)]
    scores = Scores(cells, 100)
    (row,) = scores.comparisons().query("task == 'x'").to_dict("records")
    replicates = [100 * one.examples.replicates(100, zlib.crc32(b"x")) for one in cells if one.examples is not None]
    np.testing.assert_array_equal(scores.cells["replicates"].tolist(), replicates)
    expected = compare(cells[0].row["value"], cells[1].row["value"], *replicates, examples=200)
    assert row["difference"] == pytest.approx(expected.value)
    assert (row["error"], row["low"], row["p"]) == pytest.approx((expected.error, expected.low, expected.p))
    assert row["different"] == (holm([expected.p])[0] < 0.05)
    assert row["error"] < np.hypot(*np.std(replicates, axis=1, ddof=1)) / 2, "examples that both find hard do not blur"


def test_the_spread_over_seeds_is_kept_apart_and_counts():
    seeds = [cell("a", task, 0.1 * seed, seed, "fine-tuned") for seed in range(3) for task in HARDNESS]
    table = Scores([*seeds, *table_of({"bb": 0.0})], 200).comparisons().query("task == 'mean'")
    (row,) = table.to_dict("records")
    assert row["seed_error"] == pytest.approx(np.std([0, 10, 20], ddof=1) / np.sqrt(3), rel=0.1)
    assert row["difference"] == pytest.approx(10, abs=1.5)
    assert not row["different"], "three seeds that differ by 10 points each do not make 10 points real"
    assert Scores(table_of({"a": 0.1, "bb": 0.0}), 200).comparisons()["seed_error"].max() == 0


def test_a_model_with_a_failed_cell_has_no_mean_and_is_compared_where_it_can_be():
    cells = [one for one in table_of({"a": 0.1, "bb": 0.0}) if (one.row["model"], one.row["task"]) != ("a", "y")]
    table = Scores([*cells, BROKEN], 100).comparisons()
    assert table["task"].tolist() == ["x", "z"]
    assert Scores([BROKEN], 100).comparisons().empty


def test_the_mean_over_some_tasks_follows_from_the_comparisons_on_each():
    seeds = [cell("a", task, 0.02 * seed, seed, "fine-tuned") for seed in range(3) for task in HARDNESS]
    scores = Scores([*seeds, *table_of({"bb": 0.0, "ccc": 0.1})], 400)
    rows, pairs = scores.table(), scores.comparisons()
    whole = over_tasks(pairs, rows, ["x", "y", "z"]).set_index(PAIR)
    mean = pairs[pairs["task"] == MEAN].set_index(PAIR).loc[[tuple(pair) for pair in whole.index]]
    for column, tolerance in (("difference", 1e-9), ("seed_error", 1e-9), ("error", 0.1 * mean["error"].max())):
        np.testing.assert_allclose(whole[column], mean[column], atol=tolerance)
    assert whole["different"].tolist() == mean["different"].tolist()
    one = over_tasks(pairs, rows, ["y"]).set_index(PAIR)
    alone = pairs[pairs["task"] == "y"].set_index(PAIR).loc[[tuple(pair) for pair in one.index]]
    np.testing.assert_allclose(one[["difference", "error"]], alone[["difference", "error"]])
    with pytest.raises(ValueError, match=r"some of x, y, z, got \['w'\]"):
        over_tasks(pairs, rows, ["w"])


def test_intervals_stand_around_the_values_in_points():
    one = cell("a", "x", 0.0)
    table = Scores([one, BROKEN], 200).table()
    assert table["low"][0] < table["value"][0] < table["high"][0]
    error = 100 * np.std(one.examples.predictions) / np.sqrt(200)
    assert table["high"][0] - table["low"][0] == pytest.approx(2 * 1.96 * error, rel=0.2)
    assert table.loc[1, ["value", "low", "high"]].isna().all()


def clustered(model, values, embeddings):
    """k-means on real points, as a task does it."""
    toy = SimpleNamespace(encode=lambda texts, **_: embeddings[[int(one) for one in texts]])
    evaluator = table_evaluator(
        "clustering", pd.DataFrame({"text": [str(one) for one in range(len(values))], "label": values})
    )
    return made(model, "x", Task("x", "clustering", "v_measure", "", lambda: evaluator).evaluate(toy).examples)


@pytest.mark.slow
def test_the_luck_of_k_means_makes_no_difference_real():
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(12), 60)
    points = 0.9 * random.normal(size=(12, 16))[labels] + random.normal(size=(720, 16))
    cells = [clustered(f"m{copy}", labels, points + 0.01 * random.normal(size=points.shape)) for copy in range(16)]
    pairs = Scores(cells, 300).comparisons().query("task == 'x'")
    alone = [Cell(one.row, Examples("v_measure", one.examples.predictions[:1], one.examples.target)) for one in cells]
    unlucky = Scores(alone, 300).comparisons().query("task == 'x'")
    assert (unlucky["p"] < 0.05).mean() > 0.2, "without the starts copies of one model differ, so this test can fail"
    assert (pairs["p"] < 0.05).mean() < 0.07
    assert not pairs["different"].any()
