"""What an embedding depends on, as keys: everything in a model, the source code, and the text with its prompt."""

import hashlib
import json
import pickle
import sys
from collections.abc import Collection, Mapping
from functools import lru_cache, partial
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from sbertlab.storage.files import sha256_of

FORMAT = 2  # increased when the rules of this file change
ENCODING = ("models", "encoder", "data/texts.py", "util.py", "checks.py")
"""Parts of the package from which an embedding follows."""

MEASURING = (
    *ENCODING,
    *("data", "losses", "training", "evaluation", "analysis/resampling.py"),
    *("benchmark/tasks.py", "benchmark/local_tasks.py", "benchmark/published.py", "benchmark/published.yaml"),
    *("benchmark/encoders.py", "benchmark/recipes.py", "benchmark/runner.py"),
)
"""Parts from which a cell of the benchmark follows: embeddings, fine-tuning, tasks and metrics."""


def fingerprint(model: Any) -> str:
    """Return the SHA-256 of everything that a model's embeddings depend on, in hexadecimal.

    That is settings, tensors, tokenizer, prompts and the version of the code, but not names, paths or the device. Code
    that may change unnoticed (a lambda, a nested function, a notebook's class) raises a TypeError.
    """
    try:
        described = json.dumps([FORMAT, _described(model)])
    except (TypeError, AttributeError, RecursionError, pickle.PicklingError) as error:
        raise TypeError(f"{type(model).__name__} cannot be fingerprinted, so use no store for it: {error}") from error
    return hashlib.sha256(described.encode()).hexdigest()


@lru_cache
def source_digest(parts: tuple[str, ...] = ENCODING, root: Path = Path(__file__).parents[1]) -> str:
    """Return the SHA-256 of the package's source files in `parts`: files, or folders with all that is in them."""
    lines = []
    for part in parts:
        paths = sorted((root / part).rglob("*.py")) if (root / part).is_dir() else [root / part]
        if not paths or not all(path.is_file() for path in paths):
            raise FileNotFoundError(f"{root / part} has no source files, so the digest would not notice any change")
        lines += [f"{path.relative_to(root).as_posix()} {sha256_of(path)}" for path in paths]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


IGNORED: dict[str, Collection[str]] = {
    "module": {*vars(nn.Module()), "model_name", "similarity_fn_name"},  # hooks, mode, and the tensors, hashed by name
    "config": ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype"),
    "estimator": ("_stop_words_id",),  # an address in memory
}
"""Attributes that embeddings do not depend on, by the kind of the object."""


def _described(value: Any) -> Any:
    """Return JSON types that identify a value."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_described(item) for item in value]
    if isinstance(value, Mapping):
        return sorted((_described(item) for item in value.items()), key=repr)
    if isinstance(value, set | frozenset):
        return sorted((_described(item) for item in value), key=repr)
    if isinstance(value, Tensor):
        data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        return [str(value.dtype), list(value.shape), hashlib.sha256(data.data).hexdigest()]
    if isinstance(value, nn.Module):
        return _module(value)
    if isinstance(value, partial):
        return _described([value.func, value.args, value.keywords])
    if isinstance(value, FunctionType) and value.__closure__:
        raise TypeError(f"{value.__qualname__} depends on variables of the function around it; use functools.partial")
    if isinstance(value, type | FunctionType):
        return _code(value)
    if hasattr(getattr(value, "backend_tokenizer", value), "to_str"):
        return [_code(type(value)), _tokenizer(value)]
    if hasattr(value, "to_dict"):  # a configuration
        return [_code(type(value)), _settings("config", value.to_dict())]
    if hasattr(value, "get_params"):  # an estimator of scikit-learn
        return [_code(type(value)), _settings("estimator", vars(value))]
    import joblib

    return [_code(type(value)), joblib.hash(value)]


def _settings(kind: str, settings: Mapping[str, Any]) -> Any:
    return _described({name: value for name, value in settings.items() if name not in IGNORED[kind]})


def _module(module: nn.Module) -> Any:
    """Describe class and settings of every part, and all tensors."""
    parts = []
    for name, part in module.named_modules(remove_duplicate=False):
        if type(part).__module__.startswith(("torch.", "transformers.")):  # their attributes hold caches as well
            settings = _described([part.extra_repr(), getattr(part, "config", None)])
        else:
            settings = _settings("module", vars(part))
        parts.append([name, _code(type(part)), settings, getattr(part, "max_seq_length", None)])
    tensors = {**dict(module.named_buffers()), **module.state_dict()}  # state_dict lacks buffers that are not saved
    return [parts, [[name, _described(tensor)] for name, tensor in sorted(tensors.items())]]


def _tokenizer(tokenizer: Any) -> Any:
    """Describe vocabulary and rules of a tokenizer of transformers or tokenizers, and how it pads and truncates."""
    names = ("padding_side", "truncation_side", "pad_token_id", "do_lower_case", "all_special_tokens")
    rules = json.loads(getattr(tokenizer, "backend_tokenizer", tokenizer).to_str())
    lasting = repr({name: rule for name, rule in rules.items() if name not in ("truncation", "padding", "decoder")})
    digest = hashlib.sha256(lasting.encode("utf-8", "surrogatepass")).hexdigest()
    return [digest, _described({name: getattr(tokenizer, name, None) for name in names})]


def _code(made: Any) -> list[str]:
    """Return the name of a class or function, and the versions of the packages or files that its code is in."""
    name = f"{made.__module__}.{made.__qualname__}"
    return [name, *sorted({_version(str(kind.__module__), name) for kind in getattr(made, "__mro__", [made])})]


def _version(module: str, name: str) -> str:
    root = module.partition(".")[0]
    if root in sys.stdlib_module_names:
        return ""
    if root == "sbertlab":
        return source_digest()
    version = getattr(sys.modules.get(root), "__version__", None)
    if version is not None:
        return f"{root} {version}"
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None or "<" in name:
        raise TypeError(f"the code of {name} may change unnoticed; define it at the top of a module, in a file")
    return sha256_of(Path(file))
