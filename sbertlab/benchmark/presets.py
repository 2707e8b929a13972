"""The benchmark: models, untuned and fine-tuned by one recipe, measured on tasks, with intervals.

| preset | models | tasks | recipe |
| --- | --- | --- | --- |
| offline | MiniLM, parts of it, TF-IDF | the packaged corpus | triplets of the corpus |
| local | these and mpnet | public sets in a folder (SBERTLAB_DATA) | training_nli_v2, on the sets of the folder |
| published | the thirteen of the Training Overview | its fourteen, through mteb | training_nli_v2 |

`run` selects models and tasks, computes the cells (`runner`), compares the models (`comparisons`) and writes the tables
(`results`).
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from sbertlab.analysis.ranks import VARIANTS
from sbertlab.benchmark.cells import FACTS, Cell, CellStore
from sbertlab.benchmark.comparisons import Scores
from sbertlab.benchmark.encoders import (
    LOCAL_ENCODERS,
    OFFLINE_ENCODERS,
    PUBLISHED_ENCODERS,
    Candidate,
    select_encoders,
)
from sbertlab.benchmark.local_tasks import DATA_VARIABLE, LOCAL_SETS, data_folder, local_task, sets_in
from sbertlab.benchmark.published import PUBLISHED, published_task
from sbertlab.benchmark.recipes import NLI_LOCAL, OFFLINE, TRAINING_NLI_V2, Recipe
from sbertlab.benchmark.results import COLUMNS, check_output, check_table, read, rows_of, save
from sbertlab.benchmark.runner import Engine, Job, attempt, jobs_of, run_jobs
from sbertlab.benchmark.tasks import Task, helpdesk_tasks
from sbertlab.checks import check_choice, checked_number, closest
from sbertlab.encoder.stored_embeddings import EmbeddingStore
from sbertlab.storage.files import sha256_of
from sbertlab.storage.find import cache_home

OUTPUT = "figures"
"""The folder of the results of whole presets."""

SEEDS = 3
"""Fine-tuned models of each candidate."""

TOLERANCES = dict(zip(VARIANTS, (0.05, 1.0), strict=True))
"""Points by which a recomputed cell may differ: an untuned model only by rounding; a fine-tuning on another processor
rounds differently at every step."""


@dataclass(frozen=True)
class Preset:
    """What is compared by default: models and tasks by name, and the recipe of the fine-tuned variant."""

    models: Sequence[str]
    tasks: Sequence[str]
    recipe: Recipe


PRESETS = {
    "offline": Preset(OFFLINE_ENCODERS, [task.name for task in helpdesk_tasks()], OFFLINE),
    "local": Preset(LOCAL_ENCODERS, list(LOCAL_SETS), NLI_LOCAL),
    "published": Preset(PUBLISHED_ENCODERS, list(PUBLISHED), TRAINING_NLI_V2),
}


def select_tasks(names: Iterable[str | Task], data: str | os.PathLike[str] | None = None) -> list[Task]:
    """Return the tasks with these names: of the packaged corpus, published, or of data sets in the folder.

    The folder is `data`, or the one that SBERTLAB_DATA names; published tasks take their texts from it if it has them.
    Only headers and splits are read.

    Raises:
        ValueError: an unknown name, a name twice, or a data set whose columns fit no task.
        FileNotFoundError: the folder or a file is missing.
    """
    tasks, problems = find_tasks(names, data, check=False)
    for problem in problems.values():
        raise problem
    return tasks


def find_tasks(
    names: Iterable[str | Task], data: str | os.PathLike[str] | None = None, *, check: bool = True
) -> tuple[list[Task], dict[str, Exception]]:
    """Return the tasks whose data are available, and by name the problems of the others; nothing is downloaded.

    >>> found, problems = find_tasks(["helpdesk-sts", "helpdesk-cluster"], data="")
    >>> [task.name for task in found], list(problems)
    (['helpdesk-sts'], ['helpdesk-cluster'])
    """
    given, folder = list(names), data_folder(data)
    called = [task.name if isinstance(task, Task) else task for task in given]
    if not called or len(set(called)) < len(called) or not all(isinstance(name, str) for name in called):
        raise ValueError(f"tasks must be names of tasks, each once, got {called}")

    def find(name: str | Task) -> Task | Exception:
        task = attempt(partial(_task, name, folder))
        problem = attempt(task.check or task.load) if check and isinstance(task, Task) else None
        return problem if isinstance(problem, Exception) else task

    with ThreadPoolExecutor(max_workers=16) as threads:  # a silent Hub costs one wait, not one per task
        found = dict(zip(called, threads.map(find, given), strict=True))
    tasks = [task for task in found.values() if isinstance(task, Task)]
    return tasks, {name: problem for name, problem in found.items() if isinstance(problem, Exception)}


def _task(name: str | Task, folder: Path | None) -> Task:
    if isinstance(name, Task):
        return name
    own = {task.name: task for task in helpdesk_tasks()}
    if name in own:
        return own[name]
    if name in PUBLISHED:
        return published_task(name, folder)
    if folder is not None and name in sets_in(folder):
        return local_task(name, folder)
    local = ", ".join(sets_in(folder)) or "none"
    where = f"of the folder {folder} ({local})" if folder else f"of a folder, if {DATA_VARIABLE} names one"
    raise ValueError(
        f"task {name!r} is unknown.{closest(name, [*own, *PUBLISHED, *sets_in(folder)])} Tasks are those of the corpus "
        f"({', '.join(own)}), the published ones ({', '.join(PUBLISHED)}) and the data sets {where}"
    )


def default_tasks(preset: str) -> list[str]:
    """Return the names of a preset's tasks; of "local" those whose data sets are in the folder."""
    if preset != "local":
        return list(PRESETS[preset].tasks)
    folder = data_folder()
    found = [name for name in LOCAL_SETS if name in sets_in(folder)]
    if not found:
        raise FileNotFoundError(
            f"the preset 'local' measures data sets of the folder that {DATA_VARIABLE} names, such as "
            f"{', '.join(LOCAL_SETS)}; found none in {folder}. Add some, or name your own with --tasks"
        )
    return found


