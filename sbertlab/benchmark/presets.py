"""The benchmark: models, untuned and fine-tuned by one recipe, measured on tasks, with intervals.

| preset | models | tasks | recipe |
| --- | --- | --- | --- |
| offline | MiniLM, parts of it, TF-IDF | the packaged corpus | triplets of the corpus |
| local | these and mpnet | public sets in a folder (SBERTLAB_DATA) | training_nli_v2, on the sets of the folder |
| published | the thirteen of the Training Overview | its fourteen, through mteb | training_nli_v2 |
"""

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from sbertlab.analysis.ranks import VARIANTS
from sbertlab.benchmark.cells import FACTS, Cell, CellStore
from sbertlab.benchmark.comparisons import Scores
from sbertlab.benchmark.encoders import LOCAL_ENCODERS, OFFLINE_ENCODERS, Candidate, select_encoders
from sbertlab.benchmark.local_tasks import DATA_VARIABLE, LOCAL_SETS, data_folder, local_task, sets_in
from sbertlab.benchmark.published import BASE_MODELS, DATA, PUBLISHED, published_task
from sbertlab.benchmark.recipes import NLI_LOCAL, OFFLINE, TRAINING_NLI_V2, Recipe
from sbertlab.benchmark.results import COLUMNS, earlier, read, rows_of, save
from sbertlab.benchmark.runner import Engine, attempt, jobs_of, run_jobs
from sbertlab.benchmark.tasks import Task, helpdesk_tasks
from sbertlab.checks import check_choice, checked_number
from sbertlab.storage.files import sha256_of
from sbertlab.storage.find import cache_home, find_model

OUTPUT = "figures"
"""The folder of the results of whole presets."""

SEEDS = 3
"""Fine-tuned models of each candidate."""

TOLERANCES = dict(zip(VARIANTS, (0.05, 1.0), strict=True))
"""Points by which a recomputed cell may differ: an untuned model only by rounding; a fine-tuning on another processor
rounds differently at every step."""


PRESETS: dict[str, tuple[Sequence[str], Sequence[str], Recipe]] = {
    "offline": (OFFLINE_ENCODERS, [task.name for task in helpdesk_tasks()], OFFLINE),
    "local": (LOCAL_ENCODERS, list(LOCAL_SETS), NLI_LOCAL),
    "published": (BASE_MODELS, list(PUBLISHED), TRAINING_NLI_V2),
}
"""Models, tasks and the recipe of the fine-tuned variant, by the name of the preset."""


def select_tasks(names: Iterable[str | Task], data: str | os.PathLike[str] | None = None) -> list[Task]:
    """Return the tasks with these names: of the packaged corpus, published, or of data sets in the folder.

    The folder is `data`, or the one that SBERTLAB_DATA names; published tasks take their texts from it if it has them.
    Only headers are read. A ValueError says that a name is unknown or given twice, or that columns fit no task.
    """
    given, folder = list(names), data_folder(data)
    known: dict[str, Callable[[], Task]] = {}
    if folder is not None:
        known |= {name: partial(local_task, name, folder) for name in sets_in(folder)}
    known |= {name: partial(published_task, name, folder) for name in PUBLISHED}
    known |= {task.name: partial(replace, task) for task in [*helpdesk_tasks(), *given] if isinstance(task, Task)}
    called = [task.name if isinstance(task, Task) else task for task in given]
    if not called or len(set(called)) < len(called):
        raise ValueError(f"tasks must be names, each once, got {called}; {DATA_VARIABLE} names the folder {folder}")
    for name in called:
        check_choice("a task", name, known)
    return [known[name]() for name in called]


