"""A store of embeddings on disk: what a model has computed once is never computed again.

Content-addressed: an embedding is found by what made it, the model's `fingerprint` and the text with its prompt. Any
other weights, pooling, tokenizer, length, dtype or prompt has another fingerprint, so nothing ever has to be declared
out of date. The layout is

    <folder>/<fingerprint>/manifest.json             what it is of, for people; its time says when it was last used
    <folder>/<fingerprint>/<SHA-256>.safetensors     a shard: keys (n, 16), embeddings (n, dim), fingerprint (32,)

A shard is written under another name, renamed when it is whole and never changed: processes need no locks, and one that
is killed leaves whole shards. Its name is the SHA-256 of its content, which is checked before any of it is used.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
import uuid
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save

from sbertlab.encoder.fingerprint import FORMAT, KEY_BYTES
from sbertlab.storage.find import cache_home

FINGERPRINT = re.compile(r"[0-9a-f]{64}")
FORGOTTEN_SECONDS = 3600.0
"""A half-written file of this age belongs to no process that still writes it."""


class EmbeddingStoreWarning(UserWarning):
    """A shard is damaged and was left out, or embeddings could not be written; the results are right all the same."""


class EmbeddingStore:
    """Embeddings in a folder, by fingerprint and key; any number of processes may read and write at once.

    Nothing that goes wrong with the folder stops a run: damaged shards are removed, and what cannot be written is not
    kept; both are said in an `EmbeddingStoreWarning`.

    Args:
        folder: made when something is written; None takes "embeddings" beside the models in sbertlab's cache (the
            environment's SBERTLAB_CACHE, or ~/.cache/sbertlab).
        most_bytes: room for all shards. Beyond it, the models that were not used for longest leave, whole.

    Raises:
        NotADirectoryError: `folder` is a file.
        ValueError: `most_bytes` is not positive.

    >>> from tempfile import TemporaryDirectory
    >>> from sbertlab.encoder.fingerprint import key_of
    >>> with TemporaryDirectory() as folder:
    ...     store = EmbeddingStore(folder)
    ...     store.write("ab" * 32, [key_of("one"), key_of("two")], np.array([[1.0, 0.0], [0.0, 2.0]]))
    ...     found = EmbeddingStore(folder).read("ab" * 32, [key_of("two"), key_of("three")])
    >>> [vector.tolist() for vector in found.values()]
    [[0.0, 2.0]]
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None, most_bytes: int = 10 * 2**30) -> None:
        self.folder = cache_home() / "embeddings" if folder is None else Path(folder).expanduser()
        if self.folder.exists() and not self.folder.is_dir():
            raise NotADirectoryError(f"{self.folder} is a file; give the path of a folder for the embeddings")
        if most_bytes < 1:
            raise ValueError(f"most_bytes must be a positive number of bytes, got {most_bytes!r}")
        self.most_bytes = most_bytes
        self._room = 0  # bytes that may be written before the folder is looked over again
        self._damaged: set[Path] = set()

    def read(self, fingerprint: str, keys: Iterable[bytes]) -> dict[bytes, np.ndarray]:
        """Return the embeddings `(dim,)` that are there, by key.

        Warns:
            EmbeddingStoreWarning: of a shard that is not what was written.
        """
        wanted = set(keys)
        found: dict[bytes, np.ndarray] = {}
        for path in self._shards(fingerprint):
            if not wanted:
                break
            try:
                if wanted.isdisjoint(_keys_of(path)):
                    continue
                there, embeddings = _checked(path, fingerprint)
            except FileNotFoundError:  # another process made room meanwhile
                continue
            except (OSError, ValueError, KeyError, SafetensorError) as error:
                self._discard(path, error)
                continue
            rows = {key: row for row, key in enumerate(there) if key in wanted}
            found |= zip(rows, embeddings[list(rows.values())], strict=True)
            wanted -= rows.keys()
        if found:
            with suppress(OSError):  # of a folder that is only read
                os.utime(self.folder / fingerprint / "manifest.json")
        return found

    def write(
        self, fingerprint: str, keys: Sequence[bytes], embeddings: np.ndarray, about: Mapping[str, Any] | None = None
    ) -> None:
        """Keep embeddings as a new shard.

        Args:
            fingerprint: of the model.
            keys: one a row.
            embeddings: `(n, dim)`.
            about: what the manifest says of the model beside dimensions and dtype.

        Raises:
            ValueError: more or fewer keys than rows, or a fingerprint that is none.

        Warns:
            EmbeddingStoreWarning: it cannot be written, e.g. because the disk is full.
        """
        if not FINGERPRINT.fullmatch(fingerprint):
            raise ValueError(f"a fingerprint is 64 hexadecimal digits, got {fingerprint!r:.80}")
        if embeddings.ndim != 2 or len(embeddings) != len(keys):
            raise ValueError(f"got {len(keys)} keys for embeddings of shape {embeddings.shape}; expected (n, dim)")
        if not len(keys):
            return
        data = save(
            {
                "keys": np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY_BYTES),
                "embeddings": np.ascontiguousarray(embeddings),
                "fingerprint": np.frombuffer(bytes.fromhex(fingerprint), np.uint8),
            }
        )
        folder = self.folder / fingerprint
        try:
            if not self._make_room(fingerprint, len(data)):
                raise OSError(f"{self.most_bytes:,} bytes do not hold the embeddings of this model; raise most_bytes")
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / "manifest.json").exists():
                manifest = {"format": FORMAT, "fingerprint": fingerprint, **dict(about or {})}
                manifest |= {"dimensions": embeddings.shape[1], "dtype": str(embeddings.dtype)}
                _write_whole(folder / "manifest.json", json.dumps(manifest, indent=1).encode())
            path = folder / f"{hashlib.sha256(data).hexdigest()}.safetensors"
            _write_whole(path, data)
            self._damaged.discard(path)
            os.utime(folder / "manifest.json")
        except OSError as error:
            self._warn(f"embeddings are not kept in {self.folder}: {error.strerror or error}; they go on in memory")

    def contents(self) -> pd.DataFrame:
        """Return one row a model, last used first: name, dimensions, dtype, bytes, used (a time), fingerprint."""
        rows = []
        for used, size, folder in sorted(self._models(), reverse=True):
            about: dict[str, Any] = {}
            with suppress(OSError, ValueError, TypeError):
                about = dict(json.loads((folder / "manifest.json").read_text(encoding="utf-8")))
            rows.append({**about, "bytes": size, "used": pd.Timestamp(used, unit="s"), "fingerprint": folder.name})
        return pd.DataFrame(rows, columns=["name", "dimensions", "dtype", "bytes", "used", "fingerprint"])

    def size(self) -> int:
        """Return the bytes that all models take."""
        return sum(size for _, size, _ in self._models())

    def clear(self) -> None:
        """Remove all embeddings; other files in the folder stay."""
        for _, _, folder in self._models():
            shutil.rmtree(folder, ignore_errors=True)
        self._room = 0

    def _shards(self, fingerprint: str) -> list[Path]:
        """Return the shards of a model, in the order of their names: where two hold a text, the first counts."""
        try:
            paths = sorted((self.folder / fingerprint).iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            self._warn(f"the embeddings in {self.folder} cannot be read: {error.strerror}; they are computed again")
            return []
        return [path for path in paths if path.suffix == ".safetensors" and path not in self._damaged]

    def _discard(self, path: Path, error: Exception) -> None:
        self._damaged.add(path)
        if not isinstance(error, OSError):  # it was read, and it is no good to anyone
            with suppress(OSError):
                path.unlink()
        self._warn(f"{path} is damaged ({error}); it is left out and its texts are computed again")

    def _warn(self, message: str) -> None:
        warnings.warn(message, EmbeddingStoreWarning, stacklevel=4)

    def _models(self) -> Iterator[tuple[float, int, Path]]:
        """Yield when each model was last used, its bytes and its folder."""
        with suppress(FileNotFoundError):
            for folder in sorted(self.folder.iterdir()):
                with suppress(OSError):  # removed meanwhile
                    if FINGERPRINT.fullmatch(folder.name) and folder.is_dir():
                        files = {entry.name: entry.stat() for entry in os.scandir(folder)}
                        used = files.get("manifest.json", folder.stat()).st_mtime
                        yield used, sum(file.st_size for file in files.values()), folder

    def _make_room(self, stays: str, size: int) -> bool:
        """Remove other models, the longest unused first, until `size` bytes fit; return whether they do."""
        self._room -= size
        if self._room >= 0:
            return True
        models = sorted(self._models())
        free = self.most_bytes - size - sum(used_bytes for _, used_bytes, _ in models)
        for _, used_bytes, folder in models:
            if free < 0 and folder.name != stays:
                shutil.rmtree(folder, ignore_errors=True)
                free += used_bytes
            for left in folder.glob("*.partial"):  # of a process that was killed
                with suppress(OSError):
                    if time.time() - left.stat().st_mtime > FORGOTTEN_SECONDS:
                        left.unlink()
        self._room = min(free, self.most_bytes // 64)  # other processes write too, so look again after a while
        return free >= 0


def _write_whole(path: Path, data: bytes) -> None:
    """Write a file that appears whole or not at all.

    The folder itself is not synced: a name that is lost with the power only has its texts computed again.
    """
    partial = path.with_name(f"{uuid.uuid4().hex}.partial")
    try:
        with partial.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _keys_of(path: Path) -> list[bytes]:
    """Return the keys of a shard without reading the rest; not checked yet."""
    with safe_open(path, framework="np") as file:
        return _split(file.get_tensor("keys"))


def _split(keys: np.ndarray) -> list[bytes]:
    if keys.dtype != np.uint8 or keys.shape[1:] != (KEY_BYTES,):
        raise ValueError(f"its keys are {keys.dtype} of shape {keys.shape}")
    data = keys.tobytes()
    return [data[start : start + KEY_BYTES] for start in range(0, len(data), KEY_BYTES)]


def _checked(path: Path, fingerprint: str) -> tuple[list[bytes], np.ndarray]:
    """Return the keys and embeddings `(n, dim)` of a shard that is what was written for this model.

    Raises:
        ValueError: it is not.
    """
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != path.stem:
        raise ValueError("its content is not what was written, by SHA-256")
    tensors = load(data)
    if tensors["fingerprint"].tobytes().hex() != fingerprint:
        raise ValueError("it belongs to another model")
    keys, embeddings = _split(tensors["keys"]), tensors["embeddings"]
    if embeddings.ndim != 2 or len(embeddings) != len(keys):
        raise ValueError(f"it has {len(keys)} keys for embeddings of shape {embeddings.shape}")
    return keys, embeddings
