"""Experiment trackers (tensorboard, wandb, trackio, ...), by the classes that accelerate has for them."""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from sbertlab.training.probe import METRICS

Tracker: TypeAlias = str | GeneralTracker
OF_MODEL = ("epoch", "metric", *METRICS)
"""Columns that are the model's, however many objectives there are."""


def tracker_names(log_with: Any) -> list[Tracker]:
    """Return trackers, each once: the names that are known and installed, and a user's own objects as they are.

    Raises:
        ImportError: one is not installed.
        TypeError: one is neither a name nor a tracker of accelerate.
        ValueError: one is unknown.

    >>> tracker_names(None)
    []
    """
    several = log_with if isinstance(log_with, (list, tuple)) else [] if log_with is None else [log_with]
    for one in several:
        if isinstance(one, GeneralTracker):
            continue
        if not isinstance(one, str):
            raise TypeError(f"log_with takes names and accelerate.tracking.GeneralTracker objects, got {one!r:.80}")
        if one not in LOGGER_TYPE_TO_CLASS:
            raise ValueError(f"log_with: unknown tracker {one!r}; known are {', '.join(LOGGER_TYPE_TO_CLASS)}")
        built_in = LOGGER_TYPE_TO_CLASS[one].__module__ == GeneralTracker.__module__
        packages = ["tensorboard", "tensorboardX"] if one == "tensorboard" else [one] if built_in else []
        # A spec without origin is a mere folder of that name, such as the one that wandb leaves in the working folder.
        if packages and not any(spec.origin for spec in map(find_spec, packages) if spec is not None):
            raise ImportError(f"log_with={one!r} needs the package {one}: pip install {one}")
    return list(dict.fromkeys(several))


def tracker_folder(log_dir: str | Path | None, trackers: Sequence[Tracker]) -> str | None:
    """Return where trackers write that write files: `runs` in the working folder unless told otherwise."""
    return str(Path(log_dir or "runs").resolve()) if any(isinstance(one, str) for one in trackers) else None


def make_tracker(name: str, project: str, folder: Path) -> GeneralTracker:
    """Return the tracker of that name, its files below `folder`, not yet begun."""
    kind = LOGGER_TYPE_TO_CLASS[name]
    folder.mkdir(parents=True, exist_ok=True)  # wandb writes elsewhere if it is missing
    if name == "tensorboard":  # takes all files of a folder for one run
        return kind(f"{project}/{datetime.now():%Y-%m-%d_%H-%M-%S.%f}", folder)
    if name == "wandb":
        return kind(project, dir=str(folder))
    if name == "trackio":  # is told where to write when it is imported, once a process
        if "trackio" not in sys.modules:
            os.environ["TRACKIO_DIR"] = str(folder)
        place = Path(import_module("trackio.utils").TRACKIO_DIR)
        if place.resolve() != folder:
            warnings.warn(f"trackio writes to {place} until Python is restarted, not to {folder}", stacklevel=4)
    return kind(project, folder) if kind.requires_logging_directory else kind(project)


class Trackers:
    """The trackers of a run, in its first process; without any, all of this does nothing.

    Args:
        accelerator: made with `project_dir`, the folder for files.
        trackers: from `tracker_names`.
        project: what the trackers file the run under.
        configuration: of the run, shown beside its curves.
    """

    def __init__(
        self, accelerator: Accelerator, trackers: Sequence[Tracker], project: str, configuration: Mapping[str, Any]
    ) -> None:
        self.open: list[GeneralTracker] = []
        plain = {key: value if isinstance(value, (int, float)) else str(value) for key, value in configuration.items()}
        try:
            for one in trackers if accelerator.is_main_process else []:
                tracker = make_tracker(one, project, Path(accelerator.project_dir)) if isinstance(one, str) else one
                tracker.start()
                self.open.append(tracker)
                tracker.store_init_configuration(plain)
        except BaseException:
            self.close()
            raise

    def log(self, rows: Sequence[Mapping[str, Any]], several: bool) -> None:
        """Write the numbers of a step's rows; with several objectives, what is theirs under the name of each."""
        if not self.open:
            return
        values = {
            f"{row['objective'].replace(':', '_')}/{key}" if several and key not in OF_MODEL else key: value
            for row in rows
            for key, value in row.items()
            if key != "step" and isinstance(value, (int, float)) and not math.isnan(value)
        }
        for tracker in self.open:
            tracker.log(values, step=rows[0]["step"])

    def close(self) -> None:
        """Let every tracker write what it holds back, once; one that fails does not keep the others from it."""
        while self.open:
            tracker = self.open.pop()
            try:
                tracker.finish()
            except Exception as error:
                warnings.warn(f"the tracker {tracker.name} could not be closed: {error!r}", stacklevel=3)
