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
import pickle
import re
import shutil
import sys
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save
from torch import Tensor, nn
from tqdm.auto import tqdm

from sbertlab.model_source import cache_home
from sbertlab.safe_files import sha256_of
from sbertlab.texts import Text, as_texts

FORMAT = 1
"""Part of every fingerprint: raised when the rules of this file change, so that nothing older is found."""
FINGERPRINT = re.compile(r"[0-9a-f]{64}")
KEY_BYTES = 16
FORGOTTEN_SECONDS = 3600.0
"""A half-written file of this age belongs to no process that still writes it."""


class EmbeddingStoreWarning(UserWarning):
    """A shard is damaged and was left out, or embeddings could not be written; the results are right all the same."""


# -- Keys: what an embedding depends on --------------------------------------------------------------------------------


def fingerprint(model: Any) -> str:
    """Return the SHA-256 of all that a model's embeddings depend on, in hexadecimal.

    Of modules (ours, those of sentence-transformers, any `nn.Module`): every module's class and settings, every
    tensor's name, dtype, shape and bytes, the tokenizer, length limit, prompts and `truncate_dim`. Of a scikit-learn
    estimator its parameters and what was fitted; of other objects what joblib hashes. Of code, the version of its
    package; where it has none, its file. Left out: names, paths, the similarity, the device.

    Raises:
        TypeError: it depends on something that has no content to hash, e.g. a class defined in a notebook, a lambda.

    >>> fingerprint(nn.Linear(2, 1)) == fingerprint(nn.Linear(2, 1))  # random weights
    False
    >>> layer = nn.Linear(2, 1)
    >>> fingerprint(layer) == fingerprint(layer.eval())
    True
    """
    try:
        described = json.dumps([FORMAT, _described(model)])
    except TypeError as error:
        raise TypeError(
            f"{type(model).__name__} cannot be fingerprinted: {error}. Without a store (store=None) it can be used"
        ) from error
    return hashlib.sha256(described.encode()).hexdigest()


def key_of(text: Text, prompt: str = "", route: str = "") -> bytes:
    """Return the key of a text under a prompt and a route: 16 bytes of SHA-256.

    >>> len({key_of("a"), key_of("a", prompt="query: "), key_of("query: a"), key_of({"query": "a"})})
    4
    """
    return hashlib.sha256(json.dumps([route, prompt, text]).encode()).digest()[:KEY_BYTES]


QUIET = ("torch", "transformers", "sentence_transformers")
"""Libraries whose modules keep caches and bookkeeping in private attributes, and in objects of their own."""

NOT_IN_THE_RESULT = {
    *vars(nn.Module()),  # hooks, mode, and the tensors, which are hashed by name
    *("model_name", "name_or_path", "model_card_data", "_similarity", "similarity_fn_name", "trust_remote_code"),
    *("gradient_checkpointing", "loss_type", "all_tied_weights_keys"),
}
"""Attributes of modules that embeddings do not depend on."""

NOTES = {"_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype"}
"""What a configuration says of where it comes from; the dtype is that of the tensors."""

BY_THE_BATCH = {"truncation", "padding", "decoder"}
"""Rules of a tokenizer that are set anew for every batch, or are for the way back."""

ADDRESSES = {"_stop_words_id"}
"""Attributes of estimators that hold an address in memory."""


