"""Model folders in the format of sentence-transformers: every dialect is read, the portable one is written.

| dialect  | written by                      | told by                                                              |
| -------- | ------------------------------- | -------------------------------------------------------------------- |
| 2.2      | sentence-transformers to 2.2.2  | `type` is `sentence_transformers.models.X`; plain key sets           |
| middle   | 2.3 to 5.x, most of the Hub     | as 2.2, with more keys for Pooling and prompts                       |
| 6        | 5.4 and later, `format="st6"`   | `type` is a full class path; `embedding_dimension`, `pooling_mode`   |
| portable | `save_modules`                  | 2.2's key sets, and twice what the versions look for in two places   |
| plain    | transformers                    | no modules.json; gets mean pooling                                   |

Reading a folder never runs code from it: weights come from safetensors or from `torch.load(weights_only=True)`, and
classes from the table `KINDS`, unless a class outside of it is asked for by name.
"""

from __future__ import annotations

import importlib
import inspect
import re
import warnings
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from sbertlab import models
from sbertlab.encoder.folder_format import IMPLIED, KINDS, RENAMED, TEXT_MODALITY, read_json
from sbertlab.encoder.save import save_modules

__all__ = ["load_modules", "save_modules"]

SIZE_KEYS = ("word_embedding_dimension", "in_word_embedding_dimension", "in_features", "dimension")
"""Keys that state the size of the vectors that come in."""

MODEL_ARGS = dict.fromkeys(
    ("model_args", "model_kwargs", "config_args", "config_kwargs"),
    frozenset({"output_hidden_states", "dtype", "torch_dtype"}),
)
TOKENIZER_ARGS = dict.fromkeys(
    ("tokenizer_args", "processor_kwargs"),
    frozenset({"padding_side", "truncation_side", "add_prefix_space", "model_max_length"}),
)
"""Arguments for transformers that a folder may set, by version 5's and 6's key; others could name code to run."""

Trust = bool | Collection[str]


def load_modules(
    folder: str | Path,
    *,
    model_args: Mapping[str, Any] | None = None,
    tokenizer_args: Mapping[str, Any] | None = None,
    trust_remote_code: Trust = False,
) -> tuple[OrderedDict[str, nn.Module], dict[str, Any]]:
    """Read the building blocks of a model folder, of any dialect; a plain transformers folder gets mean pooling.

    Args:
        folder: local folder, e.g. from `model_source.find_model`.
        model_args: for every `models.Transformer` in it; goes before what the folder says.
        tokenizer_args: likewise.
        trust_remote_code: names of the classes outside `KINDS` that may be imported, e.g. `["my_package.MyBlock"]`;
            True for any. Off, the folder is only data.

    Returns:
        The blocks by name ("0", "1", ...), in the order in which they run, and the settings `prompts`,
        `default_prompt_name`, `similarity_fn_name` and `truncate_dim`.

    Raises:
        FileNotFoundError: the folder or a file that it needs is missing.
        ValueError: a file is damaged or says what cannot be; the message names it.
    """
    return _Reader(Path(folder), model_args or {}, tokenizer_args or {}, trust_remote_code).read()


