"""A model with a memory: what is asked for is computed once, in a session or, with a store, ever."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from sbertlab.data.texts import Text, as_texts
from sbertlab.encoder.embedding_store import EmbeddingStore
from sbertlab.encoder.fingerprint import fingerprint, key_of

ROLES: Mapping[str, tuple[str, ...]] = {"": (), "query": ("query",), "document": ("document", "passage", "corpus")}
"""Names of prompts by the role of a text, the first that the model has counts."""


class StoredEmbeddings:
    """A model that remembers: what is asked for is encoded once a distinct text, and with a store once for all runs.

    Texts are encoded and stored in blocks, so a run that is killed keeps its whole blocks; the next one encodes the
    others in the same company. The last bits of an embedding may depend on the texts that it was encoded with and on
    the device (about 1e-6); what comes from memory or store is bit for bit what was computed first, and gives no
    second warning of texts that are cut.

    Args:
        model: anything with `encode(list of texts) -> (texts, dim)`, or a scikit-learn pipeline with `transform`.
        store: where to keep embeddings between runs, and between calls: memory then holds those of the last call. None
            keeps all in memory alone.
        name: for the progress bar and the store's manifest.
        block: texts given to the model at a time.

    Attributes:
        computed: texts that the model had to encode so far.
        fingerprint: of the model; None without a store.

    Raises:
        TypeError: the model has neither method; or there is a store, and the model cannot be fingerprinted.
        ValueError: it returned something else than one vector a text; or it was changed (e.g. trained) since.

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
    >>> shared.computed
    2
    """

    def __init__(
        self, model: Any, store: EmbeddingStore | None = None, name: str = "Encoding", block: int = 512
    ) -> None:
        encode = getattr(model, "encode", None) or getattr(model, "transform", None)
        if not callable(encode):
            raise TypeError(f"a task needs a model with encode(texts) or transform(texts), got {type(model).__name__}")
        if block < 1:
            raise ValueError(f"block must be a positive number of texts, got {block!r}")
        self.model, self.store, self.name, self.block = model, store, name, block
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
        """Return the embeddings `(texts, dim)` in float32, an array or a tensor; how to batch is the model's matter.

        Args:
            sentences: a list, tuple, pandas Series or array of texts; one text alone gives `(dim,)`.
            batch_size: for the field's signature; not used.
            show_progress_bar: for the field's signature; a bar shows while the model encodes.
            convert_to_tensor: return a tensor.
            prompt: put in front of each text, by a model whose `encode` takes it.
            prompt_name: the same by name, from the model's `prompts`.
            truncate_dim: return only so many dimensions; all are kept.
            role: "query" or "document" for a model that treats the two differently.
        """
        if role not in ROLES:
            raise ValueError(f'role must be "query", "document" or "", got {role!r}')
        texts, single = as_texts(sentences)
        if prompt is None and prompt_name is not None:
            prompt = self._prompts().get(prompt_name)
            if prompt is None:
                raise ValueError(f"prompt_name {prompt_name!r} is not one of the model's {list(self._prompts())}")
        encode = getattr(self.model, f"encode_{role}", self._encode) if role else self._encode
        front, route = self._front(role, prompt)
        keys = [key_of(text, front, route) for text in texts]
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._rows}
        if new and self.store is not None and self.fingerprint is not None:
            found = self.store.read(self.fingerprint, new)
            self._rows |= found
            new = {key: text for key, text in new.items() if key not in found}
        if new:
            self._compute(new, encode, {} if prompt is None else {"prompt": prompt})
        size = next((len(row) for row in self._rows.values()), 0)
        stacked = np.stack([self._rows[key] for key in keys]) if keys else np.empty((0, size), np.float32)
        if self.store is not None:  # where the others can be read again: fourteen tasks need not fit into memory
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
        """Let the model encode texts, remember and store their embeddings, block by block."""
        watched = self.fingerprint is not None and isinstance(self.model, nn.Module)
        if watched and fingerprint(self.model) != self.fingerprint:  # it must not store what is new as what was
            raise ValueError(
                "the model has changed since StoredEmbeddings was made of it (weights, prompts, length or the like); "
                "make a new one: StoredEmbeddings(model, store)"
            )
        about = {"name": self.name, "model": getattr(self.model, "model_name", None) or type(self.model).__name__}
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
                # What is not finite is a failure, which the next run should not inherit.
                if self.store is not None and self.fingerprint is not None and np.isfinite(embeddings).all():
                    self.store.write(self.fingerprint, block, embeddings, about)
                bar.update(len(block))

    def _prompts(self) -> Mapping[str, str]:
        return getattr(self.model, "prompts", None) or {}

    def _front(self, role: str, prompt: str | None) -> tuple[str, str]:
        """Return the prompt that the model puts in front of texts of a role, and what else sets these texts apart.

        Roles that a model treats alike share their embeddings. A model with routes, or with an `encode_query` of its
        own making, is asked for each role.
        """
        names: list[Any] = [*ROLES[role], getattr(self.model, "default_prompt_name", None)]
        front = next((self._prompts()[name] for name in names if name in self._prompts()), "")
        method = getattr(self.model, f"encode_{role}", None) if role else None
        of_the_field = str(getattr(method, "__module__", "")).startswith(("sbertlab.", "sentence_transformers."))
        routes = isinstance(self.model, nn.Module) and any(hasattr(m, "sub_modules") for m in self.model.modules())
        route = role if method is not None and (routes or not of_the_field) else ""
        for device in ("cpu", "cuda"):  # mixed precision is another dtype
            if torch.is_autocast_enabled(device):
                route += f" {torch.get_autocast_dtype(device)}"
        return front if prompt is None else prompt, route
