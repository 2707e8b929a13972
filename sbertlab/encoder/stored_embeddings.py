"""A model with a memory: each text is encoded once, in a session or, with a store on disk, ever."""

import hashlib
import json
import os
import sqlite3
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partialmethod
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from sbertlab.checks import checked_number
from sbertlab.data.texts import Text, as_texts
from sbertlab.encoder.fingerprint import fingerprint
from sbertlab.encoder.sentence_transformer import SentenceTransformer
from sbertlab.models import Router
from sbertlab.storage.find import cache_home

SCHEMA = """
PRAGMA page_size = 16384;
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB);
"""
KEYS_PER_QUERY, BLOCK = 1000, 512  # texts read, and encoded and stored, at a time


class EmbeddingStoreWarning(UserWarning):
    """The store is damaged or cannot be read or written; embeddings are computed instead, so results are right."""


class EmbeddingStore:
    """Embeddings by key in an SQLite file, for many processes at once.

    Problems with the file never stop a run, they are an `EmbeddingStoreWarning`; a damaged file is removed. The folder
    must be on a local disk, as network file systems lack SQLite's locks; None is "embeddings" in sbertlab's cache. A
    file of more than `most_bytes` loses the older half of its embeddings at the next write.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None, most_bytes: int = 10 * 2**30) -> None:
        self.folder = cache_home() / "embeddings" if folder is None else Path(folder).expanduser()
        self.most_bytes = checked_number("most_bytes", most_bytes, 1, whole=True)
        self.file = self.folder / "vectors.sqlite"

    def read(self, keys: Iterable[bytes]) -> dict[bytes, np.ndarray]:
        """Return the embeddings `(dim,)` that are stored, by key."""
        wanted = list(keys)
        found: dict[bytes, np.ndarray] = {}
        if self.file.exists():
            with self._reported("read"), closing(sqlite3.connect(self.file, timeout=60)) as database:
                database.executescript(SCHEMA)
                for start in range(0, len(wanted), KEYS_PER_QUERY):
                    some = wanted[start : start + KEYS_PER_QUERY]
                    query = f"SELECT key, vector FROM vectors WHERE key IN ({','.join('?' * len(some))})"
                    found |= {key: np.frombuffer(row, np.float32) for key, row in database.execute(query, some)}
        return found

    def write(self, keys: Sequence[bytes], embeddings: np.ndarray) -> None:
        """Store embeddings `(len(keys), dim)` in float32; of a key that is there already the first is kept."""
        rows = [(key, row.tobytes()) for key, row in zip(keys, np.asarray(embeddings, np.float32), strict=True)]
        with self._reported("written"):
            self.folder.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.file, timeout=60, isolation_level=None)) as database, database:
                database.executescript(SCHEMA)
                database.execute("BEGIN IMMEDIATE")
                names = ("page_count", "freelist_count", "page_size")
                pages, free, size = (database.execute(f"PRAGMA {name}").fetchone()[0] for name in names)
                if (pages - free) * size > self.most_bytes:
                    middle = "SELECT (min(rowid) + max(rowid)) / 2 FROM vectors"
                    database.execute(f"DELETE FROM vectors WHERE rowid <= ({middle})")
                database.executemany("INSERT OR IGNORE INTO vectors VALUES (?, ?)", rows)

    @contextmanager
    def _reported(self, purpose: str) -> Iterator[None]:
        """Warn of an error, and remove a damaged file."""
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            problem = f"{self.file} cannot be {purpose}: {error}; embeddings are computed again"
            if type(error) is sqlite3.DatabaseError:  # damaged; a full disk, a lock and the like are subclasses of it
                problem += ", and the file is removed"
                for path in self.folder.glob(f"{self.file.name}*"):
                    path.unlink(missing_ok=True)
            warnings.warn(problem, EmbeddingStoreWarning, stacklevel=4)


class StoredEmbeddings:
    """A model that remembers: each distinct text is encoded once, and with a store once for all runs.

    Texts are encoded and stored in blocks, so a killed run keeps its complete blocks. The last bits of an embedding may
    depend on the device and on the texts that it was encoded with (about 1e-6); memory and store return the exact bits
    of the first computation, without warning of truncated texts again.

    The model is anything with `encode(list of texts) -> (texts, dim)`, or a scikit-learn pipeline with `transform`.
    With a store, memory holds the embeddings of the last call only. `computed` counts the texts that were encoded.

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

    def __init__(self, model: Any, store: EmbeddingStore | None = None, name: str = "Encoding") -> None:
        encode = getattr(model, "encode", None) or getattr(model, "transform", None)
        if not callable(encode):
            raise TypeError(f"a task needs a model with encode(texts) or transform(texts), got {type(model).__name__}")
        self.model, self.store, self.name = model, store, name
        self.computed = 0
        self._encode: Callable[..., Any] = encode
        self._rows: dict[bytes, np.ndarray] = {}
        self._weights: list[tuple[int, int]] | None = None
        self._follow_the_model()

    def _follow_the_model(self) -> None:
        """Forget the embeddings of before the model's weights changed: each change of a tensor raises its version."""
        module = self.model if isinstance(self.model, nn.Module) else nn.Module()
        weights = [(one.data_ptr(), one._version) for one in chain(module.parameters(), module.buffers())]
        if weights != self._weights:
            self._weights, self._rows = weights, {}
            self.fingerprint = None if self.store is None else fingerprint(self.model)

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

        `batch_size` and `show_progress_bar` are ignored; `truncate_dim` shortens what is returned, not what is kept;
        `role` is "query" or "document" for a model that treats the two differently.
        """
        self._follow_the_model()
        texts, single = as_texts(sentences)
        role = role if self._has_roles(role) else ""
        given = {"prompt": prompt, "prompt_name": prompt_name}
        arguments = {name: value for name, value in given.items() if value is not None}
        precisions = [torch.get_autocast_dtype(kind) for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
        treatment = [self.fingerprint, role, arguments, str(precisions)]  # what distinguishes embeddings of a text
        keys = [hashlib.sha256(json.dumps([*treatment, text]).encode()).digest()[:16] for text in texts]
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._rows}
        if new and self.store is not None:
            self._rows |= self.store.read(new)
            new = {key: text for key, text in new.items() if key not in self._rows}
        if new:
            self._compute(new, getattr(self.model, f"encode_{role}") if role else self._encode, arguments)
        size = next((len(row) for row in self._rows.values()), 0)
        stacked = np.stack([self._rows[key] for key in keys]) if keys else np.empty((0, size), np.float32)
        if self.store is not None:  # the others can be read again, and a benchmark's texts need not fit into memory
            self._rows = {key: self._rows[key] for key in keys}
        stacked = stacked[:, :truncate_dim]
        embeddings = torch.from_numpy(stacked) if convert_to_tensor else stacked
        return embeddings[0] if single else embeddings

    encode_query = partialmethod(encode, role="query")
    encode_document = partialmethod(encode, role="document")

    def _has_roles(self, role: str) -> bool:
        """Return whether the model treats a role in a way of its own; if not, roles share their embeddings."""
        if isinstance(self.model, SentenceTransformer):
            return bool(self.model.prompts) or any(isinstance(block, Router) for block in self.model.modules())
        return hasattr(self.model, f"encode_{role}")

    def _compute(self, new: Mapping[bytes, Text], encode: Callable[..., Any], arguments: Mapping[str, str]) -> None:
        """Encode new texts, remember and store their embeddings, block by block."""
        watched = self.fingerprint is not None and isinstance(self.model, nn.Module)
        if watched and fingerprint(self.model) != self.fingerprint:
            raise ValueError("the model's settings have changed; make a new StoredEmbeddings of it")
        keys = list(new)
        with tqdm(total=len(keys), desc=self.name, unit="text", leave=False) as bar:
            for start in range(0, len(keys), BLOCK):
                block = keys[start : start + BLOCK]
                embeddings = np.asarray(encode([new[key] for key in block], **arguments), dtype=np.float32)
                if embeddings.ndim != 2 or len(embeddings) != len(block):
                    raise ValueError(f"the model returned {embeddings.shape}, expected ({len(block)}, dim)")
                self.computed += len(block)
                self._rows |= zip(block, embeddings, strict=True)
                if self.store is not None:
                    self.store.write(block, embeddings)
                bar.update(len(block))
