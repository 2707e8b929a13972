"""The benchmark as a command: presets, files that it leaves, what is drawn from them, the check, mistakes in words."""

from __future__ import annotations

import argparse
import copy
import gzip
import json
import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline

from sbertlab import SentenceTransformer, helpdesk
from sbertlab.benchmark import presets as benchmark
from sbertlab.benchmark import results_folder, runner
from sbertlab.benchmark.comparisons import MEAN, Scores, comparisons
from sbertlab.benchmark.encoders import ENCODERS, PUBLISHED_ENCODERS, Encoder, select_encoders
from sbertlab.benchmark.machine import environment
from sbertlab.benchmark.presets import run
from sbertlab.benchmark.published import PUBLISHED
from sbertlab.benchmark.published_table import BASE_MODELS, TWITTER_MEAN, published_cells
from sbertlab.benchmark.recipes import NLI_LOCAL, OFFLINE, TRAINING_NLI_V2, HelpdeskRecipe
from sbertlab.benchmark.results import COLUMNS, ranking, readme_block, report, summarise
from sbertlab.benchmark.results_folder import read
from sbertlab.benchmark.runner import CellStore, jobs_of, run_jobs
from sbertlab.benchmark.tasks import Task, helpdesk_tasks, select_tasks
from sbertlab.commands.figures import draw_benchmark
from sbertlab.storage.files import sha256_of

ROOT = Path(__file__).parents[2]
SHORT = HelpdeskRecipe(rows=60)


