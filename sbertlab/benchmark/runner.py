"""Computes a benchmark: one job per model, one cell per job and task; finished cells are never computed again.

Each finished cell is written to disk under a key of everything that its number depends on, so a killed run resumes
where it was, and a second run computes nothing.
"""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from filelock import FileLock
from tqdm.auto import tqdm

from sbertlab.analysis.ranks import VARIANTS
from sbertlab.benchmark.cells import FACTS, Cell, CellStore, fingerprint_or_none, keys_of, sha256_of_json
from sbertlab.benchmark.encoders import Candidate, facts
from sbertlab.benchmark.recipes import Recipe
from sbertlab.benchmark.tasks import Task
from sbertlab.checks import check_choice, checked_number
from sbertlab.data import helpdesk
from sbertlab.encoder.fingerprint import MEASURING, fingerprint, source_digest
from sbertlab.encoder.sentence_transformer import best_device
from sbertlab.encoder.stored_embeddings import EmbeddingStore, StoredEmbeddings

Engine = Literal["processes", "ray"]

PACKAGES = ("torch", "transformers", "tokenizers", "accelerate", "numpy", "scikit-learn")
"""Their versions are part of the keys and, with those of sbertlab and pandas, of `environment`."""


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

    def build(self, checkpoints: Path | None = None) -> Any:
        """Return the model; a killed fine-tuning resumes from its checkpoints."""
        model = self.candidate.make(self.seed)
        if self.recipe is not None:
            self.recipe.fine_tune(model, self.candidate, self.seed, checkpoints)
        return model

    def origin(self) -> dict[str, Any]:
        """Return everything that the model depends on; a TypeError says that something cannot be fingerprinted."""
        recipe = self.recipe
        return {
            "candidate": self.candidate.name,
            "content": self.candidate.content(),
            "seed": self.seed,
            "recipe": recipe and [recipe.describe(), recipe.data_sha256(), fingerprint(type(recipe))],
            "learning_rate": recipe and self.candidate.learning_rates.get(recipe.name),
            "code": source_digest(MEASURING),
            "versions": {name: version(name) for name in (*PACKAGES, "scipy")},
        }

    def row(self, task: Task | None) -> dict[str, Any]:
        """Return what is known about a cell before it is measured; None stands for the facts."""
        row: dict[str, Any] = {
            "model": self.candidate.name,
            "revision": self.candidate.revision()[:12],
            "variant": self.variant,
            "recipe": "" if self.recipe is None else self.recipe.name,
            "seed": self.seed,
        }
        if task is None:
            return row | {"task": FACTS, "error": ""}
        tag = "proxy" if helpdesk.CORPUS in task.files else "edition" if task.edition else "measured"
        row |= {"task": task.name, "family": task.family, "metric": task.metric}
        return row | {"value": np.nan, "n": 0, "tag": tag, "error": ""}


def jobs_of(candidates: Iterable[Candidate], seeds: int, recipe: Recipe) -> list[Job]:
    """Return the jobs: each candidate untuned (with every seed if it is random), then fine-tuned with every seed.

    >>> from sbertlab.benchmark.recipes import OFFLINE
    >>> jobs = jobs_of([Candidate("fixed", len), Candidate("random", len, random=True, trainable=True)], 2, OFFLINE)
    >>> [f"{job.candidate.name} {job.variant} {job.seed}" for job in jobs]
    ['fixed untuned 0', 'random untuned 0', 'random untuned 1', 'random fine-tuned 0', 'random fine-tuned 1']
    """
    jobs = []
    for candidate in candidates:
        jobs += [Job(candidate, seed) for seed in range(seeds if candidate.random else 1)]
        jobs += [Job(candidate, seed, recipe) for seed in range(seeds if candidate.trainable else 0)]
    return jobs


