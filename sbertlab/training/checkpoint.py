"""Checkpoints: a run on disk, complete or absent, from which the same call of `fit` resumes.

A checkpoint is a model folder, so `SentenceTransformer("checkpoints/500")` loads it, with two more files: the state of
the run, and a manifest with the SHA-256 of every file. It holds no random states: what a step draws follows from the
run's seed and the number of the step.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
import uuid
import warnings
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import SafetensorError

from sbertlab.checks import checked_number
from sbertlab.encoder.sentence_transformer import SentenceTransformer
from sbertlab.storage.files import clear_interrupted, sha256_of, staged_folder
from sbertlab.training.callbacks import Callback, Run
from sbertlab.training.processes import any_process, from_main_process

FORMAT = 2
MANIFEST = "checkpoint.json"
STATE = "training_state.pt"
KINDS = {"run": str, "step": int, "written": int, "configuration": dict, "files": dict}
"""Entries of a manifest, and their types."""
LEFT_OVER = re.compile(r"\.+(\d+)\.")
"""Names of the folders that a process left behind which was killed while it wrote a checkpoint."""


class CheckpointWarning(UserWarning):
    """A checkpoint could not be written, or one that was found is not used."""


class CheckpointError(ValueError):
    """A folder is not a checkpoint, is damaged, or belongs to another run than the one to resume."""


class Checkpoints(Callback):
    """The checkpoints of a run, written by the main process: one folder per step inside `folder`.

    Args:
        folder: made when missing.
        configuration: what must not change when the run is resumed, by name.
        limit: most checkpoints of this run to keep, the newest; 0 keeps all.
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
        """Write the checkpoint of this step; once it is found complete, remove the oldest beyond the limit.

        A full disk is a CheckpointWarning: the earlier checkpoints stay, and the run continues.

        Raises:
            CheckpointError: the first checkpoint of the run cannot be read back.
        """
        if not run.is_main_process:
            return
        number = run.step.number
        folder = self.folder / str(number)
        manifest = {"run": self.run_id, "step": number, "configuration": self.configuration}
        states = {type(callback).__name__: callback.state() for callback in run.callbacks}
        try:
            write_checkpoint(folder, run.step.model, {"step": run.step.state(), "callbacks": states}, manifest)
        except (OSError, RuntimeError, SafetensorError) as error:
            problem = f"the checkpoint of step {number} could not be written to {str(folder)!r}: {error}"
            remedy = "Earlier ones are complete, and training continues; free space before the next one"
            warnings.warn(f"{problem}. {remedy}", CheckpointWarning, stacklevel=5)
            return
        if not self.written:
            read_state(folder)
        self.written = [path for path in self.written if path != folder] + [folder]
        if 0 < self.limit < len(self.written):
            try:
                verify(folder)
            except CheckpointError as error:
                warnings.warn(f"older checkpoints are kept: {error}", CheckpointWarning, stacklevel=5)
                return
            while len(self.written) > self.limit:
                shutil.rmtree(self.written.pop(0), ignore_errors=True)
        run.saved = number

    def resume(self, run: Run) -> None:
        """Restore the run from the newest complete checkpoint; without one, it starts from the beginning.

        Raises:
            CheckpointError: the checkpoint has another configuration or other data; the message lists what differs.
        """
        state = self.newest()
        try:
            if state:
                run.step.restore(state["step"])
        except (KeyError, ValueError) as error:
            raise CheckpointError(f"the run in {self.folder} cannot be resumed: {error}") from error
        for callback in run.callbacks:
            callback.restore(state.get("callbacks", {}).get(type(callback).__name__, {}))
        same = run.step.number == from_main_process(run.step.accelerator, run.step.number)
        if any(any_process(run.step.accelerator, not same)):
            raise CheckpointError("the processes found different checkpoints; every machine must see checkpoint_path")

    def newest(self) -> dict[str, Any]:
        """Return the state in the newest complete checkpoint, whose run this one becomes; empty if there is none."""
        found: list[tuple[dict[str, Any], Path]] = []
        problems: list[CheckpointError] = []
        state: dict[str, Any] = {}
        for folder in self.folder.iterdir():
            try:
                if folder.name.isdigit():
                    found.append((read_manifest(folder), folder))
            except CheckpointError as error:
                problems.append(error)
        found.sort(key=lambda one: one[0]["written"])
        while found and not state:
            manifest, folder = found[-1]
            try:
                verify(folder)
                state = read_state(folder)
            except CheckpointError as error:
                problems.append(error)
                found.pop()
        for problem in problems:
            warnings.warn(f"skipped: {problem}", CheckpointWarning, stacklevel=4)
        if not state:
            return {}
        changes = differences(manifest["configuration"], self.configuration)
        if changes:
            raise CheckpointError(
                f"{folder} cannot be resumed, because this run differs from the one that wrote it:\n"
                + "\n".join(changes)
                + "\nGive the same data and arguments, or another checkpoint_path, or resume=False"
            )
        self.run_id = manifest["run"]
        self.written = [folder for manifest, folder in found if manifest["run"] == self.run_id]
        return state


