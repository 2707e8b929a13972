"""What a run writes: checkpoints, complete or absent, from which the same call of `fit` resumes; and the best model.

A checkpoint is a model folder, so `SentenceTransformer("checkpoints/500")` loads it, with two more files: the state of
the run, and a manifest with the SHA-256 of every file. It holds no random states: what a step draws follows from the
run's seed and the number of the step.
"""

import json
import math
import re
import shutil
import time
import uuid
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import SafetensorError

from sbertlab.checks import checked_number
from sbertlab.storage.files import clear_interrupted, sha256_of, staged_folder, write_whole
from sbertlab.training.callbacks import Callback, Run
from sbertlab.training.processes import any_process

FORMAT = 3
MANIFEST = "checkpoint.json"
STATE = "training_state.pt"
LEFT_OVER = re.compile(r"\.+(\d+)\.")  # folders of a process that was killed while it wrote a checkpoint


class CheckpointWarning(UserWarning):
    """A checkpoint could not be written, or one that was found is not used."""


class CheckpointError(ValueError):
    """A folder is not a checkpoint, is damaged, or belongs to another run than the one to resume."""


class Checkpoints(Callback):
    """The checkpoints of a run, written by the main process: one folder per step inside `folder`.

    The configuration names what must not change when the run is resumed; `limit` is the most checkpoints to keep.
    """

    def __init__(self, folder: str | Path, configuration: Mapping[str, Any], limit: int = 0) -> None:
        checked_number("checkpoint_save_total_limit", limit, whole=True)
        self.folder = writable_folder("checkpoint_path", folder)
        self.configuration, self.limit = dict(configuration), limit
        self.run_id = uuid.uuid4().hex
        self.written: list[Path] = []
        for step in {found[1] for left in self.folder.iterdir() if (found := LEFT_OVER.match(left.name))}:
            clear_interrupted(self.folder / step)

    def on_checkpoint(self, run: Run) -> None:
        """Write a checkpoint, and remove the oldest beyond the limit; after a failure the run continues."""
        if not run.is_main_process:
            return
        folder = self.folder / str(run.step.number)
        callbacks = {type(callback).__name__: callback.state() for callback in run.callbacks}
        manifest = {"format": FORMAT, "run": self.run_id, "configuration": self.configuration}
        try:
            with staged_folder(folder) as staging:
                run.step.model.save(staging)
                torch.save({"step": run.step.state(), "callbacks": callbacks}, staging / STATE)
                files = {name: sha256_of(staging / name) for name in sorted(_files(staging))}
                whole = {**manifest, "written": time.time_ns(), "files": files}
                (staging / MANIFEST).write_text(json.dumps(whole, indent=1), encoding="utf-8")
            if not self.written or self.limit:
                verify(folder)
        except (OSError, RuntimeError, SafetensorError, CheckpointError) as error:
            problem = f"the checkpoint of step {run.step.number} could not be written: {error}"
            remedy = "Earlier ones are kept, and training continues; free space before the next one"
            warnings.warn(f"{problem}. {remedy}", CheckpointWarning, stacklevel=5)
            return
        self.written = [path for path in self.written if path != folder] + [folder]
        while 0 < self.limit < len(self.written):
            shutil.rmtree(self.written.pop(0), ignore_errors=True)
        run.saved = run.step.number

    def resume(self, run: Run) -> None:
        """Restore the run from the newest complete checkpoint, if there is one; an error if it does not fit."""
        state = self.newest()
        [missing] = any_process(run.step.accelerator, not state)
        if state and missing:
            raise CheckpointError("another process found no checkpoint; every machine must see checkpoint_path")
        try:
            if state:
                run.step.restore(state["step"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"the run in {self.folder} cannot be resumed: {error}") from error
        for callback in run.callbacks:
            callback.restore(state.get("callbacks", {}).get(type(callback).__name__, {}))

    def newest(self) -> dict[str, Any]:
        """Return the state in the newest complete checkpoint, whose run this one becomes; empty if there is none."""
        found = {folder: read_manifest(folder) for folder in self.folder.iterdir() if folder.name.isdigit()}
        ordered = sorted(found, key=lambda folder: found[folder].get("written", math.inf))
        problems: list[str] = []
        state: dict[str, Any] = {}
        while ordered and not state:
            try:
                state = verify(ordered[-1])
            except (CheckpointError, OSError) as error:
                problems.append(str(error))
                ordered.pop()
        if problems:
            warnings.warn(f"skipped: {'; '.join(problems)}", CheckpointWarning, stacklevel=4)
        if not state:
            return {}
        manifest = found[ordered[-1]]
        then, now = manifest["configuration"], self.configuration
        changed = [f"  {key}: then {then.get(key)}, now {now.get(key)}" for key in now if then.get(key) != now.get(key)]
        if changed:
            problem = f"{ordered[-1]} cannot be resumed, because this run differs from the one that wrote it:"
            remedy = (
                "Give the same data and arguments; to train longer, fit the saved model with another checkpoint_path"
            )
            raise CheckpointError("\n".join([problem, *changed, remedy]))
        self.run_id = manifest["run"]
        self.written = [folder for folder in ordered if found[folder]["run"] == self.run_id]
        return state


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a checkpoint; empty if there is none of this format."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return manifest if manifest["format"] == FORMAT else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def verify(folder: Path) -> dict[str, Any]:
    """Return the state in a checkpoint: tensors and plain values, never code; a CheckpointError if it is damaged."""
    wanted, present = read_manifest(folder).get("files"), _files(folder) - {MANIFEST}
    if wanted is None:
        raise CheckpointError(f"{folder} has no {MANIFEST} of format {FORMAT}")
    altered = [name for name in sorted(wanted.keys() & present) if sha256_of(folder / name) != wanted[name]]
    if odd := sorted(wanted.keys() ^ present) + altered:
        raise CheckpointError(f"{folder} is damaged: {odd[0]} is missing, was added or is not what was written")
    try:
        return torch.load(folder / STATE, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its unpickler meets, followed by advice
        reason = str(error).partition("\n")[0][:200]
        raise CheckpointError(f"{folder / STATE} cannot be read as tensors and plain values: {reason}") from error


class BestModel(Callback):
    """Evaluates in the main process, and writes the best model to `output_path`, with the scores in `eval/`.

    The arguments are those of `fit`.
    """

    def __init__(
        self,
        evaluator: Any,
        output_path: str | Path | None,
        save_best_model: bool = True,
        callback: Callable[[float, int, int], None] | None = None,
    ) -> None:
        if evaluator is not None and (isinstance(evaluator, type) or not callable(evaluator)):
            raise TypeError(f"evaluator must be one evaluator, or SequentialEvaluator([...]), got {evaluator!r:.80}")
        self.evaluator, self.callback = evaluator, callback
        self.output_path = None if output_path is None else writable_folder("output_path", output_path, replaced=True)
        self.keep_best = save_best_model and evaluator is not None
        self.best = -math.inf

    def on_evaluation(self, run: Run) -> None:
        """Write the score into the history, and the model to `output_path` if it is the best so far."""
        if self.evaluator is None or not run.is_main_process:
            return
        model, row, steps, folder = run.step.model.eval(), run.step.rows[-1], run.within_epoch, None
        if self.output_path is not None:
            folder = self.output_path / "eval"
            folder.mkdir(parents=True, exist_ok=True)
        result = self.evaluator(model, output_path=folder, epoch=row["epoch"], steps=steps)
        score = row["metric"] = score_of(self.evaluator, result)
        if score > self.best:
            self.best = score
            if self.keep_best and self.output_path is not None:
                model.save(self.output_path)
        if self.callback is not None:
            self.callback(score, row["epoch"], steps)

    def on_end(self, run: Run) -> None:
        """Write the last model, unless a best one is kept or the run is to be resumed."""
        if self.output_path is None or run.interrupted:
            return
        if self.keep_best:
            if self.best > -math.inf and (self.output_path / "modules.json").exists():
                return
            warnings.warn(f"no model with a best score is in {self.output_path}; the last model is kept", stacklevel=5)
        run.step.model.save(self.output_path)

    def state(self) -> dict[str, Any]:
        """Return the scores and the content of the files with scores."""
        files = {path.name: path.read_text(encoding="utf-8") for path in self._score_files()}
        return {"best": self.best, "files": files}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Return to a state, and undo what was written to the files with scores since."""
        self.best = state.get("best", self.best)
        for path in self._score_files():
            path.unlink()
        for name, text in state.get("files", {}).items():
            if self.output_path is not None:
                with write_whole(self.output_path / "eval" / name) as partial:
                    partial.write_text(text, encoding="utf-8")

    def _score_files(self) -> list[Path]:
        """Return the files that the evaluator has appended scores to; others in the folder are the user's."""
        folder, names = self.output_path, csv_files(self.evaluator)
        return [] if folder is None else [path for name in names if (path := folder / "eval" / name).exists()]


def csv_files(evaluator: Any) -> list[str]:
    """Return the names of the files that an evaluator, or the evaluators inside it, append scores to."""
    own = [evaluator.csv_file] if isinstance(getattr(evaluator, "csv_file", None), str) else []
    return own + [name for part in getattr(evaluator, "evaluators", []) for name in csv_files(part)]


def score_of(evaluator: Any, result: Any) -> float:
    """Return the number that model selection uses: the primary metric of a dictionary, or the result itself."""
    return float(result[evaluator.primary_metric] if isinstance(result, Mapping) else result)


def writable_folder(name: str, folder: str | Path, replaced: bool = False) -> Path:
    """Return a folder after trying to write to it, or with `replaced`, as `save` does, to replace it."""
    path = Path(folder).expanduser()
    try:
        if replaced:
            clear_interrupted(path)
        else:
            path.mkdir(parents=True, exist_ok=True)
        with staged_folder(path, keep=lambda entry: True) if replaced else TemporaryDirectory(dir=path):
            return path
    except OSError as error:
        raise OSError(f"{name}={str(folder)!r} cannot be written: {error}") from error


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
