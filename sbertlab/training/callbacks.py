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

from sbertlab.checks import check_choice, checked_number
from sbertlab.encoder.sentence_transformer import SentenceTransformer
from sbertlab.training.batches import Objective
from sbertlab.training.step import OBJECTIVE_COLUMNS, Step


class RunLength(NamedTuple):
    """The steps of a run, and after which of them it evaluates."""

    total: int
    steps_per_epoch: int
    evaluation_steps: int

    @classmethod
    def of(
        cls, objectives: Sequence[Objective], epochs: float, steps_per_epoch: int | None, evaluation_steps: int
    ) -> RunLength:
        """Check the arguments of `fit`; without `steps_per_epoch`, the shortest loader decides."""
        checked_number("epochs", epochs, above=True)
        checked_number("steps_per_epoch", steps_per_epoch or 0, whole=True)
        checked_number("evaluation_steps", evaluation_steps, whole=True)
        steps_per_epoch = int(steps_per_epoch or min(map(len, objectives)))
        return cls(max(1, round(steps_per_epoch * epochs)), steps_per_epoch, evaluation_steps)

    def within_epoch(self, step: int) -> int:
        """Return the steps taken in this epoch; -1 where the epoch, or the run, ends."""
        within = step % self.steps_per_epoch
        return -1 if within == 0 or step == self.total else within

    def evaluates(self, step: int) -> bool:
        """Whether the model is evaluated after this step."""
        within = self.within_epoch(step)
        return within == -1 or (self.evaluation_steps > 0 and within % self.evaluation_steps == 0)


@dataclass
class Run:
    """A run as its callbacks see it.

    Attributes:
        step: the model, the steps taken and the history.
        length: of the whole run.
        accelerator: says which process is the main one.
        callbacks: in the order in which they are called.
        interrupted: Ctrl-C ended the run before its last step.
        stopped: a callback did.
        saved: the step of the newest checkpoint.
    """

    step: Step
    length: RunLength
    accelerator: Accelerator
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
    """Calls the user's functions of an `Event`, in the main process; one that returns True ends the run.

    Raises:
        TypeError: not a list of functions.
    """

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
        if not step.rows or not self.functions or not run.accelerator.is_main_process:
            return False
        rows = [dict(row) for row in step.rows[-len(step.objectives) :]]
        event = Event(
            kind, rows[-1]["step"], rows[-1]["epoch"], rows[-1], step.model, rows, run.length.total, step.examples
        )
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


class ProgressBar(Callback):
    """A bar with the newest loss and score, in the main process."""

    def __init__(self, show: bool) -> None:
        self.show, self.bar = show, tqdm(disable=True)
        self._score: dict[str, str] = {}

    def on_begin(self, run: Run) -> None:
        """Show the bar."""
        show = self.show and run.accelerator.is_main_process
        self.bar = tqdm(total=run.length.total, initial=run.step.number, desc="Training", unit="step", disable=not show)

    def on_step_end(self, run: Run) -> None:
        """Advance the bar."""
        row = run.step.rows[-1]
        if not math.isnan(row["metric"]):
            self._score = {"score": f"{row['metric']:.4f}"}
        self.bar.set_postfix(loss=f"{row['loss']:.4f}", **self._score, refresh=False)
        self.bar.update()

    def close(self, run: Run) -> None:
        """Leave the bar as it is."""
        self.bar.close()


def tracker_settings(log_with: Any, log_dir: str | Path | None) -> dict[str, Any]:
    """Return the arguments by which an Accelerator knows its trackers; none without trackers.

    Raises:
        ImportError: a tracker is not installed.
        TypeError: neither a name nor a tracker of accelerate.
        ValueError: an unknown name.

    >>> tracker_settings(None, "runs")
    {}
    """
    trackers = [] if log_with is None else list(log_with) if isinstance(log_with, (list, tuple)) else [log_with]
    names = [one for one in trackers if isinstance(one, str)]
    for one in trackers:
        if not isinstance(one, str | GeneralTracker):
            raise TypeError(f"log_with takes names and accelerate.tracking.GeneralTracker objects, got {one!r:.80}")
    for name in names:
        check_choice("log_with", name, LOGGER_TYPE_TO_CLASS)
        if name in LoggerType.list() and name not in map(str, get_available_trackers()):
            raise ImportError(f"log_with={name!r} needs the package {name}: pip install {name}")
    settings: dict[str, Any] = {"log_with": list(dict.fromkeys(trackers))} if trackers else {}
    if names:
        folder = Path(log_dir or "runs").resolve()  # tensorboard takes all files in a folder for one run
        logging = folder / f"{datetime.now():%Y-%m-%d_%H-%M-%S.%f}"
        settings["project_config"] = ProjectConfiguration(str(folder), logging_dir=str(logging))
    return settings


class Trackers(Callback):
    """Reports the history to the accelerator's trackers (tensorboard, wandb, trackio, ...), and closes them.

    Args:
        configuration: of the run, shown beside its curves.
    """

    def __init__(self, configuration: Mapping[str, Any]) -> None:
        self.configuration = {
            key: value if isinstance(value, (int, float)) else str(value) for key, value in configuration.items()
        }

    def on_begin(self, run: Run) -> None:
        """Start the trackers."""
        folder = run.accelerator.project_dir
        if folder is not None:
            Path(folder).mkdir(parents=True, exist_ok=True)  # wandb writes elsewhere if it is missing
            if "trackio" in map(str, run.accelerator.log_with) and "trackio" not in sys.modules:
                os.environ["TRACKIO_DIR"] = folder  # which trackio reads when it is imported
        if run.accelerator.log_with:
            run.accelerator.init_trackers("sbertlab", self.configuration, {"wandb": {"dir": folder}})

    def on_step_end(self, run: Run) -> None:
        """Report a step; with several objectives, what is theirs goes under the name of each."""
        if not run.accelerator.trackers:
            return
        several = len(run.step.objectives) > 1
        values = {
            f"{row['objective'].replace(':', '_')}/{key}" if several and key in OBJECTIVE_COLUMNS else key: value
            for row in run.step.rows[-len(run.step.objectives) :]
            for key, value in row.items()
            if key != "step" and isinstance(value, (int, float)) and not math.isnan(value)
        }
        run.accelerator.log(values, step=run.step.number)

    def close(self, run: Run) -> None:
        """Finish every tracker once; one that fails does not keep the others open."""
        while run.accelerator.trackers:
            tracker = run.accelerator.trackers.pop()
            try:
                tracker.finish()
            except Exception as error:
                warnings.warn(f"the tracker {tracker.name} could not be closed: {error!r}", stacklevel=5)
