"""A cell is the result of one model on one task, stored under a key of everything that its number depends on."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from sbertlab.analysis.resampling import Examples
from sbertlab.benchmark.encoders import digest_of
from sbertlab.benchmark.tasks import Task
from sbertlab.encoder.fingerprint import fingerprint
from sbertlab.storage.files import sha256_of, staged_folder

FACTS = "facts"
"""In place of a task's name: the cell that holds facts about a model and its speed."""

UNCACHED = "uncached-"
"""Key prefix of cells that are never cached: their inputs cannot be fingerprinted."""


@dataclass(frozen=True)
class Cell:
    """The result of a job on a task: a row of the table, examples for intervals, and where it was measured."""

    row: dict[str, Any]
    examples: Examples | None = None
    environment: dict[str, Any] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether it has an error instead of a number."""
        return bool(self.row.get("error"))


class CellStore:
    """Finished cells on disk, one folder each, complete or absent; several runs may write at the same time."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._warned = False

    def get(self, key: str) -> Cell | None:
        """Return the cell with this key, or None; a damaged cell is removed."""
        place = self.folder / key
        try:
            record = json.loads((place / "cell.json").read_text(encoding="utf-8"))
            file = place / "examples.npz"
            if record["examples"] is not None and sha256_of(file) != record["examples"]:
                raise ValueError(f"{file} was changed")
            examples = None if record["examples"] is None else Examples.load(file)
            return Cell(record["row"], examples, record["environment"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            shutil.rmtree(place, ignore_errors=True)
            return None

    def put(self, key: str, cell: Cell) -> None:
        """Write a cell, unless its key is `UNCACHED`; warn once if cells cannot be written (e.g. a full disk)."""
        if key.startswith(UNCACHED):
            return
        try:
            with staged_folder(self.folder / key) as folder:
                digest = None
                if cell.examples is not None:
                    cell.examples.save(folder / "examples.npz")
                    digest = sha256_of(folder / "examples.npz")
                record = {"row": cell.row, "examples": digest, "environment": cell.environment}
                (folder / "cell.json").write_text(json.dumps(record, indent=2), encoding="utf-8")
        except OSError as error:
            if not self._warned and self.get(key) is None:  # another run may have finished it at the same time
                self._warned = True
                warnings.warn(
                    f"finished cells cannot be cached in {self.folder}: {error}; this run continues, but the next one "
                    "computes them again; free some space or choose another folder",
                    stacklevel=2,
                )


def keys_of(origin: Mapping[str, Any] | None, tasks: Iterable[Task | None], place: Mapping[str, Any]) -> list[str]:
    """Return the key of each cell of a job, which may be None if it cannot be fingerprinted; a task None is the facts.

    Only the speed among the facts depends on the place where the job runs.
    """
    keys = []
    for task in tasks:
        speed = {"name": FACTS, "place": dict(place)}
        content = speed if task is None else fingerprint_or_none(partial(_content, task))
        known = origin is not None and content is not None
        keys.append(sha256_of_json([origin, content]) if known else UNCACHED + uuid.uuid4().hex)
    return keys


def _content(task: Task) -> dict[str, Any]:
    """Return what a number depends on apart from the model; a task's content is its files, its pins or its code."""
    content: dict[str, Any] = {"name": task.name, "metric": task.metric, "note": task.note}
    if task.files:
        return content | {"files": {file.name: digest_of([file]) for file in task.files}}
    return content | ({"pins": task.pins} if task.pins else {"load": fingerprint(task.load)})


def fingerprint_or_none(describe: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
    """Return a description, or None if something in it cannot be fingerprinted."""
    try:
        return describe()
    except TypeError:
        return None


def sha256_of_json(described: Any) -> str:
    """Return the SHA-256 of a description."""
    return hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()
