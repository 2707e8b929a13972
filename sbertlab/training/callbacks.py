"""What happens beside the mathematics of a run: `Callback`, the small callbacks, and the `Event` of users' functions.

The larger callbacks have files of their own: `best_model`, `checkpoint` and `probe`.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import numpy as np
from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers
from accelerate.utils import LoggerType, ProjectConfiguration
from tqdm.auto import tqdm

from sbertlab.checks import check_choice
from sbertlab.encoder.sentence_transformer import SentenceTransformer
from sbertlab.training.step import OBJECTIVE_COLUMNS, Step


@dataclass
class Run:
    """A run as its callbacks see it; `step` has the model, the steps taken and the history.

    Attributes:
        total: steps of the whole run.
        interrupted: Ctrl-C ended the run before its last step.
        stopped: a callback did.
        saved: the step of the newest checkpoint.
    """

    step: Step
    total: int
    steps_per_epoch: int
    evaluation_steps: int
    callbacks: Sequence[Callback]
    interrupted: bool = False
    stopped: bool = False
    saved: int = 0

    def tell(self, event: str) -> None:
        """Call the method of that name of every callback."""
        for callback in self.callbacks:
            getattr(callback, event)(self)

    @property
    def stops(self) -> bool:
        """Whether a callback of this process ends the run."""
        return any(callback.stops for callback in self.callbacks)

    @property
    def within_epoch(self) -> int:
        """The steps taken in this epoch; -1 where the epoch, or the run, ends."""
        within = self.step.number % self.steps_per_epoch
        return -1 if within == 0 or self.step.number == self.total else within

    @property
    def evaluates(self) -> bool:
        """Whether the model is evaluated after this step."""
        within = self.within_epoch
        return within == -1 or (self.evaluation_steps > 0 and within % self.evaluation_steps == 0)

    @property
    def is_main_process(self) -> bool:
        """Whether this process evaluates, saves and reports for all."""
        return self.step.accelerator.is_main_process


class Callback:
    """Does something beside the mathematics of a run. `fit` calls the methods in the order in which they stand here."""

    def on_begin(self, run: Run) -> None:
        """Called before the first step."""

    def on_step(self, run: Run) -> None:
        """Called after each step; may add to its last row, `run.step.rows[-1]`."""

    def on_evaluation(self, run: Run) -> None:
        """Called after a step at which the model is to be evaluated."""

    def on_step_end(self, run: Run) -> None:
        """Called when the rows of a step are complete."""

    def on_checkpoint(self, run: Run) -> None:
        """Called after a step at which a checkpoint is to be written."""

    def close(self, run: Run) -> None:
        """Called after the last step, or after an error."""

    def on_end(self, run: Run) -> None:
        """Called after `close`, unless there was an error."""

    @property
    def stops(self) -> bool:
        """Whether the run is to end after this step."""
        return False

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps for `restore`: tensors and plain values."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Return to a state; an empty one when a run that was to be resumed has no checkpoint."""


class Event(NamedTuple):
    """What a user's function is told."""

    kind: str
    """"step", "evaluation", "checkpoint" or "end"."""
    step: int
    epoch: int
    row: dict[str, Any]
    """The newest row of the history."""
    model: SentenceTransformer
    rows: Sequence[dict[str, Any]] = ()
    """The rows of this step, one per objective."""
    steps: int = 0
    """Of the whole run."""
    examples: int = 0
    """Rows of data in this step."""


class Functions(Callback):
    """Calls the user's functions of an `Event`, in the main process; one that returns True ends the run."""

    def __init__(self, functions: Sequence[Callable[[Event], Any]]) -> None:
        if callable(functions) or not all(map(callable, functions)):
            raise TypeError(f"callbacks must be a list of functions of an Event, got {functions!r:.80}")
        self.functions, self._stops = list(functions), False

    def on_step(self, run: Run) -> None:
        """Tell a step."""
        self._stops |= self._tell("step", run)

    def on_evaluation(self, run: Run) -> None:
        """Tell an evaluation."""
        self._stops |= self._tell("evaluation", run)

    def on_checkpoint(self, run: Run) -> None:
        """Tell a checkpoint, if it could be written."""
        if run.saved == run.step.number:
            self._tell("checkpoint", run)

    def on_end(self, run: Run) -> None:
        """Tell the end."""
        self._tell("end", run)

    @property
    def stops(self) -> bool:
        """Whether a function returned True."""
        return self._stops

    def _tell(self, kind: str, run: Run) -> bool:
        step = run.step
        if not step.rows or not self.functions or not run.is_main_process:
            return False
        rows = [dict(row) for row in step.rows[-len(step.objectives) :]]
        newest, total = rows[-1], run.total
        event = Event(kind, newest["step"], newest["epoch"], newest, step.model, rows, total, step.examples)
        answers = [function(event) for function in self.functions]  # all are told, whatever the first answers
        return any(isinstance(answer, (bool, np.bool_)) and bool(answer) for answer in answers)


