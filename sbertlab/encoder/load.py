"""Reads model folders in the format of sentence-transformers, of every version.

| dialect  | written by                      | recognised by                                                        |
| -------- | ------------------------------- | -------------------------------------------------------------------- |
| 2.2      | sentence-transformers to 2.2.2  | `type` is `sentence_transformers.models.X`; plain key sets           |
| middle   | 2.3 to 5.x, most of the Hub     | as 2.2, with more keys for Pooling and prompts                       |
| 6        | 5.4 and later                   | `type` is a full class path; `embedding_dimension`, `pooling_mode`   |
| portable | `save.save_modules`             | 2.2's key sets, with weights and length limit where each version looks |
| plain    | transformers                    | no modules.json; gets mean pooling                                   |

Reading a folder never runs code from it: weights come from safetensors or from `torch.load(weights_only=True)`, and
classes from the table `BLOCKS`, unless the caller names another class.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import warnings
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from sbertlab import models

BLOCKS: dict[str, type[models.Module]] = {
    block.__name__: block
    for block in (
        *(models.Transformer, models.StaticEmbedding, models.Pooling, models.WeightedLayerPooling, models.LSTM),
        *(models.CNN, models.Dense, models.LayerNorm, models.Dropout, models.Normalize, models.Router),
    )
}
CONFIG_FILES = {"LSTM": "lstm_config.json", "CNN": "cnn_config.json"}  # the others have config.json
RENAMED = {"embedding_dimension": "word_embedding_dimension", "in_embedding_dimension": "in_word_embedding_dimension"}
"""Keys of version 6, and ours."""

ON_SENTENCES = {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}
IMPLIED: dict[str, dict[str, Any]] = {
    "Dense": {**ON_SENTENCES, "use_residual": False},
    "Normalize": ON_SENTENCES,
    "Transformer": {"transformer_task": "feature-extraction", "module_output_name": "token_embeddings"},
    "Router": {"route_mappings": {}},
}
"""Keys of later versions that our blocks do not have, with the only value that means what our blocks do."""

TEXT_MODALITY = {"method": "forward", "method_output_name": "last_hidden_state"}
"""How version 6 says that a transformer reads texts and returns one vector per token."""

MODEL_ARGS = (
    ("model_args", "model_kwargs", "config_args", "config_kwargs"),
    {"output_hidden_states", "dtype", "torch_dtype"},
)
TOKENIZER_ARGS = (
    ("tokenizer_args", "processor_kwargs"),
    {"padding_side", "truncation_side", "add_prefix_space", "model_max_length"},
)
"""Keys of arguments for transformers, and the arguments that a folder may set; others could name code to run."""

SIZE_KEYS = ("word_embedding_dimension", "in_word_embedding_dimension", "in_features", "dimension")
"""Configuration keys that state the size of a block's input vectors."""


def load_modules(
    folder: str | Path,
    *,
    model_args: Mapping[str, Any] | None = None,
    tokenizer_args: Mapping[str, Any] | None = None,
    trust_remote_code: bool | Collection[str] = False,
) -> tuple[OrderedDict[str, nn.Module], dict[str, Any]]:
    """Read the building blocks of a model folder, by name and in order, and the settings of the model.

    `model_args` and `tokenizer_args` override the folder's for every Transformer. `trust_remote_code` lists classes
    outside `BLOCKS` that may be imported, e.g. `["my_package.MyBlock"]`, or is True for any. A missing file is a
    FileNotFoundError, a damaged or inconsistent one a ValueError that names it.
    """
    root, trust = Path(folder), {trust_remote_code} if isinstance(trust_remote_code, str) else trust_remote_code
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}")
    return _Reader(model_args or {}, tokenizer_args or {}, trust).modules(root), _read_settings(root)