def _without(left_out: set[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in left_out}


def _described(value: Any) -> Any:
    """Return what stands for a value in the fingerprint, in JSON types."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return [str(value.dtype), str(value)]
    if isinstance(value, (list, tuple)):
        return [_described(item) for item in value]
    if isinstance(value, Mapping):
        return sorted(([_described(key), _described(item)] for key, item in value.items()), key=repr)
    if isinstance(value, (set, frozenset)):
        return sorted((_described(item) for item in value), key=repr)
    if isinstance(value, Tensor):
        return _tensor(value)
    if isinstance(value, nn.Module):
        return _module(value)
    if isinstance(value, (torch.dtype, torch.device, np.dtype)):
        return str(value)
    if isinstance(value, (type, FunctionType)):
        return _code(value)
    if isinstance(value, Enum):
        return [_code(type(value)), _described(value.value)]
    if hasattr(value, "get_vocab"):
        return _tokenizer(value)
    if hasattr(value, "to_dict"):  # a configuration
        return [_code(type(value)), _described(_without(NOTES, value.to_dict()))]
    if hasattr(value, "get_params"):  # an estimator of scikit-learn
        return [_code(type(value)), _described(_without(ADDRESSES, vars(value)))]
    return [_code(type(value)), _joblib_hash(value)]


def _module(module: nn.Module) -> Any:
    """Describe a module: class and settings of every part, and all tensors."""
    parts = [
        [name, _code(type(part)), _settings(part), _described(getattr(part, "max_seq_length", None))]
        for name, part in module.named_modules(remove_duplicate=False)
    ]
    tensors = {**dict(module.named_buffers()), **module.state_dict()}  # state_dict lacks buffers that are not saved
    return [parts, [[name, _described(tensor)] for name, tensor in sorted(tensors.items())]]


def _settings(part: nn.Module) -> Any:
    """Describe the attributes of a module; its tensors and the modules inside it are described elsewhere."""
    settings = _without(NOT_IN_THE_RESULT, vars(part))
    if type(part).__module__.partition(".")[0] in QUIET:
        settings = {name: value for name, value in settings.items() if not name.startswith("_") and _is_plain(value)}
    return _described(settings)


def _is_plain(value: Any) -> bool:
    plain = isinstance(value, (bool, int, float, str, list, tuple, dict, set, Tensor))
    return plain or hasattr(value, "get_vocab") or hasattr(value, "to_dict")


def _tensor(tensor: Tensor) -> Any:
    try:
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    except (RuntimeError, NotImplementedError) as error:
        raise TypeError(f"a tensor on {tensor.device} of layout {tensor.layout} has no plain bytes") from error
    return [str(tensor.dtype), list(tensor.shape), hashlib.sha256(data.data).hexdigest()]


def _tokenizer(tokenizer: Any) -> Any:
    """Describe a tokenizer of transformers or tokenizers: its vocabulary and rules, and how it pads and cuts."""
    names = ("padding_side", "truncation_side", "pad_token_id", "do_lower_case", "all_special_tokens")
    settings = {name: getattr(tokenizer, name, None) for name in names}
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if not hasattr(backend, "to_str"):  # written in Python
        return [_code(type(tokenizer)), _described(settings), _joblib_hash([tokenizer, tokenizer.get_vocab()])]
    rules = json.loads(backend.to_str())
    words = repr(rules.pop("model"))  # far quicker than JSON
    rules["words"] = hashlib.sha256(words.encode("utf-8", "surrogatepass")).hexdigest()
    return [_code(type(tokenizer)), _described(settings), _described(_without(BY_THE_BATCH, rules))]


def _joblib_hash(value: Any) -> str:
    import joblib

    try:
        return joblib.hash(value)
    except (pickle.PicklingError, AttributeError, RecursionError) as error:
        raise TypeError(f"{type(value).__name__} cannot be pickled ({error})") from error


def _code(made: Any) -> list[str]:
    """Name a class or function and the versions of its code: of packages where they have one, otherwise of files."""
    name = f"{made.__module__}.{made.__qualname__}"
    return [name, *sorted({_version(str(kind.__module__), name) for kind in getattr(made, "__mro__", [made])})]


def _version(module: str, name: str) -> str:
    root = module.partition(".")[0]
    if root in sys.stdlib_module_names:
        return ""
    version = getattr(sys.modules.get(root), "__version__", None)
    if version is not None:
        return f"{root} {version}"
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None or "<" in name:
        raise TypeError(f"the code of {name} may change unseen; define it at the top of a module, in a file")
    return sha256_of(Path(file))


# -- The store ---------------------------------------------------------------------------------------------------------


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


# -- A model with a memory ---------------------------------------------------------------------------------------------

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
        store: where to keep embeddings between runs; None keeps them in memory alone.
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
                embeddings = np.asarray(encode([new[key] for key in block], **arguments), dtype=np.float32)
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
