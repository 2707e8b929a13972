"""Computes a benchmark: one job per model, one cell per job and task; finished cells are never computed again.

Each finished cell is written to disk under a key of everything that its number depends on, so a killed run resumes.
"""

import hashlib
import json
import os
import platform
import re
import shutil
import time
import timeit
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from filelock import FileLock
from joblib.externals.loky import get_reusable_executor
from tqdm.auto import tqdm

from sbertlab.analysis.ranks import VARIANTS
from sbertlab.benchmark.cells import FACTS, UNCACHED, Cell, CellStore
from sbertlab.benchmark.encoders import Candidate, digest_of, parameter_count
from sbertlab.benchmark.recipes import Recipe
from sbertlab.benchmark.tasks import Task
from sbertlab.checks import check_choice, checked_number
from sbertlab.data import helpdesk
from sbertlab.encoder.fingerprint import MEASURING, fingerprint, source_digest
from sbertlab.encoder.sentence_transformer import best_device
from sbertlab.encoder.stored_embeddings import StoredEmbeddings

Engine = Literal["processes", "ray"]

PACKAGES = ("torch", "transformers", "tokenizers", "accelerate", "numpy", "scikit-learn", "scipy", "pandas")
"""Their versions are part of the keys and of `environment`."""


@cache
def versions() -> dict[str, str]:
    """Return the versions of `PACKAGES`; reading them takes milliseconds, and every key needs them."""
    return {name: version(name) for name in PACKAGES}


@dataclass(frozen=True)
class Job:
    """One model to build from a candidate and a seed, and to fine-tune if there is a recipe."""

    candidate: Candidate
    seed: int
    recipe: Recipe | None = None

    @property
    def variant(self) -> str:
        """ "untuned" or "fine-tuned"."""
        return VARIANTS[self.recipe is not None]

    def build(self, training: Path) -> Any:
        """Return the model; a killed fine-tuning resumes from its checkpoints in a folder of `training`."""
        model = self.candidate.make(self.seed)
        if self.recipe is not None:
            folder = training / key_of(self)
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / "lock"):  # another run may train the same model
                self.recipe.fine_tune(model, self.candidate, self.seed, folder)
                shutil.rmtree(folder)
        return model

    def row(self, task: Task) -> dict[str, Any]:
        """Return what is known about a cell before it is measured."""
        tag = "edition" if task.edition else "measured"
        return {
            "model": self.candidate.name,
            "revision": self.candidate.revision()[:12],
            "variant": self.variant,
            "recipe": self.recipe.name if self.recipe else "",
            "seed": self.seed,
            "task": task.name,
            "family": task.family,
            "metric": task.metric,
            "value": np.nan,
            "n": 0,
            "seconds": 0.0,
            "tag": "proxy" if helpdesk.CORPUS in task.files else tag,
            "error": "",
        }


def jobs_of(candidates: Iterable[Candidate], seeds: int, recipe: Recipe) -> list[Job]:
    """Return the jobs: each candidate untuned (with every seed if it is random), then fine-tuned with every seed."""
    jobs = []
    for candidate in candidates:
        jobs += [Job(candidate, seed) for seed in range(seeds if candidate.random else 1)]
        jobs += [Job(candidate, seed, recipe) for seed in range(seeds if candidate.trainable else 0)]
    return jobs


def key_of(job: Job, task: Task | None = None) -> str:
    """Return the key of all that a job's model, or its score in a task, depends on; `UNCACHED` if that is unknown."""
    recipe = job.recipe
    described: dict[str, Any] = {
        "code": source_digest(MEASURING),
        "versions": versions(),
        "candidate": [job.candidate.name, job.seed],
    }
    try:
        files = {name: digest_of([path]) for name, path in job.candidate.source_files().items()}
        described["content"] = [fingerprint(job.candidate.make), files]
        if recipe is not None:
            rate = job.candidate.learning_rates.get(recipe.name)
            described["recipe"] = [recipe.describe(), fingerprint(type(recipe)), rate]
        if task is not None:
            texts: Any = {file.name: digest_of([file]) for file in task.files} or task.pins or fingerprint(task.load)
            described["task"] = [task.name, task.metric, task.note, texts]
    except TypeError:
        return UNCACHED + uuid.uuid4().hex
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def measure(job: Job, tasks: Mapping[str, Task], cells: CellStore) -> Iterator[tuple[str, Cell]]:
    """Yield the cell of each task with its key; finished ones are on disk by then, failed ones are not."""
    training = cells.folder.with_name("training")
    model = attempt(lambda: StoredEmbeddings(job.build(training), name=job.candidate.name))
    for key, task in tasks.items():
        start, examples = time.perf_counter(), None
        try:
            if isinstance(model, Exception):
                raise model
            if task.name == FACTS:
                own = model.model
                found = {"parameters": parameter_count(own), "sentences_per_second": sentences_per_second(own)}
            else:
                value, _, examples = task.evaluate(model)
                found = {"value": value, "n": len(examples)}
            seconds = round(time.perf_counter() - start, 2)
            cell = Cell(job.row(task) | found | {"seconds": seconds}, examples, environment())
            cells.put(key, cell)
        except Exception as error:
            cell = failed(job, task, error)
        yield key, cell