def run(
    models: Iterable[str | Candidate] | None = None,
    tasks: Iterable[str | Task] | None = None,
    seeds: int = SEEDS,
    output: str | os.PathLike[str] | None = None,
    recipe: Recipe | None = None,
    preset: str = "offline",
    *,
    cache: str | os.PathLike[str] | None = None,
    fresh: bool = False,
    skip_missing: bool = False,
    workers: int = 1,
    engine: Engine = "processes",
) -> pd.DataFrame:
    """Measure each model, untuned and fine-tuned with each seed, on each task; write the tables and return the cells.

    Finished cells are cached: a killed run resumes, a long fine-tuning from its last checkpoint. A failed cell is
    recorded with its error, and the next run tries it again.

    Args:
        models: names of known candidates or of models that `SentenceTransformer` can load, or candidates.
        tasks: names for `select_tasks`, or tasks.
        seeds: fine-tuned models of each candidate, with the seeds 0, 1, ...
        output: folder of the tables, in which the rows of this preset are overwritten. None is `OUTPUT`, which takes
            only whole presets: all models and tasks, at least `SEEDS` seeds and the preset's recipe.
        recipe: of the fine-tuned variant.
        preset: "offline", "local" or "published"; gives the models, tasks and recipe that are None.
        cache: folder of finished cells and embeddings; None is sbertlab's cache.
        fresh: compute every cell again.
        skip_missing: if models, data sets or the recipe's data are missing, warn and measure the rest.
        workers: processes at a time.
        engine: "processes", or "ray" for a cluster.

    Raises:
        ValueError: an unknown preset, a name twice, a part of a preset without `output`, or tables in the output that
            were changed by hand.
        FileNotFoundError: something is missing; the message lists everything, with remedies.
        OSError: the output cannot be written.
    """
    check_choice("preset", preset, PRESETS)
    checked_number("seeds", seeds, 1, whole=True)
    folder = Path(OUTPUT if output is None else output)
    check_output(folder)
    whole, recipe = PRESETS[preset], recipe or PRESETS[preset].recipe
    candidates, chosen, problems = _resources(
        whole.models if models is None else models, default_tasks(preset) if tasks is None else tasks, recipe
    )
    if problems:
        listed = "".join(f"\n- {problem}" for problem in problems)
        if not (candidates and chosen):
            raise FileNotFoundError(f"nothing can be measured:{listed}")
        if not skip_missing:
            hint = "skip_missing=True (--skip-missing) measures the rest"
            raise FileNotFoundError(f"not everything can be measured:{listed}\n{hint}")
        warnings.warn(f"not measured:{listed}", stacklevel=2)
    if output is None:
        left_out = {*whole.models, *whole.tasks} - {*(one.name for one in candidates), *(task.name for task in chosen)}
        if left_out or problems or seeds < SEEDS or recipe != whole.recipe:
            what = f"without {', '.join(sorted(left_out))}" if left_out else "with fewer seeds or another recipe"
            raise ValueError(f"{OUTPUT} holds whole presets, and this run is a part, {what}; pass --output DIR")
    jobs = jobs_of(candidates, seeds, recipe)
    home = Path(cache) if cache is not None else cache_home()
    store, training = EmbeddingStore(home / "embeddings"), home / "training"
    options: dict[str, Any] = {"fresh": fresh, "workers": workers, "engine": engine, "training": training}
    cells = run_jobs(jobs, chosen, CellStore(home / "cells"), store, **options)
    scores = Scores([cell for cell in cells if cell.row["task"] != FACTS])
    table = scores.table().assign(preset=preset)[COLUMNS].round({"value": 4, "low": 2, "high": 2})
    save(folder, table, scores.comparisons(), preset, _manifest(jobs, chosen, recipe, cells))
    return table


