"""The runner: one cell per model and task, finished ones never computed again, failed ones recorded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sbertlab import SentenceTransformer
from sbertlab.analysis.resampling import Examples
from sbertlab.benchmark import runner
from sbertlab.benchmark.encoders import ENCODERS, Candidate, named
from sbertlab.benchmark.recipes import HelpdeskRecipe
from sbertlab.benchmark.runner import (
    FACTS,
    Cell,
    CellStore,
    Job,
    environment,
    jobs_of,
    keys_of,
    run_jobs,
    sentences_per_second,
)
from sbertlab.benchmark.tasks import Task, helpdesk_tasks
from sbertlab.encoder import fingerprint
from sbertlab.encoder.stored_embeddings import EmbeddingStore

SHORT = HelpdeskRecipe(rows=60)
TASKS = [task for task in helpdesk_tasks() if task.family in ("duplicates", "clustering")]


class Letters:
    """An encoder of 26 numbers, which counts what it is asked."""

    asked: list[str] = []  # noqa: RUF012 (shared on purpose)

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def encode(self, texts: list[str]) -> np.ndarray:
        self.asked.extend(texts)
        return np.array([[1 + text.lower().count(chr(97 + place)) for place in range(26)] for text in texts], float)


class Failing:
    def encode(self, texts: list[str]) -> Any:
        raise RuntimeError("out of | memory")


def make_letters(seed: int) -> Letters:
    return Letters(seed)


LETTERS = Candidate("letters", make_letters)


def scaled(seed: int, scale: float = 1.0) -> Any:
    """Another encoder that is made at the top of a module."""
    return Letters(seed)


def key_of(job: Job, task: Task | None) -> str:
    (key,) = keys_of(job.origin(), [task], {})
    return key


def values(cells: list[Cell]) -> list[tuple[Any, ...]]:
    return [
        (cell.row["model"], cell.row["variant"], cell.row["seed"], cell.row["task"], cell.row.get("value"))
        for cell in cells
    ]


def test_each_job_gives_one_cell_per_task_in_order_and_each_model_its_facts_once(tmp_path: Path) -> None:
    encoders = [LETTERS, Candidate("random letters", make_letters, random=True)]
    cells = run_jobs(jobs_of(encoders, 2, SHORT), TASKS, CellStore(tmp_path))
    names = [task.name for task in TASKS]
    places = [(cell.row["model"], cell.row["seed"], cell.row["task"]) for cell in cells]
    expected = [("letters", 0, name) for name in [FACTS, *names]]
    expected += [("random letters", 0, name) for name in [FACTS, *names]]
    assert places == expected + [("random letters", 1, name) for name in names]
    facts = cells[0].row
    assert facts["dimensions"] == 26
    assert facts["sentences_per_second"] > 0
    assert [cell.row["n"] for cell in cells if cell.row["task"] != FACTS] == [2000, 576] * 3
    assert {cell.row["tag"] for cell in cells if cell.row["task"] != FACTS} == {"proxy"}


def test_a_second_run_computes_nothing(tmp_path: Path) -> None:
    jobs, store = jobs_of([LETTERS], 1, SHORT), EmbeddingStore(tmp_path / "embeddings")
    first = run_jobs(jobs, TASKS, CellStore(tmp_path / "cells"), store)
    Letters.asked.clear()
    second = run_jobs(jobs, TASKS, CellStore(tmp_path / "cells"), store)
    assert Letters.asked == []
    assert [cell.row for cell in first] == [cell.row for cell in second]
    for one, other in zip(first, second, strict=True):
        if one.examples is not None and other.examples is not None:
            np.testing.assert_array_equal(one.examples.predictions, other.examples.predictions)
    again = run_jobs(jobs, TASKS, CellStore(tmp_path / "cells"), fresh=True)
    assert Letters.asked
    assert values(again) == values(first)


def test_a_failed_cell_has_its_error_is_not_cached_and_is_tried_again(tmp_path: Path) -> None:
    broken = Task("broken", "STS", "no_such_metric", "", TASKS[0].load)
    models = [Candidate("no model", lambda seed: 1 / 0), Candidate("no encoding", lambda seed: Failing()), LETTERS]
    cells = run_jobs(jobs_of(models, 1, SHORT), [broken, TASKS[0]], CellStore(tmp_path))
    errors = [cell.row["error"] for cell in cells]
    assert errors[:6] == ["ZeroDivisionError: division by zero"] * 3 + ["RuntimeError: out of | memory"] * 3
    assert errors[7].startswith("ValueError: task 'broken' has the metric 'no_such_metric'")
    assert [cell.row.get("tag") == "failed" for cell in cells] == [True] * 6 + [False, True, False]
    assert len(list(tmp_path.iterdir())) == 2, "the facts and one task of the only model that works"


def unreadable() -> Any:
    raise ValueError("data.csv.gz cannot be read")


def test_unreadable_data_are_found_before_the_model_is_built(tmp_path: Path) -> None:
    made: list[int] = []
    counted = Candidate("counted", lambda seed: (made.append(seed), Letters())[1])

    def load() -> Any:
        assert made == [], "the model was built before the texts were read"
        return TASKS[0].load()

    broken = Task("broken", "STS", "m", "", unreadable)
    late = Task("late", TASKS[0].family, TASKS[0].metric, "", load)
    for tasks, expected in ([broken], []), ([broken, late], [1]):
        cells = run_jobs([Job(counted, 1)], tasks, CellStore(tmp_path))
        assert [cell.row["error"] for cell in cells] == ["ValueError: data.csv.gz cannot be read", ""][: len(tasks)]
        assert made == expected


def test_a_key_depends_on_everything_that_the_number_depends_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    minilm, task, file = ENCODERS["all-MiniLM-L6-v2"], TASKS[0], tmp_path / "texts"
    makers: list[Any] = [make_letters, scaled, partial(scaled, scale=2.0), partial(scaled, scale=3.0)]
    jobs = [Job(minilm, 0, SHORT), Job(minilm, 1, SHORT), Job(minilm, 0), Job(minilm, 0, HelpdeskRecipe(rows=90))]
    jobs += [Job(ENCODERS["MiniLM-tokens"], 0, SHORT), *(Job(Candidate("one name", make), 0) for make in makers)]
    keys = [key_of(job, task) for job in jobs] + [key_of(jobs[0], other) for other in (TASKS[1], None)]
    for text in ("one", "other"):
        file.write_text(text)
        keys.append(key_of(jobs[0], Task("t", "STS", "m", "", task.load, (file,))))
    keys += [key_of(jobs[0], Task("one name", "STS", "m", "", other.load)) for other in TASKS]
    pin = ("task", "repository", "commit")
    keys += [key_of(jobs[0], Task("one name", "STS", "m", "", task.load, pins=pins)) for pins in ((pin,), (pin, pin))]
    assert len(set(keys)) == len(keys)
    assert key_of(Job(minilm, 0, HelpdeskRecipe(rows=60)), task) == keys[0]
    assert key_of(Job(Candidate("one name", partial(scaled, scale=2.0)), 0), task) in keys
    for module in (runner, fingerprint):
        monkeypatch.setattr(module, "source_digest", lambda *parts: "changed")
    assert key_of(jobs[0], task) not in keys


def test_a_key_depends_on_every_file_of_a_model_folder(
    tiny: Callable[..., SentenceTransformer], tmp_path: Path
) -> None:
    tiny().save(tmp_path)
    job = Job(named(str(tmp_path)), 0)
    weights, first = job.candidate.revision(), key_of(job, TASKS[0])
    seen = {first}
    for name in ("modules.json", "config.json", "tokenizer.json", "1_Pooling/config.json"):
        (file,) = [path for path in tmp_path.rglob("*") if path.relative_to(tmp_path).as_posix() == name]
        before = file.read_bytes()
        file.write_bytes(before + b" ")
        seen.add(key_of(job, TASKS[0]))
        file.write_bytes(before)
    assert len(seen) == 5
    assert key_of(job, TASKS[0]) == first
    assert job.candidate.revision() == weights, "the revision in the table is that of the weights alone"


@pytest.mark.parametrize(("name", "value"), [("processor", "another"), ("device", "cuda"), ("threads", 64)])
def test_a_speed_from_another_machine_is_measured_again_and_a_score_is_not(
    name: str, value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run_jobs([Job(LETTERS, 0)], TASKS[:1], CellStore(tmp_path))
    elsewhere = environment() | {name: value}
    monkeypatch.setattr(runner, "environment", lambda: elsewhere)
    facts, score = run_jobs([Job(LETTERS, 0)], TASKS[:1], CellStore(tmp_path))
    assert first[0].environment[name] != value
    assert facts.environment[name] == value
    assert score.environment == first[1].environment


def test_what_cannot_be_fingerprinted_is_computed_in_every_run(tmp_path: Path) -> None:
    scale = 1.0
    closure = Candidate("closure", lambda seed: scaled(seed, scale))
    unknown = Task("unknown", TASKS[0].family, TASKS[0].metric, "", lambda: TASKS[0].load())
    for encoder, task in ((closure, TASKS[0]), (LETTERS, unknown)):
        for _ in range(2):
            Letters.asked.clear()
            (cell,) = run_jobs([Job(encoder, 1)], [task], CellStore(tmp_path))
            assert not cell.failed
            assert Letters.asked
    assert list(tmp_path.iterdir()) == []


class Stopped(HelpdeskRecipe):
    """Is killed the first time, and says what it was given."""

    given: list[tuple[Path | None, bool]] = []  # noqa: RUF012 (shared on purpose)

    def fine_tune(self, model: Any, encoder: Candidate, seed: int, checkpoints: Path | None = None) -> Any:
        left = checkpoints is not None and (checkpoints / "left").exists()
        self.given.append((checkpoints, left))
        if checkpoints is not None and not left:
            (checkpoints / "left").touch()
            raise SystemExit


def test_a_killed_fine_tuning_finds_its_folder_again_until_the_job_is_done(
    tmp_path: Path,
) -> None:
    jobs, training = [Job(LETTERS, seed, Stopped()) for seed in range(2)], tmp_path / "training"
    Stopped.given.clear()
    for _ in jobs:
        with pytest.raises(SystemExit):
            run_jobs(jobs, TASKS[:1], CellStore(tmp_path / "cells"), training=training)
    cells = run_jobs(jobs, TASKS[:1], CellStore(tmp_path / "cells"), training=training)
    assert [cell.failed for cell in cells] == [False, False]
    assert [left for _, left in Stopped.given] == [False, True, False, True]
    assert len({folder for folder, _ in Stopped.given}) == 2, "one a job"
    assert list(training.iterdir()) == []
    run_jobs(jobs, TASKS[:1], CellStore(tmp_path / "cells"), training=training, fresh=True)
    assert [folder for folder, _ in Stopped.given[4:]] == [None, None]


def test_two_runs_do_not_train_in_the_same_folder(tmp_path: Path) -> None:
    with (
        runner.checkpoint_folder(tmp_path / "training") as mine,
        runner.checkpoint_folder(tmp_path / "training") as other,
    ):
        assert (mine, other) == (tmp_path / "training", None)
    (tmp_path / "file").touch()
    with runner.checkpoint_folder(tmp_path / "file" / "training") as nowhere:
        assert nowhere is None


def test_the_tag_says_whether_the_texts_are_those_of_the_name() -> None:
    job, load = Job(LETTERS, 0), TASKS[0].load
    tasks = [TASKS[0], Task("BIOSSES", "STS", "m", "", load), Task("BIOSSES", "STS", "m", "", load, edition="fewer")]
    assert [job.row(task)["tag"] for task in tasks] == ["proxy", "measured", "edition"]


@pytest.mark.parametrize("damage", ["cell.json", "examples.npz", "missing"])
def test_a_damaged_cell_is_removed_and_computed_again(tmp_path: Path, damage: str) -> None:
    store = CellStore(tmp_path)
    store.put("k", Cell({"task": "t", "value": 1.0}, Examples("mean", np.ones((1, 3)), None, None)))
    found = store.get("k")
    assert found is not None
    assert len(found.examples or ()) == 3
    if damage == "missing":
        (tmp_path / "k" / "examples.npz").unlink()
    else:
        path = tmp_path / "k" / damage
        path.write_bytes(path.read_bytes()[:-3])
    assert store.get("k") is None
    store.put("k", found)
    assert store.get("k") is not None


@pytest.mark.slow
def test_two_processes_give_the_cells_of_one(tmp_path: Path) -> None:
    encoders = [ENCODERS["TF-IDF+SVD"], LETTERS]
    alone = run_jobs(jobs_of(encoders, 1, SHORT), TASKS, CellStore(tmp_path / "one"))
    together = run_jobs(jobs_of(encoders, 1, SHORT), TASKS, CellStore(tmp_path / "two"), workers=2)
    assert not any(cell.failed for cell in together), [cell.row["error"] for cell in together]
    assert values(together) == values(alone)


def die(seed: int) -> Any:
    os._exit(3)


@pytest.mark.slow
def test_a_process_that_dies_leaves_failed_cells_and_the_run_ends(tmp_path: Path) -> None:
    cells = run_jobs(jobs_of([Candidate("dies", die)], 1, SHORT), TASKS, CellStore(tmp_path), workers=2)
    assert [cell.failed for cell in cells] == [True] * 3
    assert "the process was lost" in cells[0].row["error"]


@pytest.mark.slow
def test_jobs_run_as_tasks_of_ray(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason='ray is not installed: pip install "sbertlab[ray]"')
    alone = run_jobs(jobs_of([ENCODERS["TF-IDF+SVD"]], 1, SHORT), TASKS, CellStore(tmp_path / "one"))
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        spread = run_jobs(jobs_of([ENCODERS["TF-IDF+SVD"]], 1, SHORT), TASKS, CellStore(tmp_path / "ray"), engine="ray")
    finally:
        ray.shutdown()
    assert [cell.row["error"] for cell in spread] == [""] * 3
    assert values(spread) == values(alone)
    assert len(list((tmp_path / "ray").iterdir())) == 3


def test_two_runs_can_finish_the_same_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = Cell({"task": "t", "value": 1.0}, Examples("mean", np.ones((1, 3)), None, None))
    one, other = CellStore(tmp_path), CellStore(tmp_path)
    save = Examples.save

    def save_late(examples: Examples, path: Path) -> None:
        save(examples, path)
        monkeypatch.setattr(Examples, "save", save)
        other.put("k", cell)  # between the beginning and the end of the first

    monkeypatch.setattr(Examples, "save", save_late)
    monkeypatch.setattr(Path, "exists", lambda path: False)  # what the first found when it looked
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one.put("k", cell)
    assert one.get("k") is not None
    assert [path.name for path in tmp_path.iterdir()] == ["k"], "nothing half-written is left"


def test_an_unwritable_cache_gives_one_warning_and_the_run_continues(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.warns(UserWarning, match="finished cells cannot be cached in") as caught:
        cells = run_jobs(jobs_of([LETTERS], 1, SHORT), TASKS, CellStore(tmp_path / "cache" / "cells"))
    assert [cell.failed for cell in cells] == [False] * 3
    assert len(caught) == 1


def test_a_full_disk_leaves_nothing_half_written_and_no_cell_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(examples: Examples, path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Examples, "save", full)
    with pytest.warns(UserWarning, match="No space left on device"):
        cells = run_jobs([Job(LETTERS, 1)], TASKS, CellStore(tmp_path))
    assert all(cell.examples for cell in cells)
    assert list(tmp_path.iterdir()) == []


def test_what_is_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="workers must be a whole number of at least 1, got 0"):
        run_jobs([], [], CellStore("unused"), workers=0)
    with pytest.raises(ValueError, match="engine must be one of 'processes', 'ray'"):
        run_jobs([], [], CellStore("unused"), engine="threads")  # type: ignore[arg-type]


def test_the_speed_is_the_median_of_the_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 2.0, 2.0, 3.0, 3.0, 19.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    assert sentences_per_second(Letters()) == 128.0, "256 texts in 2, 1 and 16 seconds"


SCRIPT = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_runner import Letters
from sbertlab.benchmark.presets import run
from sbertlab.benchmark.encoders import Candidate

class Slow(Letters):
    def encode(self, texts):
        time.sleep(0.05)
        Path({log!r}).open("a").write(f"{{len(texts)}}\\n")
        return super().encode(texts)

def slow(seed):
    return Slow()

encoders = [Candidate(f"letters {{number}}", slow) for number in range(3)]
print("ready", flush=True)
tasks = ["helpdesk-duplicates", "helpdesk-retrieval"]
run(encoders, tasks, seeds=1, output={output!r}, cache={cache!r})
"""