@dataclass(frozen=True)
class _Reader:
    """Reads blocks with the caller's arguments for transformers and the classes that the caller trusts."""

    model_args: Mapping[str, Any]
    tokenizer_args: Mapping[str, Any]
    trust: bool | Collection[str]

    def modules(self, root: Path) -> OrderedDict[str, nn.Module]:
        file = root / "modules.json"
        if not file.is_file():
            if not (root / "config.json").is_file():
                raise ValueError(f"{root} is not a model folder: it has neither modules.json nor config.json")
            encoder = self.transformer(root)
            pooling = models.Pooling(encoder.get_word_embedding_dimension(), "mean")
            return OrderedDict([("0", encoder), ("1", pooling)])
        modules: OrderedDict[str, nn.Module] = OrderedDict()
        folders: dict[str, nn.Module] = {}
        for position, entry in enumerate(read_json(file, list)):
            if not isinstance(entry, dict) or not isinstance(entry.get("type"), str):
                raise ValueError(f"{file}: entry {position} must be an object with path and type, got {entry!r:.80}")
            name = str(entry.get("name", position))
            if name in modules:
                raise ValueError(f"{file}: the name {name!r} occurs twice")
            path = _inside(root, entry.get("path", ""), file)
            modules[name] = folders[f"{path} (module {position})"] = self.module(entry["type"], path, file)
        if not modules:
            raise ValueError(f"{file} lists no modules")
        check_sizes(folders)
        parts = [part for module in modules.values() for part in module.modules()]
        if any(isinstance(part, models.WeightedLayerPooling) for part in parts):
            for part in parts:
                if isinstance(part, models.Transformer):
                    part.auto_model.config.output_hidden_states = True
        return modules

    def module(self, dotted: str, folder: Path, file: Path) -> nn.Module:
        """Read the block of class `dotted`, as named in `file`, from its folder."""
        name = dotted.rpartition(".")[2].replace("Asym", "Router")
        if not dotted.startswith("sentence_transformers."):
            return self.outside_module(dotted, folder, file)
        if name not in BLOCKS:
            raise ValueError(f"{file}: sbertlab has no block {dotted}; it has {', '.join(BLOCKS)}")
        if name == "Transformer":
            return self.transformer(folder)
        if name == "StaticEmbedding":
            return _read_static_embedding(folder)
        if name == "Router":
            return self.router(folder)
        config_file = folder / CONFIG_FILES.get(name, "config.json")
        if name == "Normalize" and not config_file.is_file():
            return models.Normalize()
        config = _known_keys(read_json(config_file, dict), name, config_file)
        activation = config.get("activation_function")
        if isinstance(activation, str) and not activation.startswith("torch.nn."):
            config["activation_function"] = self.trusted_class(activation, config_file)()
        return _with_weights(_make(BLOCKS[name], config, config_file), folder)

    def transformer(self, folder: Path) -> models.Transformer:
        candidates = [folder / "sentence_bert_config.json", *sorted(folder.glob("sentence_*_config.json"))]
        file = next((path for path in candidates if path.is_file()), candidates[0])
        config = read_json(file, dict) if file.is_file() else {}
        text = config.pop("modality_config", {}).get("text", TEXT_MODALITY)
        if text != TEXT_MODALITY:
            raise ValueError(f"{file}: modality_config has {text!r} for text; sbertlab has {TEXT_MODALITY} only")
        model_args = {**_harmless(config, *MODEL_ARGS, file), **self.model_args}
        tokenizer_args = {**_harmless(config, *TOKENIZER_ARGS, file), **self.tokenizer_args}
        tokenizer = folder / "tokenizer_config.json"
        stated = [read_json(folder / "config.json", dict), read_json(tokenizer, dict) if tokenizer.is_file() else {}]
        values = [value for one in stated for value in one.get("auto_map", {}).values()]  # classes beside the weights
        code = [str(name) for value in values for name in (value if isinstance(value, list) else [value]) if name]
        model_args["trust_remote_code"] = bool(code) and all(self.trusts(name) for name in code)
        config = _known_keys(config, "Transformer", file)
        lower = bool(config.get("do_lower_case", False))
        try:
            block = models.Transformer(
                folder, model_args=model_args, tokenizer_args=tokenizer_args, do_lower_case=lower
            )
        except Exception as error:  # whatever transformers, tokenizers or safetensors raise for a damaged folder
            raise ValueError(f"{folder} cannot be loaded by transformers: {error}") from error
        length = config.get("max_seq_length")
        if length is not None:
            if not isinstance(length, int) or length < 1:
                raise ValueError(f"{file}: max_seq_length must be a positive number of tokens, got {length!r}")
            block.max_seq_length = min(length, block.longest_input or length)
            if block.max_seq_length < length:
                _warn(f"{file}: max_seq_length {length} is reduced to the model's {block.max_seq_length} positions")
        return block

    def router(self, folder: Path) -> models.Router:
        file = folder / "router_config.json"
        file = file if file.is_file() else folder / "config.json"
        config = read_json(file, dict)
        types, structure, parameters = (config.get(key) for key in ("types", "structure", "parameters"))
        if not (isinstance(types, dict) and isinstance(structure, dict) and isinstance(parameters, dict)):
            raise ValueError(f"{file} must hold the objects types, structure and parameters")
        blocks = {}
        for name, dotted in types.items():
            path = _inside(folder, name, file)
            if path == folder:
                raise ValueError(f"{file}: the path {name!r} is the router's own folder and is refused")
            blocks[name] = self.module(str(dotted), path, file)
        try:
            routes = {route: [blocks[name] for name in names] for route, names in structure.items()}
        except (KeyError, TypeError) as error:
            raise ValueError(f"{file}: structure names modules that types does not list: {error}") from error
        return _make(models.Router, {"sub_modules": routes, **_known_keys(parameters, "Router", file)}, file)

    def trusts(self, dotted: str) -> bool:
        return self.trust if isinstance(self.trust, bool) else dotted in self.trust

    def trusted_class(self, dotted: str, file: Path) -> type[nn.Module]:
        """Import a class from outside `BLOCKS`, if the caller named it."""
        if not self.trusts(dotted):
            raise ValueError(
                f"{file} names the class {dotted!r}, which is code from outside and is not run. If you know and trust "
                f"it, install the package that holds it and load with trust_remote_code=[{dotted!r}]"
            )
        module, _, name = dotted.rpartition(".")
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(
                f"{file}: {dotted!r} cannot be imported ({error}); install the package that holds it"
            ) from error
        if not (isinstance(found, type) and issubclass(found, nn.Module)):
            raise ValueError(f"{file}: {dotted!r} is not a class of torch.nn.Module")
        return found

    def outside_module(self, dotted: str, folder: Path, file: Path) -> nn.Module:
        found = self.trusted_class(dotted, file)
        if issubclass(found, models.Module):
            return _with_weights(_make(found, read_json(folder / "config.json", dict), folder / "config.json"), folder)
        load = getattr(found, "load", None)
        if load is None:
            raise ValueError(f"{file}: {dotted!r} has no load(folder) and is not a subclass of sbertlab.models.Module")
        return cast(nn.Module, load(str(folder)))


