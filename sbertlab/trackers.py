"""Experiment trackers (tensorboard, wandb, trackio, ...), by the classes that accelerate has for them."""

from __future__ import annotations

import importlib
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from sbertlab.watch import SPACE_COLUMNS

OF_MODEL = ("epoch", "metric", *SPACE_COLUMNS)
"""Columns that are the model's, whatever the number of objectives."""


def tracker_names(log_with: Any) -> list[str | GeneralTracker]:
    """Return trackers, each once: objects as they are, names if they are known and installed.

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
        if LOGGER_TYPE_TO_CLASS[one].__module__ != GeneralTracker.__module__:
            continue  # a class that the user registered
        packages = ("tensorboard", "tensorboardX") if one == "tensorboard" else (one,)
        # A spec without origin is a mere folder of that name, such as the one that wandb leaves in the working folder.
        if not any((spec := find_spec(package)) and spec.origin for package in packages):
            raise ImportError(f"log_with={one!r} needs the package {one}: pip install {one}")
    return list(dict.fromkeys(several))


def tracker_folder(log_dir: str | Path | None, trackers: Sequence[str | GeneralTracker]) -> str | None:
    """Return where trackers write that write files: `runs` in the working folder unless told otherwise."""
    return str(Path(log_dir or "runs").resolve()) if any(isinstance(one, str) for one in trackers) else None


def make_tracker(name: str, project: str, folder: Path) -> GeneralTracker:
    """Return the tracker of that name, its files below `folder`, not yet begun."""
    kind = LOGGER_TYPE_TO_CLASS[name]
    if name == "tensorboard":  # takes all files of a folder for one run
        return kind(f"{project}/{datetime.now():%Y-%m-%d_%H-%M-%S.%f}", folder)
    if name == "wandb":  # writes elsewhere if the folder is missing
        folder.mkdir(parents=True, exist_ok=True)
        return kind(project, dir=str(folder))
    if name == "trackio":  # settles where it writes when it is imported, once a process
        os.environ["TRACKIO_DIR"] = str(folder)
        place = Path(importlib.import_module("trackio.utils").TRACKIO_DIR)
        if place.resolve() != folder:
            os.environ["TRACKIO_DIR"] = str(place)
            warnings.warn(
                f"trackio writes to {place}, not to {folder}: this process began with that; for another folder, "
                "restart it",
                stacklevel=4,
            )
    return kind(project, folder) if kind.requires_logging_directory else kind(project)


class Trackers:
    """The trackers of a run, in its first process; without any, all of this does nothing.

    Args:
        accelerator: made with `project_dir`.
        trackers: names and objects, from `tracker_names`.
        project: what the trackers file the run under.
        configuration: of the run, shown beside its curves.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        trackers: Sequence[str | GeneralTracker],
        project: str,
        configuration: Mapping[str, Any],
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
        """Write the numbers of a step's rows; with several objectives, each under the name of its own."""
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
