"""Checkpoints: a run on disk, whole or not at all, and found again.

A checkpoint is a model folder, so `SentenceTransformer("checkpoints/500")` loads it, with two files more: the state of
the run and a manifest with the SHA-256 of every file. It holds no random states: what a step draws follows from the
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
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError

from sbertlab.encoder.sentence_transformer import SentenceTransformer
from sbertlab.storage.files import clear_interrupted, sha256_of, staged_folder

FORMAT = 1
MANIFEST = "checkpoint.json"
STATE = "training_state.pt"
LEFT_OVER = re.compile(r"\.+(\d+)\.")
"""Names of the folders that a process left which was killed while it wrote a checkpoint."""


class CheckpointWarning(UserWarning):
    """A checkpoint could not be written, or one that was found is not used."""


class CheckpointError(ValueError):
    """A folder is no checkpoint, or a damaged one; or it belongs to another run than the one to continue."""


class Checkpoint(NamedTuple):
    """One that was read and found whole."""

    folder: Path
    manifest: dict[str, Any]
    state: dict[str, Any]


class Checkpoints:
    """The checkpoints of a run in a folder, one sub-folder a step.

    Args:
        folder: made when missing.
        configuration: what must be the same for a run to be continued, by name.
        limit: keep only so many of this run, the newest; 0 keeps all.

    Raises:
        OSError: the folder cannot be written.
        TypeError: it is no path.
    """

    def __init__(self, folder: str | Path, configuration: Mapping[str, Any], limit: int = 0) -> None:
        self.folder = writable_folder("checkpoint_path", folder)
        self.configuration = dict(configuration)
        self.limit = limit
        self.run = uuid.uuid4().hex
        self.written: list[Path] = []
        for step in {found[1] for left in self.folder.iterdir() if (found := LEFT_OVER.match(left.name))}:
            clear_interrupted(self.folder / step)

    def save(self, step: int, model: SentenceTransformer, state: Mapping[str, Any]) -> Path | None:
        """Write the checkpoint of a step, and remove the oldest beyond the limit.

        Where it cannot be written (the disk is full), that is said in a CheckpointWarning: earlier checkpoints stay as
        they are and the run can go on. Nothing is removed before a newer one is found whole.

        Returns:
            Its folder, or None.

        Raises:
            CheckpointError: the first checkpoint of a run holds what cannot be read back.
        """
        folder = self.folder / str(step)
        manifest = {"run": self.run, "step": step, "configuration": self.configuration}
        try:
            write_checkpoint(folder, model, state, manifest)
        except (OSError, RuntimeError, SafetensorError) as error:
            warnings.warn(
                f"the checkpoint of step {step} could not be written to {str(folder)!r}: {error}. Earlier ones are "
                "whole, and training goes on; make room on the disk, the next one is tried as usual",
                CheckpointWarning,
                stacklevel=2,
            )
            return None
        if not self.written:  # what cannot be read back should be known at once
            read_state(folder)
        self.written = [path for path in self.written if path != folder] + [folder]
        if 0 < self.limit < len(self.written):
            try:
                verify(folder)
            except CheckpointError as error:
                warnings.warn(f"older checkpoints are kept: {error}", CheckpointWarning, stacklevel=2)
                return None
            while len(self.written) > self.limit:
                shutil.rmtree(self.written.pop(0), ignore_errors=True)
        return folder

    def newest(self) -> Checkpoint | None:
        """Return the newest whole checkpoint in the folder, and belong to its run from now on; None if there is none.

        Warns:
            CheckpointWarning: of every newer one that is not whole, and what is wrong with it.

        Raises:
            CheckpointError: it comes from another configuration or other data; the message lists what differs.
        """
        found: list[Checkpoint] = []
        broken: list[str] = []
        for folder in sorted(self.folder.iterdir()):
            if folder.name.isdigit():
                try:
                    found.append(Checkpoint(folder, read_manifest(folder), {}))
                except CheckpointError as error:
                    broken.append(str(error))
        found.sort(key=lambda checkpoint: checkpoint.manifest["written"])
        chosen = None
        while found and chosen is None:
            folder, manifest, _ = found[-1]
            try:
                verify(folder)
                chosen = Checkpoint(folder, manifest, read_state(folder))
            except CheckpointError as error:
                broken.append(str(error))
                found.pop()
        for problem in broken:
            warnings.warn(f"skipped: {problem}", CheckpointWarning, stacklevel=2)
        if chosen is None:
            return None
        changes = differences(chosen.manifest["configuration"], self.configuration)
        if changes:
            raise CheckpointError(
                f"{chosen.folder} cannot be continued, because this run differs from the one that wrote it:\n"
                + "\n".join(changes)
                + "\nGive the same data and arguments, or another checkpoint_path, or resume=False"
            )
        self.run = chosen.manifest["run"]
        self.written = [checkpoint.folder for checkpoint in found if checkpoint.manifest["run"] == self.run]
        return chosen


def write_checkpoint(
    folder: Path, model: SentenceTransformer, state: Mapping[str, Any], manifest: Mapping[str, Any]
) -> None:
    """Write a model and the state of its training to a folder, which appears whole or not at all.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    with staged_folder(folder) as staging:
        model.save(staging)
        torch.save(dict(state), staging / STATE)
        files = {path.relative_to(staging).as_posix(): sha256_of(path) for path in _files(staging)}
        whole = {"format": FORMAT, "written": time.time_ns(), **manifest, "torch": torch.__version__, "files": files}
        (staging / MANIFEST).write_text(json.dumps(whole, indent=1), encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return what a checkpoint says of itself.

    Raises:
        CheckpointError: there is no manifest, it cannot be read, or it is of another version.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{folder} is no checkpoint to go on from: it has no {MANIFEST}") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        version = manifest.get("format") if isinstance(manifest, dict) else type(manifest).__name__
        raise CheckpointError(f"{folder} has the format {version!r}; this version of sbertlab reads {FORMAT}")
    kinds = {"run": str, "step": int, "written": int, "configuration": dict, "files": dict}
    wrong = [key for key, kind in kinds.items() if not isinstance(manifest.get(key), kind)]
    if wrong:
        raise CheckpointError(f"{path} is damaged: {', '.join(wrong)} missing or of the wrong type")
    return manifest


def verify(folder: Path) -> None:
    """Compare every file of a checkpoint with its manifest.

    Raises:
        CheckpointError: a file is missing, was altered, or does not belong there.
    """
    wanted = read_manifest(folder)["files"]
    there = {path.relative_to(folder).as_posix() for path in _files(folder)} - {MANIFEST}
    for problem, names in (("is missing", wanted.keys() - there), ("was added", there - wanted.keys())):
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
    """Return the state of a checkpoint's run: tensors and plain values, never code.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        return torch.load(folder / STATE, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what its unpickler happens to meet, and gives advice on it
        reason = str(error).partition("\n")[0][:200]
        raise CheckpointError(f"{folder / STATE} cannot be read as tensors and plain values: {reason}") from error


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a line for everything that two configurations do not share.

    >>> differences({"seed": 1, "scheduler": "ConstantLR"}, {"seed": 2, "scheduler": "ConstantLR"})
    ['  seed: then 1, now 2']
    """
    missing = "nothing"
    return [
        f"  {key}: then {then.get(key, missing)}, now {now.get(key, missing)}"
        for key in dict.fromkeys((*then, *now))
        if then.get(key, missing) != now.get(key, missing)
    ]


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


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
        if replaced:
            clear_interrupted(path)
        else:
            path.mkdir(parents=True, exist_ok=True)
        with staged_folder(path, keep=lambda entry: True) if replaced else TemporaryDirectory(dir=path):
            return path
    except OSError as error:
        raise OSError(f"{name}={str(folder)!r} cannot be written: {error}") from error
