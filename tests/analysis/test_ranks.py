import numpy as np
import pandas as pd
import pytest

from sbertlab.analysis.ranks import distinguishable, measured_cells, standings, task_scores


def by_hand():
    """Two tasks; means a 70 -> 80 (seeds 79, 81), b 78, c 60 and d failed on y. Intervals reach 3 or 4 far."""
    cells = [
        *[("a", "untuned", 0, "x", 72.0), ("a", "untuned", 0, "y", 68.0)],
        *[("a", "fine-tuned", 0, "x", 83.0), ("a", "fine-tuned", 0, "y", 75.0)],
        *[("a", "fine-tuned", 1, "x", 85.0), ("a", "fine-tuned", 1, "y", 77.0)],
        *[("b", "untuned", 0, "x", 76.0), ("b", "untuned", 0, "y", 80.0)],
        *[("c", "untuned", 0, "x", 62.0), ("c", "untuned", 0, "y", 58.0)],
        *[("d", "untuned", 0, "x", 90.0), ("d", "untuned", 0, "y", np.nan)],
    ]
    table = pd.DataFrame(cells, columns=["model", "variant", "seed", "task", "value"])
    reach = table["task"].map({"x": 3.0, "y": 4.0})
    table = table.assign(low=table["value"] - reach, high=table["value"] + reach, preset="local")
    family = table["task"].map({"x": "clustering", "y": "STS"})
    return table.assign(family=family, tag=np.where(table["value"].isna(), "failed", "measured"))


TABLE = by_hand()
RANKED = pd.MultiIndex.from_tuples([("a", "fine-tuned"), ("b", "untuned"), ("a", "untuned")])
PAIRS = pd.DataFrame(
    [
        ("mean", "b", "untuned", "a", "fine-tuned", False),
        ("mean", "a", "fine-tuned", "a", "untuned", True),
        ("mean", "b", "untuned", "a", "untuned", False),
    ],
    columns=["task", "model_a", "variant_a", "model_b", "variant_b", "different"],
)


def test_the_interval_of_a_mean_adds_those_of_the_tasks_as_squares():
    means = standings(TABLE)
    assert means["mean"].dropna().tolist() == [80, 78, 70, 60]
    assert means.loc[("b", "untuned"), "low"] == 75.5, "78 - sqrt(9 + 16) / 2"
    assert means.loc[("a", "fine-tuned"), "high"] == 82.5, "seeds share their examples, so they make it no shorter"
    assert np.isnan(means.loc[("d", "untuned"), "low"])
    assert standings(TABLE.drop(columns=["low", "high"]))[["low", "high"]].isna().to_numpy().all()


def test_the_interval_of_a_mean_has_the_length_that_simulation_gives():
    errors = np.array([0.5, 1.0, 2.0])
    draws = np.random.default_rng(0).normal(60, errors, (20_000, 3)).mean(axis=1)
    table = pd.DataFrame({"task": list("xyz"), "family": "STS", "value": 60.0})
    table = table.assign(model="m", variant="untuned", seed=0, low=60 - 1.96 * errors, high=60 + 1.96 * errors)
    ends = standings(table)[["low", "high"]].iloc[0].tolist()
    assert ends == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.03)


def test_pairs_count_in_either_direction():
    turned = {"model_a": "model_b", "variant_a": "variant_b", "model_b": "model_a", "variant_b": "variant_a"}
    for pairs in (PAIRS, PAIRS.rename(columns=turned)):
        assert distinguishable(pairs, RANKED).astype(int).tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize(("variant", "rows"), [("last", "abcd"), ("all", "abacd")])
def test_scores_by_task_are_those_of_the_variant_that_is_asked_for(variant, rows):
    scores, families = task_scores(TABLE, variant)
    assert "".join(scores.index.get_level_values("model")) == rows
    assert families == ["STS", "clustering"]
    known = TABLE.head(2).assign(tag="published", value=99.0, model="paper", preset="published")
    assert task_scores(pd.concat([TABLE, known]), variant)[0].equals(scores), "published figures are no part of it"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: measured_cells(TABLE.drop(columns=["seed", "family"])), r"missing the columns \['seed', 'family'\]"),
        (lambda: measured_cells(TABLE.head(0)), "table has no rows"),
        (lambda: measured_cells(TABLE.assign(tag="failed")), r"no measured row; its tags are \['failed'\]"),
        (lambda: measured_cells(TABLE.assign(preset=["offline", *TABLE["preset"][1:]])), r"\['offline', 'local'"),
        (lambda: measured_cells(pd.concat([TABLE, TABLE.head(1)])), "table holds a cell twice: .*'x'"),
        (lambda: distinguishable(PAIRS.head(2), RANKED), r"pair \('b', 'untuned'\) and \('a', 'untuned'\)"),
        (lambda: distinguishable(PAIRS, RANKED, "x"), "in the task 'x'"),
        (lambda: task_scores(TABLE, "tuned"), r"variant must be one of .*'tuned'"),
    ],
)
def test_tables_that_do_not_fit_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
