"""The runner: one cell per model and task, finished ones never computed again, failed ones recorded."""

import os
import signal
import subprocess
import sys
import time
import timeit
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sbertlab.analysis.resampling import Examples
from sbertlab.benchmark import runner
from sbertlab.benchmark.cells import FACTS, Cell, CellStore
from sbertlab.benchmark.encoders import ENCODERS, Candidate, named
from sbertlab.benchmark.recipes import Recipe
from sbertlab.benchmark.runner import Job, environment, jobs_of, key_of, run_jobs, sentences_per_second
from sbertlab.benchmark.tasks import Task, helpdesk_tasks
from sbertlab.encoder import fingerprint

SHORT = Recipe(rows=60)
TASKS = [task for task in helpdesk_tasks() if task.family in ("duplicates", "clustering")]
CELL = Cell({"task": "t", "value": 1.0}, Examples("mean", np.ones((1, 3))))


class Letters:
    """An encoder of 26 numbers, which counts what it is asked."""

    asked: list[str] = []  # noqa: RUF012 (shared on purpose)

    def encode(self, texts):
        self.asked.extend(texts)
        return np.array([[1 + text.lower().count(chr(97 + place)) for place in range(26)] for text in texts], float)


class Failing:
    def encode(self, texts):
        raise RuntimeError("out of | memory")


def make_letters(seed, scale=1.0):
    return Letters()


def make_others(seed):
    return Letters()


LETTERS = Candidate("letters", make_letters)


@pytest.fixture
def store(tmp_path):
    return CellStore(tmp_path / "cells")


def values(cells):
    return [tuple(cell.row[name] for name in ("model", "variant", "seed", "task", "value")) for cell in cells]


def test_each_job_gives_one_cell_per_task_in_order_and_a_second_run_computes_nothing(store):
    jobs = jobs_of([LETTERS, Candidate("random letters", make_letters, random=True)], 2, SHORT)
    cells = run_jobs(jobs, TASKS, store)
    names = [task.name for task in TASKS]
    places = [(cell.row["model"], cell.row["seed"], cell.row["task"]) for cell in cells]
    expected = [("letters", 0, name) for name in [FACTS, *names]]
    expected += [("random letters", 0, name) for name in [FACTS, *names]]
    assert places == expected + [("random letters", 1, name) for name in names]
    assert cells[0].row["sentences_per_second"] > 0
    assert cells[1].row["tag"] == "proxy"
    assert [cell.row["n"] for cell in cells if cell.row["task"] != FACTS] == [2000, 576] * 3
    Letters.asked.clear()
    again = run_jobs(jobs, TASKS, store)
    assert Letters.asked == []
    for one, other in zip(cells, again, strict=True):
        assert str(one.row) == str(other.row)
        if one.examples is not None and other.examples is not None:
            np.testing.assert_array_equal(one.examples.predictions, other.examples.predictions)


def test_a_failed_cell_has_its_error_is_not_cached_and_is_tried_again(store):
    broken = Task("broken", "STS", "no_such_metric", "", TASKS[0].load)
    models = [Candidate("no model", lambda seed: 1 / 0), Candidate("no encoding", lambda seed: Failing()), LETTERS]
    cells = run_jobs(jobs_of(models, 1, SHORT), [broken, TASKS[0]], store)
    errors = [cell.row["error"] for cell in cells]
    assert errors[:6] == ["ZeroDivisionError: division by zero"] * 3 + ["RuntimeError: out of | memory"] * 3
    assert "no_such_metric" in errors[7]
    assert [cell.row["tag"] == "failed" for cell in cells] == [True] * 6 + [False, True, False]
    assert len(list(store.folder.iterdir())) == 2, "the facts and one task of the only model that works"


def test_a_key_depends_on_everything_that_the_number_depends_on(tmp_path, monkeypatch):
    minilm, task, file = ENCODERS["all-MiniLM-L6-v2"], TASKS[0], tmp_path / "texts"
    makers = [make_letters, make_others, *(partial(make_letters, scale=scale) for scale in (2.0, 3.0))]
    jobs = [Job(minilm, 0, SHORT), Job(minilm, 1, SHORT), Job(minilm, 0), Job(minilm, 0, Recipe(rows=90))]
    jobs += [Job(ENCODERS["MiniLM-tokens"], 0, SHORT), *(Job(Candidate("one name", make), 0) for make in makers)]
    keys = [key_of(job, task) for job in jobs] + [key_of(jobs[0], other) for other in (TASKS[1], None)]
    for text in ("one", "other"):
        file.write_text(text)
        keys.append(key_of(jobs[0], Task("t", "STS", "m", "", task.load, (file,))))
    keys += [key_of(jobs[0], Task("one name", "STS", "m", "", other.load)) for other in TASKS]
    pin = ("task", "repository", "commit")
    keys += [key_of(jobs[0], Task("one name", "STS", "m", "", task.load, pins=pins)) for pins in ((pin,), (pin, pin))]
    assert len(set(keys)) == len(keys)
    assert key_of(Job(minilm, 0, Recipe(rows=60)), task) == keys[0]
    assert key_of(Job(Candidate("one name", partial(make_letters, scale=2.0)), 0), task) in keys
    with monkeypatch.context() as patch:
        patch.setattr(runner, "versions", lambda: {"torch": "another"})
        assert key_of(jobs[0], task) not in keys
    for module in (runner, fingerprint):
        monkeypatch.setattr(module, "source_digest", lambda *parts: "changed")
    assert key_of(jobs[0], task) not in keys


