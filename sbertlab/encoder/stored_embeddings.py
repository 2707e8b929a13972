"""A model with a memory: each text is encoded once, in a session or, with a store on disk, ever."""

from __future__ import annotations

import os
import sqlite3
import time
import warnings
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from sbertlab.checks import check_choice, checked_number
from sbertlab.data.texts import Text, as_texts
from sbertlab.encoder.fingerprint import fingerprint, key_of
from sbertlab.storage.find import cache_home

ROLES: Mapping[str, tuple[str, ...]] = {"": (), "query": ("query",), "document": ("document", "passage", "corpus")}
"""Names of prompts by the role of a text; the first that the model has is used."""

SCHEMA = """
PRAGMA page_size = 16384;
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS models (id INTEGER PRIMARY KEY, fingerprint TEXT UNIQUE, name TEXT, used REAL);
CREATE TABLE IF NOT EXISTS vectors (model INTEGER, key BLOB, vector BLOB, checksum INTEGER, UNIQUE (model, key));
"""
KEYS_PER_QUERY = 1000


class EmbeddingStoreWarning(UserWarning):
    """The store is damaged or cannot be read or written; embeddings are computed instead, so results are right."""


class EmbeddingStore:
    """Embeddings in an SQLite file, by a model's fingerprint and the key of a text, for many processes at once.

    Problems with the file never stop a run: they are reported as `EmbeddingStoreWarning`, what cannot be read is
    computed again, and what cannot be written is not kept. A damaged file is removed, and every embedding carries a
    checksum. The folder must be on a local disk, because network file systems do not support SQLite's locks.

    Args:
        folder: created on the first write; None is "embeddings" in sbertlab's cache (the environment's SBERTLAB_CACHE,
            or ~/.cache/sbertlab).
        most_bytes: maximum size of the file. The models unused for the longest time are removed to stay below it.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     store = EmbeddingStore(folder)
    ...     store.write("model", [key_of("one"), key_of("two")], np.array([[1.0, 0.0], [0.0, 2.0]]))
    ...     found = EmbeddingStore(folder).read("model", [key_of("two"), key_of("three")])
    >>> [vector.tolist() for vector in found.values()]
    [[0.0, 2.0]]
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None, most_bytes: int = 10 * 2**30) -> None:
        self.folder = cache_home() / "embeddings" if folder is None else Path(folder).expanduser()
        if self.folder.exists() and not self.folder.is_dir():
            raise NotADirectoryError(f"{self.folder} is a file; give the path of a folder for the embeddings")
        self.most_bytes = checked_number("most_bytes", most_bytes, 1, whole=True)
        self.file = self.folder / "embeddings.sqlite"

    def read(self, fingerprint: str, keys: Iterable[bytes]) -> dict[bytes, np.ndarray]:
        """Return the embeddings `(dim,)` that are stored, by key."""
        found: dict[bytes, np.ndarray] = {}
        if not self.file.exists():
            return found
        wanted = list(dict.fromkeys(keys))
        damaged = []
        try:
            with closing(self._open()) as database, database:
                model = database.execute("SELECT id FROM models WHERE fingerprint = ?", [fingerprint]).fetchone()
                for start in range(0, len(wanted) if model else 0, KEYS_PER_QUERY):
                    some = wanted[start : start + KEYS_PER_QUERY]
                    marks = ",".join("?" * len(some))
                    query = f"SELECT key, vector, checksum FROM vectors WHERE model = ? AND key IN ({marks})"
                    for key, vector, checksum in database.execute(query, [*model, *some]).fetchall():
                        if _checksum(key, vector) == checksum:
                            found[key] = np.frombuffer(vector, np.float32)
                        else:
                            damaged.append((*model, key))
                if found and os.access(self.folder, os.W_OK):
                    database.execute("UPDATE models SET used = ? WHERE id = ?", [time.time(), *model])
                if damaged:
                    self._warn(f"{len(damaged)} embeddings do not match their checksums and are removed", "read")
                    database.executemany("DELETE FROM vectors WHERE model = ? AND key = ?", damaged)
        except (OSError, sqlite3.Error) as error:
            self._report(error, "read")
        return found

    def write(self, fingerprint: str, keys: Sequence[bytes], embeddings: np.ndarray, name: str = "") -> None:
        """Store embeddings `(len(keys), dim)` in float32; of a key that is there already the first is kept.

        `name` describes the model to people who look into the file.
        """
        vectors = [row.tobytes() for row in np.asarray(embeddings, np.float32)]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with closing(self._open()) as database, database:
                database.execute("BEGIN IMMEDIATE")
                database.execute("INSERT OR IGNORE INTO models (fingerprint, name) VALUES (?, ?)", [fingerprint, name])
                database.execute("UPDATE models SET used = ? WHERE fingerprint = ?", [time.time(), fingerprint])
                self._make_room(database, fingerprint, sum(len(vector) + 100 for vector in vectors))
                model = database.execute("SELECT id FROM models WHERE fingerprint = ?", [fingerprint]).fetchone()
                rows = [(*model, key, row, _checksum(key, row)) for key, row in zip(keys, vectors, strict=True)]
                database.executemany("INSERT OR IGNORE INTO vectors VALUES (?, ?, ?, ?)", rows)
        except (OSError, sqlite3.Error) as error:
            self._report(error, "written")

    def _open(self) -> sqlite3.Connection:
        writeable = os.access(self.folder, os.W_OK)
        address = self.file.absolute().as_uri() + ("" if writeable else "?immutable=1")
        database = sqlite3.connect(address, timeout=60, isolation_level=None, uri=True)
        try:
            if writeable:
                database.executescript(SCHEMA)
        except sqlite3.Error:
            database.close()
            raise
        return database

    def _make_room(self, database: sqlite3.Connection, stays: str, size: int) -> None:
        """Remove other models, the longest unused first, until `size` more bytes fit."""

        def pragma(name: str) -> int:
            return int(database.execute(f"PRAGMA {name}").fetchone()[0])

        others = database.execute("SELECT id FROM models WHERE fingerprint != ? ORDER BY used", [stays]).fetchall()
        while (pragma("page_count") - pragma("freelist_count")) * pragma("page_size") + size > self.most_bytes:
            if not others:
                raise sqlite3.OperationalError(f"the model's embeddings need more than {self.most_bytes:,} bytes")
            oldest = others.pop(0)
            database.execute("DELETE FROM vectors WHERE model = ?", oldest)
            database.execute("DELETE FROM models WHERE id = ?", oldest)

    def _report(self, error: Exception, purpose: str) -> None:
        """Warn of an error, and remove a damaged file."""
        if type(error) is sqlite3.DatabaseError:  # a full disk, a lock and the like are subclasses of it
            with suppress(OSError):
                for path in self.folder.glob(f"{self.file.name}*"):
                    path.unlink()
            error = sqlite3.DatabaseError(f"it is damaged ({error}) and is removed")
        self._warn(str(error), purpose)

    def _warn(self, problem: str, purpose: str) -> None:
        warnings.warn(
            f"{self.file} cannot be {purpose}: {problem}; embeddings are computed again", EmbeddingStoreWarning, 4
        )


def _checksum(key: bytes, vector: bytes) -> int:
    return zlib.crc32(vector, zlib.crc32(key))


class StoredEmbeddings:
    """A model that remembers: each distinct text is encoded once, and with a store once for all runs.

    Texts are encoded and stored in blocks, so a killed run keeps its complete blocks. The last bits of an embedding may
    depend on the device and on the texts that it was encoded with (about 1e-6); memory and store return the exact bits
    of the first computation, without warning of truncated texts again.

    Args:
        model: anything with `encode(list of texts) -> (texts, dim)`, or a scikit-learn pipeline with `transform`.
        store: keeps embeddings between runs; memory then holds those of the last call only. None keeps all in memory.
        name: for the progress bar and the store.
        block: number of texts given to the model at a time.

    Attributes:
        computed: number of texts that the model has encoded so far.
        fingerprint: of the model; None without a store.

    Raises:
        TypeError: the model has neither method; or there is a store, and the model cannot be fingerprinted.
        ValueError: it does not return one vector per text; or it has changed (e.g. was trained) since.

    >>> class Length:
    ...     def encode(self, texts):
    ...         print("encodes", texts)
    ...         return [[float(len(text))] for text in texts]
    >>> shared = StoredEmbeddings(Length())
    >>> shared.encode(["a", "bb", "a"]).tolist()
    encodes ['a', 'bb']
    [[1.0], [2.0], [1.0]]
    >>> shared.encode(["bb"]).tolist()
    [[2.0]]
    """

    def __init__(
        self, model: Any, store: EmbeddingStore | None = None, name: str = "Encoding", block: int = 512
    ) -> None:
        encode = getattr(model, "encode", None) or getattr(model, "transform", None)
        if not callable(encode):
            raise TypeError(f"a task needs a model with encode(texts) or transform(texts), got {type(model).__name__}")
        self.model, self.store, self.name = model, store, name
        self.block = checked_number("block", block, 1, whole=True)
        self.fingerprint = None if store is None else fingerprint(model)
        self.computed = 0
        self._encode: Callable[..., Any] = encode
        self._rows: dict[bytes, np.ndarray] = {}

    def encode(
        self,
        sentences: Any,
        batch_size: int = 32,
        show_progress_bar: bool = False,
        convert_to_tensor: bool = False,
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        truncate_dim: int | None = None,
        role: str = "",
    ) -> Any:
        """Return the embeddings `(texts, dim)` in float32, or `(dim,)` for one text, as an array or a tensor.

        `batch_size` and `show_progress_bar` are accepted and ignored; `truncate_dim` shortens what is returned, not
        what is kept; `role` is "query" or "document" for a model that treats the two differently.
        """
        check_choice("role", role, ROLES)
        texts, single = as_texts(sentences)
        prompts = getattr(self.model, "prompts", None) or {}
        if prompt is None and prompt_name is not None:
            check_choice("prompt_name", prompt_name, prompts)
            prompt = prompts[prompt_name]
        prefix, route = self._treatment(role, prompt, prompts)
        keys = [key_of(text, prefix, route) for text in texts]
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._rows}
        if new and self.store is not None and self.fingerprint is not None:
            self._rows |= self.store.read(self.fingerprint, new)
            new = {key: text for key, text in new.items() if key not in self._rows}
        if new:
            encode = getattr(self.model, f"encode_{role}", self._encode) if role else self._encode
            self._compute(new, encode, {} if prompt is None else {"prompt": prompt})
        size = next((len(row) for row in self._rows.values()), 0)
        stacked = np.stack([self._rows[key] for key in keys]) if keys else np.empty((0, size), np.float32)
        if self.store is not None:  # the others can be read again, and a benchmark's texts need not fit into memory
            self._rows = {key: self._rows[key] for key in keys}
        stacked = stacked[:, :truncate_dim]
        embeddings = torch.from_numpy(stacked) if convert_to_tensor else stacked
        return embeddings[0] if single else embeddings

    def encode_query(self, sentences: Any, **arguments: Any) -> Any:
        """`encode` with the role "query"."""
        return self.encode(sentences, role="query", **arguments)

    def encode_document(self, sentences: Any, **arguments: Any) -> Any:
        """`encode` with the role "document"."""
        return self.encode(sentences, role="document", **arguments)

    def _compute(self, new: Mapping[bytes, Text], encode: Callable[..., Any], arguments: Mapping[str, str]) -> None:
        """Encode new texts, remember and store their embeddings, block by block."""
        watched = self.fingerprint is not None and isinstance(self.model, nn.Module)
        if watched and fingerprint(self.model) != self.fingerprint:
            raise ValueError(
                "the model has changed since StoredEmbeddings was made of it (weights, prompts, length or the like); "
                "make a new one: StoredEmbeddings(model, store)"
            )
        keys = list(new)
        with tqdm(total=len(keys), desc=self.name, unit="text", leave=False) as bar:
            for start in range(0, len(keys), self.block):
                block = keys[start : start + self.block]
                made = encode([new[key] for key in block], **arguments)
                made = made.toarray() if hasattr(made, "toarray") else made  # a vectoriser's sparse matrix
                embeddings = np.asarray(made, dtype=np.float32)
                if embeddings.ndim != 2 or len(embeddings) != len(block):
                    raise ValueError(
                        f"the model returned the shape {embeddings.shape} for {len(block)} texts, "
                        f"expected ({len(block)}, dim)"
                    )
                self.computed += len(block)
                self._rows |= zip(block, embeddings, strict=True)
                if self.store is not None and self.fingerprint is not None and np.isfinite(embeddings).all():
                    self.store.write(self.fingerprint, block, embeddings, self.name)
                bar.update(len(block))

    def _treatment(self, role: str, prompt: str | None, prompts: Mapping[str, str]) -> tuple[str, str]:
        """Return the prompt of texts of a role, and what else distinguishes how the model treats them.

        Roles that a model treats alike share their embeddings. A model with routes, or with an `encode_query` that is
        neither ours nor sentence-transformers', is asked for each role.
        """
        method = getattr(self.model, f"encode_{role}", None) if role else None
        standard = str(getattr(method, "__module__", "")).startswith(("sbertlab.", "sentence_transformers."))
        routed = isinstance(self.model, nn.Module) and any(hasattr(m, "sub_modules") for m in self.model.modules())
        route = role if method is not None and (routed or not standard) else ""
        for device in ("cpu", "cuda"):  # mixed precision gives other numbers
            if torch.is_autocast_enabled(device):
                route += f" {torch.get_autocast_dtype(device)}"
        names: list[Any] = [*ROLES[role], getattr(self.model, "default_prompt_name", None)]
        default = next((prompts[name] for name in names if name in prompts), "")
        return default if prompt is None else prompt, route