@dataclass(frozen=True)
class _Reader:
    """Reads one folder; what the caller wants of its transformers and trusts is the same for all its modules."""

    root: Path
    model_args: Mapping[str, Any]
    tokenizer_args: Mapping[str, Any]
    trust: Trust

    def read(self) -> tuple[OrderedDict[str, nn.Module], dict[str, Any]]:
        if not self.root.is_dir():
            raise FileNotFoundError(f"there is no folder {self.root}")
        file = self.root / "modules.json"
        if not file.is_file():
            if not (self.root / "config.json").is_file():
                raise ValueError(f"{self.root} is not a model folder: it has neither modules.json nor config.json")
            encoder = self.transformer(self.root)
            pooling = models.Pooling(encoder.get_word_embedding_dimension(), "mean")
            return OrderedDict([("0", encoder), ("1", pooling)]), _read_settings(self.root)
        modules: OrderedDict[str, nn.Module] = OrderedDict()
        size: int | None = None
        for position, entry in enumerate(read_json(file, list)):
            if not isinstance(entry, dict) or not isinstance(entry.get("type"), str):
                raise ValueError(f"{file}: entry {position} must be an object with path and type, got {entry!r:.80}")
            name = str(entry.get("name", position))
            if name in modules:
                raise ValueError(f"{file}: the name {name!r} occurs twice")
            path = _inside(self.root, entry.get("path", ""), file)
            modules[name] = self.module(entry["type"], path, file)
            size = _fitting_size(modules[name], size, path)
        if not modules:
            raise ValueError(f"{file} lists no modules")
        _give_all_layers(modules)
        return modules, _read_settings(self.root)

    def module(self, dotted: str, folder: Path, file: Path) -> nn.Module:
        """Read the block of class `dotted`, named in `file`, from its folder."""
        name = dotted.rpartition(".")[2].replace("Asym", "Router")
        if not dotted.startswith("sentence_transformers."):
            return self.outside_module(dotted, folder, file)
        if name not in KINDS:
            raise ValueError(f"{file}: sbertlab has no block {dotted}; it has {', '.join(KINDS)}")
        if name == "Transformer":
            return self.transformer(folder)
        if name == "StaticEmbedding":
            return _read_static_embedding(folder)
        if name == "Router":
            return self.router(folder)
        config_file = folder / KINDS[name].config_file
        if name == "Normalize" and not config_file.is_file():
            return models.Normalize()
        config = _known_keys(read_json(config_file, dict), name, config_file)
        activation = config.get("activation_function")
        if isinstance(activation, str) and not activation.startswith("torch.nn."):
            config["activation_function"] = self.trusted_class(activation, config_file)()
        return _with_weights(_make(KINDS[name].block, config, config_file), folder)

    def transformer(self, folder: Path) -> models.Transformer:
        candidates = [folder / "sentence_bert_config.json", *sorted(folder.glob("sentence_*_config.json"))]
        file = next((path for path in candidates if path.is_file()), candidates[0])
        config = read_json(file, dict) if file.is_file() else {}
        text = config.pop("modality_config", {}).get("text", TEXT_MODALITY)
        if text != TEXT_MODALITY:
            raise ValueError(f"{file}: modality_config has {text!r} for text; sbertlab has {TEXT_MODALITY} only")
        model_args = {**_harmless(config, MODEL_ARGS, file), **self.model_args}
        tokenizer_args = {**_harmless(config, TOKENIZER_ARGS, file), **self.tokenizer_args}
        architecture, tokenizer = folder / "config.json", folder / "tokenizer_config.json"
        code = _code_named_in(read_json(architecture, dict))
        code += _code_named_in(read_json(tokenizer, dict)) if tokenizer.is_file() else []
        model_args["trust_remote_code"] = bool(code) and all(self.trusts(name) for name in code)
        config = _known_keys(config, "Transformer", file)
        lower = bool(config.get("do_lower_case", False))
        try:
            block = models.Transformer(
                folder, model_args=model_args, tokenizer_args=tokenizer_args, do_lower_case=lower
            )
        except Exception as error:  # whatever transformers, tokenizers or safetensors raise at a damaged folder
            raise ValueError(f"{folder} cannot be loaded by transformers: {error}") from error
        length = config.get("max_seq_length")
        if length is not None:
            if not isinstance(length, int) or length < 1:
                raise ValueError(f"{file}: max_seq_length must be a positive number of tokens, got {length!r}")
            block.max_seq_length = min(length, block.longest_input or length)
            if block.max_seq_length < length:
                _warn(f"{file}: max_seq_length {length} is cut to the model's {block.max_seq_length} positions")
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
        router: models.Router = _make(
            models.Router, {"sub_modules": routes, **_known_keys(parameters, "Router", file)}, file
        )
        return router

    def trusts(self, dotted: str) -> bool:
        named = {self.trust} if isinstance(self.trust, str) else self.trust
        return named is True or (not isinstance(named, bool) and dotted in named)

    def trusted_class(self, dotted: str, file: Path) -> type[nn.Module]:
        """Import a class from outside `KINDS`, where the caller named it."""
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
            raise ValueError(f"{file}: {dotted!r} has no load(folder) and is no subclass of sbertlab.models.Module")
        module: nn.Module = load(str(folder))
        return module


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=2)


def _inside(folder: Path, relative: object, file: Path) -> Path:
    """Join a path that a file states, and refuse one that leaves the folder."""
    parts = PurePosixPath(relative).parts if isinstance(relative, str) else ("..",)
    if ".." in parts or re.search(r"^/|[\\:\0]", "".join(parts)):
        raise ValueError(f"{file}: the path {relative!r} leaves the model's folder and is refused")
    return folder.joinpath(*parts)


def _code_named_in(config: Mapping[str, Any]) -> list[str]:
    """Return the classes from outside transformers that a configuration asks for."""
    named = config.get("auto_map", {}).values()
    return [str(name) for value in named for name in (value if isinstance(value, list) else [value]) if name]


def _give_all_layers(modules: Mapping[str, nn.Module]) -> None:
    """Let the transformers put out all their layers where a block mixes them."""
    blocks = [block for module in modules.values() for block in module.modules()]
    if any(isinstance(block, models.WeightedLayerPooling) for block in blocks):
        for block in blocks:
            if isinstance(block, models.Transformer):
                block.auto_model.config.output_hidden_states = True