def test_a_key_depends_on_every_file_of_a_model_folder(tiny, tmp_path):
    tiny().save(tmp_path)
    job = Job(named(str(tmp_path)), 0)
    weights, first = job.candidate.revision(), key_of(job, TASKS[0])
    seen = {first}
    for name in ("modules.json", "config.json", "tokenizer.json", "1_Pooling/config.json"):
        before = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(before + b" ")
        seen.add(key_of(job, TASKS[0]))
        (tmp_path / name).write_bytes(before)
    assert len(seen) == 5
    assert key_of(job, TASKS[0]) == first
    assert job.candidate.revision() == weights, "the revision in the table is that of the weights alone"


@pytest.mark.parametrize(("name", "value"), [("processor", "another"), ("device", "cuda"), ("threads", 64)])
def test_a_speed_from_another_machine_is_measured_again_and_a_score_is_not(name, value, store, monkeypatch):
    first = run_jobs([Job(LETTERS, 0)], TASKS[:1], store)
    elsewhere = environment() | {name: value}
    monkeypatch.setattr(runner, "environment", lambda: elsewhere)
    facts, score = run_jobs([Job(LETTERS, 0)], TASKS[:1], store)
    assert first[0].environment[name] != value
    assert facts.environment[name] == value
    assert score.environment == first[1].environment


@pytest.mark.parametrize("unknown", ["candidate", "task"])
def test_what_cannot_be_fingerprinted_is_computed_in_every_run(unknown, store):
    candidate, task = LETTERS, TASKS[0]
    if unknown == "task":
        task = Task("unknown", task.family, task.metric, "", lambda: TASKS[0].load())
    else:
        candidate = Candidate("closure", lambda seed: store and Letters())
    for _ in range(2):
        Letters.asked.clear()
        (cell,) = run_jobs([Job(candidate, 1)], [task], store)
        assert not cell.failed
        assert Letters.asked
    assert not store.folder.exists()


class Stopped(Recipe):
    """Is killed the first time, and says what it was given."""

    given: list[tuple[Path, bool]] = []  # noqa: RUF012 (shared on purpose)

    def fine_tune(self, model, candidate, seed, folder):
        left = (folder / "left").exists()
        self.given.append((folder, left))
        if not left:
            (folder / "left").touch()
            raise SystemExit


def test_a_killed_fine_tuning_finds_its_folder_again_until_it_is_finished(store):
    jobs = [Job(LETTERS, seed, Stopped()) for seed in range(2)]
    Stopped.given.clear()
    for _ in jobs:
        with pytest.raises(SystemExit):
            run_jobs(jobs, TASKS[:1], store)
    cells = run_jobs(jobs, TASKS[:1], store)
    assert [cell.failed for cell in cells] == [False, False]
    assert [left for _, left in Stopped.given] == [False, True, False, True]
    assert len({folder for folder, _ in Stopped.given}) == 2, "one per job"
    assert list(store.folder.with_name("training").iterdir()) == []


@pytest.mark.parametrize("damage", ["cell.json", "examples.npz", "missing"])
def test_a_damaged_cell_is_computed_again(store, damage):
    store.put("k", CELL)
    found = store.get("k")
    assert found is not None
    assert len(found.examples or ()) == 3
    if damage == "missing":
        (store.folder / "k" / "examples.npz").unlink()
    else:
        path = store.folder / "k" / damage
        changed = bytearray(path.read_bytes())
        changed[-150 if damage == "examples.npz" else 0] ^= 1
        path.write_bytes(changed)
    assert store.get("k") is None
    store.put("k", found)
    assert store.get("k") is not None


def die(seed):
    os._exit(3)


@pytest.mark.slow
def test_two_processes_give_the_cells_of_one_and_one_that_dies_leaves_failed_cells(tmp_path):
    encoders = [ENCODERS["TF-IDF+SVD"], LETTERS]
    alone = run_jobs(jobs_of(encoders, 1, SHORT), TASKS, CellStore(tmp_path / "one" / "cells"))
    store = CellStore(tmp_path / "two" / "cells")
    together = run_jobs(jobs_of(encoders, 1, SHORT), TASKS, store, workers=2)
    assert not any(cell.failed for cell in together), [cell.row["error"] for cell in together]
    assert str(values(together)) == str(values(alone))
    cells = run_jobs(jobs_of([Candidate("dies", die)], 1, SHORT), TASKS, store, workers=2)
    assert [cell.failed for cell in cells] == [True] * 3
    assert "TerminatedWorkerError" in cells[0].row["error"]


