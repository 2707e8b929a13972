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
import json
import re
import warnings
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from sbertlab import models
from sbertlab.safe_files import staged_folder


@dataclass(frozen=True)
class Kind:
    """How one building block lies in a folder: its class, its module in version 6, and its configuration file."""

    block: type[models.Module]
    module6: str
    config_file: str = "config.json"


_BASE6, _TEXT6 = "sentence_transformers.base.modules", "sentence_transformers.sentence_transformer.modules"
KINDS: dict[str, Kind] = {
    "Transformer": Kind(models.Transformer, f"{_BASE6}.transformer", "sentence_bert_config.json"),
    "StaticEmbedding": Kind(models.StaticEmbedding, f"{_TEXT6}.static_embedding"),
    "Pooling": Kind(models.Pooling, f"{_TEXT6}.pooling"),
    "WeightedLayerPooling": Kind(models.WeightedLayerPooling, f"{_TEXT6}.weighted_layer_pooling"),
    "LSTM": Kind(models.LSTM, f"{_TEXT6}.lstm", "lstm_config.json"),
    "CNN": Kind(models.CNN, f"{_TEXT6}.cnn", "cnn_config.json"),
    "Dense": Kind(models.Dense, f"{_BASE6}.dense"),
    "LayerNorm": Kind(models.LayerNorm, f"{_TEXT6}.layer_norm"),
    "Dropout": Kind(models.Dropout, f"{_TEXT6}.dropout"),
    "Normalize": Kind(models.Normalize, f"{_BASE6}.normalize"),
    "Router": Kind(models.Router, f"{_BASE6}.router", "router_config.json"),
}
IN_ROOT = (models.Transformer, models.StaticEmbedding)
"""Blocks that lie in the folder itself when they come first, as in the field."""

RENAMED = {"embedding_dimension": "word_embedding_dimension", "in_embedding_dimension": "in_word_embedding_dimension"}
"""Version 6's keys and ours."""