def _read_settings(root: Path) -> dict[str, Any]:
    file = root / "config_sentence_transformers.json"
    found = read_json(file, dict) if file.is_file() else {}
    kind = found.get("model_type", "SentenceTransformer")
    if kind != "SentenceTransformer":
        raise ValueError(f"{file}: model_type is {kind!r}; only SentenceTransformer is an encoder of one vector a text")
    prompts = found.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        raise ValueError(f"{file}: prompts must map names to texts, got {prompts!r:.80}")
    return {
        "prompts": prompts,
        "default_prompt_name": found.get("default_prompt_name"),
        "similarity_fn_name": found.get("similarity_fn_name") or "cosine",
        "truncate_dim": found.get("truncate_dim"),
    }


def _harmless(config: dict[str, Any], keys: Mapping[str, frozenset[str]], file: Path) -> dict[str, Any]:
    """Take from a configuration the arguments for transformers that only say how to read data."""
    taken = {}
    for key, allowed in keys.items():
        stated = config.pop(key, None) or {}
        taken.update({name: value for name, value in stated.items() if name in allowed})
        ignored = sorted(set(stated) - allowed - {"trust_remote_code"})
        if ignored:
            _warn(f"{file}: {key} {ignored} are left out; pass what you need when you load the model")
    return taken


def _known_keys(stated: dict[str, Any], name: str, file: Path) -> dict[str, Any]:
    """Keep the keys that the block takes; refuse what would change its meaning, leave the rest out with a warning."""
    config = {RENAMED.get(key, key): value for key, value in stated.items()}
    implied = IMPLIED.get(name, {})
    for key, value in implied.items():
        if config.get(key, value) != value:
            raise ValueError(f"{file}: {key} is {config[key]!r}; sbertlab's {name} has {value!r} only")
    known = set(inspect.signature(KINDS[name].block.__init__).parameters)
    unknown = sorted(set(config) - known - set(implied))
    if unknown:
        _warn(f"{file}: unknown keys {unknown} are left out")
    return {key: value for key, value in config.items() if key in known}


def _make(block: type[models.Module], config: dict[str, Any], file: Path) -> Any:
    try:
        return block.from_config(config)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{file} does not describe a {block.__name__}: {error}") from error


def _fitting_size(module: nn.Module, given: int | None, folder: Path) -> int | None:
    """Check that a block takes vectors of the size `given` by the one before; return the size that it gives."""
    if isinstance(module, models.Router):
        for route in module.sub_modules.values():
            size = given
            for block in route.children():
                size = _fitting_size(block, size, folder)
        return module.get_sentence_embedding_dimension()
    config = module.config() if isinstance(module, models.Module) else {}
    for key in SIZE_KEYS:
        if key in config and given is not None and config[key] != given:
            raise ValueError(
                f"{folder}: {type(module).__name__} has {key} {config[key]}, but is given vectors of size {given}"
            )
    for name in ("get_sentence_embedding_dimension", "get_word_embedding_dimension"):
        size_of = getattr(module, name, None)
        if callable(size_of):
            return int(size_of())
    return given


def _read_weights(folder: Path) -> tuple[dict[str, Tensor], Path]:
    for name in ("model.safetensors", "pytorch_model.bin"):
        file = folder / name
        if file.is_file():
            try:
                safe = name.endswith("safetensors")
                found = load_file(file) if safe else torch.load(file, map_location="cpu", weights_only=True)
                if isinstance(found, dict) and all(isinstance(value, Tensor) for value in found.values()):
                    return found, file
            except Exception as error:  # each format has exceptions of its own for a damaged or hostile file
                raise ValueError(f"{file} cannot be read as plain weights; nothing in it was run: {error}") from error
            raise ValueError(f"{file} holds something else than tensors by name")
    raise FileNotFoundError(f"{folder} has neither model.safetensors nor pytorch_model.bin")


def _with_weights(block: models.Module, folder: Path) -> models.Module:
    expected = {name: tuple(value.shape) for name, value in block.state_dict().items()}
    if not expected:
        return block
    weights, file = _read_weights(folder)
    found = {name: tuple(value.shape) for name, value in weights.items()}
    if found != expected:
        differ = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
        told = "; ".join(
            f"{name} is {found.get(name, 'missing')}, expected {expected.get(name, 'none')}" for name in differ
        )
        raise ValueError(f"{file} does not fit the configuration of this {type(block).__name__}: {told}")
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
    tokenizer.post_processor = None  # the field averages the words' vectors alone, without [CLS] and [SEP]
    try:
        return models.StaticEmbedding(tokenizer, matrix)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
