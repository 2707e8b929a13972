"""The panel of a benchmark: fewer tasks and models change means, intervals and verdicts, all from the tables."""

import numpy as np
import pandas as pd
import pytest

from sbertlab.analysis.resampling import Examples
from sbertlab.benchmark.cells import Cell
from sbertlab.benchmark.comparisons import Scores
from sbertlab.benchmark.results import COLUMNS, save
from sbertlab.widgets import BenchmarkBrowser

LEVELS = {"alpha": {"x": 0.7, "y": 0.4, "z": 0.5}, "beta": {"x": 0.5, "y": 0.6, "z": 0.5}}


def cell(model, task, level):
    random = np.random.default_rng([len(model), ord(task)])
    examples = Examples("mean", random.normal(level, 0.1, (1, 300)), None, None)
    row = {"model": model, "revision": "", "variant": "untuned", "recipe": "", "seed": 0, "task": task}
    row |= {"family": "STS", "metric": "map", "n": 300, "seconds": 0.1, "tag": "proxy", "error": ""}
    return Cell(row | {"value": 100 * examples.value()}, examples)


@pytest.fixture
def folder(tmp_path):
    cells = [cell(model, task, level) for model, levels in LEVELS.items() for task, level in levels.items()]
    scores = Scores(cells, 200)
    table = scores.table().assign(preset="offline")[COLUMNS]
    save(tmp_path, table, scores.comparisons(), "offline", {"models": {}})
    return tmp_path


def test_the_verdict_follows_the_chosen_tasks(folder):
    panel = BenchmarkBrowser(folder)
    a, b = ("alpha", "untuned"), ("beta", "untuned")
    assert panel.verdict(a, b)["difference"] == pytest.approx(0, abs=1.5)
    assert "is not significant" in panel._verdict.value
    panel.select(tasks=["x"])
    assert panel.verdict(a, b)["difference"] == pytest.approx(20, abs=2)
    assert "alpha, untuned is" in panel._verdict.value
    assert "The difference is significant." in panel._verdict.value
    found, turned = panel.verdict(a, b), panel.verdict(b, a)
    assert (turned["difference"], turned["low"]) == pytest.approx((-found["difference"], -found["high"]))
    panel.select(tasks=["y"])
    assert "beta, untuned is" in panel._verdict.value
    assert "interval: 1" in panel._verdict.value, "of the one ahead minus the other"


def test_leaving_models_out_makes_no_difference_real(folder):
    panel = BenchmarkBrowser(folder)
    weak = panel.pairs["task"].eq("x")
    panel.pairs.loc[weak, ["difference", "error", "freedom", "seed_error"]] = 2.2, 1.0, np.inf, 0.0  # p is 0.028
    other = panel.pairs[weak].assign(model_b="gamma", difference=0.1, error=1.0)
    panel.pairs = pd.concat([panel.pairs, other], ignore_index=True)
    panel.cells = pd.concat([panel.cells, panel.cells[panel.cells["model"] == "beta"].assign(model="gamma")])
    panel.select(tasks=["x"], models=["alpha", "beta"])
    found = panel.verdict(("alpha", "untuned"), ("beta", "untuned"))
    assert found["p"] == pytest.approx(0.0278, abs=1e-4)
    assert not found["different"]


def test_filters_change_the_picture_and_the_cells(folder):
    panel = BenchmarkBrowser(folder)
    pictures = {panel._image.value}
    panel.select(tasks=["x", "z"])
    pictures.add(panel._image.value)
    assert set(panel.shown["task"]) == {"x", "z"}
    panel.select(models=["beta"])
    pictures.add(panel._image.value)
    assert set(panel.shown["model"]) == {"beta"}
    assert len(pictures) == 3


def test_empty_choices_and_missing_tables_are_told_in_words(folder, tmp_path):
    panel = BenchmarkBrowser(folder)
    panel.select(models=[])
    panel.select(tasks=[])
    assert panel.problem == "choose at least one task and one model"
    assert "tasks must be some of x, y, z, got []" in panel._verdict.value
    panel.select(tasks=["x"])
    assert panel.problem == "choose at least one task and one model", "a verdict alone does not mend the picture"
    assert "The difference is significant." in panel._verdict.value
    panel.select(models=["beta"])
    assert panel.problem == ""
    panel._second.value = panel._first.value
    assert "are not compared" in panel._verdict.value
    with pytest.raises(FileNotFoundError, match=r"benchmark\.csv is missing"):
        BenchmarkBrowser(tmp_path / "nothing")
    with pytest.raises(ValueError, match="preset must be one of 'offline'"):
        BenchmarkBrowser(folder, "local")