@pytest.fixture(autouse=True)
def cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells and embeddings of a test stay in its folder; models come from the cache that is there."""
    monkeypatch.setattr(benchmark, "cache_home", lambda: tmp_path / "cache")


def copied(model: SentenceTransformer, seed: int) -> SentenceTransformer:
    return copy.deepcopy(model)


@pytest.fixture
def small(tiny: Callable[..., SentenceTransformer]) -> Encoder:
    """A tiny encoder that can be fine-tuned."""
    rates = {SHORT.name: 1e-3}
    return Encoder("tiny", partial(copied, tiny(seed=7, dropout=0.1)), trainable=True, learning_rates=rates)


# -- A run and its files -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_run_leaves_tables_page_pictures_and_manifest(small: Encoder, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    names = ["helpdesk-duplicates", "helpdesk-clustering"]
    folder = tmp_path / "new" / "figures"
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "README.md").write_text("above\n<!-- benchmark -->\nold\n<!-- /benchmark -->\nbelow\n")
    table = run([small, "TF-IDF+SVD"], names, seeds=2, output=folder, recipe=SHORT)
    draw_benchmark(folder)
    assert list(table.columns) == COLUMNS
    jobs = [("tiny", "untuned", 0), ("tiny", "fine-tuned", 0), ("tiny", "fine-tuned", 1), ("TF-IDF+SVD", "untuned", 0)]
    expected = [(*job, name) for job in jobs for name in names]
    assert list(table[["model", "variant", "seed", "task"]].itertuples(index=False, name=None)) == expected
    assert set(table["tag"]) == {"proxy"}
    assert (table["low"] < table["value"]).all()
    assert (table["value"] < table["high"]).all()
    assert table["n"].tolist() == [2000, 576] * 4
    assert table["recipe"].tolist() == ["", "", *[SHORT.name] * 4, "", ""]

    every, pairs, manifest = read(folder)
    pd.testing.assert_frame_equal(every[every["preset"] == "offline"], table, check_dtype=False)
    assert every["tag"].value_counts()["published"] == len(published_cells())
    assert len(pairs) == 3 * 3
    assert (folder / "benchmark.md").read_text(encoding="utf-8") == report(every, pairs)
    page = (tmp_path / "new" / "README.md").read_text()
    assert page == f"above\n<!-- benchmark -->\n{readme_block(every, pairs)}<!-- /benchmark -->\nbelow\n"
    one = manifest["presets"]["offline"]
    assert one["sha256"]["corpora/helpdesk.jsonl"] == sha256_of(helpdesk.CORPUS)
    assert [part["cells"] for part in one["measured"]] == [dict.fromkeys(names, 4)]
    assert one["measured"][0]["versions"]["torch"] == str(torch.__version__)
    assert one["differences"] == list(SHORT.differences)
    assert "differences" not in one["recipe"]
    assert one["recipe"]["rows"] == 60
    assert one["learning_rates"] == {"tiny": 1e-3}
    models = manifest["presets"]["offline"]["models"]
    assert models["tiny"]["dimensions"] == 32
    assert models["TF-IDF+SVD"]["sentences_per_second"] > 0
    assert str(ROOT) not in json.dumps(manifest), "no path of this machine"
    pictures = {path.name for path in folder.glob("*.png")}
    kinds = ("ranking", "tasks", "quality")
    assert pictures == {f"offline_{kind}{theme}.png" for kind in kinds for theme in ("", "_dark")}
    assert all((folder / name).read_bytes()[:4] == b"\x89PNG" for name in pictures)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_second_run_writes_the_same_tables_without_encoding_anything(
    small: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run([small], ["helpdesk-duplicates"], seeds=2, output=tmp_path / "a", recipe=SHORT)

    def never(*arguments: Any, **settings: Any) -> Any:
        raise AssertionError("encoded again")

    monkeypatch.setattr(SentenceTransformer, "encode", never)
    second = run([small], ["helpdesk-duplicates"], seeds=2, output=tmp_path / "b", recipe=SHORT)
    pd.testing.assert_frame_equal(first, second)
    for name in ("benchmark.csv", "comparisons.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_manifest_names_the_machines_that_measured_and_not_the_one_that_wrote_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = ["helpdesk-duplicates", "helpdesk-clustering"]
    here = environment()
    monkeypatch.setattr(runner, "environment", lambda: here | {"processor": "another", "threads": 64})
    run(["TF-IDF+SVD"], tasks[:1], seeds=1, output=tmp_path / "first")
    monkeypatch.setattr(runner, "environment", lambda: here)
    run(["TF-IDF+SVD"], tasks, seeds=1, output=tmp_path / "second")
    *_, manifest = read(tmp_path / "second")
    other, own = manifest["presets"]["offline"]["measured"]
    assert (other["processor"], other["threads"], other["cells"]) == ("another", 64, {tasks[0]: 1})
    assert own == here | {"cells": {tasks[1]: 1}}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_same_seeds_give_the_same_rows_and_other_seeds_others(small: Encoder, tmp_path: Path) -> None:
    first = run([small], ["helpdesk-duplicates"], seeds=2, output=tmp_path, recipe=SHORT)
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002 (the run must not depend on the global generators)
    second = run([small], ["helpdesk-duplicates"], seeds=2, output=tmp_path, recipe=SHORT, fresh=True)
    pd.testing.assert_frame_equal(first.drop(columns="seconds"), second.drop(columns="seconds"))
    untuned, tuned, other = first["value"]
    assert len({untuned, tuned, other}) == 3


@pytest.mark.slow
def test_a_run_replaces_the_rows_of_its_preset_and_keeps_those_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(["TF-IDF+SVD"], ["helpdesk-clustering"], seeds=1, output=tmp_path)
    other = ["helpdesk-duplicates", "helpdesk-sts"]
    run(["TF-IDF+SVD"], other, seeds=1, output=tmp_path, preset="local", recipe=SHORT)
    table, pairs, manifest = read(tmp_path)
    measured = table[table["tag"] == "proxy"]
    assert measured[["preset", "task"]].values.tolist() == [
        ["offline", "helpdesk-clustering"],
        ["local", "helpdesk-duplicates"],
        ["local", "helpdesk-sts"],
    ]
    assert set(manifest["presets"]) == {"offline", "local"}
    assert pairs.empty
    monkeypatch.setattr(benchmark, "default_tasks", lambda preset: ["helpdesk-duplicates"])
    run(["TF-IDF+SVD"], seeds=1, output=tmp_path)
    table, *_ = read(tmp_path)
    assert table[table["tag"] == "proxy"]["task"].tolist() == ["helpdesk-duplicates", *other]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_run_that_names_tasks_replaces_theirs_alone_and_leaves_what_one_run_of_all_does(
    small: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks, models = ["helpdesk-sts", "helpdesk-duplicates", "helpdesk-clustering"], [small, "TF-IDF+SVD"]
    whole = run(models, tasks, seeds=2, output=tmp_path / "whole", recipe=SHORT, cache=tmp_path / "one")
    run(models, tasks, seeds=2, output=tmp_path / "parts", recipe=SHORT, cache=tmp_path / "one")
    here = environment()
    monkeypatch.setattr(runner, "environment", lambda: here | {"processor": "another"})
    part = run(models, tasks[1:2], seeds=2, output=tmp_path / "parts", recipe=SHORT, cache=tmp_path / "two")
    assert set(part["task"]) == {tasks[1]}
    (table, pairs, manifest), (expected, expected_pairs, _) = read(tmp_path / "parts"), read(tmp_path / "whole")
    pd.testing.assert_frame_equal(table.drop(columns="seconds"), expected.drop(columns="seconds"))
    assert (table["seconds"] != expected["seconds"]).any(), "they were measured anew"
    assert pairs["task"].tolist() == np.repeat([MEAN, *tasks], 3).tolist()
    pd.testing.assert_frame_equal(pairs, expected_pairs, atol=0.01, rtol=0.01)
    one = manifest["presets"]["offline"]
    first, second = one["measured"]
    assert first["cells"] == dict.fromkeys([tasks[0], tasks[2]], 4)
    assert (second["processor"], second["cells"]) == ("another", {tasks[1]: 4})
    assert list(one["tasks"]) == tasks
    assert len(whole) == 12


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_tasks_measured_of_other_models_seeds_or_by_another_recipe_do_not_stand_beside_those_that_are_there(
    small: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run([small], ["helpdesk-sts"], seeds=1, output=tmp_path, recipe=SHORT)
    before = (tmp_path / "benchmark.csv").read_bytes()
    monkeypatch.setattr(benchmark, "run_jobs", never)
    for models, seeds, recipe, message in [
        ([small, "TF-IDF+SVD"], 1, SHORT, "other models or seeds than"),
        ([small], 2, SHORT, "other models or seeds than"),
        ([small], 1, replace(SHORT, scale=10.0), "other recipe or learning rates than"),
        ([replace(small, learning_rates={SHORT.name: 0.5})], 1, SHORT, "other recipe or learning rates than"),
    ]:
        with pytest.raises(ValueError, match=rf"holds 1 other tasks of the preset 'offline', .* {message}"):
            run(models, ["helpdesk-duplicates"], seeds=seeds, output=tmp_path, recipe=recipe)
    assert (tmp_path / "benchmark.csv").read_bytes() == before


@pytest.mark.slow
def test_a_cell_that_fails_is_recorded_and_the_run_goes_on(tmp_path: Path) -> None:
    broken_task = Task("broken", "STS", "no_such_metric", "", helpdesk_tasks()[0].load)
    models = [Encoder("cannot be made", lambda seed: 1 / 0), ENCODERS["TF-IDF+SVD"]]
    table = run(models, [broken_task, "helpdesk-clustering"], seeds=1, output=tmp_path)
    assert table["tag"].tolist() == ["failed"] * 3 + ["proxy"]
    assert table["value"].isna().tolist() == [True] * 3 + [False]
    assert table["error"].tolist()[:2] == ["ZeroDivisionError: division by zero"] * 2
    draw_benchmark(tmp_path)
    page = (tmp_path / "benchmark.md").read_text(encoding="utf-8")
    assert "Failed cells" in page
    assert "division by zero" in page
    every, *_ = read(tmp_path)
    pd.testing.assert_frame_equal(every[every["preset"] == "offline"], table, check_dtype=False)


@pytest.mark.slow
def test_a_table_that_was_changed_by_hand_is_refused(tmp_path: Path) -> None:
    run(["TF-IDF+SVD"], ["helpdesk-clustering"], seeds=1, output=tmp_path)
    path = tmp_path / "benchmark.csv"
    path.write_text(path.read_text().replace(",576,", ",577,"))
    with pytest.raises(ValueError, match=r"benchmark.csv was changed since it was measured"):
        draw_benchmark(tmp_path)


@pytest.mark.parametrize("first", [True, False], ids=["the first preset", "another preset"])
@pytest.mark.parametrize("kept", range(6))
def test_a_run_that_is_killed_while_it_saves_leaves_the_old_tables_or_the_new_ones(
    kept: int, first: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, replace = 0, Path.replace

    def killed_after(path: Path, target: Path) -> Path:
        nonlocal made
        if made == kept:
            raise SystemExit
        made += 1
        return replace(path, target)

    committed, pairs, manifest = read(ROOT / "figures")
    presets = ("offline", "local")
    tables = {name: committed[(committed["preset"] == name) & (committed["tag"] != "published")] for name in presets}
    chosen = {name: pairs[pairs["preset"] == name] for name in presets}
    about = manifest["presets"]
    if not first:
        results_folder.save(tmp_path, tables["offline"], chosen["offline"], "offline", about["offline"])
    monkeypatch.setattr(Path, "replace", killed_after)
    with pytest.raises(SystemExit) if kept < 5 else nullcontext():
        results_folder.save(tmp_path, tables["local"], chosen["local"], "local", about["local"])
    monkeypatch.setattr(Path, "replace", replace)
    table, its, found = read(tmp_path)
    measured = [] if first else ["offline"]
    measured += ["local"] if kept >= 3 else []
    assert set(table.loc[table["tag"] != "published", "preset"]) == set(its["preset"]) == set(measured)
    assert set(found.get("presets", {})) == set(measured)
    results_folder.save(tmp_path, tables["local"], chosen["local"], "local", about["local"])
    assert set(read(tmp_path)[2]["presets"]) == {"local"} | ({"offline"} if not first else set())


@pytest.mark.parametrize("name", ["benchmark.csv", "comparisons.csv", "environment.json"])
def test_a_folder_that_lacks_one_of_the_three_files_says_which_and_what_to_do(name: str, tmp_path: Path) -> None:
    for file in {"benchmark.csv", "comparisons.csv", "environment.json"} - {name}:
        (tmp_path / file).write_bytes((ROOT / "figures" / file).read_bytes())
    with pytest.raises(ValueError, match=rf"{name} is missing, .*; restore it, or run the benchmark into another"):
        read(tmp_path)


def published_run(folder: Path, **tags: str) -> None:
    """Leave the tables of a run of the published preset; `tags` are those of tasks with another than "measured"."""
    cells = [
        {"model": model, "task": task, "family": one.family, "metric": one.metric, "tag": tags.get(task, "measured")}
        for model in PUBLISHED_ENCODERS
        for task, one in PUBLISHED.items()
    ]
    both = {"variant": "fine-tuned", "recipe": TRAINING_NLI_V2.name, "seed": 0, "preset": "published", "revision": ""}
    table = pd.DataFrame(cells).assign(**both, value=50.0, low=49.0, high=51.0, n=9, seconds=1.0, error="")
    pairs = pd.DataFrame(columns=results_folder.PAIR_FILE)
    results_folder.save(folder, table[COLUMNS], pairs, "published", {"models": {}})


def test_a_whole_run_of_the_published_preset_meets_the_thirteen_published_averages(tmp_path: Path) -> None:
    published_run(tmp_path)
    published, measured = results_folder.under_published_names(read(tmp_path)[0])
    both = published.merge(measured, on=["model", "variant", "recipe", "task", "metric"], suffixes=("", "_measured"))
    assert both["model"].tolist() == list(PUBLISHED_ENCODERS)
    assert both["value"].tolist() == [value for _, _, value in BASE_MODELS]
    assert both["value_measured"].tolist() == [50.0] * 13


def test_another_edition_of_a_set_is_not_held_against_the_published_figure_and_the_page_says_so(tmp_path: Path) -> None:
    published_run(tmp_path, TwentyNewsgroupsClustering="edition")
    table, pairs, _ = read(tmp_path)
    _, measured = results_folder.under_published_names(table)
    assert set(measured["task"]) == {*PUBLISHED, TWITTER_MEAN} - {"TwentyNewsgroupsClustering"}, "no mean of 14"
    page = report(table[table["model"] == PUBLISHED_ENCODERS[0]], pairs)
    assert "- **edition**: measured here, on another edition of the set" in page
    assert re.search(r"\| TwentyNewsgroupsClustering +\| clustering +\| v_measure +\| 9 +\| edition +\|", page)


# -- The check ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_check_computes_cells_again_and_finds_one_that_is_not_so(tmp_path: Path) -> None:
    run(["TF-IDF+SVD"], ["helpdesk-clustering", "helpdesk-duplicates"], seeds=1, output=tmp_path)
    found = benchmark.check(output=tmp_path)
    assert found["same"].tolist() == [True, True]
    table, _, manifest = read(tmp_path)
    table.loc[table["task"] == "helpdesk-clustering", "value"] += 0.2
    results_folder.write_csv(tmp_path / "benchmark.csv", table)
    manifest["sha256"]["benchmark.csv"] = sha256_of(tmp_path / "benchmark.csv")
    (tmp_path / "environment.json").write_text(json.dumps(manifest))
    found = benchmark.check(output=tmp_path, models=["TF-IDF+SVD"])
    assert found["same"].tolist() == [False, True]
    assert found["difference"].tolist() == pytest.approx([-0.2, 0], abs=1e-3)
    with pytest.raises(ValueError, match="no such cell of the preset 'offline'"):
        benchmark.check(output=tmp_path, tasks=["helpdesk-sts"])


# -- Mistakes ----------------------------------------------------------------------------------------------------------


def test_mistakes_are_found_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SBERTLAB_DATA", raising=False)
    encoder = Encoder("never", never)
    for wrong, message in [
        ({"seeds": 0}, "seeds must be a whole number of at least 1, got 0"),
        ({"tasks": ["helpdesk-sst"]}, "helpdesk-sst.*did you mean helpdesk-sts"),
        ({"tasks": []}, "tasks must be names of tasks"),
        ({"models": [encoder, encoder]}, "models must be names of models, each once"),
        ({"models": []}, "models must be names of models"),
        ({"preset": "ofline"}, "preset must be one of offline, local, published, got 'ofline'"),
        ({"preset": "local", "tasks": None}, "SBERTLAB_DATA"),
    ]:
        given = {"models": [encoder], "tasks": ["helpdesk-sts"], "output": tmp_path / "out", **wrong}
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            run(**given)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def never(seed: int) -> Any:
    raise AssertionError("made too early")


@pytest.mark.parametrize("place", ["file", "file/inside", "/proc/self"])
def test_an_output_that_cannot_be_written_is_found_before_anything_is_made(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    with pytest.raises(OSError, match=r"output .* cannot be written: .*; name another folder \(--output\)"):
        run([Encoder("never", never)], ["helpdesk-sts"], seeds=1, output=tmp_path / place)


def test_an_output_whose_tables_were_changed_by_hand_is_found_before_anything_is_made(tmp_path: Path) -> None:
    for name in ("benchmark.csv", "comparisons.csv", "environment.json"):
        (tmp_path / name).write_bytes((ROOT / "figures" / name).read_bytes())
    path = tmp_path / "comparisons.csv"
    path.write_text(path.read_text() + "offline\n")
    with pytest.raises(ValueError, match=r"comparisons.csv was changed since it was measured"):
        run([Encoder("never", never)], ["helpdesk-sts"], seeds=1, output=tmp_path)


def test_each_problem_has_a_line_and_names_its_task_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SBERTLAB_DATA", raising=False)
    encoder = Encoder("never", lambda seed: 1 / 0)
    with pytest.raises(FileNotFoundError) as caught:
        run([encoder], ["helpdesk-sts", "nothing-such", "no-such"], output=tmp_path)
    first, *lines, last = str(caught.value).splitlines()
    assert (first, last) == (
        "not everything can be measured:",
        "skip_missing=True (--skip-missing) measures what is there",
    )
    assert [line.partition(";")[0] for line in lines] == [
        "- task 'nothing-such' is unknown",
        "- task 'no-such' is unknown",
    ]
    for skip in (False, True):
        with pytest.raises(FileNotFoundError, match=r"^nothing can be measured:\n- task 'no-such' is") as caught:
            run([encoder], ["no-such"], output=tmp_path, skip_missing=skip)
        assert "skip" not in str(caught.value), "it would not help, or was said already"


def test_a_model_that_is_not_an_encoder_is_refused_with_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"got a Pipeline; .* Encoder\('my model', lambda seed: model\)"):
        run([make_pipeline(TfidfVectorizer())], ["helpdesk-sts"], output=tmp_path)


@pytest.mark.slow
def test_everything_that_is_missing_is_named_at_once_and_the_rest_runs_when_asked_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    models, tasks = ["TF-IDF+SVD", "nobody/no-such-model"], ["helpdesk-clustering", "no-such-set"]
    with pytest.raises(FileNotFoundError, match=r"(?s)nobody/no-such-model.*no-such-set.*--skip-missing"):
        run(models, tasks, seeds=1, output=tmp_path / "out")
    with pytest.warns(UserWarning, match="not measured:\n- cannot find the model 'nobody/no-such-model'"):
        table = run(models, tasks, seeds=1, output=tmp_path / "out", skip_missing=True)
    assert table[["model", "task", "tag"]].values.tolist() == [["TF-IDF+SVD", "helpdesk-clustering", "proxy"]]


def test_a_broken_set_of_the_local_preset_is_named_and_the_others_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, header in {"biosses": "sentence1,sentence2,score\na,b,1\nc,d,0\n", "sickr": "wrong\n1\n"}.items():
        (tmp_path / name).mkdir()
        with gzip.open(tmp_path / name / "data.csv.gz", "wt") as file:
            file.write(header)
    monkeypatch.setenv("SBERTLAB_DATA", str(tmp_path))
    assert sorted(benchmark.default_tasks("local")) == ["biosses", "sickr"]
    with pytest.raises(FileNotFoundError, match=r"(?s)sickr/data.csv.gz has the columns wrong.*--skip-missing"):
        run(["TF-IDF+SVD"], seeds=1, output=tmp_path / "out", preset="local")


def test_tasks_that_cannot_be_had_are_found_before_a_model_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(*arguments: Any, fetch: bool = True) -> Any:
        assert not fetch, "a model was fetched"
        return select_encoders(*arguments, fetch=False)

    monkeypatch.setattr(benchmark, "select_encoders", fetch)
    monkeypatch.delenv("SBERTLAB_DATA", raising=False)
    with pytest.raises(ValueError, match="SBERTLAB_DATA"):
        run(output=tmp_path, preset="local")


def test_training_data_that_are_no_good_are_named_before_anything_is_measured(tmp_path: Path) -> None:
    (tmp_path / "stsb").mkdir()
    (tmp_path / "snli_devtest").mkdir()
    pairs = [("p", "e", "entailment"), ("p", "c", "contradiction"), ("p", "x", "maybe")]
    columns = ["sentence1", "sentence2", "label"]
    pd.DataFrame(pairs, columns=columns).to_csv(tmp_path / "snli_devtest" / "data.csv.gz", index=False)
    recipe = replace(NLI_LOCAL, folder=tmp_path)

    def never(seed: int) -> Any:
        raise AssertionError("made too early")

    encoder = Encoder("never", never, trainable=True)
    with pytest.raises(
        FileNotFoundError, match=r"recipe nli-local: .*snli_devtest/data.csv.gz: a label .* got 'maybe'"
    ):
        run([encoder], ["helpdesk-sts"], output=tmp_path / "out", recipe=recipe)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_command_line_takes_presets_models_tasks_seeds_and_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    benchmark.add_arguments(parser)
    assert parser.parse_args([]).preset == "offline"
    words = ["--models", "TF-IDF+SVD", "--tasks", "helpdesk-clustering", "helpdesk-sts", "--output", str(tmp_path)]
    benchmark.run_from(parser.parse_args([*words, "--seeds", "1"]))
    printed = capsys.readouterr().out
    assert "| TF-IDF+SVD | untuned |" in printed
    benchmark.run_from(parser.parse_args([*words, "--check"]))
    assert "True" in capsys.readouterr().out


def command(*words: str) -> None:
    parser = argparse.ArgumentParser()
    benchmark.add_arguments(parser)
    benchmark.run_from(parser.parse_args(words))


def test_a_check_without_a_table_or_without_seeds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere/benchmark.csv is missing; `python -m sbertlab benchmark`"):
        command("--check", "--output", str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="seeds must be a whole number of at least 1, got 0"):
        command("--check", "--seeds", "0", "--output", str(ROOT / "figures"))


def test_fewer_models_or_seeds_do_not_take_the_place_of_more_unless_the_folder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    started: list[Any] = []

    def start(*arguments: Any, **settings: Any) -> None:
        started.append(arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(benchmark, "run", start)
    preset = ["--preset", "published"]
    with pytest.raises(KeyboardInterrupt):
        command(*preset, "--models", "bert-base-uncased")  # there is nothing yet that could go
    published_run(tmp_path / "figures")
    for words, held, gone in [
        (["--models", "bert-base-uncased"], 182, 12 * 14),
        (["--models", "t5-base", "--tasks", "SICK-R"], 13, 12),
        (["--models", "t5-base", "--tasks", "SICK-R", "BIOSSES"], 26, 24),
    ]:
        with pytest.raises(ValueError, match=f"{held} cells of the preset 'published' .* {gone} of .* --output DIR"):
            command(*preset, *words)
    for words in [["--tasks", "BIOSSES"], ["--models", *PUBLISHED_ENCODERS], []]:
        with pytest.raises(KeyboardInterrupt):
            command(*preset, *words)
    assert [arguments[3] for arguments in started] == ["figures"] * 4


def test_drawing_without_a_table_says_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"benchmark.csv is missing; `python -m sbertlab benchmark` makes it"):
        draw_benchmark(tmp_path)


# -- Tables ------------------------------------------------------------------------------------------------------------


def test_means_and_spreads_equal_those_computed_row_by_row() -> None:
    random = np.random.default_rng(0)
    rows = [
        {"model": model, "variant": "fine-tuned", "seed": seed, "task": task, "value": value}
        for model in ("b", "a")
        for seed in range(3)
        for task, value in zip("xyz", random.uniform(0, 100, 3), strict=True)
    ]
    summary = summarise(pd.DataFrame(rows).assign(family="STS")).droplevel("variant")
    assert summary.index.tolist() == [(model, task) for model in "ba" for task in ("mean", "x", "y", "z")]
    for model in "ab":
        for task in "xyz":
            values = [row["value"] for row in rows if (row["model"], row["task"]) == (model, task)]
            assert summary.loc[(model, task), "mean"] == pytest.approx(sum(values) / 3)
            assert summary.loc[(model, task), "spread"] == pytest.approx(np.std(values, ddof=1))
        by_seed = [
            np.mean([row["value"] for row in rows if (row["model"], row["seed"]) == (model, seed)]) for seed in range(3)
        ]
        assert summary.loc[(model, "mean"), "mean"] == pytest.approx(np.mean(by_seed))
        assert summary.loc[(model, "mean"), "spread"] == pytest.approx(np.std(by_seed, ddof=1))


def test_a_mean_over_tasks_that_lacks_a_failed_cell_is_missing() -> None:
    cells = [("a", "untuned", 0, "x", 50.0), ("a", "untuned", 0, "y", np.nan), ("b", "untuned", 0, "x", 1.0)]
    cells.append(("b", "untuned", 0, "y", 2.0))
    table = pd.DataFrame(cells, columns=["model", "variant", "seed", "task", "value"])
    table = table.assign(preset="offline", family="STS", metric="m", recipe="", n=1, tag="proxy", error="")
    table["tag"] = table["tag"].where(table["value"].notna(), "failed")
    table[["low", "high"]] = np.nan
    means = summarise(table)["mean"].droplevel("variant")
    assert np.isnan(means["a", "mean"])
    assert means["b", "mean"] == 1.5
    page = report(table, pd.DataFrame(columns=results_folder.PAIR_FILE))
    assert "| b     | untuned | a     | 1.5  | 1.0  | 2.0 |" in page
    assert "| a     | untuned |       | -    | 50.0 | -   |" in page
    assert "one seed alone" not in page
    tuned = table[table["model"] == "b"].assign(variant="fine-tuned")
    assert "Fine-tuned with one seed alone" in report(tuned, pd.DataFrame(columns=results_folder.PAIR_FILE))


def test_the_committed_page_and_readme_are_those_of_the_committed_tables() -> None:
    table, pairs, manifest = read(ROOT / "figures")
    assert (ROOT / "figures" / "benchmark.md").read_text(encoding="utf-8") == report(table, pairs)
    found = results_folder.BLOCK.search((ROOT / "README.md").read_text(encoding="utf-8"))
    assert found is not None
    assert found[0] == f"<!-- benchmark -->\n{readme_block(table, pairs)}<!-- /benchmark -->"
    assert set(manifest["sha256"]) == {"benchmark.csv", "comparisons.csv"}
    known = table[table["tag"] == "published"].reset_index(drop=True)
    pd.testing.assert_frame_equal(known, published_cells()[COLUMNS], check_dtype=False)
    for preset in manifest["presets"]:
        assert (
            table.loc[(table["preset"] == preset) & (table["tag"] != "published"), "tag"]
            .isin(["proxy", "measured"])
            .all()
        )
        for kind in ("ranking", "tasks", "quality"):
            assert (ROOT / "figures" / f"{preset}_{kind}.png").exists()


def test_in_the_committed_table_fine_tuning_helps_every_encoder_and_the_best_rank_is_real() -> None:
    table, pairs, _ = read(ROOT / "figures")
    own = table[(table["preset"] == "offline") & (table["tag"] == "proxy")]
    means = summarise(own)["mean"].xs("mean", level="task").unstack("variant")  # noqa: PD010
    tuned = means.dropna()
    assert len(tuned) >= 4
    assert (tuned["fine-tuned"] > tuned["untuned"]).all()
    order = ranking(own, pairs[pairs["preset"] == "offline"])
    assert order.loc[0, ["model", "variant", "group"]].tolist() == ["all-MiniLM-L6-v2", "fine-tuned", "a"]
    assert (order["group"] == "a").sum() == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MiniLM-tokens", "MiniLM-3-layers"])
def test_fine_tuning_helps_on_intents_never_trained_on(name: str, tmp_path: Path) -> None:
    tasks = select_tasks([task.name for task in helpdesk_tasks()])
    cells = run_jobs(jobs_of(select_encoders([name]), 1, OFFLINE), tasks, CellStore(tmp_path))
    scores = [cell for cell in cells if cell.examples is not None]
    assert len(scores) == 2 * len(tasks)
    pairs = comparisons(Scores(scores, 300))
    (mean,) = pairs[pairs["task"] == "mean"].to_dict("records")
    assert (mean["variant_a"], mean["variant_b"], mean["different"]) == ("untuned", "fine-tuned", True)
    assert mean["difference"] < -1