@pytest.mark.slow
def test_a_killed_run_resumes_without_its_finished_cells_and_writes_the_tables_of_an_unbroken_one(
    tmp_path: Path,
) -> None:
    def script_in(folder: Path) -> Path:
        places = {"log": folder / "log", "output": folder / "figures", "cache": folder / "cache"}
        folder.mkdir()
        script = folder / "script.py"
        script.write_text(
            SCRIPT.format(tests=str(Path(__file__).parent), **{name: str(path) for name, path in places.items()})
        )
        return script

    cells = tmp_path / "killed" / "cache" / "cells"
    script = script_in(tmp_path / "killed")
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len([path for path in cells.glob("*") if len(path.name) == 64] if cells.exists() else []) < 2:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = {path.name: path.stat().st_mtime_ns for path in cells.iterdir() if len(path.name) == 64}
    assert len(finished) < 9
    subprocess.run([sys.executable, script], check=True, capture_output=True)
    now = {path.name: path.stat().st_mtime_ns for path in cells.iterdir() if len(path.name) == 64}
    assert len(now) == 9
    assert {name: now[name] for name in finished} == finished, "what was finished was not written again"
    subprocess.run([sys.executable, script_in(tmp_path / "whole")], check=True, capture_output=True)
    resumed, unbroken = (tmp_path / name / "figures" for name in ("killed", "whole"))
    assert (resumed / "comparisons.csv").read_bytes() == (unbroken / "comparisons.csv").read_bytes()
    one, other = (pd.read_csv(folder / "benchmark.csv", dtype=str) for folder in (resumed, unbroken))
    assert (one["preset"] == "offline").sum() == 6
    pd.testing.assert_frame_equal(one.drop(columns="seconds"), other.drop(columns="seconds"))
