"""A run: what it measures and writes, what it refuses before it starts, and the check of a table."""

import copy
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline

from sbertlab import SentenceTransformer, helpdesk
from sbertlab.benchmark import presets, runner
from sbertlab.benchmark.cells import CellStore
from sbertlab.benchmark.comparisons import MEAN
from sbertlab.benchmark.encoders import Candidate
from sbertlab.benchmark.presets import check, run
from sbertlab.benchmark.published import published_cells
from sbertlab.benchmark.recipes import Recipe
from sbertlab.benchmark.results import COLUMNS, read
from sbertlab.benchmark.runner import environment, jobs_of, run_jobs
from sbertlab.benchmark.tasks import helpdesk_tasks
from sbertlab.storage.files import sha256_of
from tests.benchmark.sets import write

ROOT = Path(__file__).parents[2]
SHORT = Recipe(rows=60)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Cells and embeddings of a test stay in its folder; models come from the usual cache."""
    monkeypatch.setattr(presets, "cache_home", lambda: tmp_path / "cache")


def copied(model, seed):
    return copy.deepcopy(model)


@pytest.fixture
def small(tiny):
    """A tiny model that can be fine-tuned."""
    rates = {SHORT.name: 1e-3}
    return Candidate("tiny", partial(copied, tiny(seed=7, dropout=0.1)), trainable=True, learning_rates=rates)


def never(*arguments, **settings):
    raise AssertionError("called too early, or again")


NEVER = Candidate("never", never)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_run_writes_what_it_measured_and_a_second_run_the_same_without_encoding(small, tmp_path, monkeypatch):
    names = ["helpdesk-duplicates", "helpdesk-clustering"]
    table = run([small, "TF-IDF+SVD"], names, seeds=2, output=tmp_path / "new" / "out", recipe=SHORT)
    assert list(table.columns) == COLUMNS
    jobs = [("tiny", "untuned", 0), ("tiny", "fine-tuned", 0), ("tiny", "fine-tuned", 1), ("TF-IDF+SVD", "untuned", 0)]
    expected = [(*job, name) for job in jobs for name in names]
    assert list(table[["model", "variant", "seed", "task"]].itertuples(index=False, name=None)) == expected
    assert set(table["tag"]) == {"proxy"}
    assert ((table["low"] < table["value"]) & (table["value"] < table["high"])).all()
    assert table["n"].tolist() == [2000, 576] * 4
    assert table["recipe"].tolist() == ["", "", *[SHORT.name] * 4, "", ""]
    assert table["value"].iloc[:6:2].nunique() == 3, "untuned, and two fine-tunings with different seeds"

    every, pairs, manifest = read(tmp_path / "new" / "out")
    pd.testing.assert_frame_equal(every[every["preset"] == "offline"], table, check_dtype=False)
    assert every["tag"].value_counts()["published"] == len(published_cells())
    assert pairs["task"].tolist() == np.repeat([MEAN, *names], 3).tolist()
    about = manifest["presets"]["offline"]
    assert about["sha256"]["corpora/helpdesk.jsonl"] == sha256_of(helpdesk.CORPUS)
    assert about["measured"] == [environment()]
    assert about["recipe"]["rows"] == 60
    assert len(about["differences"]) > 3
    assert about["learning_rates"]["tiny"] == 1e-3
    assert about["models"]["tiny"]["parameters"] > 10_000
    assert about["models"]["TF-IDF+SVD"]["sentences_per_second"] > 0
    assert str(ROOT) not in json.dumps(manifest), "no path of this machine"

    monkeypatch.setattr(SentenceTransformer, "encode", never)
    second = run([small, "TF-IDF+SVD"], names, seeds=2, output=tmp_path / "again", recipe=SHORT)
    pd.testing.assert_frame_equal(table, second)
    for name in ("benchmark.csv", "comparisons.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "new" / "out" / name).read_bytes()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_another_run_gives_the_same_cells_whatever_the_global_generators(small, tmp_path):
    found = []
    for seed in (0, 99):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 (the run must not depend on the global generators)
        cells = run_jobs(jobs_of([small], 1, SHORT), helpdesk_tasks()[1:2], CellStore(tmp_path / str(seed) / "cells"))
        found.append([cell.row["value"] for cell in cells[1:]])
    assert found[0] == found[1]


@pytest.mark.slow
def test_a_run_overwrites_the_rows_of_its_preset_and_names_the_machines_that_measured(tmp_path, monkeypatch):
    tasks = ["helpdesk-duplicates", "helpdesk-clustering"]
    here = environment()
    monkeypatch.setattr(runner, "environment", lambda: here | {"processor": "another", "threads": 64})
    run(["TF-IDF+SVD"], tasks[:1], seeds=1, output=tmp_path)
    run(["TF-IDF+SVD"], tasks[:1], seeds=1, output=tmp_path, preset="local", recipe=SHORT)
    monkeypatch.setattr(runner, "environment", lambda: here)
    run(["TF-IDF+SVD"], tasks, seeds=1, output=tmp_path)
    table, _, manifest = read(tmp_path)
    rows = table.loc[table["tag"] == "proxy", ["preset", "task"]].values.tolist()
    assert rows == [["offline", tasks[0]], ["offline", tasks[1]], ["local", tasks[0]]]
    machines = manifest["presets"]["offline"]["measured"]
    assert {machine["processor"] for machine in machines} == {"another", here["processor"]}


@pytest.mark.slow
def test_the_check_recomputes_cells_and_finds_a_wrong_one(tmp_path):
    run(["TF-IDF+SVD"], ["helpdesk-clustering", "helpdesk-duplicates"], seeds=1, output=tmp_path)
    table, _, manifest = read(tmp_path)
    table.loc[table["task"] == "helpdesk-clustering", "value"] += 0.2
    table.to_csv(tmp_path / "benchmark.csv", index=False)
    with pytest.raises(ValueError, match=r"benchmark.csv was changed"):
        check(output=tmp_path)
    manifest["sha256"]["benchmark.csv"] = sha256_of(tmp_path / "benchmark.csv")
    (tmp_path / "environment.json").write_text(json.dumps(manifest))
    found = check(output=tmp_path, models=["TF-IDF+SVD"])
    assert found["same"].tolist() == [False, True]
    assert found["difference"].tolist() == pytest.approx([-0.2, 0], abs=1e-3)
    with pytest.raises(ValueError, match="no such cell of the preset 'offline'"):
        check(output=tmp_path, tasks=["helpdesk-sts"])


def test_a_check_without_a_table_or_seeds_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere/benchmark.csv is missing; .*`python -m sbertlab benchmark`"):
        check(output=tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"seeds must be .*got 0"):
        check(output=ROOT / "figures", seeds=0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"seeds": 0}, "seeds must be .*got 0"),
        ({"tasks": ["helpdesk-sst"]}, "helpdesk-sst.*Did you mean 'helpdesk-sts'"),
        ({"models": []}, "models must be names of models"),
        ({"models": [make_pipeline(TfidfVectorizer())]}, "model Pipeline.*not Pipeline"),
        ({"preset": "ofline"}, "preset must be one of .*'offline'"),
        ({"preset": "local", "tasks": None}, "SBERTLAB_DATA"),
        ({"output": None}, "figures holds whole presets.* --output DIR"),
        ({"output": None, "models": None, "tasks": None, "seeds": 2}, "whole presets.* --output DIR"),
        ({"output": None, "models": None, "tasks": None, "recipe": SHORT}, "whole presets.* --output DIR"),
    ],
)
def test_mistakes_are_found_before_anything_is_built(wrong, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SBERTLAB_DATA", raising=False)
    monkeypatch.setattr(presets, "run_jobs", never)
    given = {"models": [NEVER], "tasks": ["helpdesk-sts"], "output": tmp_path / "out", **wrong}
    with pytest.raises((ValueError, FileNotFoundError, TypeError), match=message):
        run(**given)
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_written_or_was_changed_by_hand_is_refused(tmp_path):
    (tmp_path / "file").write_text("a file")
    with pytest.raises(OSError, match="file"):
        run([NEVER], ["helpdesk-sts"], seeds=1, output=tmp_path / "file" / "inside")
    for name in ("benchmark.csv", "comparisons.csv", "environment.json"):
        (tmp_path / name).write_bytes((ROOT / "figures" / name).read_bytes())
    path = tmp_path / "comparisons.csv"
    path.write_text(path.read_text() + "offline\n")
    with pytest.raises(ValueError, match=r"comparisons.csv was changed"):
        run([NEVER], ["helpdesk-sts"], seeds=1, output=tmp_path)


def test_everything_that_is_missing_is_listed_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("SBERTLAB_DATA", str(tmp_path))
    texts = {"biosses": "sentence1,sentence2,score\na,,1\n", "sickr": "wrong\n1\n"}
    for name, text in texts.items():
        write(tmp_path / name / "data.csv.gz", text)
    everything = (
        r"(?s)\n- task biosses: .* is empty.*\n- model nobody/none: .*\n- recipe nli-local: .*snli_devtest/data.csv.gz"
    )
    with pytest.raises(FileNotFoundError, match=everything):
        run([replace(NEVER, trainable=True), "nobody/none"], ["biosses"], output=tmp_path / "out", preset="local")
    with pytest.raises(ValueError, match=r"sickr/data.csv.gz has the columns wrong"):
        run([NEVER], output=tmp_path / "out", preset="local")
