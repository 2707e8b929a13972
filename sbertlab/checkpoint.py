"""What a run keeps on disk: the best or the last model, its scores, and checkpoints on the way."""

from __future__ import annotations

import math
import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sbertlab.encoder import SentenceTransformer
from sbertlab.safe_files import staged_folder


class Keeper:
    """Evaluates, keeps the best model, and tells the callback.

    Raises:
        TypeError: an evaluator or a callback that cannot be called.
        OSError: `output_path` cannot be written.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        evaluator: Any,
        output_path: str | Path | None,
        save_best_model: bool,
        callback: Callable[[float, int, int], None] | None,
    ) -> None:
        if evaluator is not None and (isinstance(evaluator, type) or not callable(evaluator)):
            raise TypeError(
                f"evaluator must be one evaluator, got {evaluator!r:.80}; several go into "
                "evaluation.SequentialEvaluator([...])"
            )
        if callback is not None and not callable(callback):
            raise TypeError(f"callback must be a function of (score, epoch, steps), got {callback!r:.80}")
        self.model, self.evaluator, self.callback = model, evaluator, callback
        self.output_path = None if output_path is None else writable_folder("output_path", output_path, replaced=True)
        self.keep_best = save_best_model and evaluator is not None
        self.best = -math.inf
        self.score = math.nan

    def evaluate(self, epoch: int, steps: int) -> float:
        """Return the score, NaN without an evaluator; write the model when it is the best so far."""
        if self.evaluator is None:
            return math.nan
        folder = None
        if self.output_path is not None:
            folder = self.output_path / "eval"
            folder.mkdir(parents=True, exist_ok=True)
        self.model.eval()
        self.score = score_of(self.evaluator, self.evaluator(self.model, output_path=folder, epoch=epoch, steps=steps))
        if self.score > self.best:
            self.best = self.score
            if self.keep_best and self.output_path is not None:
                self.model.save(self.output_path)
        if self.callback is not None:
            self.callback(self.score, epoch, steps)
        return self.score

    def finish(self) -> None:
        """Write the last model, unless a best one is kept."""
        if self.output_path is None or (self.keep_best and self.best > -math.inf):
            return
        if self.keep_best:
            warnings.warn(
                f"the evaluator gave {self.score} and never a score that could be compared; the last model is kept",
                stacklevel=3,
            )
        self.model.save(self.output_path)

    def postfix(self) -> dict[str, str]:
        """Return the newest score for the progress bar."""
        return {} if math.isnan(self.score) else {"score": f"{self.score:.4f}"}


def score_of(evaluator: Any, result: Any) -> float:
    """Return the number that model selection goes by: the primary metric of a dictionary, or the result itself.

    >>> score_of(None, 0.5)
    0.5
    """
    key = getattr(evaluator, "primary_metric", None)
    try:
        return float(result[key] if isinstance(result, Mapping) else result)
    except (KeyError, TypeError, ValueError):
        raise TypeError(
            f"{type(evaluator).__name__} must return a number, or a dictionary with its primary_metric, {key!r}, got "
            f"{result!r:.200}"
        ) from None


def writable_folder(name: str, folder: str | Path, replaced: bool = False) -> Path:
    """Return a folder to write to, made when missing; better refused before a run than at its end.

    Args:
        name: of the argument.
        folder: its value.
        replaced: whether the folder will be replaced by a new one, as `save` does.

    Raises:
        OSError: it is a file, or cannot be written or replaced.
        TypeError: it is no path.
    """
    if not isinstance(folder, (str, os.PathLike)):
        raise TypeError(f"{name} must be the path of a folder, got {folder!r:.80}")
    path = Path(folder)
    try:
        if not replaced:
            path.mkdir(parents=True, exist_ok=True)
        with staged_folder(path, keep=lambda entry: True) if replaced else TemporaryDirectory(dir=path):
            return path
    except OSError as error:
        raise OSError(f"{name}={str(folder)!r} cannot be written: {error}") from error


def save_checkpoint(model: SentenceTransformer, folder: Path, written: list[Path], limit: int) -> None:
    """Write the model to `folder` and remove the oldest that this run has written beyond the limit (0: none)."""
    model.save(folder)
    written.append(folder)
    while 0 < limit < len(written):
        shutil.rmtree(written.pop(0), ignore_errors=True)