class Interrupt(Callback):
    """Graceful Ctrl-C: the first SIGINT (also a notebook's stop button) only sets `requested`.

    So the running step is finished first. The second SIGINT raises KeyboardInterrupt. Outside the main thread, where
    Python allows no signal handlers, nothing changes.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: Any = None
        self._process = os.getpid()

    def on_begin(self, run: Run) -> None:
        """Install the handler."""
        ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # as for a script in the background
        if threading.current_thread() is threading.main_thread() and not ignored:
            self._before = signal.signal(signal.SIGINT, self._note)

    def close(self, run: Run) -> None:
        """Restore the handler that was there."""
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        if os.getpid() == self._process:  # and not in a worker of a DataLoader, which a terminal signals too
            tqdm.write("Interrupted: finishing this step first. Press again to stop at once.")


def tracker_settings(log_with: Any, log_dir: str | Path | None) -> dict[str, Any]:
    """Return the arguments by which an Accelerator knows its trackers; none without trackers.

    Raises:
        ImportError: a tracker is not installed.
        TypeError: neither a name nor a tracker of accelerate.
        ValueError: an unknown name.
    """
    trackers = [] if log_with is None else log_with if isinstance(log_with, (list, tuple)) else [log_with]
    settings: dict[str, Any] = {"log_with": list(dict.fromkeys(trackers))} if trackers else {}
    for tracker in trackers:
        if isinstance(tracker, GeneralTracker):
            continue
        if not isinstance(tracker, str):
            raise TypeError(f"log_with takes names and accelerate.tracking.GeneralTracker objects, got {tracker!r:.80}")
        check_choice("log_with", tracker, LOGGER_TYPE_TO_CLASS)
        if tracker in LoggerType.list() and tracker not in map(str, get_available_trackers()):
            raise ImportError(f"log_with={tracker!r} needs the package {tracker}: pip install {tracker}")
        folder = Path(log_dir or "runs").resolve()  # tensorboard takes all files in a folder for one run
        own = str(folder / f"{datetime.now():%Y-%m-%d_%H-%M-%S.%f}")
        settings["project_config"] = ProjectConfiguration(str(folder), logging_dir=own)
    return settings


class Trackers(Callback):
    """Reports the history, and the configuration, to the accelerator's trackers (tensorboard, wandb, trackio, ...)."""

    def __init__(self, accelerator: Accelerator, configuration: Mapping[str, Any]) -> None:
        self.accelerator, self.configuration = accelerator, configuration

    def on_begin(self, run: Run) -> None:
        """Start the trackers."""
        folder = self.accelerator.project_dir
        if folder is not None:
            Path(folder).mkdir(parents=True, exist_ok=True)  # wandb writes elsewhere if it is missing
            if "trackio" in map(str, self.accelerator.log_with) and "trackio" not in sys.modules:
                os.environ["TRACKIO_DIR"] = folder  # which trackio reads when it is imported
        if self.accelerator.log_with:
            shown = {
                key: value if isinstance(value, (int, float)) else str(value)
                for key, value in self.configuration.items()
            }
            self.accelerator.init_trackers("sbertlab", shown, {"wandb": {"dir": folder}})

    def on_step_end(self, run: Run) -> None:
        """Report a step; of several objectives, each reports under its name."""
        count = len(run.step.objectives)
        if self.accelerator.trackers:
            values = {
                f"{row['objective'].replace(':', '_')}/{key}" if count > 1 and key in OBJECTIVE_COLUMNS else key: value
                for row in run.step.rows[-count:]
                for key, value in row.items()
                if key != "step" and isinstance(value, (int, float)) and not math.isnan(value)
            }
            self.accelerator.log(values, step=run.step.number)

    def close(self, run: Run) -> None:
        """Finish every tracker once; one that fails does not keep the others open."""
        while self.accelerator.trackers:
            tracker = self.accelerator.trackers.pop()
            try:
                tracker.finish()
            except Exception as error:
                warnings.warn(f"the tracker {tracker.name} could not be closed: {error!r}", stacklevel=5)
