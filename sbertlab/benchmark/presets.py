"""The benchmark: encoders, untuned and fine-tuned by one recipe, measured on tasks, with intervals.

| preset | encoders | tasks | recipe |
| --- | --- | --- | --- |
| offline | MiniLM, its cuts, TF-IDF | the packaged corpus | triplets of the corpus |
| local | these and mpnet | public sets in a folder (SBERTLAB_DATA) | training_nli_v2, on the sets of the folder |
| published | the thirteen of the Training Overview | its fourteen, through mteb | training_nli_v2 |

`runner` computes the cells, `comparisons` says which differences are real, `results` makes the page, and
`results_folder` keeps it all. A run replaces the rows of its preset, or of the tasks it names.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from sbertlab.benchmark.comparisons import Scores, comparisons
from sbertlab.benchmark.encoders import (
    LOCAL_ENCODERS,
    OFFLINE_ENCODERS,
    PUBLISHED_ENCODERS,
    TUNED,
    UNTUNED,
    Encoder,
    select_encoders,
)
from sbertlab.benchmark.local_tasks import DATA_VARIABLE, data_folder
from sbertlab.benchmark.published import PUBLISHED
from sbertlab.benchmark.recipes import NLI_LOCAL, OFFLINE, TRAINING_NLI_V2, Recipe
from sbertlab.benchmark.results import COLUMNS, report, rows_of
from sbertlab.benchmark.results_folder import (
    TOLERANCES,
    check_output,
    check_part,
    check_table,
    environments,
    read,
    save,
)
from sbertlab.benchmark.runner import FACTS, Cell, CellStore, Engine, Job, jobs_of, run_jobs
from sbertlab.benchmark.tasks import Task, find_tasks, helpdesk_tasks, known_sets, select_tasks
from sbertlab.encoder.embedding_store import EmbeddingStore
from sbertlab.storage.files import sha256_of
from sbertlab.storage.find import cache_home

OUTPUT = "figures"
"""The folder of the results where none is named."""


@dataclass(frozen=True)
class Preset:
    """What is compared when nothing else is said: encoders by their names, and the recipe that fine-tunes them."""

    encoders: Sequence[str]
    recipe: Recipe


CHOICES = {
    "offline": Preset(OFFLINE_ENCODERS, OFFLINE),
    "local": Preset(LOCAL_ENCODERS, NLI_LOCAL),
    "published": Preset(PUBLISHED_ENCODERS, TRAINING_NLI_V2),
}
"""The presets by name."""


def default_tasks(preset: str) -> list[str]:
    """Return the names of a preset's tasks.

    Raises:
        ValueError: an unknown preset, or "local" without a folder of sets.
        FileNotFoundError: the folder is missing or holds no known set.
    """
    check_preset(preset)
    if preset == "published":
        return list(PUBLISHED)
    if preset == "offline":
        return [task.name for task in helpdesk_tasks()]
    folder = data_folder()
    if folder is None:
        raise ValueError(
            f"the preset 'local' measures sets of a folder; let {DATA_VARIABLE} name one (see local_tasks)"
        )
    return known_sets(folder)


def check_preset(preset: str) -> None:
    """Refuse an unknown preset."""
    if preset not in CHOICES:
        raise ValueError(f"preset must be one of {', '.join(CHOICES)}, got {preset!r}")


def check_seeds(seeds: int) -> None:
    """Refuse what is no number of seeds."""
    if isinstance(seeds, bool) or not isinstance(seeds, int) or seeds < 1:
        raise ValueError(f"seeds must be a whole number of at least 1, got {seeds!r}")


# -- A run -------------------------------------------------------------------------------------------------------------


def run(
    models: Iterable[str | Encoder] | None = None,
    tasks: Iterable[str | Task] | None = None,
    seeds: int = 3,
    output: str | os.PathLike[str] = OUTPUT,
    recipe: Recipe | None = None,
    preset: str = "offline",
    *,
    cache: str | os.PathLike[str] | None = None,
    fresh: bool = False,
    skip_missing: bool = False,
    workers: int = 1,
    engine: Engine = "processes",
) -> pd.DataFrame:
    """Measure every encoder, untuned and fine-tuned with each seed, on every task.

    Finished cells lie in the cache: a run that was interrupted or killed goes on, a long fine-tuning from its last
    checkpoint; a second run computes nothing. A cell that fails is recorded with its error, the run goes on, and the
    next one tries it again.

    Args:
        models: names of known encoders, or of models as `SentenceTransformer` takes them, or encoders; None: the
            preset's.
        tasks: names for `select_tasks`, or tasks; None: the preset's.
        seeds: fine-tuned models of each encoder, with the seeds 0, 1, ...
        output: folder of benchmark.csv, comparisons.csv, environment.json and what is drawn from them; made when
            missing. The rows of this preset are replaced, those of others stay; where tasks are named, only the rows
            of these are, and the means are over all tasks that the folder then holds.
        recipe: of the fine-tuned variant; None: the preset's.
        preset: "offline", "local" or "published".
        cache: folder of finished cells and embeddings; sbertlab's cache when None.
        fresh: compute every cell again.
        skip_missing: measure what can be had when a model, a set or the recipe's data is missing; what is missing is
            named in a warning.
        workers: processes at a time.
        engine: "processes", or "ray" for a cluster.

    Returns:
        The rows of this run, with `results.COLUMNS`.

    Raises:
        TypeError: a model that is neither a name nor an encoder.
        ValueError: an unknown preset, a name twice, seeds below 1; named tasks, while the folder holds others of the
            preset that were measured of other models or seeds, or by another recipe.
        FileNotFoundError: models, tasks or the recipe's data cannot be had, or, with `skip_missing`, nothing can; every
            one of them is named, with what would help.
        OSError: the output cannot be written; like tables in it that were changed by hand (ValueError), this is found
            before anything is measured.
    """
    check_seeds(seeds)
    check_preset(preset)
    check_output(Path(output))
    recipe = recipe or CHOICES[preset].recipe
    encoders, chosen, problems = _resources(models, tasks, recipe, preset)
    if problems:
        listed = "".join(f"\n- {problem}" for problem in problems)
        if not (encoders and chosen):
            raise FileNotFoundError(f"nothing can be measured:{listed}")
        if not skip_missing:
            hint = "skip_missing=True (--skip-missing) measures what is there"
            raise FileNotFoundError(f"not everything can be measured:{listed}\n{hint}")
        warnings.warn(f"not measured:{listed}", stacklevel=2)
    jobs = jobs_of(encoders, seeds, recipe)
    if problems and _lacks_data(recipe):
        jobs = [job for job in jobs if job.recipe is None]
    about = described(jobs, chosen, recipe)
    if tasks is not None:
        check_part(Path(output), preset, about, {(job.encoder.name, job.variant, job.seed) for job in jobs})
    home = Path(cache) if cache is not None else cache_home()
    store = EmbeddingStore(home / "embeddings")
    options: dict[str, Any] = {"fresh": fresh, "workers": workers, "engine": engine, "training": home / "training"}
    cells = run_jobs(jobs, chosen, CellStore(home / "cells"), store, **options)
    scores = Scores([cell for cell in cells if cell.row["task"] != FACTS])
    table = scores.table.assign(preset=preset)[COLUMNS].round({"value": 4, "low": 2, "high": 2})
    models = {cell.row["model"]: _facts(cell) for cell in cells if cell.row["task"] == FACTS and not cell.failed}
    places = [cell.environment | {"cells": {cell.row["task"]: 1}} for cell in scores.cells if not cell.failed]
    about |= {"measured": environments(places), "models": models}
    save(Path(output), table, comparisons(scores), preset, about, part=tasks is not None)
    return table


def _resources(
    models: Iterable[str | Encoder] | None, tasks: Iterable[str | Task] | None, recipe: Recipe, preset: str
) -> tuple[list[Encoder], list[Task], list[str]]:
    """The encoders and tasks that can be had, and what is wrong with the others, in words."""
    asked = select_encoders(CHOICES[preset].encoders if models is None else models, fetch=False)
    chosen, missing = find_tasks(default_tasks(preset) if tasks is None else tasks)  # before a model is downloaded
    encoders: list[Encoder] = []
    problems: list[str] = []
    for encoder in asked:
        try:
            encoders += select_encoders([encoder])
        except (OSError, ImportError) as error:
            problems.append(_of("model", encoder.name, error))
    problems += [_of("task", name, error) for name, error in missing.items()]
    if any(encoder.trainable for encoder in encoders) and (lack := _lacks_data(recipe)):
        problems.append(lack)
    return encoders, chosen, problems


def _lacks_data(recipe: Recipe) -> str:
    """Why the recipe cannot be carried out, or nothing."""
    try:
        recipe.check()
    except (OSError, ValueError, ImportError) as error:
        return _of("recipe", recipe.name, error)
    return ""


def _of(kind: str, name: str, error: Exception) -> str:
    """An error in words, which name what it is of once."""
    return str(error) if name in str(error) else f"{kind} {name}: {error}"


def _facts(cell: Cell) -> dict[str, Any]:
    """What the table of models says of one."""
    known = ("revision", "parameters", "megabytes", "dimensions", "max_seq_length", "sentences_per_second")
    return {name: cell.row[name] for name in known}


def described(jobs: Sequence[Job], tasks: Sequence[Task], recipe: Recipe) -> dict[str, Any]:
    """Return what was asked for: command, recipe, tasks, and SHA-256 of data and weights."""
    encoders = list({job.encoder.name: job.encoder for job in jobs}.values())
    by_command = sys.orig_argv[1:3] == ["-m", "sbertlab"]
    return {
        "commands": [" ".join(["python", *sys.orig_argv[1:]]) if by_command else "sbertlab.benchmark.presets.run(...)"],
        "recipe": {name: value for name, value in recipe.describe().items() if name != "differences"},
        "differences": list(recipe.differences),
        "learning_rates": {
            one.name: one.learning_rates[recipe.name] for one in encoders if recipe.name in one.learning_rates
        },
        "tasks": {task.name: task.note for task in tasks},
        "sha256": {
            **{encoder.name: encoder.revision() for encoder in encoders},
            **({"training data": recipe.data_sha256()} if any(job.recipe for job in jobs) else {}),
            **{f"{file.parent.name}/{file.name}": sha256_of(file) for task in tasks for file in task.files},
        },
    }


# -- Check: the same numbers again -------------------------------------------------------------------------------------


def check(
    models: Iterable[str] | None = None,
    tasks: Iterable[str] | None = None,
    seeds: int = 1,
    output: str | os.PathLike[str] = OUTPUT,
    preset: str = "offline",
    variants: Iterable[str] = (UNTUNED,),
) -> pd.DataFrame:
    """Compute cells of the table in the folder again, from nothing, and compare.

    Args:
        models: whose cells; None: all in the table.
        tasks: which; None: all in the table.
        seeds: cells with a seed below this.
        output: folder of the table.
        preset: rows to check.
        variants: "untuned", "fine-tuned" or both.

    Returns:
        Columns model, variant, seed, task, value (of the table), again, difference, tolerance (`TOLERANCES`), same.

    Raises:
        ValueError: seeds below 1; the table has no such cell, or was changed since it was measured.
        FileNotFoundError: there is no table, or a model or a set is missing.
    """
    check_preset(preset)
    check_seeds(seeds)
    check_table(Path(output))
    table, *_ = read(output)
    rows = table[(table["preset"] == preset) & ~table["tag"].isin(["published", "failed"]) & (table["seed"] < seeds)]
    rows = rows[rows["variant"].isin(list(variants))]
    for column, chosen in (("model", models), ("task", tasks)):
        rows = rows if chosen is None else rows[rows[column].isin(list(chosen))]
    if rows.empty:
        raise ValueError(f"{Path(output) / 'benchmark.csv'} has no such cell of the preset {preset!r} to check")
    encoders = select_encoders(rows["model"].drop_duplicates().tolist())
    measured = select_tasks(rows["task"].drop_duplicates().tolist())
    places = set(rows[["model", "variant", "seed"]].itertuples(index=False, name=None))
    jobs = jobs_of(encoders, seeds, CHOICES[preset].recipe)
    jobs = [job for job in jobs if (job.encoder.name, job.variant, job.seed) in places]
    with tempfile.TemporaryDirectory() as nowhere:
        cells = run_jobs(jobs, measured, CellStore(nowhere))
    again = pd.DataFrame([cell.row for cell in cells if cell.row["task"] != FACTS])
    key = ["model", "variant", "seed", "task"]
    found = rows[[*key, "value"]].merge(again[[*key, "value"]].rename(columns={"value": "again"}), on=key)
    found["difference"] = (found["again"] - found["value"]).round(4)
    found["tolerance"] = found["variant"].map(TOLERANCES)
    return found.assign(same=found["difference"].abs() <= found["tolerance"])


# -- Command line ------------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `python -m sbertlab benchmark`."""
    add = parser.add_argument
    add("--preset", choices=list(CHOICES), default="offline", help="what is compared (default: offline)")
    add("--models", nargs="+", metavar="NAME", help="encoders of a preset, or any other model (default: the preset's)")
    add("--tasks", nargs="+", metavar="NAME", help=f"tasks, or sets of {DATA_VARIABLE} (default: the preset's)")
    add("--seeds", type=int, metavar="N", help="fine-tunings of each encoder (default: 3; with --check 1)")
    add(
        "--output",
        metavar="DIR",
        help=f"folder of the results (default: {OUTPUT}, where fewer models or seeds replace nothing)",
    )
    add("--fresh", action="store_true", help="compute finished cells again")
    add("--skip-missing", action="store_true", help="measure what can be had when something is missing")
    add("--workers", type=int, default=1, metavar="N", help="processes at a time (default: 1)")
    add("--engine", choices=["processes", "ray"], default="processes", help="where jobs run (default: processes)")
    add("--check", action="store_true", help="compute untuned cells of the table again and compare")
    add("--tuned", action="store_true", help="with --check: fine-tuned cells too")