def _resources(
    models: Iterable[str | Candidate], tasks: Iterable[str | Task], recipe: Recipe
) -> tuple[list[Candidate], list[Task], list[str]]:
    """Return the available models and tasks, and the problems in words; without training data no model is trained."""
    asked = select_encoders(models, fetch=False)
    chosen, missing = find_tasks(tasks)  # before a model is downloaded
    found = {candidate.name: attempt(partial(select_encoders, candidate)) for candidate in asked}
    candidates = [candidate for candidate in asked if not isinstance(found[candidate.name], Exception)]
    problems = [f"model {name}: {error}" for name, error in found.items() if isinstance(error, Exception)]
    problems += [str(error) if name in str(error) else f"task {name}: {error}" for name, error in missing.items()]
    unusable = attempt(recipe.check) if any(candidate.trainable for candidate in candidates) else None
    if isinstance(unusable, Exception):
        problems.append(f"recipe {recipe.name}: {unusable}")
        candidates = [replace(candidate, trainable=False) for candidate in candidates]
    return candidates, chosen, problems


def _manifest(jobs: Sequence[Job], tasks: Sequence[Task], recipe: Recipe, cells: Sequence[Cell]) -> dict[str, Any]:
    """Return how a preset was measured: command, recipe, tasks, SHA-256 of data and weights, machines, facts."""
    candidates = list({job.candidate.name: job.candidate for job in jobs}.values())
    rates = {one.name: one.learning_rates.get(recipe.name) for one in candidates}
    by_command = sys.orig_argv[1:3] == ["-m", "sbertlab"]
    known = ("revision", "parameters", "megabytes", "dimensions", "max_seq_length", "sentences_per_second")
    machines: dict[str, dict[str, Any]] = {}  # cells may come from several, through the cache
    for cell in cells:
        if not cell.failed and cell.row["task"] != FACTS:
            machine = machines.setdefault(
                json.dumps(cell.environment, sort_keys=True), cell.environment | {"cells": {}}
            )
            machine["cells"][cell.row["task"]] = machine["cells"].get(cell.row["task"], 0) + 1
    return {
        "commands": [" ".join(["python", *sys.orig_argv[1:]]) if by_command else "sbertlab.benchmark.presets.run(...)"],
        "recipe": recipe.describe(),
        "differences": recipe.differences,
        "learning_rates": {name: rate for name, rate in rates.items() if rate is not None},
        "tasks": {task.name: task.note for task in tasks},
        "sha256": {
            **{candidate.name: candidate.revision() for candidate in candidates},
            **({"training data": recipe.data_sha256()} if any(job.recipe for job in jobs) else {}),
            **{f"{file.parent.name}/{file.name}": sha256_of(file) for task in tasks for file in task.files},
        },
        "measured": list(machines.values()),
        "models": {
            cell.row["model"]: {name: cell.row[name] for name in known}
            for cell in cells
            if cell.row["task"] == FACTS and not cell.failed
        },
    }


def check(
    models: Iterable[str] | None = None,
    tasks: Iterable[str] | None = None,
    seeds: int = 1,
    output: str | os.PathLike[str] = OUTPUT,
    preset: str = "offline",
    variants: Iterable[str] = VARIANTS[:1],
) -> pd.DataFrame:
    """Compute cells of the table in the folder again, without the cache, and compare.

    The cells are those of the models, tasks (None: all in the table) and variants with a seed below `seeds`.

    Returns:
        Columns model, variant, seed, task, value (of the table), again, difference, tolerance (`TOLERANCES`), same.

    Raises:
        ValueError: no such cell, or a table that was changed by hand.
        FileNotFoundError: the table, a model or a data set is missing.
    """
    check_choice("preset", preset, PRESETS)
    checked_number("seeds", seeds, 1, whole=True)
    check_table(Path(output))
    rows = rows_of(read(output)[0], preset)
    rows = rows[(rows["tag"] != "failed") & (rows["seed"] < seeds) & rows["variant"].isin(list(variants))]
    for column, chosen in (("model", models), ("task", tasks)):
        rows = rows if chosen is None else rows[rows[column].isin(list(chosen))]
    if rows.empty:
        raise ValueError(f"{Path(output) / 'benchmark.csv'} has no such cell of the preset {preset!r} to check")
    candidates = select_encoders(rows["model"].drop_duplicates().tolist())
    measured = select_tasks(rows["task"].drop_duplicates().tolist())
    places = set(rows[["model", "variant", "seed"]].itertuples(index=False, name=None))
    jobs = jobs_of(candidates, seeds, PRESETS[preset].recipe)
    jobs = [job for job in jobs if (job.candidate.name, job.variant, job.seed) in places]
    with tempfile.TemporaryDirectory() as empty:
        cells = run_jobs(jobs, measured, CellStore(empty))
    again = pd.DataFrame([cell.row for cell in cells if cell.row["task"] != FACTS])
    key = ["model", "variant", "seed", "task"]
    found = rows[[*key, "value"]].merge(again[[*key, "value"]].rename(columns={"value": "again"}), on=key)
    found["difference"] = (found["again"] - found["value"]).round(4)
    found["tolerance"] = found["variant"].map(TOLERANCES)
    return found.assign(same=found["difference"].abs() <= found["tolerance"])