def check_sizes(modules: Mapping[str, nn.Module], given: int | None = None) -> int | None:
    """Check that every block takes vectors of the size that the block before it returns; return the last's size.

    `modules` are in order, by the name that an error uses; `given` is the size of the vectors that enter the first.
    """
    if not modules:
        raise ValueError("modules is empty; give at least a Transformer and a Pooling")
    for name, module in modules.items():
        if not isinstance(module, nn.Module):
            raise TypeError(f"{name} is not a building block; modules is a list such as [Transformer, Pooling]")
        if isinstance(module, models.Router):
            sizes = []
            for route, blocks in module.sub_modules.items():
                named = {f"{name}, {route} {i} ({type(block).__name__})": block for i, block in blocks.named_children()}
                sizes.append(check_sizes(named, given) if named else None)
            given = next((size for size in sizes if size is not None), given)
            continue
        config = module.config() if isinstance(module, models.Module) else {}
        wanted = next((config[key] for key in SIZE_KEYS if key in config), None)
        if wanted is not None and given is not None and wanted != given:
            raise ValueError(f"{name} expects vectors of size {wanted}, but the block before it returns {given}")
        for size in ("get_sentence_embedding_dimension", "get_word_embedding_dimension"):
            if callable(getattr(module, size, None)):
                given = getattr(module, size)()
                break
    return given


