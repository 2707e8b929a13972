"""Reads model folders of sentence-transformers, of every version, and of transformers, which get mean pooling.

Reading a folder never runs code from it: weights come from safetensors or from `torch.load(weights_only=True)`, and
classes from the table `BLOCKS`, unless the caller passes `trust_remote_code=True`.
"""

import importlib
import inspect
import json
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

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
BLOCKS["Asym"] = models.Router  # its name in version 2
CONFIG_FILES = {"LSTM": "lstm_config.json", "CNN": "cnn_config.json"}  # the others have config.json
RENAMED = {"embedding_dimension": "word_embedding_dimension", "in_embedding_dimension": "in_word_embedding_dimension"}
ON_SENTENCES = {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}
TEXT_ONLY = {"modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}}
IMPLIED: dict[str, dict[str, Any]] = {
    "Dense": {**ON_SENTENCES, "use_residual": False},
    "Normalize": ON_SENTENCES,
    "Transformer": {"transformer_task": "feature-extraction", "module_output_name": "token_embeddings", **TEXT_ONLY},
    "Router": {"route_mappings": {}},
}
"""Keys of later versions that our blocks do not have, with the only value that means what our blocks do."""


def load_modules(
    root: Path, model_args: Mapping[str, Any], tokenizer_args: Mapping[str, Any], trust_remote_code: bool = False
) -> tuple[OrderedDict[str, nn.Module], dict[str, Any]]:
    """Read the building blocks of a model folder, by name and in order, and the settings of the model.

    `model_args` and `tokenizer_args` go to every Transformer. A missing file is a FileNotFoundError, a damaged or
    inconsistent one a ValueError.
    """
    reader = _Reader({**model_args, "trust_remote_code": trust_remote_code}, tokenizer_args)
    try:
        return reader.modules(root), _read_settings(root)
    except (KeyError, TypeError, AttributeError) as error:  # JSON of another shape than expected
        raise ValueError(f"{root} is damaged: {error!r}") from error


@dataclass(frozen=True)
class _Reader:
    """Reads blocks with the caller's arguments."""

    model_args: Mapping[str, Any]
    tokenizer_args: Mapping[str, Any]

    def modules(self, root: Path) -> OrderedDict[str, nn.Module]:
        file = root / "modules.json"
        if not file.is_file():
            encoder: Any = self.module("sentence_transformers.models.Transformer", root, root / "config.json")
            pooling = models.Pooling(encoder.get_word_embedding_dimension(), "mean")
            return OrderedDict([("0", encoder), ("1", pooling)])
        modules: OrderedDict[str, nn.Module] = OrderedDict()
        for position, entry in enumerate(read_json(file)):
            path = _inside(root, entry["path"], file)
            modules[entry.get("name", str(position))] = self.module(entry["type"], path, file)
        parts = [part for module in modules.values() for part in module.modules()]
        if any(isinstance(part, models.WeightedLayerPooling) for part in parts):
            for encoder in (part for part in parts if isinstance(part, models.Transformer)):
                encoder.auto_model.config.output_hidden_states = True
        return modules

    def module(self, dotted: str, folder: Path, file: Path) -> models.Module:
        """Read the block of class `dotted`, as named in `file`, from its folder."""
        module, _, name = dotted.rpartition(".")
        ours = dotted.startswith("sentence_transformers.")
        if ours and name not in BLOCKS:
            raise ValueError(f"{file}: sbertlab has no block {dotted}; it has {', '.join(BLOCKS)}")
        if not ours and not self.model_args["trust_remote_code"]:
            raise ValueError(f"{file}: {dotted!r} is code from outside and is not run without trust_remote_code=True")
        readers: dict[type, Callable[[Path], models.Module]] = {
            models.Transformer: self.transformer,
            models.Router: self.router,
            models.StaticEmbedding: _read_static_embedding,
        }
        try:
            block = BLOCKS[name] if ours else getattr(importlib.import_module(module), name)
            return readers[block](folder) if block in readers else _read_block(block, folder)
        except FileNotFoundError:
            raise
        except Exception as error:  # whatever transformers, tokenizers, torch or safetensors raise for a damaged folder
            raise ValueError(f"{folder} cannot be loaded as {name}; nothing in it was run: {error}") from error

    def transformer(self, folder: Path) -> models.Transformer:
        files = sorted(folder.glob("sentence_*_config.json"), key=lambda file: file.stem != "sentence_bert_config")
        known = models.Transformer.config_keys
        config = _known_keys(read_json(files[0]), "Transformer", known, files[0]) if files else {}
        length = config.pop("max_seq_length", None)
        block = models.Transformer(folder, model_args=self.model_args, tokenizer_args=self.tokenizer_args, **config)
        if length is not None and "model_max_length" not in self.tokenizer_args:
            block.max_seq_length = min(length, block.longest_input or length)
        return block

    def router(self, folder: Path) -> models.Router:
        file = folder / "router_config.json"
        file = file if file.is_file() else folder / "config.json"
        config = read_json(file)
        blocks = {name: self.module(kind, _inside(folder, name, file), file) for name, kind in config["types"].items()}
        routes = {route: [blocks[name] for name in names] for route, names in config["structure"].items()}
        known = ("default_route", "allow_empty_key")
        return models.Router(routes, **_known_keys(config["parameters"], "Router", known, file))


def read_json(file: Path) -> Any:
    """Read a JSON file; an error names it."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not valid JSON: {error}") from error


def _inside(folder: Path, relative: object, file: Path) -> Path:
    """Join a path that a file states; refuse one that leaves the folder, or is a router's own."""
    parts = PurePosixPath(relative).parts if isinstance(relative, str) else ("..",)
    own = not parts and file.name != "modules.json"
    if own or ".." in parts or re.search(r"^/|[\\:\0]", "".join(parts)):
        raise ValueError(f"{file}: the path {relative!r} leaves the model's folder and is refused")
    return folder.joinpath(*parts)


def _read_settings(root: Path) -> dict[str, Any]:
    file = root / "config_sentence_transformers.json"
    found = read_json(file) if file.is_file() else {}
    kind = found.get("model_type", "SentenceTransformer")
    if kind != "SentenceTransformer":
        raise ValueError(f"{file}: model_type is {kind!r}; only SentenceTransformer returns one vector per text")
    return found


def _known_keys(stated: dict[str, Any], name: str, known: Collection[str], file: Path) -> dict[str, Any]:
    """Keep the keys that the block takes; refuse what would change its meaning, ignore the rest with a warning."""
    config = {RENAMED.get(key, key): value for key, value in stated.items()}
    implied = IMPLIED.get(name, {})
    for key, value in implied.items():
        if config.get(key, value) != value:
            raise ValueError(f"{file}: {key} is {config[key]!r}; sbertlab's {name} has {value!r} only")
    if unknown := sorted({*config} - {*known} - {*implied}):
        warnings.warn(f"{file}: unknown keys {unknown} are ignored", stacklevel=2)
    return {key: value for key, value in config.items() if key in known}


def _read_block(block: type[models.Module], folder: Path) -> models.Module:
    """Make a block from its configuration, and give it its weights."""
    file = folder / CONFIG_FILES.get(block.__name__, "config.json")
    config = {} if block is models.Normalize and not file.is_file() else read_json(file)
    if block in BLOCKS.values():
        config = _known_keys(config, block.__name__, inspect.signature(block.__init__).parameters, file)
    made = block(**config)
    if made.state_dict():
        made.load_state_dict(_read_weights(folder))
    return made


def _read_weights(folder: Path) -> dict[str, Tensor]:
    if (file := folder / "model.safetensors").is_file():
        return load_file(file)
    return torch.load(folder / "pytorch_model.bin", map_location="cpu", weights_only=True)


def _read_static_embedding(folder: Path) -> models.StaticEmbedding:
    weights = _read_weights(folder)
    if len(weights) != 1:
        raise ValueError(f"it must hold one matrix of weights (tokens, dim), got {sorted(weights)}")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = None  # sentence-transformers averages the words' vectors, without [CLS] and [SEP]
    return models.StaticEmbedding(tokenizer, next(iter(weights.values())))