def failed(job: Job, task: Task, error: Exception) -> Cell:
    """Return a cell with an error."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return Cell(job.row(task) | {"tag": "failed", "error": reason})


def attempt(make: Callable[[], Any]) -> Any:
    """Return the result of a function, or the exception that it raises."""
    try:
        return make()
    except Exception as error:
        return error


def run_jobs(
    jobs: Sequence[Job], tasks: Sequence[Task], cells: CellStore, workers: int = 1, engine: Engine = "processes"
) -> list[Cell]:
    """Return the cells of all jobs and tasks, in that order, computing only those that are not on disk.

    Before its tasks, each untuned job with seed 0 has one more cell, with the task `FACTS`.

    Args:
        jobs: the models to build.
        tasks: what to measure them on.
        cells: finished cells on disk; checkpoints of fine-tunings are in the folder "training" beside theirs.
        workers: processes at a time, each with its share of the processor's cores.
        engine: "processes" on this machine, or "ray": one Ray task per job, with a GPU if there are any, on the cluster
            that RAY_ADDRESS names (this machine if it names none).
    """
    checked_number("workers", workers, 1, whole=True)
    check_choice("engine", engine, ("processes", "ray"))
    here = environment()
    place = [here["processor"], here["device"], here["threads"], workers, engine]  # on which a model's speed depends
    speed = Task(FACTS, "", "", f"measured on {place}", cast(Any, parameter_count))
    keys: list[str] = []
    found: dict[str, Cell] = {}
    waiting: list[tuple[Any, ...]] = []
    for job in jobs:
        first = job.recipe is None and job.seed == 0
        by_key = {key_of(job, task): task for task in ([speed, *tasks] if first else tasks)}
        keys += by_key
        found |= {key: cell for key in by_key if (cell := cells.get(key))}
        if missing := {key: task for key, task in by_key.items() if key not in found}:
            waiting.append((job, missing, cells))
    with tqdm(total=len(keys), initial=len(found), desc="Benchmark", unit="cell") as bar:
        for key, cell in computed(waiting, workers, engine):
            found[key] = cell
            bar.update()
    return [found[key] for key in keys]


def computed(waiting: Sequence[tuple[Any, ...]], workers: int, engine: Engine) -> Iterator[tuple[str, Cell]]:
    """Yield each cell as it is finished in this process, or the cells of a job as it ends in another one."""
    if workers == 1 and engine == "processes":
        for work in waiting:
            yield from measure(*work)
        return

    def measured(*work: Any) -> list[tuple[str, Cell]]:
        return list(measure(*work))

    if engine == "ray":
        import ray

        ray.init(ignore_reinit_error=True, log_to_driver=False)
        share: dict[str, Any] = {"num_gpus": 1} if ray.cluster_resources().get("GPU") else {"num_cpus": 1}
        remote = ray.remote(**share)(measured)
        futures = {remote.remote(*work).future(): work for work in waiting}
    else:
        threads = max(1, (os.cpu_count() or 1) // workers)
        pool = get_reusable_executor(workers, env={"OMP_NUM_THREADS": str(threads)})
        futures = {pool.submit(measured, *work): work for work in waiting}
    for future in as_completed(futures):
        job, tasks, cells = futures[future]
        try:
            finished = future.result()
        except Exception as error:  # the process died
            finished = [(key, failed(job, task, error)) for key, task in tasks.items()]
        for key, cell in finished:
            if engine == "ray" and not cell.failed:
                cells.put(key, cell)  # the machine that computed it may have another disk
            yield key, cell


def environment() -> dict[str, Any]:
    """Return where this process computes: python, versions, system, processor, cores, threads, device."""
    kind = best_device().type
    return {
        "python": platform.python_version(),
        "versions": {"sbertlab": version("sbertlab"), **versions()},
        "system": platform.platform(),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": f"cuda ({torch.cuda.get_device_name()})" if kind == "cuda" else kind,
    }


def processor_name() -> str:
    """Return the processor's name as the system gives it."""
    file = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", file.read_text(encoding="utf-8")) if file.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def sentences_per_second(model: Any) -> float:
    """Return how many help-desk phrasings the model encodes per second: the median of three rounds over 256 of them."""
    encode = getattr(model, "encode", None) or model.transform
    texts = helpdesk.load_helpdesk("test")["text"].drop_duplicates().head(256).tolist()
    encode(texts[:32])
    seconds = timeit.repeat(lambda: encode(texts), number=1, repeat=3)
    return round(len(texts) / float(np.median(seconds)), 1)