def _refuse_part(models: Sequence[str] | None, tasks: Sequence[str] | None, seeds: int, preset: str) -> None:
    """Raise a ValueError where `OUTPUT` holds cells that a run would replace by fewer."""
    table, *_ = read(OUTPUT)
    held = rows_of(table, preset)
    going = held if tasks is None else held[held["task"].isin(tasks)]
    lost = (going["seed"] >= seeds) | (False if models is None else ~going["model"].isin(models))
    if lost.any():
        raise ValueError(
            f"{OUTPUT} holds {len(going)} cells of the preset {preset!r} and these tasks, and {lost.sum()} of them are "
            f"not among the models and seeds of this run, which would replace them all, in the README too; give the "
            f"run a folder of its own by --output DIR, or name this one, --output {OUTPUT}, if they may go"
        )


def run_from(given: argparse.Namespace, draw: Callable[[str], object] | None = None) -> None:
    """Run the benchmark as the command line says, print the page and where it lies.

    Raises:
        SystemExit: cells failed, or are not what the table says; the message says how many.
        ValueError: a part of a preset would take the place of more in `OUTPUT`, which was not named.
    """
    output = OUTPUT if given.output is None else given.output
    if given.check:
        variants = (UNTUNED, TUNED) if given.tuned else (UNTUNED,)
        found = check(
            given.models, given.tasks, 1 if given.seeds is None else given.seeds, output, given.preset, variants
        )
        print(found.to_string(index=False))
        if not found["same"].all():
            raise SystemExit(f"{(~found['same']).sum()} of {len(found)} cells are not what the table says")
        return
    options = {"fresh": given.fresh, "skip_missing": given.skip_missing}
    options |= {"workers": given.workers, "engine": given.engine}
    seeds = 3 if given.seeds is None else given.seeds
    if given.output is None:
        _refuse_part(given.models, given.tasks, seeds, given.preset)
    table = run(given.models, given.tasks, seeds, output, preset=given.preset, **options)
    if draw is not None:
        draw(output)
    every, pairs, _ = read(output)
    print(
        f"\n{report(every[every['preset'] == given.preset], pairs)}\nWritten to {output}: benchmark.csv, "
        "comparisons.csv, environment.json, benchmark.md and the pictures"
    )
    failed = int((table["tag"] == "failed").sum())
    if failed:
        raise SystemExit(f"{failed} of {len(table)} cells failed; benchmark.csv has their errors")
