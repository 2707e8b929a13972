"""What happens beside the mathematics of a run: `Callback`, the small callbacks, and what users' functions are told."""

import math
import signal
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partialmethod
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import numpy as np
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker, get_available_trackers
from accelerate.utils import ProjectConfiguration
from tqdm.auto import tqdm

from sbertlab.checks import check_choice
from sbertlab.encoder.sentence_transformer import SentenceTransformer
from sbertlab.training.step import OBJECTIVE_COLUMNS, Step


class Callback:
    """Does something beside the mathematics of a run. `fit` calls these methods, as far as a callback has them.

    | method              | when                                                                 |
    | ------------------- | -------------------------------------------------------------------- |
    | on_begin(run)       | before the first step                                                |
    | on_step(run)        | after each step; may add to its last row, `run.step.rows[-1]`        |
    | on_evaluation(run)  | after a step at which the model is to be evaluated                   |
    | on_step_end(run)    | when the rows of a step are complete                                 |
    | on_checkpoint(run)  | after a step at which a checkpoint is to be written                  |
    | on_end(run)         | after the last step, unless there was an error                       |
    | close(run)          | at the very end, also after an error                                 |
    """

    stops = False
    """Whether the run is to end after this step."""

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps for `restore`: tensors and plain values."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Return to a state; an empty one when a run that was to be resumed has no checkpoint."""


@dataclass
class Run:
    """A run of `total` steps as its callbacks see it; `step` has the model, the steps taken and the history.

    It was `interrupted` by Ctrl-C or `stopped` by a callback; `saved` is the step of the newest checkpoint.
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
        """Call the method of that name of every callback that has it."""
        for callback in self.callbacks:
            if hasattr(callback, event):
                getattr(callback, event)(self)

    @property
    def newest_rows(self) -> list[dict[str, Any]]:
        """The rows of the history of the newest step, one per objective."""
        return self.step.rows[-len(self.step.objectives) :]

    @property
    def within_epoch(self) -> int:
        """The steps taken in this epoch; -1 where the epoch, or the run, ends."""
        within = self.step.number % self.steps_per_epoch
        return -1 if within == 0 or self.step.number == self.total else within

    @property
    def is_main_process(self) -> bool:
        """Whether this process evaluates, saves and reports for all."""
        return self.step.accelerator.is_main_process


class Event(NamedTuple):
    """What a user's function is told; the kind is "step", "evaluation", "checkpoint" or "end".

    `rows` are the rows of the history of this step, one per objective, and `row` the last of them; `steps` counts the
    whole run.
    """

    kind: str
    step: int
    epoch: int
    row: dict[str, Any]
    model: SentenceTransformer
    rows: Sequence[dict[str, Any]] = ()
    steps: int = 0


class Functions(Callback):
    """Calls the user's functions of an `Event`, in the main process; one that returns True ends the run."""

    def __init__(self, functions: Sequence[Callable[[Event], Any]]) -> None:
        self.functions = list(functions)

    def _tell(self, run: Run, kind: str) -> None:
        written = kind != "checkpoint" or run.saved == run.step.number
        if run.step.rows and run.is_main_process and written:
            rows = [dict(row) for row in run.newest_rows]
            step, epoch = rows[-1]["step"], rows[-1]["epoch"]
            event = Event(kind, step, epoch, rows[-1], run.step.model, rows, run.total)
            answers = [function(event) for function in self.functions]
            self.stops |= any(isinstance(answer, (bool, np.bool_)) and bool(answer) for answer in answers)

    on_step = partialmethod(_tell, kind="step")
    on_evaluation = partialmethod(_tell, kind="evaluation")
    on_checkpoint = partialmethod(_tell, kind="checkpoint")
    on_end = partialmethod(_tell, kind="end")


class IdleSteps(Callback):
    """Warns of steps with a gradient of 0, from which nothing is learnt: at ten in a row, and of all at the end."""

    idle = in_a_row = 0

    def on_step_end(self, run: Run) -> None:
        is_idle = all(row["gradient_norm"] == 0 for row in run.newest_rows)
        self.idle, self.in_a_row = self.idle + is_idle, (self.in_a_row + 1) * is_idle
        if self.in_a_row == 10 or (self.idle and run.step.number == run.total):
            cause = "the loss finds no contrast, as in a batch of one row, of one class or of equal labels"
            warnings.warn(f"{self.idle} of {run.step.number} steps had a gradient of 0: {cause}", stacklevel=5)


class Interrupt(Callback):
    """Graceful Ctrl-C: the first SIGINT (also a notebook's stop button) only sets `requested`; the second raises.

    Outside the main thread, where Python allows no signal handlers, nothing changes.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: Any = None

    def on_begin(self, run: Run) -> None:
        ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # as for a script in the background
        if threading.current_thread() is threading.main_thread() and not ignored:
            self._before = signal.signal(signal.SIGINT, self._note)

    def close(self, run: Run) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        tqdm.write("Interrupted: finishing this step first. Press again to stop at once.")


def tracker_settings(log_with: Any, log_dir: str | Path | None) -> dict[str, Any]:
    """Return the arguments by which an Accelerator knows its trackers; a ValueError for one that is not installed."""
    if log_with is None:
        return {}
    trackers = log_with if isinstance(log_with, (list, tuple)) else [log_with]
    for name in trackers:
        if not isinstance(name, GeneralTracker):
            check_choice("log_with, with its package installed,", name, map(str, get_available_trackers()))
    folder = Path(log_dir or "runs").expanduser().resolve()
    own = folder / f"{datetime.now():%Y-%m-%d_%H-%M-%S.%f}"  # tensorboard takes all files in a folder for one run
    return {"log_with": trackers, "project_config": ProjectConfiguration(str(folder), logging_dir=str(own))}


class Trackers(Callback):
    """Reports the history, and the configuration, to the accelerator's trackers (tensorboard, wandb, trackio, ...)."""

    def __init__(self, accelerator: Accelerator, configuration: Mapping[str, Any]) -> None:
        self.accelerator, self.configuration = accelerator, dict(configuration)

    def on_begin(self, run: Run) -> None:
        folder = Path(self.accelerator.project_dir)
        folder.mkdir(parents=True, exist_ok=True)  # wandb writes elsewhere if it is missing
        self.accelerator.init_trackers("sbertlab", self.configuration, {"wandb": {"dir": str(folder)}})

    def on_step_end(self, run: Run) -> None:
        """Report a step; of several objectives, each reports under its name."""
        values: dict[str, float] = {}
        for row in run.newest_rows:
            prefix = f"{row['objective'].replace(':', '_')}/" if len(run.newest_rows) > 1 else ""
            for key, value in row.items():
                if key not in ("step", "objective") and not math.isnan(value):
                    values[prefix + key if key in OBJECTIVE_COLUMNS else key] = value
        self.accelerator.log(values, step=run.step.number)

    def close(self, run: Run) -> None:
        for tracker in self.accelerator.trackers:
            try:
                tracker.finish()
            except Exception as error:  # the run is over, and its history must not be lost
                warnings.warn(f"the tracker {tracker.name} could not finish: {error!r}", stacklevel=5)
