"""Files that come from outside or must not be left half-written: safe unpacking, bounded downloads, whole folders."""

from __future__ import annotations

import hashlib
import http.client
import lzma
import os
import re
import shutil
import stat
import struct
import urllib.error
import urllib.parse
import urllib.request
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from tqdm.auto import tqdm

MAX_DOWNLOAD_BYTES = 16 * 2**30
MAX_UNPACKED_BYTES = 32 * 2**30
MAX_MEMBER_BYTES = 16 * 2**30
MAX_MEMBERS = 10_000
# Weights hardly shrink in a zip, tokenizer files about eightfold: far beyond that, in earnest sizes, is a bomb.
MAX_RATIO = 100
RATIO_MATTERS_FROM_BYTES = 100 * 2**20
CHUNK_BYTES = 2**20
ANSWER_SECONDS = 20.0


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def write_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends without an error, it replaces `path` in one rename.

    So `path` is at every moment the old file or the new one, whole. Folders on the way are made.
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
    """Give an empty folder to fill; when the block ends well, it takes the place of `target` by a rename.

    Files reach the disk before the rename, so `target` is at every moment the old folder or the new one, whole. When
    the block raises, `target` stays as it was.

    Args:
        target: the folder to make or to replace.
        keep: says of a name in the replaced folder whether that file or folder moves over into the new one.

    Raises:
        OSError: `target` is no folder, or cannot be renamed (a mount point, the working folder).
    """
    target = Path(os.path.realpath(target))
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(f"{target} is a file; give the path of a folder")
    if target == Path.cwd() or target in Path.cwd().parents:
        raise OSError(f"{target} holds the working folder, so it cannot be replaced; give a folder inside it")
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    replaced = staging.with_suffix(".old")
    staging.mkdir()
    try:
        if replaced.exists():  # a process was killed in the middle of this
            _settle(replaced, target, keep)
        yield staging
        for path in (*staging.rglob("*"), staging):
            path.chmod(path.stat().st_mode | (0o666 & staging.stat().st_mode))  # safetensors makes files private
            _sync(path)
        if target.exists():
            try:
                os.rename(target, replaced)
            except OSError as error:
                raise OSError(f"cannot replace {target} ({error.strerror}); give a folder inside it") from error
        os.rename(staging, target)
        _sync(target.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if replaced.exists():
            _settle(replaced, target, keep)


def clear_interrupted(target: Path) -> None:
    """Put right what a process left beside `target` that was killed inside `staged_folder`; nobody else may be writing.

    A folder that was taken away and not replaced comes back; half-written ones are removed.
    """
    target = Path(os.path.realpath(target))
    replaced = target.with_name(f".{target.name}.old")
    if replaced.exists() and not target.exists():
        os.rename(replaced, target)
    half_written = re.compile(rf"\.+{re.escape(target.name)}(\.[0-9a-f]{{8}})+")
    for left in target.parent.glob(".*"):
        if half_written.fullmatch(left.name):
            shutil.rmtree(left, ignore_errors=True)


def _settle(replaced: Path, target: Path, keep: Callable[[str], bool]) -> None:
    """Put the replaced folder back where nothing took its place; else save from it what is kept, and remove the rest.

    Interrupted, it leaves what it has not moved yet in `replaced`.
    """
    if not target.exists():
        os.rename(replaced, target)
        return
    for entry in replaced.iterdir():
        if keep(entry.name) and not (target / entry.name).exists():
            os.rename(entry, target / entry.name)
    shutil.rmtree(replaced, ignore_errors=True)


def unpack_zip(path: Path, folder: Path) -> None:
    """Unpack a zip of a model into `folder`, once every member of it is found harmless.

    Raises:
        ValueError: not a zip, damaged, or a member leaves the folder, is a link or a device, is encrypted, occurs
            twice, or is too large; or there are too many, or they grow out of all proportion (a bomb).
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            _refuse_unsafe(archive.infolist(), path.stat().st_size)
            for member in tqdm(members, desc="unpack", unit="file", leave=False):
                destination = folder / member.filename
                destination.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, destination.open("xb") as file:
                    shutil.copyfileobj(source, file, CHUNK_BYTES)
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, NotImplementedError) as error:
        raise ValueError(f"{path.name} is not an intact zip archive: {error}") from error
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(f"the zip is refused: it has {error.filename} both as a file and as a folder") from error


def _refuse_unsafe(members: Iterable[zipfile.ZipInfo], archive_bytes: int) -> None:
    seen: set[str] = set()
    total = 0
    for member in members:
        name = member.orig_filename
        parts = PurePosixPath(name).parts
        kind = stat.S_IFMT(member.external_attr >> 16)
        total += member.file_size
        fault = ""
        if not parts or name.startswith("/") or ".." in parts or re.search(r"[\\:\x00-\x1f]", name):
            fault = "leaves the folder or has an unusable name"
        elif kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            fault = "is a link or a device"
        elif member.flag_bits & 1:
            fault = "is encrypted"
        elif "/".join(parts).casefold() in seen:
            fault = "occurs twice"
        elif member.file_size > MAX_MEMBER_BYTES:
            fault = f"would take {member.file_size:,} bytes, more than {MAX_MEMBER_BYTES:,}"
        elif total > MAX_UNPACKED_BYTES:
            fault = f"brings the unpacked size to {total:,} bytes, more than {MAX_UNPACKED_BYTES:,}"
        elif total > RATIO_MATTERS_FROM_BYTES and total > MAX_RATIO * archive_bytes:
            fault = f"brings the unpacked size to {total:,} bytes, over {MAX_RATIO} times the archive's: a bomb"
        seen.add("/".join(parts).casefold())
        if not fault and len(seen) > MAX_MEMBERS:
            fault = f"is one of more than {MAX_MEMBERS:,} members"
        if fault:
            raise ValueError(f"the zip is refused: member {name!r} {fault}")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def download(url: str, path: Path) -> None:
    """Write what an http(s) address answers into a file, with a progress bar and a size limit.

    Raises:
        ConnectionError: the address cannot be reached, says no, or breaks off.
        ValueError: more than `MAX_DOWNLOAD_BYTES`, or https that leads on to http.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "sbertlab"})
    expected = received = 0
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as response, path.open("wb") as file:
            if urllib.parse.urlsplit(response.url).scheme not in ("https", urllib.parse.urlsplit(url).scheme):
                raise ValueError(f"{url} is refused: it leads on to {response.url}, which is not encrypted")
            expected = int(response.headers.get("Content-Length") or 0)
            with tqdm(total=expected or None, desc=path.name, unit="B", unit_scale=True) as bar:
                while max(expected, received) <= MAX_DOWNLOAD_BYTES and (chunk := response.read(CHUNK_BYTES)):
                    received += file.write(chunk)
                    bar.update(len(chunk))
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise ConnectionError(f"{url}: {error}") from error
    if max(expected, received) > MAX_DOWNLOAD_BYTES:
        raise ValueError(f"{url} is refused: more than {MAX_DOWNLOAD_BYTES:,} bytes")
    if received < expected:
        raise ConnectionError(f"{url} broke off after {received:,} of {expected:,} bytes")
