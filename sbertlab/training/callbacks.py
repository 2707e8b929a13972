"""What a run tells the functions that a user gives it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from sbertlab.encoder.sentence_transformer import SentenceTransformer
from sbertlab.training.processes import Processes
from sbertlab.training.run import Run


class Event(NamedTuple):
    """What a function in `callbacks` is told."""

    kind: str
    """"step", "evaluation", "checkpoint" or "end"."""
    step: int
    epoch: int
    row: dict[str, Any]
    """The newest row of the history."""
    model: SentenceTransformer
    rows: Sequence[dict[str, Any]] = ()
    """The rows of this step, one an objective."""
    steps: int = 0
    """Of the whole run."""
    examples: int = 0
    """Rows of data that the step learnt from."""


class Calls:
    """The functions that want to know how a run goes; the first process calls them."""

    def __init__(self, functions: Sequence[Callable[[Event], Any]], run: Run, processes: Processes, steps: int) -> None:
        if callable(functions) or not all(map(callable, functions)):
            raise TypeError(f"callbacks must be a list of functions of an Event, got {functions!r:.80}")
        self.functions, self.run, self.steps = list(functions) if processes.main else [], run, steps

    def tell(self, kind: str) -> bool:
        """Call every function; return whether one of them wants the run to end."""
        if not self.functions or not self.run.rows:
            return False
        row = self.run.rows[-1]
        rows = [dict(one) for one in self.run.rows[-len(self.run.objectives) :]]
        event = Event(kind, row["step"], row["epoch"], rows[-1], self.run.model, rows, self.steps, self.run.examples)
        answers = [function(event) for function in self.functions]  # all are told, whatever the first says
        return any(isinstance(answer, (bool, np.bool_)) and bool(answer) for answer in answers)