@dataclass(frozen=True)
class Work:
    """A job with the tasks that are still to be measured (None: the facts), by the keys of their cells.

    Threads and GPU are those of its process; `training` is the folder for the checkpoints of its fine-tuning.
    """

    job: Job
    tasks: Mapping[str, Task | None]
    cells: CellStore
    store: EmbeddingStore | None = None
    threads: int | None = None
    device: int | None = None
    training: Path | None = None

    def run(self) -> Iterator[tuple[str, Cell]]:
        """Yield the key and the cell of each task; finished cells are on disk by then, failed ones are not."""
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        if self.device is not None:
            torch.cuda.set_device(self.device)
        here = environment()
        # Unreadable data are found before a training of hours. Evaluators hold only texts.
        evaluators = {key: attempt(task.load) for key, task in self.tasks.items() if task is not None}
        failed = [key for key, evaluator in evaluators.items() if isinstance(evaluator, Exception)]
        with checkpoint_folder(self.training) as checkpoints:
            model = None if len(failed) == len(self.tasks) else attempt(partial(self._embeddings, checkpoints))
            for key, task in self.tasks.items():
                start = time.perf_counter()
                row, examples = self.job.row(task), None
                try:
                    measured, examples = self._measure(model, task, evaluators.pop(key, None))
                    row |= measured
                except Exception as error:
                    row |= {"tag": "failed", "error": " ".join(f"{type(error).__name__}: {error}".split())}
                cell = Cell(row | {"seconds": round(time.perf_counter() - start, 2)}, examples, here)
                if not cell.failed:
                    self.cells.put(key, cell)
                yield key, cell

    def run_all(self) -> list[tuple[str, Cell]]:
        """Return what `run` yields, for another process."""
        return list(self.run())

    def _embeddings(self, checkpoints: Path | None) -> StoredEmbeddings:
        """Return the model with stored embeddings: on disk, or in memory if it cannot be fingerprinted."""
        model, name = self.job.build(checkpoints), self.job.candidate.name
        try:
            return StoredEmbeddings(model, self.store, name=name)
        except TypeError:
            return StoredEmbeddings(model, name=name)

    def _measure(self, model: Any, task: Task | None, evaluator: Any) -> tuple[dict[str, Any], Any]:
        """Return what a task adds to the row, and its examples; raise the error of its data or of the model."""
        for failure in (evaluator, model):
            if isinstance(failure, Exception):
                raise failure
        if task is None:
            return facts(model.model) | {"sentences_per_second": sentences_per_second(model.model)}, None
        score = task.evaluate(model, evaluator)
        return {"value": score.value, "n": len(score.examples)}, score.examples

    def lost(self, error: Exception) -> Iterator[tuple[str, Cell]]:
        """Yield the cells of a job whose process died: those that it had finished, the others failed."""
        cause = str(error.__cause__ or "").strip(' "\n').rpartition("\n")[2]  # last line of that process's traceback
        reason = " ".join(f"the process was lost: {type(error).__name__}: {error} {cause}".split())
        for key, task in self.tasks.items():
            failed = self.job.row(task) | {"tag": "failed", "error": reason, "seconds": 0.0}
            yield key, self.cells.get(key) or Cell(failed)


@contextmanager
def checkpoint_folder(folder: Path | None) -> Iterator[Path | None]:
    """Yield the folder and remove it when the block ends without error; a killed process leaves it.

    Yield None if the folder cannot be written, or another run is using it.
    """
    with ExitStack() as stack:
        try:
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(FileLock(folder / "lock", timeout=0))
        except OSError:  # the lock's Timeout is one
            folder = None
        yield folder
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def attempt(make: Callable[[], Any]) -> Any:
    """Return the result of a function, or the exception that it raises."""
    try:
        return make()
    except Exception as error:
        return error