def write_checkpoint(
    folder: Path, model: SentenceTransformer, state: Mapping[str, Any], manifest: Mapping[str, Any]
) -> None:
    """Write a model and the state of its training to a folder, which appears complete or not at all."""
    with staged_folder(folder) as staging:
        model.save(staging)
        torch.save(dict(state), staging / STATE)
        files = {name: sha256_of(staging / name) for name in sorted(_files(staging))}
        whole = {"format": FORMAT, "written": time.time_ns(), **manifest, "torch": torch.__version__, "files": files}
        (staging / MANIFEST).write_text(json.dumps(whole, indent=1), encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a checkpoint; a CheckpointError if it is missing, damaged, or of another version."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} is not a checkpoint: {MANIFEST} cannot be read: {error}") from None
    entries = manifest if isinstance(manifest, dict) else {}
    if entries.get("format") != FORMAT:
        raise CheckpointError(f"{folder} has the format {entries.get('format')}; this version reads {FORMAT}")
    if wrong := [key for key, kind in KINDS.items() if not isinstance(entries.get(key), kind)]:
        raise CheckpointError(f"{folder / MANIFEST} is damaged: {', '.join(wrong)} missing or of the wrong type")
    return entries


def verify(folder: Path) -> None:
    """Compare every file of a checkpoint with its manifest; a CheckpointError names the first that differs."""
    wanted, present = read_manifest(folder)["files"], _files(folder) - {MANIFEST}
    for problem, names in (("is missing", wanted.keys() - present), ("was added", present - wanted.keys())):
        if names:
            raise CheckpointError(f"{folder} is damaged: {min(names)} {problem}")
    for name, digest in wanted.items():
        try:
            altered = sha256_of(folder / name) != digest
        except OSError as error:
            raise CheckpointError(f"{folder} is damaged: {name} cannot be read: {error}") from None
        if altered:
            raise CheckpointError(f"{folder} is damaged: {name} is not what was written (SHA-256)")


def read_state(folder: Path) -> dict[str, Any]:
    """Return the state in a checkpoint: tensors and plain values, never code; a CheckpointError for anything else."""
    try:
        return torch.load(folder / STATE, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its unpickler meets, followed by advice
        reason = str(error).partition("\n")[0][:200]
        raise CheckpointError(f"{folder / STATE} cannot be read as tensors and plain values: {reason}") from error


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return one line for every entry in which two configurations differ.

    >>> differences({"seed": 1, "scheduler": "ConstantLR"}, {"seed": 2, "scheduler": "ConstantLR"})
    ['  seed: then 1, now 2']
    """
    pairs = {key: (then.get(key, "nothing"), now.get(key, "nothing")) for key in (*then, *now)}
    return [f"  {key}: then {before}, now {after}" for key, (before, after) in pairs.items() if before != after]


def writable_folder(name: str, folder: str | Path, replaced: bool = False) -> Path:
    """Return a folder to write to, made when missing: better refused before a run than at its end.

    With `replaced`, a new folder will take its place, as `save` does.
    """
    if not isinstance(folder, (str, os.PathLike)):
        raise TypeError(f"{name} must be the path of a folder, got {folder!r:.80}")
    path = Path(folder)
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
