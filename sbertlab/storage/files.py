"""Files that are whole or not there, and foreign files checked before use: atomic writes, safe unpacking, downloads."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import urllib.parse
import urllib.request
import uuid
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm.auto import tqdm

MAX_DOWNLOAD_BYTES = 16 * 2**30
MAX_UNPACKED_BYTES = 32 * 2**30
MAX_RATIO, RATIO_MATTERS_FROM_BYTES = 100, 100 * 2**20  # tokenizer files shrink eightfold: far beyond that is a bomb
MAX_MEMBERS = 10_000
CHUNK_BYTES = 2**20


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextmanager
def write_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends without an error, it replaces `path` in one rename.

    So `path` is at every moment the old file or the new one, whole. Parent folders are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        yield partial
        _sync(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def staged_folder(target: Path, keep: Callable[[str], bool] = lambda entry: False) -> Iterator[Path]:
    """Yield an empty folder to fill; when the block ends without an error, it replaces `target` by a rename.

    So `target` is at every moment the old folder or the new one, whole. An entry of the old folder whose name passes
    `keep` moves into the new one, unless that has it already.
    """
    target = Path(os.path.realpath(target))
    if target.is_file() or target in (Path.cwd(), *Path.cwd().parents):
        raise NotADirectoryError(f"{target} is a file or contains the working folder, so it cannot be replaced")
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    staging.mkdir()
    try:
        _settle(target, keep)
        yield staging
        for path in filter(Path.is_file, staging.rglob("*")):
            path.chmod(path.stat().st_mode | (0o666 & staging.stat().st_mode))  # safetensors makes files private
            _sync(path)
        if target.exists():
            os.rename(target, target.with_name(f".{target.name}.old"))
        os.rename(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        _settle(target, keep)


def _settle(target: Path, keep: Callable[[str], bool]) -> None:
    """Complete or undo an interrupted replacement: move over what is kept, or restore the old folder."""
    old = target.with_name(f".{target.name}.old")
    if old.exists() and not target.exists():
        os.rename(old, target)
    elif old.exists():
        for entry in old.iterdir():
            if keep(entry.name) and not (target / entry.name).exists():
                os.rename(entry, target / entry.name)
        shutil.rmtree(old, ignore_errors=True)


def clear_interrupted(target: Path) -> None:
    """Clean up after a process that was killed inside `staged_folder(target)`; no other may be writing there."""
    target = Path(os.path.realpath(target))
    if not target.exists():
        _settle(target, keep=lambda entry: True)
    for path in target.parent.glob(".*"):
        if re.fullmatch(rf"\.+{re.escape(target.name)}(\.[0-9a-f]{{8}})+", path.name):
            shutil.rmtree(path, ignore_errors=True)


def unpack_zip(path: Path, folder: Path) -> None:
    """Unpack a zip; a ValueError refuses a bomb, and members outside `folder`, links and devices."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            size = sum(member.file_size for member in members)
            limit = min(MAX_UNPACKED_BYTES, max(RATIO_MATTERS_FROM_BYTES, MAX_RATIO * path.stat().st_size))
            if size > limit or len(members) > MAX_MEMBERS:
                raise ValueError(f"{len(members):,} files of {size:,} bytes, at most {MAX_MEMBERS:,} of {limit:,}")
            if len({member.orig_filename.rstrip("/").casefold() for member in members}) < len(members):
                raise ValueError("a member occurs twice")
            for member in members:
                kind = stat.S_IFMT(member.external_attr >> 16)
                outside = re.search(r"^/|(^|/)\.\.(/|$)|[\\:\x00-\x1f]", member.orig_filename)
                if outside or kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise ValueError(f"{member.orig_filename!r} is outside the folder, a link or a device")
            archive.extractall(folder)  # stops at the declared sizes and verifies the checksums
    except Exception as error:  # a damaged zip raises errors of zipfile, of every compression and of the file system
        raise ValueError(f"the zip is refused: {error}") from error


def download(url: str, path: Path) -> None:
    """Download an http(s) address into a file of at most `MAX_DOWNLOAD_BYTES`."""
    request = urllib.request.Request(url, headers={"User-Agent": "sbertlab"})
    with urllib.request.urlopen(request, timeout=20) as response, path.open("wb") as file:
        if urllib.parse.urlsplit(response.url).scheme not in ("https", urllib.parse.urlsplit(url).scheme):
            raise ValueError(f"it redirects to {response.url}, which is not encrypted")
        with tqdm.wrapattr(response, "read", desc=url.rpartition("/")[2]) as source:
            while chunk := source.read(CHUNK_BYTES):
                file.write(chunk)
                if file.tell() > MAX_DOWNLOAD_BYTES:
                    raise ValueError(f"more than {MAX_DOWNLOAD_BYTES:,} bytes")
