"""What a run keeps of its evaluations: the best or the last model, the scores, and whether they still rise."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sbertlab.encoder.sentence_transformer import SentenceTransformer
from sbertlab.training.checkpoint import writable_folder


class Keeper:
    """Evaluates, keeps the best model, and tells the callback.

    Args:
        model: the one that is trained.
        evaluator: or None.
        output_path: where the model goes, and its scores in `eval/`.
        save_best_model: keep the best rather than the last.
        callback: called with (score, epoch, steps).
        patience: evaluations without a better score after which the run is `exhausted`.

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
        patience: int | None = None,
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
        self.patience = math.inf if patience is None else patience
        self.stale = 0  # evaluations since the best one

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
        self.stale += 1
        if self.score > self.best:
            self.best, self.stale = self.score, 0
            if self.keep_best and self.output_path is not None:
                self.model.save(self.output_path)
        if self.callback is not None:
            self.callback(self.score, epoch, steps)
        return self.score

    def finish(self) -> None:
        """Write the last model, unless a best one is kept."""
        if self.output_path is None:
            return
        if self.keep_best and self.best > -math.inf:
            if (self.output_path / "modules.json").exists():
                return
            warnings.warn(
                f"the best model, of score {self.best}, was not found in {str(self.output_path)!r}, where the run "
                "began elsewhere; the last model is kept",
                stacklevel=3,
            )
        elif self.keep_best:
            warnings.warn(
                f"the evaluator gave {self.score} and never a score that could be compared; the last model is kept",
                stacklevel=3,
            )
        self.model.save(self.output_path)

    @property
    def exhausted(self) -> bool:
        """Whether the score has not risen for as many evaluations as patience allows."""
        return self.stale >= self.patience

    def state(self) -> dict[str, Any]:
        """Return the scores so far and how long the files with scores are, for `restore`."""
        return {"best": self.best, "score": self.score, "stale": self.stale, "files": self._score_files()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to that state; rows that were written to the files with scores afterwards are cut off."""
        self.best, self.score, self.stale = state["best"], state["score"], state["stale"]
        self.cut_scores(state["files"])

    def cut_scores(self, files: Mapping[str, int]) -> None:
        """Cut the evaluator's files back to these sizes in bytes; one that is not named is removed."""
        for name, size in self._score_files().items():
            path = Path(self.output_path or "") / "eval" / name
            if name not in files:
                path.unlink()
            elif size > files[name]:
                os.truncate(path, files[name])

    def _score_files(self) -> dict[str, int]:
        """Return the size in bytes of every file that the evaluator appends its scores to."""
        if self.output_path is None:
            return {}
        paths = [self.output_path / "eval" / name for name in csv_files(self.evaluator)]
        return {path.name: path.stat().st_size for path in paths if path.exists()}

    def postfix(self) -> dict[str, str]:
        """Return the newest score for the progress bar."""
        return {} if math.isnan(self.score) else {"score": f"{self.score:.4f}"}


def csv_files(evaluator: Any) -> list[str]:
    """Return the names of the files that an evaluator, or those inside it, append to."""
    own = [evaluator.csv_file] if isinstance(getattr(evaluator, "csv_file", None), str) else []
    return own + [name for part in getattr(evaluator, "evaluators", []) for name in csv_files(part)]


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
