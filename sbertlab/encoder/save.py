"""Writes model folders that sentence-transformers 2.2 to 6.2 reads, with a model card."""

import copy
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import nn
from transformers.utils import logging

from sbertlab import models
from sbertlab.encoder.load import BLOCKS, CONFIG_FILES, read_json
from sbertlab.models.layers import activation_from_name
from sbertlab.storage.files import staged_folder

LEFT_OVERS = {"added_tokens.json", "special_tokens_map.json"}  # read by a tokenizer that does not write them


def save_modules(
    modules: Mapping[str, Any], folder: Path, settings: Mapping[str, Any], model_card: str | None = None
) -> None:
    """Write blocks, settings and README.md to a model folder, whole or not at all; files that are no model's stay."""
    entries = []
    file = folder / "modules.json"
    earlier = {entry["path"] for entry in read_json(file)} | LEFT_OVERS if file.is_file() else set()
    with staged_folder(folder, keep=lambda entry: entry not in earlier) as staging:
        for index, (name, module) in enumerate(modules.items()):
            dotted, path = _type_and_folder(module)
            in_root = index == 0 and isinstance(module, models.TokenizerModule)
            path = "" if in_root else f"{index}_{path}"
            _write_module(module, staging / path)
            entries.append({"idx": index, "name": name, "path": path, "type": dotted})
        versions = {"sentence_transformers": "2.2.0", "pytorch": torch.__version__}
        write_json(staging / "modules.json", entries)
        write_json(staging / "config_sentence_transformers.json", {"__version__": versions, **settings})
        if model_card is not None:
            (staging / "README.md").write_text(model_card, encoding="utf-8")


def _type_and_folder(module: nn.Module) -> tuple[str, str]:
    """Return the `type` of a block in modules.json and the name of its folder."""
    name = type(module).__name__
    if BLOCKS.get(name) is not type(module):
        return f"{type(module).__module__}.{type(module).__qualname__}", name
    if isinstance(module, models.Router) and module.default_route is None:
        name = "Asym"  # version 2.2 has no Router, but this
    return f"sentence_transformers.models.{name}", name


def _write_module(module: Any, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(module, models.Transformer):
        return _write_transformer(module, folder)
    if isinstance(module, models.Router):
        return _write_router(module, folder)
    if isinstance(module, models.StaticEmbedding):
        module.truncating_backend().save(str(folder / "tokenizer.json"))
    elif not isinstance(module, models.Module):
        raise ValueError(f"{type(module).__name__} cannot be saved: it is not a subclass of sbertlab.models.Module")
    else:
        config = module.config()
        activation = getattr(module, "activation_function", None)
        if activation is not None and repr(activation_from_name(config["activation_function"])) != repr(activation):
            raise ValueError(f"{activation!r} cannot be saved: a model folder keeps its class, not its arguments")
        write_json(folder / CONFIG_FILES.get(type(module).__name__, "config.json"), config)
    state = {name: value.detach().cpu().clone().contiguous() for name, value in module.state_dict().items()}
    if state:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        if not isinstance(module, models.StaticEmbedding):
            torch.save(state, folder / "pytorch_model.bin")  # version 2.2 reads nothing else
    return None


def _write_transformer(module: models.Transformer, folder: Path) -> None:
    auto_model: Any = module.auto_model
    if hasattr(auto_model, "merge_and_unload"):  # with adapters of peft
        auto_model = copy.deepcopy(auto_model).merge_and_unload()
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # it breaks the bar of a training run
    try:
        auto_model.save_pretrained(folder)
    finally:
        if shown:
            logging.enable_progress_bar()
    module.tokenizer.save_pretrained(folder)
    if module.max_seq_length is not None:
        file = folder / "tokenizer_config.json"
        write_json(file, {**read_json(file), "model_max_length": module.max_seq_length})
    write_json(folder / "sentence_bert_config.json", module.config())


def _write_router(module: models.Router, folder: Path) -> None:
    names: dict[int, str] = {}  # a block on several routes is written once
    types: dict[str, str] = {}
    structure: dict[str, list[str]] = {}
    for route, blocks in module.sub_modules.items():
        if not re.fullmatch(r"[\w-]+", route):
            raise ValueError(f"route {route!r} cannot name a folder; use letters, digits, _ and -")
        structure[route] = []
        for index, block in enumerate(cast(nn.Sequential, blocks)):
            dotted, kind = _type_and_folder(block)
            name = names.setdefault(id(block), f"{route}_{index}_{kind}")
            structure[route].append(name)
            if name not in types:
                types[name] = dotted
                _write_module(block, folder / name)
    parameters: dict[str, Any] = {"allow_empty_key": module.allow_empty_key}
    if module.default_route is not None:
        parameters["default_route"] = module.default_route
    file = folder / ("config.json" if module.default_route is None else "router_config.json")
    write_json(file, {"types": types, "structure": structure, "parameters": parameters})


def write_json(file: Path, content: object) -> None:
    """Write a JSON file for people to read."""
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


CARD = """---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [sentence-transformers, sentence-similarity, feature-extraction, sbertlab]
datasets: {datasets}
---

# {title}

Maps texts of {length} to vectors of {dimension} dimensions; compare them by {similarity} similarity.

```
{blocks}
```
"""


def model_card(model: Any, name: str | None = None, train_datasets: Sequence[str] = ()) -> str:
    """Return the README.md of a model, with the Hub's header; the title is the model's name if none is given."""
    return CARD.format(
        datasets=json.dumps(list(train_datasets), ensure_ascii=False),
        title=name or model.model_name or "A sentence encoder",
        length="any length" if model.max_seq_length is None else f"up to {model.max_seq_length} tokens",
        dimension=model.get_sentence_embedding_dimension(),
        similarity=model.similarity_fn_name,
        blocks="\n".join(f"{place}. {type(block).__name__}({block.extra_repr()})" for place, block in enumerate(model)),
    )