def run(
    models: Iterable[str | Candidate] | None = None,
    tasks: Iterable[str | Task] | None = None,
    seeds: int = SEEDS,
    output: str | os.PathLike[str] | None = None,
    recipe: Recipe | None = None,
    preset: str = "offline",
    *,
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
        workers, engine: as in `run_jobs`.
    """
    check_choice("preset", preset, PRESETS)
    checked_number("seeds", seeds, 1, whole=True)
    folder = Path(OUTPUT if output is None else output)
    all_models, all_tasks, own_recipe = PRESETS[preset]
    recipe = recipe or own_recipe
    candidates = select_encoders(all_models if models is None else models)
    present = all_tasks if preset != "local" else [name for name in all_tasks if name in sets_in(data_folder())]
    chosen = select_tasks(present if tasks is None else tasks)
    asked = {*(one.name for one in candidates), *(task.name for task in chosen)}
    complete = asked >= {*all_models, *all_tasks} and seeds >= SEEDS and recipe == own_recipe
    if output is None and not complete:
        raise ValueError(f"{OUTPUT} holds whole presets, and this run is a part of {preset!r}; pass --output DIR")
    earlier(folder)  # raises an error if its tables were changed
    check_available(candidates, chosen, recipe)
    folder.mkdir(parents=True, exist_ok=True)
    jobs = jobs_of(candidates, seeds, recipe)
    cells = run_jobs(jobs, chosen, CellStore(cache_home() / "cells"), workers, engine)
    scores = Scores([cell for cell in cells if cell.row["task"] != FACTS])
    table = scores.table().assign(preset=preset)[COLUMNS].round({"value": 4, "low": 2, "high": 2})
    save(folder, table, scores.comparisons(), preset, _manifest(candidates, chosen, recipe, cells))
    return table


def check_available(candidates: Sequence[Candidate], tasks: Sequence[Task], recipe: Recipe) -> None:
    """Download the models; a FileNotFoundError lists all that is missing: models, local texts, training data."""
    checks: dict[str, Callable[[], Any]] = {f"task {task.name}": task.load for task in tasks if not task.pins}
    checks |= {f"model {one.name}": partial(find_model, one.base) for one in candidates if one.base}
    if any(candidate.trainable for candidate in candidates):
        checks[f"recipe {recipe.name}"] = recipe.data
    found = {what: attempt(check) for what, check in checks.items()}
    problems = [f"\n- {what}: {error}" for what, error in found.items() if isinstance(error, Exception)]
    if problems:
        raise FileNotFoundError(f"not everything can be measured:{''.join(problems)}")


def _manifest(
    candidates: Sequence[Candidate], tasks: Sequence[Task], recipe: Recipe, cells: Sequence[Cell]
) -> dict[str, Any]:
    """Return how a preset was measured: recipe, tasks, SHA-256 of data and weights, machines, facts about models."""
    known = ("revision", "parameters", "sentences_per_second")
    finished = [cell for cell in cells if not cell.failed]
    machines = {json.dumps(cell.environment): cell.environment for cell in finished}  # several, through the cache
    files = {f"{file.parent.name}/{file.name}": sha256_of(file) for task in tasks for file in task.files}
    facts = [cell.row for cell in finished if cell.row["task"] == FACTS]
    return {
        "recipe": recipe.describe(),
        "differences": DATA["differences"].get(recipe.name, []),
        "learning_rates": {one.name: one.learning_rates.get(recipe.name, recipe.learning_rate) for one in candidates},
        "tasks": {task.name: task.note for task in tasks},
        "sha256": {candidate.name: candidate.revision() for candidate in candidates} | files,
        "measured": list(machines.values()),
        "models": {row["model"]: {name: row[name] for name in known} for row in facts},
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
    Columns: model, variant, seed, task, value (of the table), again, difference, tolerance (`TOLERANCES`), same.
    """
    check_choice("preset", preset, PRESETS)
    checked_number("seeds", seeds, 1, whole=True)
    rows = rows_of(read(output)[0], preset)
    rows = rows[(rows["tag"] != "failed") & (rows["seed"] < seeds) & rows["variant"].isin(list(variants))]
    for column, chosen in (("model", models), ("task", tasks)):
        rows = rows if chosen is None else rows[rows[column].isin(list(chosen))]
    if rows.empty:
        raise ValueError(f"the table in {output} has no such cell of the preset {preset!r}")
    key = ["model", "variant", "seed", "task"]
    jobs = jobs_of(select_encoders(rows["model"].unique()), seeds, PRESETS[preset][2])
    places = set(rows[key[:3]].itertuples(index=False, name=None))
    jobs = [job for job in jobs if (job.candidate.name, job.variant, job.seed) in places]
    with tempfile.TemporaryDirectory() as empty:
        cells = run_jobs(jobs, select_tasks(rows["task"].unique()), CellStore(Path(empty) / "cells"))
    again = pd.DataFrame([cell.row for cell in cells]).rename(columns={"value": "again"})
    found = rows[[*key, "value"]].merge(again[[*key, "again"]], on=key)
    found["difference"] = (found["again"] - found["value"]).round(4)
    found["tolerance"] = found["variant"].map(TOLERANCES)
    return found.assign(same=found["difference"].abs() <= found["tolerance"])
