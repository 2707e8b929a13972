"""Experiment trackers (tensorboard, wandb, trackio, ...), through accelerate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS


def tracker_names(log_with: str | Sequence[str] | None) -> list[str]:
    """Return the names of trackers, each known and installed.

    Raises:
        ImportError: one is not installed.
        ValueError: one is unknown.

    >>> tracker_names(None)
    []
    """
    names = [] if log_with is None else [log_with] if isinstance(log_with, str) else list(log_with)
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise ValueError(f"log_with: unknown tracker {name!r}; known are {', '.join(LOGGER_TYPE_TO_CLASS)}")
        if name == "tensorboard" and find_spec("tensorboard") is None and find_spec("tensorboardX") is not None:
            continue
        package = {"comet_ml": "comet_ml", "dvclive": "dvclive"}.get(name, name)
        if find_spec(package) is None:
            raise ImportError(f"log_with={name!r} needs the package {package}: pip install {package}")
    return names


class Trackers:
    """The trackers of a run; without any, all of this does nothing.

    Args:
        accelerator: made with `log_with` and `project_dir`.
        names: of the trackers.
        project: what the trackers file the run under.
        configuration: of the run, shown beside its curves.
    """

    def __init__(
        self, accelerator: Accelerator, names: Sequence[str], project: str, configuration: Mapping[str, Any]
    ) -> None:
        self.accelerator, self.names = accelerator, list(names)
        if self.names:
            plain = {
                key: value if isinstance(value, (int, float)) else str(value) for key, value in configuration.items()
            }
            accelerator.init_trackers(project, config=plain)

    def log(self, rows: Sequence[Mapping[str, Any]], several: bool) -> None:
        """Write the numbers of a step's rows; with several objectives, each under the name of its own."""
        if not self.names:
            return
        values = {
            f"{row['objective']}/{key}" if several else key: value
            for row in rows
            for key, value in row.items()
            if key != "step" and isinstance(value, (int, float)) and not math.isnan(value)
        }
        self.accelerator.log(values, step=rows[0]["step"])

    def close(self) -> None:
        """Let every tracker write what it holds back."""
        for tracker in self.accelerator.trackers if self.names else []:
            tracker.finish()


def tracker_folder(log_dir: str | Path | None, names: Sequence[str]) -> str | None:
    """Return where trackers write that write files: `runs` in the working folder unless told otherwise."""
    return str(log_dir or "runs") if names else None