def run_jobs(
    jobs: Sequence[Job],
    tasks: Sequence[Task],
    cells: CellStore,
    store: EmbeddingStore | None = None,
    *,
    fresh: bool = False,
    workers: int = 1,
    engine: Engine = "processes",
    training: Path | None = None,
) -> list[Cell]:
    """Return the cells of all jobs and tasks, in that order, computing only those that are not on disk.

    Before its tasks, each untuned job with seed 0 has one more cell, with the task `FACTS`.

    Args:
        jobs: the models to build.
        tasks: what to measure them on.
        cells: finished cells on disk.
        store: of embeddings; None keeps them in memory.
        fresh: compute everything again.
        workers: processes at a time, each with its share of the processor's cores or one of the GPUs.
        engine: "processes" on this machine, or "ray": one Ray task per job on the cluster that RAY_ADDRESS names (this
            machine if it names none).
        training: folder for the checkpoints of fine-tunings, so that a killed one resumes.
    """
    checked_number("workers", workers, 1, whole=True)
    check_choice("engine", engine, ("processes", "ray"))
    local, here = engine == "processes", environment()
    threads = max(1, (os.cpu_count() or 1) // workers) if local and workers > 1 else None
    gpus = torch.cuda.device_count() if local and workers > 1 else 0
    place = {"processor": here["processor"], "device": here["device"], "threads": threads or here["threads"]}
    place |= {"workers": workers, "engine": engine}
    keys: list[str] = []
    found: dict[str, Cell] = {}
    waiting: list[Work] = []
    for job in jobs:
        asked: list[Task | None] = [*([None] if job.recipe is None and job.seed == 0 else []), *tasks]
        origin = fingerprint_or_none(job.origin)
        by_key = dict(zip(keys_of(origin, asked, place), asked, strict=True))
        keys += by_key
        done = {} if fresh else {key: cell for key in by_key if (cell := cells.get(key)) is not None}
        found |= done
        if len(done) < len(by_key):
            missing = {key: task for key, task in by_key.items() if key not in done}
            resumes = training is not None and origin is not None and job.recipe is not None and not fresh
            folder = training / sha256_of_json(origin) if training is not None and resumes else None
            waiting.append(Work(job, missing, cells, store, threads, len(waiting) % gpus if gpus else None, folder))
    with tqdm(total=len(keys), initial=len(found), desc="Benchmark", unit="cell") as bar:
        for key, cell in _computed(waiting, workers, engine, bar):
            if not local and not cell.failed:
                cells.put(key, cell)  # the machine that computed it may have another disk
            found[key] = cell
            bar.update()
    return [found[key] for key in keys]


def _computed(waiting: Sequence[Work], workers: int, engine: Engine, bar: Any) -> Iterator[tuple[str, Cell]]:
    """Yield each cell as it is finished in this process, or the cells of a job as it ends in another one."""
    if workers == 1 and engine == "processes":
        for work in waiting:
            bar.set_postfix_str(f"{work.job.candidate.name}, {work.job.variant}, seed {work.job.seed}")
            yield from work.run()
        return
    with ExitStack() as stack:
        if engine == "ray":
            try:
                import ray
            except ImportError as error:
                raise ImportError('engine="ray" needs ray: pip install "sbertlab[ray]"') from error
            ray.init(ignore_reinit_error=True, log_to_driver=False)
            share: dict[str, Any] = {"num_gpus": 1} if ray.cluster_resources().get("GPU") else {"num_cpus": 1}
            remote = ray.remote(**share)(Work.run_all)
            futures = {remote.remote(work).future(): work for work in waiting}
        else:
            from joblib.externals.loky import ProcessPoolExecutor

            pool = stack.enter_context(ProcessPoolExecutor(workers))
            futures = {pool.submit(work.run_all): work for work in waiting}
        for future in as_completed(futures):
            try:
                yield from future.result()
            except Exception as error:  # the process died
                yield from futures[future].lost(error)


def environment() -> dict[str, Any]:
    """Return where this process computes: python, versions, system, processor, cores, threads, device."""
    kind = best_device().type
    return {
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("sbertlab", *PACKAGES, "pandas")},
        "system": platform.platform(),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": f"cuda ({torch.cuda.get_device_name()})" if kind == "cuda" else kind,
    }


def processor_name() -> str:
    """Return the processor's name as the system gives it."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def sentences_per_second(model: Any, rounds: int = 3) -> float:
    """Return how many help-desk phrasings the model encodes per second: the median of rounds over 256 of them."""
    encode = getattr(model, "encode", None) or model.transform
    texts = helpdesk.load_helpdesk("test")["text"].drop_duplicates().head(256).tolist()
    encode(texts[:32])
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        encode(texts)
        seconds.append(time.perf_counter() - start)
    return round(len(texts) / float(np.median(seconds)), 1)
