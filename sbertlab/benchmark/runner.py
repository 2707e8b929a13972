"""Runs a benchmark: one job a model, one cell a task; what is finished is never computed again.

A job makes a model from an encoder, a variant and a seed, fine-tunes it where the variant says so, and measures it on
tasks. Each finished cell is written to disk under a key made of all that its number follows from, so a run that was
killed goes on where it was, and a second run finds everything done. What nothing tells from another thing (a lambda in
place of a function, a recipe of a notebook) has no such key: its cells are computed in every run.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from filelock import FileLock
from tqdm.auto import tqdm

from sbertlab.analysis.resampling import Examples
from sbertlab.benchmark.encoders import TUNED, UNTUNED, Encoder, facts, weights_digest
from sbertlab.benchmark.machine import environment
from sbertlab.benchmark.published import PUBLISHED
from sbertlab.benchmark.recipes import Recipe
from sbertlab.benchmark.tasks import Task
from sbertlab.data import helpdesk
from sbertlab.encoder.embedding_store import EmbeddingStore
from sbertlab.encoder.fingerprint import MEASURING, fingerprint, source_digest
from sbertlab.encoder.stored_embeddings import StoredEmbeddings
from sbertlab.storage.files import sha256_of, staged_folder

Engine = Literal["processes", "ray"]

FACTS = "facts"
"""In the place of a task's name: the cell that holds what a model is, and how fast it encodes."""

UNKEPT = "unkept-"
"""How the key of a cell begins that is not kept, because nothing tells what its number follows from."""

LIBRARIES = ("torch", "transformers", "tokenizers", "accelerate", "numpy", "scipy", "scikit-learn")
"""Whose versions are a part of the key."""


@dataclass(frozen=True)
class Job:
    """One model to make and to measure.

    Args:
        encoder: what to make it from.
        seed: of its weights where these are random, and of its fine-tuning.
        recipe: how to fine-tune it; None leaves it as it is.
    """

    encoder: Encoder
    seed: int
    recipe: Recipe | None = None

    @property
    def variant(self) -> str:
        """ "untuned" or "fine-tuned"."""
        return UNTUNED if self.recipe is None else TUNED

    def make(self, checkpoints: Path | None = None) -> Any:
        """Return the model, fine-tuned when there is a recipe.

        Args:
            checkpoints: folder from which a fine-tuning that was killed goes on; None begins it anew.
        """
        model = self.encoder.make(self.seed)
        if self.recipe is not None:
            self.recipe.fine_tune(model, self.encoder, self.seed, checkpoints)
        return model

    def origin(self) -> dict[str, Any]:
        """Return all that the model follows from, for a key: encoder, recipe, training data, seed, code, libraries.

        Raises:
            TypeError: nothing tells the content of the encoder or of the recipe.
        """
        return {
            "encoder": self.encoder.name,
            "content": self.encoder.content(),
            "seed": self.seed,
            "recipe": None if self.recipe is None else _settings(self.recipe),
            "learning_rate": None if self.recipe is None else self.encoder.learning_rates.get(self.recipe.name),
            "code": source_digest(MEASURING),
            "versions": {name: version(name) for name in LIBRARIES},
        }


def _settings(recipe: Recipe) -> dict[str, Any]:
    """What a fine-tuning follows from; words about it are not part of that."""
    settings = {name: value for name, value in recipe.describe().items() if name != "differences"}
    return settings | {"data": recipe.data_sha256(), "code": fingerprint(type(recipe))}


def jobs_of(encoders: Iterable[Encoder], seeds: int, recipe: Recipe) -> list[Job]:
    """Return the jobs: each encoder untuned (with every seed where its weights are random), then fine-tuned a seed.

    >>> from sbertlab.benchmark.recipes import OFFLINE
    >>> jobs = jobs_of([Encoder("fixed", len), Encoder("random", len, random=True, trainable=True)], 2, OFFLINE)
    >>> [(job.encoder.name, job.variant, job.seed) for job in jobs]
    [('fixed', 'untuned', 0), ('random', 'untuned', 0), ('random', 'untuned', 1), ('random', 'fine-tuned', 0), \
('random', 'fine-tuned', 1)]
    """
    jobs = []
    for encoder in encoders:
        jobs += [Job(encoder, seed) for seed in range(seeds if encoder.random else 1)]
        jobs += [Job(encoder, seed, recipe) for seed in range(seeds if encoder.trainable else 0)]
    return jobs


