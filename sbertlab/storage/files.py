"""Files and folders that are whole or not there: they are written beside their place and moved there in one rename."""

import glob
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def write_whole(path: Path) -> Iterator[Path]:
    """Yield a scratch path; when the block ends without an error, it replaces `path`, whole even after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{path.name}.partial-", dir=path.parent, ignore_cleanup_errors=True) as scratch:
        partial = Path(scratch, path.name)
        yield partial
        for written in filter(Path.is_file, (partial, *partial.rglob("*"))):
            with written.open("rb") as file:
                os.fsync(file.fileno())
        if partial.is_dir() and path.exists():
            path.rename(path.with_name(f".{path.name}.old"))
        partial.replace(path)


@contextmanager
def staged_folder(target: Path, keep: Callable[[str], bool] = lambda entry: False) -> Iterator[Path]:
    """Yield an empty folder inside a scratch folder; it replaces `target` as in `write_whole`.

    An entry of the old folder whose name passes `keep` moves into the new one, unless that has it already.
    """
    target = Path(os.path.realpath(target))
    if target.is_file() or target in (Path.cwd(), *Path.cwd().parents):
        raise NotADirectoryError(f"{target} is a file or contains the working folder, so it cannot be replaced")
    try:
        _settle(target, keep)
        with write_whole(target) as staging:
            staging.mkdir()
            yield staging
            for path in filter(Path.is_file, staging.rglob("*")):  # safetensors makes files private
                path.chmod(path.stat().st_mode | (0o666 & staging.stat().st_mode))
    finally:
        _settle(target, keep)


def _settle(target: Path, keep: Callable[[str], bool]) -> None:
    """Complete or undo an interrupted replacement: move over what is kept, or restore the old folder."""
    old = target.with_name(f".{target.name}.old")
    if old.exists() and not target.exists():
        old.rename(target)
    for entry in old.glob("*"):
        if keep(entry.name) and not (target / entry.name).exists():
            entry.rename(target / entry.name)
    shutil.rmtree(old, ignore_errors=True)


def clear_interrupted(target: Path) -> None:
    """Clean up after a process that was killed inside `staged_folder(target)`; no other may be writing there."""
    target = Path(os.path.realpath(target))
    if not target.exists():
        _settle(target, keep=lambda entry: True)
    for path in target.parent.glob(f".{glob.escape(target.name)}.partial-*"):
        shutil.rmtree(path, ignore_errors=True)
