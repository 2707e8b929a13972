"""The best model of a run: evaluate, keep the model with the best score, stop when the score no longer rises."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sbertlab.checks import checked_number
from sbertlab.encoder.sentence_transformer import SentenceTransformer
from sbertlab.storage.files import write_whole
from sbertlab.training.callbacks import Callback, Run
from sbertlab.training.checkpoint import writable_folder
from sbertlab.training.processes import from_main_process


class BestModel(Callback):
    """Evaluates in the main process, and writes the best model to `output_path`, with the scores in `eval/`.

    Args:
        evaluator: or None.
        output_path: folder for the model; None in other processes than the main one.
        save_best_model: keep the best model rather than the last.
        callback: called with (score, epoch, steps) after every evaluation.
        patience: evaluations in a row without a better score after which the run stops.
    """

    def __init__(
        self,
        evaluator: Any,
        output_path: str | Path | None,
        save_best_model: bool = True,
        callback: Callable[[float, int, int], None] | None = None,
        patience: int | None = None,
    ) -> None:
        if evaluator is not None and (isinstance(evaluator, type) or not callable(evaluator)):
            raise TypeError(
                f"evaluator must be one evaluator, got {evaluator!r:.80}; put several into "
                "evaluation.SequentialEvaluator([...])"
            )
        if callback is not None and not callable(callback):
            raise TypeError(f"callback must be a function of (score, epoch, steps), got {callback!r:.80}")
        if patience is not None:
            checked_number("early_stopping_patience", patience, 1, whole=True)
            if evaluator is None:
                raise ValueError("early_stopping_patience needs an evaluator, which gives the score")
        self.evaluator, self.callback = evaluator, callback
        self.output_path = None if output_path is None else writable_folder("output_path", output_path, replaced=True)
        self.keep_best = save_best_model and evaluator is not None
        self.patience = math.inf if patience is None else patience
        self.best, self.score = -math.inf, math.nan
        self.stale = 0  # evaluations since the best one

    def on_evaluation(self, run: Run) -> None:
        """Write the score into the history, and the model to `output_path` if it is the best so far."""
        if self.evaluator is not None:
            if run.is_main_process:
                step = run.step
                self._evaluate(step.model, step.rows[-1]["epoch"], run.within_epoch)
            run.step.rows[-1]["metric"] = from_main_process(run.step.accelerator, self.score)

    def _evaluate(self, model: SentenceTransformer, epoch: int, steps: int) -> None:
        folder = None
        if self.output_path is not None:
            folder = self.output_path / "eval"
            folder.mkdir(parents=True, exist_ok=True)
        model.eval()
        self.score = score_of(self.evaluator, self.evaluator(model, output_path=folder, epoch=epoch, steps=steps))
        self.stale += 1
        if self.score > self.best:
            self.best, self.stale = self.score, 0
            if self.keep_best and self.output_path is not None:
                model.save(self.output_path)
        if self.callback is not None:
            self.callback(self.score, epoch, steps)

    def on_end(self, run: Run) -> None:
        """Write the last model, unless a best one is kept or the run is to be resumed."""
        if self.output_path is None or run.interrupted:
            return
        if self.keep_best:
            if self.best > -math.inf and (self.output_path / "modules.json").exists():
                return
            problem = f"no model with the best score, {self.best}, is in {str(self.output_path)!r}"
            warnings.warn(f"{problem} (the last score is {self.score}); the last model is kept", stacklevel=5)
        run.step.model.save(self.output_path)

    @property
    def stops(self) -> bool:
        """Whether the patience is exhausted."""
        return self.stale >= self.patience

    def state(self) -> dict[str, Any]:
        """Return the scores and the content of the files with scores."""
        files = {path.name: path.read_text(encoding="utf-8") for path in self._score_files() if path.exists()}
        return {"best": self.best, "score": self.score, "stale": self.stale, "files": files}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Return to a state, and undo what was written to the files with scores since."""
        if state:
            self.best, self.score, self.stale = state["best"], state["score"], state["stale"]
        for path in self._score_files():
            path.unlink(missing_ok=True)
            if path.name in state.get("files", {}):
                with write_whole(path) as partial:
                    partial.write_text(state["files"][path.name], encoding="utf-8")

    def _score_files(self) -> list[Path]:
        return (
            [] if self.output_path is None else [self.output_path / "eval" / name for name in csv_files(self.evaluator)]
        )


def csv_files(evaluator: Any) -> list[str]:
    """Return the names of the files that an evaluator, or the evaluators inside it, append scores to."""
    own = [evaluator.csv_file] if isinstance(getattr(evaluator, "csv_file", None), str) else []
    return own + [name for part in getattr(evaluator, "evaluators", []) for name in csv_files(part)]


def score_of(evaluator: Any, result: Any) -> float:
    """Return the number that model selection uses: the primary metric of a dictionary, or the result itself.

    >>> score_of(None, 0.5)
    0.5
    """
    key = getattr(evaluator, "primary_metric", None)
    try:
        return float(result[key] if isinstance(result, Mapping) else result)
    except (KeyError, TypeError, ValueError):
        wanted = f"a number, or a dictionary with its primary_metric, {key!r}"
        raise TypeError(f"{type(evaluator).__name__} must return {wanted}, got {result!r:.200}") from None