IMPLIED: dict[str, dict[str, Any]] = {
    "Dense": {
        "module_input_name": "sentence_embedding",
        "module_output_name": "sentence_embedding",
        "use_residual": False,
    },
    "Normalize": {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"},
    "Transformer": {"transformer_task": "feature-extraction", "module_output_name": "token_embeddings"},
}
"""Later versions' keys that our blocks do not take, with the one value that means what our blocks do."""

SIZE_KEYS = ("word_embedding_dimension", "in_word_embedding_dimension", "in_features", "dimension")
"""Keys that state the size of the vectors that come in."""

FROM_FILE = {
    "model_args": {"output_hidden_states", "dtype", "torch_dtype"},
    "tokenizer_args": {"padding_side", "truncation_side", "add_prefix_space", "use_fast", "model_max_length"},
}
"""Arguments for transformers that a folder may set itself; others could name code to run and are left out."""

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


def save_modules(
    modules: Mapping[str, nn.Module],
    folder: str | Path,
    settings: Mapping[str, Any],
    *,
    format: str = "portable",
    model_card: str | None = None,
) -> None:
    """Write a model folder, whole or not at all; an earlier model in it is replaced, other files in it stay.

    Args:
        modules: the blocks by name, in the order in which they run.
        folder: where to; made when missing.
        settings: `prompts`, `default_prompt_name`, `similarity_fn_name`, `truncate_dim`; missing ones take defaults.
        format: "portable" is read by sentence-transformers 2.2 to 6.2, "st6" is what 6.2 writes itself.
        model_card: text of README.md.

    Raises:
        ValueError: an unknown format, no modules, or a block that the format cannot hold.
    """
    if format not in ("portable", "st6"):
        raise ValueError(f'format must be "portable" or "st6", got {format!r}')
    if not modules:
        raise ValueError("there are no modules to save")
    entries = []
    with staged_folder(Path(folder), keep=lambda entry: not _belongs_to_a_model(entry)) as staging:
        for index, (name, module) in enumerate(modules.items()):
            dotted, path = _type_and_folder(module, format)
            path = "" if index == 0 and isinstance(module, IN_ROOT) else f"{index}_{path}"
            _write_module(module, staging / path, format)
            entries.append({"idx": index, "name": name, "path": path, "type": dotted})
        _write_json(staging / "modules.json", entries)
        _write_json(staging / "config_sentence_transformers.json", _settings_to_write(settings, format))
        if model_card is not None:
            (staging / "README.md").write_text(model_card, encoding="utf-8")


# -- Reading -----------------------------------------------------------------------------------------------------------


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
            encoder = self.transformer(self.root, all_layers=False)
            pooling = models.Pooling(encoder.get_word_embedding_dimension(), "mean")
            return OrderedDict([("0", encoder), ("1", pooling)]), _read_settings(self.root)
        modules: OrderedDict[str, nn.Module] = OrderedDict()
        entries = _read_json(file, list)
        all_layers = any("WeightedLayerPooling" in str(entry) for entry in entries)
        size: int | None = None
        for position, entry in enumerate(entries):
            if not isinstance(entry, dict) or not isinstance(entry.get("type"), str):
                raise ValueError(f"{file}: entry {position} must be an object with path and type, got {entry!r:.80}")
            name = str(entry.get("name", position))
            if name in modules:
                raise ValueError(f"{file}: the name {name!r} occurs twice")
            path = self.inside(self.root, entry.get("path", ""), file)
            modules[name] = self.module(entry["type"], path, file, all_layers)
            size = _fitting_size(modules[name], size, path)
        if not modules:
            raise ValueError(f"{file} lists no modules")
        return modules, _read_settings(self.root)

    def module(self, dotted: str, folder: Path, file: Path, all_layers: bool) -> nn.Module:
        """Read the block of class `dotted`, named in `file`, from its folder."""
        name = dotted.rpartition(".")[2]
        name = "Router" if name == "Asym" else name
        if not dotted.startswith("sentence_transformers."):
            return self.outside_module(dotted, folder, file)
        if name not in KINDS:
            raise ValueError(f"{file}: sbertlab has no block {dotted}; it has {', '.join(KINDS)}")
        if name == "Transformer":
            return self.transformer(folder, all_layers)
        if name == "StaticEmbedding":
            return _read_static_embedding(folder)
        if name == "Router":
            return self.router(folder, all_layers)
        config_file = folder / KINDS[name].config_file
        if name == "Normalize" and not config_file.is_file():
            return models.Normalize()
        config = {RENAMED.get(key, key): value for key, value in _read_json(config_file, dict).items()}
        config = _known_keys(config, name, config_file)
        activation = config.get("activation_function")
        if isinstance(activation, str) and not activation.startswith("torch.nn."):
            config["activation_function"] = self.trusted_class(activation, config_file)()
        return _with_weights(_make(KINDS[name].block, config, config_file), folder)

    def transformer(self, folder: Path, all_layers: bool) -> models.Transformer:
        candidates = [folder / "sentence_bert_config.json", *sorted(folder.glob("sentence_*_config.json"))]
        file = next((path for path in candidates if path.is_file()), None)
        config = _read_json(file, dict) if file else {}
        if file:
            for new, old in {
                "model_kwargs": "model_args",
                "config_kwargs": "config_args",
                "processor_kwargs": "tokenizer_args",
            }.items():
                config[old] = config.pop(new, config.get(old))
        text = config.pop("modality_config", {}).get(
            "text", {"method": "forward", "method_output_name": "last_hidden_state"}
        )
        if file and text != {"method": "forward", "method_output_name": "last_hidden_state"}:
            raise ValueError(
                f"{file}: modality_config asks for {text!r}; sbertlab reads texts by last_hidden_state only"
            )
        model_args = {
            **_allowed(config, "config_args", file),
            **_allowed(config, "model_args", file),
            **self.model_args,
        }
        if all_layers:
            model_args["output_hidden_states"] = True
        tokenizer_args = {**_allowed(config, "tokenizer_args", file), **self.tokenizer_args}
        hidden = _read_json(folder / "config.json", dict).get("auto_map", {})
        model_args["trust_remote_code"] = bool(hidden) and all(self.trusts(str(name)) for name in hidden.values())
        config = _known_keys(config, "Transformer", file or folder)
        try:
            block = models.Transformer(
                folder,
                model_args=model_args,
                tokenizer_args=tokenizer_args,
                do_lower_case=bool(config.get("do_lower_case", False)),
            )
        except Exception as error:  # whatever transformers, tokenizers or safetensors raise at a damaged folder
            raise ValueError(f"{folder} cannot be loaded by transformers: {error}") from error
        stated = config.get("max_seq_length")
        if stated is not None:
            if not isinstance(stated, int) or stated < 1:
                raise ValueError(f"{file}: max_seq_length must be a positive number of tokens, got {stated!r}")
            longest = block.longest_input or stated
            if stated > longest:
                warnings.warn(
                    f"{file}: max_seq_length {stated} is cut to the model's {longest} positions", stacklevel=4
                )
            block.max_seq_length = min(stated, longest)
        return block

    def router(self, folder: Path, all_layers: bool) -> models.Router:
        file = folder / "router_config.json"
        file = file if file.is_file() else folder / "config.json"
        config = _read_json(file, dict)
        types, structure, parameters = (config.get(key) for key in ("types", "structure", "parameters"))
        if not (isinstance(types, dict) and isinstance(structure, dict) and isinstance(parameters, dict)):
            raise ValueError(f"{file} must hold the objects types, structure and parameters")
        if parameters.get("route_mappings"):
            raise ValueError(f"{file}: route_mappings (routes by modality) are not supported; only routes by name are")
        blocks = {
            name: self.module(str(dotted), self.inside(folder, name, file, below=True), file, all_layers)
            for name, dotted in types.items()
        }
        try:
            routes = {route: [blocks[name] for name in names] for route, names in structure.items()}
        except (KeyError, TypeError) as error:
            raise ValueError(f"{file}: structure names modules that types does not list: {error}") from error
        for names in structure.values():
            size: int | None = None
            for name in names:
                size = _fitting_size(blocks[name], size, folder / name)
        known = _known_keys(
            {key: value for key, value in parameters.items() if key != "route_mappings"}, "Router", file
        )
        return _make(models.Router, {"sub_modules": routes, **known}, file)

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
            return _with_weights(_make(found, _read_json(folder / "config.json", dict), folder / "config.json"), folder)
        load = getattr(found, "load", None)
        if load is None:
            raise ValueError(f"{file}: {dotted!r} has no load(folder) and is no subclass of sbertlab.models.Module")
        module: nn.Module = load(str(folder))
        return module

    @staticmethod
    def inside(folder: Path, relative: object, file: Path, below: bool = False) -> Path:
        """Join a path that a file states, and refuse one that leaves the folder (or, `below`, is the folder)."""
        parts = PurePosixPath(relative).parts if isinstance(relative, str) else ("..",)
        leaves = ".." in parts or PurePosixPath(*parts).is_absolute() or re.search(r"[\\:\0]", "".join(parts))
        if leaves or (below and not parts):
            raise ValueError(f"{file}: the path {relative!r} leaves the model's folder and is refused")
        return folder.joinpath(*parts)


def _read_json(file: Path, kind: type) -> Any:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{file} is missing; the model folder is incomplete, fetch or save it again") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(found, kind):
        raise ValueError(f"{file} holds a JSON {type(found).__name__}, expected a {kind.__name__}")
    return found


def _read_settings(root: Path) -> dict[str, Any]:
    file = root / "config_sentence_transformers.json"
    found = _read_json(file, dict) if file.is_file() else {}
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


def _allowed(config: dict[str, Any], key: str, file: Path | None) -> dict[str, Any]:
    stated = config.pop(key, None) or {}
    allowed = FROM_FILE["tokenizer_args" if key == "tokenizer_args" else "model_args"]
    ignored = sorted(set(stated) - allowed - {"trust_remote_code"})
    if ignored:
        warnings.warn(f"{file}: {key} {ignored} are left out; pass what you need when you load the model", stacklevel=5)
    return {name: value for name, value in stated.items() if name in allowed}


def _known_keys(config: dict[str, Any], name: str, file: Path) -> dict[str, Any]:
    """Keep the keys that the block takes; refuse what would change its meaning, leave the rest out with a warning."""
    implied = IMPLIED.get(name, {})
    for key, value in implied.items():
        if config.get(key, value) != value:
            raise ValueError(f"{file}: {key} is {config[key]!r}; sbertlab's {name} has {value!r} only")
    known = set(inspect.signature(KINDS[name].block.__init__).parameters)
    unknown = sorted(set(config) - known - set(implied) - {"processing_kwargs", "unpad_inputs"})
    if unknown:
        warnings.warn(f"{file}: unknown keys {unknown} are left out", stacklevel=5)
    return {key: value for key, value in config.items() if key in known}


def _make(block: type[models.Module], config: dict[str, Any], file: Path) -> Any:
    try:
        return block.from_config(config)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{file} does not describe a {block.__name__}: {error}") from error


def _fitting_size(module: nn.Module, given: int | None, folder: Path) -> int | None:
    """Check that a block takes vectors of the size `given` by the one before; return the size that it gives."""
    if not isinstance(module, models.Module):
        return None
    config = module.config()
    for key in SIZE_KEYS:
        if key in config and given is not None and config[key] != given:
            raise ValueError(f"{folder}: {key} is {config[key]}, but the module before gives vectors of size {given}")
    return models.output_dimension([module]) or _token_size(module) or given


def _token_size(module: nn.Module) -> int | None:
    size = getattr(module, "get_word_embedding_dimension", None)
    return size() if callable(size) else None


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
    try:
        return models.StaticEmbedding(tokenizer, matrix)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


# -- Writing -----------------------------------------------------------------------------------------------------------


def _belongs_to_a_model(entry: str) -> bool:
    """Say of a name in a model folder whether saving a model there replaces it.

    >>> [_belongs_to_a_model(name) for name in ("1_Pooling", "model.safetensors", "eval", "notes.json")]
    [True, True, False, False]
    """
    patterns = (
        r"\d+_\w+|\w+_\d+_[A-Z]\w*",
        r"(model|pytorch_model)(-\d+-of-\d+)?\.(safetensors|bin)(\.index\.json)?",
        r"(modules|config|config_sentence_transformers|router_config|sentence_[\w-]+_config|generation_config)\.json",
        r"tokenizer\w*\.(json|model)|(special_tokens_map|added_tokens|vocab)\.json|(vocab|merges)\.txt",
        r"(spiece|spm|sentencepiece\.bpe)\.model|chat_template\.jinja",
    )
    return any(re.fullmatch(pattern, entry) for pattern in patterns)


def _write_json(file: Path, content: object) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _settings_to_write(settings: Mapping[str, Any], format: str) -> dict[str, Any]:
    content: dict[str, Any] = {
        "__version__": {
            "sentence_transformers": "2.2.0" if format == "portable" else "6.2.0",
            "transformers": transformers.__version__,
            "pytorch": torch.__version__,
        },
        "prompts": dict(settings.get("prompts") or {}),
        "default_prompt_name": settings.get("default_prompt_name"),
        "similarity_fn_name": settings.get("similarity_fn_name") or "cosine",
    }
    if settings.get("truncate_dim") is not None:
        content["truncate_dim"] = settings["truncate_dim"]
    return content if format == "portable" else {**content, "model_type": "SentenceTransformer"}


def _type_and_folder(module: nn.Module, format: str) -> tuple[str, str]:
    """Return the `type` of a block in modules.json and the name of its folder."""
    block = type(module)
    name = next((name for name, kind in KINDS.items() if kind.block is block), "")
    if not name:
        return f"{block.__module__}.{block.__qualname__}", block.__name__
    if format == "st6":
        return f"{KINDS[name].module6}.{name}", name
    # Version 2.2 knows no Router: one without a default route is what it calls Asym.
    name = "Asym" if isinstance(module, models.Router) and module.default_route is None else name
    return f"sentence_transformers.models.{name}", name


def _write_module(module: nn.Module, folder: Path, format: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(module, models.Transformer):
        return _write_transformer(module, folder, format)
    if isinstance(module, models.StaticEmbedding):
        backend = module.tokenizer.backend_tokenizer
        backend.no_padding()
        backend.no_truncation()
        backend.save(str(folder / "tokenizer.json"))
        return _write_weights(module, folder, bin_too=False)
    if isinstance(module, models.Router):
        return _write_router(module, folder, format)
    if not isinstance(module, models.Module):
        raise ValueError(f"{type(module).__name__} cannot be saved: it is no subclass of sbertlab.models.Module")
    if isinstance(module, models.Dense):
        _refuse_lost_activation(module.activation_function)
    name = next((name for name, kind in KINDS.items() if kind.block is type(module)), "")
    config = module.config()
    if format == "st6":
        config = _config6(module, config, name)
    _write_json(folder / (KINDS[name].config_file if name else "config.json"), config)
    _write_weights(module, folder, bin_too=format == "portable")
    return None


def _config6(module: models.Module, config: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the configuration of a block in the keys of version 6."""
    if isinstance(module, models.Pooling):
        modes = list(module.modes) if len(module.modes) > 1 else module.modes[0]
        return {
            "embedding_dimension": module.word_embedding_dimension,
            "pooling_mode": modes,
            "include_prompt": module.include_prompt,
        }
    keys = {ours: theirs for theirs, ours in RENAMED.items()}
    names = {key: value for key, value in IMPLIED.get(name, {}).items() if key.startswith("module_")}
    return {**{keys.get(key, key): value for key, value in config.items()}, **names}


def _write_transformer(module: models.Transformer, folder: Path, format: str) -> None:
    module.auto_model.save_pretrained(folder)
    module.tokenizer.save_pretrained(folder)
    if module.max_seq_length is not None:
        file = folder / "tokenizer_config.json"
        _write_json(file, {**_read_json(file, dict), "model_max_length": module.max_seq_length})
    config = module.config()
    if format == "st6":
        config = {key: value for key, value in config.items() if key == "do_lower_case" and value}
        config |= {
            "transformer_task": "feature-extraction",
            "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
            "module_output_name": "token_embeddings",
        }
    _write_json(folder / "sentence_bert_config.json", config)


def _write_router(module: models.Router, folder: Path, format: str) -> None:
    names: dict[int, str] = {}
    types: dict[str, str] = {}
    structure: dict[str, list[str]] = {}
    for route, blocks in module.sub_modules.items():
        structure[route] = []
        for index, block in enumerate(cast(nn.Sequential, blocks)):
            dotted, kind = _type_and_folder(block, format)
            name = names.setdefault(id(block), f"{route}_{index}_{kind}")
            structure[route].append(name)
            if name not in types:
                types[name] = dotted
                _write_module(block, folder / name, format)
    parameters: dict[str, Any] = {"allow_empty_key": module.allow_empty_key}
    asym = format == "portable" and module.default_route is None
    if not asym:
        parameters |= {"default_route": module.default_route}
    content = {"types": types, "structure": structure, "parameters": parameters}
    _write_json(folder / ("config.json" if asym else "router_config.json"), content)


def _write_weights(module: nn.Module, folder: Path, bin_too: bool) -> None:
    state = {name: value.detach().cpu().clone().contiguous() for name, value in module.state_dict().items()}
    if state:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        if bin_too:
            torch.save(state, folder / "pytorch_model.bin")


def _refuse_lost_activation(activation: nn.Module) -> None:
    """The format holds the name of an activation, not its arguments: one with others than the defaults would change."""
    try:
        same = repr(type(activation)()) == repr(activation)
    except TypeError:
        same = False
    if not same:
        raise ValueError(
            f"activation_function {activation!r} cannot be saved: a model folder keeps its class, not its arguments; "
            "take one with default arguments, or write a subclass that sets them"
        )