def read_json(file: Path, kind: type) -> Any:
    """Read a JSON file whose top level is of type `kind`; an error names the file."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{file} is missing; the model folder is incomplete, fetch or save it again") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(found, kind):
        raise ValueError(f"{file} holds a JSON {type(found).__name__}, expected a {kind.__name__}")
    return found


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=2)


def _inside(folder: Path, relative: object, file: Path) -> Path:
    """Join a path that a file states; refuse one that leaves the folder."""
    parts = PurePosixPath(relative).parts if isinstance(relative, str) else ("..",)
    if ".." in parts or re.search(r"^/|[\\:\0]", "".join(parts)):
        raise ValueError(f"{file}: the path {relative!r} leaves the model's folder and is refused")
    return folder.joinpath(*parts)


def _read_settings(root: Path) -> dict[str, Any]:
    file = root / "config_sentence_transformers.json"
    found = read_json(file, dict) if file.is_file() else {}
    kind = found.get("model_type", "SentenceTransformer")
    if kind != "SentenceTransformer":
        raise ValueError(f"{file}: model_type is {kind!r}; only SentenceTransformer returns one vector per text")
    prompts = found.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        raise ValueError(f"{file}: prompts must map names to texts, got {prompts!r:.80}")
    others = ("default_prompt_name", "similarity_fn_name", "truncate_dim")
    return {"prompts": prompts, **{name: found.get(name) for name in others}}


def _harmless(config: dict[str, Any], keys: Sequence[str], allowed: set[str], file: Path) -> dict[str, Any]:
    """Take the arguments for transformers out of a configuration, and keep those that only say how to read data."""
    taken = {}
    for key in keys:
        stated = config.pop(key, None) or {}
        taken.update({name: value for name, value in stated.items() if name in allowed})
        if ignored := sorted(set(stated) - allowed - {"trust_remote_code"}):
            _warn(f"{file}: {key} {ignored} are ignored; pass what you need when you load the model")
    return taken


def _known_keys(stated: dict[str, Any], name: str, file: Path) -> dict[str, Any]:
    """Keep the keys that the block takes; refuse what would change its meaning, ignore the rest with a warning."""
    config = {RENAMED.get(key, key): value for key, value in stated.items()}
    implied = IMPLIED.get(name, {})
    for key, value in implied.items():
        if config.get(key, value) != value:
            raise ValueError(f"{file}: {key} is {config[key]!r}; sbertlab's {name} has {value!r} only")
    known = set(inspect.signature(BLOCKS[name].__init__).parameters)
    if unknown := sorted(set(config) - known - set(implied)):
        _warn(f"{file}: unknown keys {unknown} are ignored")
    return {key: value for key, value in config.items() if key in known}


def _make(block: type[models.Module], config: dict[str, Any], file: Path) -> Any:
    try:
        return block.from_config(config)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{file} does not describe a {block.__name__}: {error}") from error


def _read_weights(folder: Path) -> tuple[dict[str, Tensor], Path]:
    for file in (folder / "model.safetensors", folder / "pytorch_model.bin"):
        if not file.is_file():
            continue
        try:
            safe = file.suffix == ".safetensors"
            found = load_file(file) if safe else torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # each format has its own exceptions for a damaged or hostile file
            raise ValueError(f"{file} cannot be read as plain weights; nothing in it was run: {error}") from error
        if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
            raise ValueError(f"{file} must hold tensors by name")
        return found, file
    raise FileNotFoundError(f"{folder} has neither model.safetensors nor pytorch_model.bin")


def _with_weights(block: models.Module, folder: Path) -> models.Module:
    expected = {name: tuple(value.shape) for name, value in block.state_dict().items()}
    if not expected:
        return block
    weights, file = _read_weights(folder)
    found = {name: tuple(value.shape) for name, value in weights.items()}
    differ = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
    if differ:
        listed = (f"{name} is {found.get(name, 'missing')}, expected {expected.get(name, 'none')}" for name in differ)
        raise ValueError(f"{file} does not fit the configuration of this {type(block).__name__}: {'; '.join(listed)}")
    block.load_state_dict(weights)
    return block


def _read_static_embedding(folder: Path) -> models.StaticEmbedding:
    weights, file = _read_weights(folder)
    matrix = weights.get("embedding.weight", weights.get("embeddings"))
    if matrix is None or {"mapping", "weights"} & set(weights):
        raise ValueError(f"{file} must hold one matrix, embedding.weight (tokens, dim), got {sorted(weights)}")
    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the tokenizers library raises Exception itself
        raise ValueError(f"{folder / 'tokenizer.json'} is missing or not a tokenizer: {error}") from error
    tokenizer.post_processor = None  # sentence-transformers averages the words' vectors, without [CLS] and [SEP]
    try:
        return models.StaticEmbedding(tokenizer, matrix)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