@pytest.mark.slow
def test_jobs_run_as_tasks_of_ray(tmp_path):
    ray = pytest.importorskip("ray", reason='ray is not installed: pip install "sbertlab[ray]"')
    jobs = jobs_of([ENCODERS["TF-IDF+SVD"]], 1, SHORT)
    alone = run_jobs(jobs, TASKS, CellStore(tmp_path / "one" / "cells"))
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        spread = run_jobs(jobs, TASKS, CellStore(tmp_path / "ray" / "cells"), engine="ray")
    finally:
        ray.shutdown()
    assert [cell.row["error"] for cell in spread] == [""] * 3
    assert str(values(spread)) == str(values(alone))
    assert len(list((tmp_path / "ray" / "cells").iterdir())) == 3


def test_two_runs_can_finish_the_same_cell(store, monkeypatch):
    save = Examples.save

    def save_late(examples, path):
        save(examples, path)
        monkeypatch.setattr(Examples, "save", save)
        CellStore(store.folder).put("k", CELL)  # between the beginning and the end of the first

    monkeypatch.setattr(Examples, "save", save_late)
    monkeypatch.setattr(Path, "exists", lambda path: False)  # what the first found when it looked
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store.put("k", CELL)
    assert store.get("k") is not None
    assert [path.name for path in store.folder.iterdir()] == ["k"], "nothing half-written is left"


@pytest.mark.parametrize("fault", ["unwritable", "full"])
def test_a_cache_that_cannot_be_written_warns_and_no_cell_is_lost(fault, store, monkeypatch):
    def full(examples, path):
        raise OSError(28, "No space left on device")

    if fault == "full":
        monkeypatch.setattr(Examples, "save", full)
    else:
        store.folder.write_text("a file")
    with pytest.warns(UserWarning, match="finished cells cannot be cached in"):
        cells = run_jobs([Job(LETTERS, 1)], TASKS, store)
    assert all(cell.examples for cell in cells)
    assert fault == "unwritable" or list(store.folder.iterdir()) == [], "nothing half-written is left"


SCRIPT = """
import sys, time
sys.path.insert(0, {tests!r})
from test_runner import Letters
from sbertlab.benchmark.presets import run
from sbertlab.benchmark.encoders import Candidate

class Slow(Letters):
    def encode(self, texts):
        time.sleep(0.05)
        return super().encode(texts)

def slow(seed):
    return Slow()

encoders = [Candidate(f"letters {{number}}", slow) for number in range(3)]
run(encoders, ["helpdesk-duplicates", "helpdesk-retrieval"], seeds=1, output={output!r})
"""


def test_what_is_out_of_range_is_refused(store):
    with pytest.raises(ValueError, match="workers must be a whole number of at least 1, got 0"):
        run_jobs([], [], store, workers=0)
    with pytest.raises(ValueError, match="engine must be one of 'processes', 'ray'"):
        run_jobs([], [], store, engine="threads")


def test_the_speed_is_the_median_of_the_rounds(monkeypatch):
    clock = iter([0.0, 2.0, 2.0, 3.0, 3.0, 19.0])
    repeat = partial(timeit.repeat, timer=lambda: next(clock))
    monkeypatch.setattr(timeit, "repeat", repeat)
    assert sentences_per_second(Letters()) == 128.0, "256 texts in 2, 1 and 16 seconds"


@pytest.mark.slow
def test_a_killed_run_resumes_without_its_finished_cells_and_writes_the_tables_of_an_unbroken_one(tmp_path):
    def started(folder):
        folder.mkdir(exist_ok=True)
        script = folder / "script.py"
        script.write_text(SCRIPT.format(tests=str(Path(__file__).parent), output=str(folder / "figures")))
        environment = os.environ | {"SBERTLAB_CACHE": str(folder)}
        return subprocess.Popen([sys.executable, script], env=environment, stderr=subprocess.DEVNULL)

    killed, whole = tmp_path / "killed", tmp_path / "whole"

    def finished():
        return {path.name: path.stat().st_mtime_ns for path in killed.glob("cells/*") if len(path.name) == 64}

    process, deadline = started(killed), time.monotonic() + 120
    while len(finished()) < 2:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = finished()
    assert len(before) < 9
    assert [started(folder).wait() for folder in (killed, whole)] == [0, 0]
    now = finished()
    assert len(now) == 9
    assert {name: now[name] for name in before} == before, "what was finished was not written again"
    resumed, unbroken = killed / "figures", whole / "figures"
    assert (resumed / "comparisons.csv").read_bytes() == (unbroken / "comparisons.csv").read_bytes()
    one, other = (pd.read_csv(folder / "benchmark.csv", dtype=str) for folder in (resumed, unbroken))
    assert (one["preset"] == "offline").sum() == 6
    pd.testing.assert_frame_equal(one.drop(columns="seconds"), other.drop(columns="seconds"))
