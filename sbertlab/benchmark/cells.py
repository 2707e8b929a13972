"""A cell is the result of one model on one task, stored under a key of everything that its number depends on."""

import json
import os
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sbertlab.analysis.resampling import Examples
from sbertlab.storage.files import staged_folder

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

    def get(self, key: str) -> Cell | None:
        """Return the cell with this key; None if it is missing or damaged."""
        place = self.folder / key
        try:
            record = json.loads((place / "cell.json").read_text(encoding="utf-8"))
            examples = Examples.load(place / "examples.npz") if record["examples"] else None  # a zip with checksums
            return Cell(record["row"], examples, record["environment"])
        except Exception:  # whatever the damage raises
            return None

    def put(self, key: str, cell: Cell) -> None:
        """Write a cell, unless its key is `UNCACHED`; a warning says that it cannot be written (on a full disk)."""
        if key.startswith(UNCACHED):
            return
        try:
            with staged_folder(self.folder / key) as folder:
                if cell.examples is not None:
                    cell.examples.save(folder / "examples.npz")
                record = {"row": cell.row, "examples": cell.examples is not None, "environment": cell.environment}
                (folder / "cell.json").write_text(json.dumps(record, indent=2), encoding="utf-8")
        except OSError as error:
            if self.get(key) is None:  # another run may have finished it at the same time
                warnings.warn(f"finished cells cannot be cached in {self.folder}: {error}", stacklevel=2)