@dataclass(frozen=True)
class Cell:
    """What came out of a job and a task.

    Args:
        row: numbers for a row of the table.
        examples: what intervals need.
        environment: the machine and the libraries that it was measured with.
    """

    row: dict[str, Any]
    examples: Examples | None = None
    environment: dict[str, Any] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether it has an error in place of a number."""
        return bool(self.row.get("error"))


class CellStore:
    """Finished cells on disk, a folder each, whole or not there at all; several runs may write at once.

    Args:
        folder: where they lie; made when the first is written.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._warned = False

    def get(self, key: str) -> Cell | None:
        """Return the cell with this key, or None where there is none or a damaged one, which is removed."""
        place = self.folder / key
        try:
            record = json.loads((place / "cell.json").read_text(encoding="utf-8"))
            file = place / "examples.npz"
            if record["examples"] is None:
                return Cell(record["row"], None, record["environment"])
            if sha256_of(file) != record["examples"]:
                raise ValueError(f"{file} was altered")
            return Cell(record["row"], Examples.load(file), record["environment"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            shutil.rmtree(place, ignore_errors=True)
            return None

    def put(self, key: str, cell: Cell) -> None:
        """Write a cell, unless its key is `UNKEPT`; one that lies there already is replaced.

        Warns:
            UserWarning: of the first that cannot be written, e.g. because the disk is full; a run goes on.
        """
        if key.startswith(UNKEPT):
            return
        try:
            self._write(key, cell)
        except OSError as error:
            if not self._warned and self.get(key) is None:  # another run may have finished it at the same time
                self._warned = True
                warnings.warn(
                    f"finished cells are not kept in {self.folder}: {error}; this run goes on, the next one computes "
                    "them again unless there is room in a folder that can be written to",
                    stacklevel=2,
                )

    def _write(self, key: str, cell: Cell) -> None:
        with staged_folder(self.folder / key) as folder:
            digest = None
            if cell.examples is not None:
                cell.examples.save(folder / "examples.npz")
                digest = sha256_of(folder / "examples.npz")
            record = {"row": cell.row, "examples": digest, "environment": cell.environment}
            (folder / "cell.json").write_text(json.dumps(record, indent=2), encoding="utf-8")


@dataclass(frozen=True)
class Work:
    """A job, the tasks it still has to be measured on by their keys, and where to leave what is finished.

    `training` is the folder of its fine-tuning, which is there until the job is done.
    """

    job: Job
    tasks: Mapping[str, Task | None]
    cells: CellStore
    store: EmbeddingStore | None = None
    threads: int | None = None
    device: int | None = None
    training: Path | None = None

    def cells_of(self) -> Iterator[tuple[str, Cell]]:
        """Yield the key and the cell of each task; finished ones are on disk by then, failed ones are not."""
        with _kept(self.training) as checkpoints:
            yield from self._cells(checkpoints)

    def _cells(self, checkpoints: Path | None) -> Iterator[tuple[str, Cell]]:
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        if self.device is not None:
            torch.cuda.set_device(self.device)
        surroundings = environment()
        # Data that cannot be read are found before a training of hours. Evaluators hold texts alone.
        loaded = {key: _tried(task.load) for key, task in self.tasks.items() if task is not None}
        embeddings: Any = None
        if not all(isinstance(loaded.get(key), Exception) for key in self.tasks):
            embeddings = _tried(partial(self._embeddings, checkpoints))
        for key, task in self.tasks.items():
            start = time.perf_counter()
            row, examples = row_of(self.job, task), None
            evaluator = loaded.pop(key, None)
            try:
                for failure in (evaluator, embeddings):
                    if isinstance(failure, Exception):
                        raise failure
                if task is None:
                    model = embeddings.model
                    row |= facts(model) | {"sentences_per_second": sentences_per_second(model)}
                else:
                    score = task.evaluate(embeddings, evaluator)
                    examples = score.examples
                    row |= {"value": score.value, "n": len(examples)}
            except Exception as error:
                row |= {"tag": "failed", "error": " ".join(f"{type(error).__name__}: {error}".split())}
            cell = Cell(row | {"seconds": round(time.perf_counter() - start, 2)}, examples, surroundings)
            if not cell.failed:
                self.cells.put(key, cell)
            yield key, cell

    def _embeddings(self, checkpoints: Path | None) -> StoredEmbeddings:
        return _stored(self.job.make(checkpoints), self.store, self.job.encoder.name)

    def finish(self) -> list[tuple[str, Cell]]:
        """Return what `cells_of` yields: for another process."""
        return list(self.cells_of())


@contextmanager
def _kept(folder: Path | None) -> Iterator[Path | None]:
    """Give the folder, made when missing, and remove it when the block ends well; a process that is killed leaves it.

    None in its place where it cannot be written, or another run is at work in it.
    """
    lock = None
    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / "lock")
            lock.acquire(timeout=0)
    except OSError:  # of which the lock's Timeout is one
        lock = None
    try:
        yield folder if lock is not None else None
        if folder is not None and lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        if lock is not None:
            lock.release()


def _tried(make: Callable[[], Any]) -> Any:
    """What a function returns, or the exception that it raises."""
    try:
        return make()
    except Exception as error:
        return error


def _stored(model: Any, store: EmbeddingStore | None, name: str) -> StoredEmbeddings:
    """The model with a memory: on disk, or, where nothing tells its content from another's, in this process alone."""
    try:
        return StoredEmbeddings(model, store, name=name)
    except TypeError:
        return StoredEmbeddings(model, name=name)


def row_of(job: Job, task: Task | None) -> dict[str, Any]:
    """Return what is known of a cell before it is measured."""
    row: dict[str, Any] = {
        "model": job.encoder.name,
        "revision": job.encoder.revision()[:12],
        "variant": job.variant,
        "recipe": "" if job.recipe is None else job.recipe.name,
        "seed": job.seed,
    }
    if task is None:
        return row | {"task": FACTS, "error": ""}
    tag = "proxy" if helpdesk.CORPUS in task.files else "edition" if task.edition else "measured"
    row |= {"task": task.name, "family": task.family, "metric": task.metric}
    return row | {"value": np.nan, "n": 0, "tag": tag, "error": ""}


def keys_of(origin: Mapping[str, Any] | None, tasks: Iterable[Task | None], place: Mapping[str, Any]) -> list[str]:
    """Return the key of each cell of a job: the SHA-256, in hex, of all that its number follows from.

    Where nothing tells the content of the job, or of a task, the key is `UNKEPT` and never drawn again.

    Args:
        origin: what the model follows from, by `Job.origin`; None where nothing tells.
        tasks: what it is measured on; None for its facts.
        place: where it runs, which the speed among the facts follows from.
    """
    asked = [
        {"name": FACTS, "place": dict(place)} if task is None else _or_none(partial(_asked, task)) for task in tasks
    ]
    return [UNKEPT + uuid.uuid4().hex if None in (origin, task) else _sha256_of([origin, task]) for task in asked]


def _or_none(describe: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
    """A description, or None of what has no content to describe."""
    try:
        return describe()
    except TypeError:
        return None


def _sha256_of(described: Any) -> str:
    return hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()


def _asked(task: Task) -> dict[str, Any]:
    """What a number follows from beside the model; the content of a task is in its files, its pins or its code."""
    asked: dict[str, Any] = {"name": task.name, "metric": task.metric, "note": task.note}
    if task.files:
        return asked | {"files": {file.name: weights_digest([file]) for file in task.files}}
    if task.name in PUBLISHED:
        return asked | {"pins": PUBLISHED[task.name].pins}
    return asked | {"load": fingerprint(task.load)}


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

    Before the tasks, every untuned job with seed 0 has one cell more, with `FACTS` for its task.

    Args:
        jobs: the models to make.
        tasks: what to measure them on.
        cells: where finished cells lie.
        store: of embeddings, shared by tasks and runs; None keeps them in memory only.
        fresh: compute everything again.
        workers: processes at a time, each with its share of the processor's cores or one of the GPUs.
        engine: "processes" on this machine, or "ray": one task a job on the cluster that RAY_ADDRESS names (this
            machine when it names none).
        training: where fine-tunings leave checkpoints, a folder each as long as it is at work, so that one that was
            killed goes on; None begins it anew, and so does `fresh`.

    Raises:
        ValueError: workers below 1, an unknown engine.
        ImportError: "ray" without ray.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    if engine not in ("processes", "ray"):
        raise ValueError(f'engine must be "processes" or "ray", got {engine!r}')
    keys: list[str] = []
    found: dict[str, Cell] = {}
    waiting: list[Work] = []
    alone = workers == 1 and engine == "processes"
    threads = None if alone or engine == "ray" else max(1, (os.cpu_count() or 1) // workers)
    here = environment()
    place = {"processor": here["processor"], "device": here["device"], "threads": threads or here["threads"]}
    place |= {"workers": workers, "engine": engine}
    for job in jobs:
        asked: list[Task | None] = [*([None] if job.variant == UNTUNED and job.seed == 0 else []), *tasks]
        missing: dict[str, Task | None] = {}
        origin = _or_none(job.origin)
        for key, task in zip(keys_of(origin, asked, place), asked, strict=True):
            keys.append(key)
            cell = None if fresh else cells.get(key)
            if cell is None:
                missing[key] = task
            else:
                found[key] = cell
        if missing:
            gpus = 0 if alone or engine == "ray" else torch.cuda.device_count()
            device = len(waiting) % gpus if gpus else None
            folder = None
            if training is not None and origin is not None and job.recipe is not None and not fresh:
                folder = training / _sha256_of(origin)
            waiting.append(Work(job, missing, cells, store, threads, device, folder))
    with tqdm(total=len(keys), initial=len(found), desc="Benchmark", unit="cell") as bar:
        for key, cell in _done(waiting, workers, engine, bar):
            if engine == "ray" and not cell.failed:
                cells.put(key, cell)  # the machine that computed it may have another disk
            found[key] = cell
            bar.update()
    return [found[key] for key in keys]


def _done(waiting: Sequence[Work], workers: int, engine: Engine, bar: Any) -> Iterator[tuple[str, Cell]]:
    """Yield cells as they come: one by one in this process, a job at a time from others."""
    if engine == "ray":
        yield from _by_ray(waiting)
    elif workers > 1:
        yield from _by_processes(waiting, workers)
    else:
        for work in waiting:
            bar.set_postfix_str(f"{work.job.encoder.name}, {work.job.variant}, seed {work.job.seed}")
            yield from work.cells_of()


def _by_processes(waiting: Sequence[Work], workers: int) -> Iterator[tuple[str, Cell]]:
    """A pool of fresh processes; when one of them dies, the jobs that it takes along are failed cells."""
    from concurrent.futures import as_completed

    from joblib.externals.loky import ProcessPoolExecutor

    with ProcessPoolExecutor(workers) as pool:
        works = {pool.submit(work.finish): work for work in waiting}
        for future in as_completed(works):
            try:
                yield from future.result()
            except Exception as error:
                yield from _lost(works[future], error)


def _by_ray(waiting: Sequence[Work]) -> Iterator[tuple[str, Cell]]:
    """One Ray task a job, each with a GPU where the cluster has any."""
    try:
        import ray
    except ImportError as error:
        raise ImportError('engine="ray" needs ray: pip install "sbertlab[ray]"') from error
    ray.init(ignore_reinit_error=True, log_to_driver=False)
    share: dict[str, Any] = {"num_gpus": 1} if ray.cluster_resources().get("GPU") else {"num_cpus": 1}
    remote = ray.remote(**share)(Work.finish)
    works = {remote.remote(work): work for work in waiting}
    left = list(works)
    while left:
        (done,), left = ray.wait(left)
        try:
            yield from ray.get(done)
        except Exception as error:
            yield from _lost(works[done], error)


def _lost(work: Work, error: Exception) -> Iterator[tuple[str, Cell]]:
    """The cells of a job whose process was lost: those it had finished, and for the others the reason."""
    cause = str(error.__cause__ or "").strip(' "\n').rpartition("\n")[2]  # the last line of that process's traceback
    reason = " ".join(f"{type(error).__name__}: {error} {cause}".split())
    for key, task in work.tasks.items():
        finished = work.cells.get(key)
        lost = row_of(work.job, task) | {"tag": "failed", "error": f"the process was lost: {reason}", "seconds": 0.0}
        yield key, finished or Cell(lost)


def sentences_per_second(model: Any, rounds: int = 3) -> float:
    """Return how many help-desk phrasings a second the model encodes, the median of several rounds over 256 of them."""
    encode = getattr(model, "encode", None) or model.transform
    texts = helpdesk.load_helpdesk("test")["text"].drop_duplicates().head(256).tolist()
    encode(texts[:32])
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        encode(texts)
        seconds.append(time.perf_counter() - start)
    return round(len(texts) / float(np.median(seconds)), 1)
