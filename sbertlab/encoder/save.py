"""Writes model folders that sentence-transformers 2.2 to 6.2 reads, with a model card."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, cast

import torch
import transformers
from safetensors.torch import save_file
from torch import nn
from transformers.utils import logging

from sbertlab import models
from sbertlab.encoder.load import BLOCKS, CONFIG_FILES, read_json
from sbertlab.storage.files import staged_folder


def save_modules(
    modules: Mapping[str, Any], folder: Path, settings: Mapping[str, Any], model_card: str | None = None
) -> None:
    """Write the blocks in order, settings and README.md to a model folder, whole or not at all.

    An earlier model in the folder is replaced; other files in it stay.
    """
    entries = []
    earlier = _earlier_model(folder)
    with staged_folder(folder, keep=lambda entry: entry not in earlier) as staging:
        for index, (name, module) in enumerate(modules.items()):
            dotted, path = _type_and_folder(module)
            in_root = index == 0 and isinstance(module, models.TokenizerModule)
            path = "" if in_root else f"{index}_{path}"
            _write_module(module, staging / path)
            entries.append({"idx": index, "name": name, "path": path, "type": dotted})
        versions = {"transformers": transformers.__version__, "pytorch": torch.__version__}
        stated = {name: value for name, value in settings.items() if name != "truncate_dim" or value is not None}
        write_json(staging / "modules.json", entries)
        write_json(
            staging / "config_sentence_transformers.json",
            {"__version__": {"sentence_transformers": "2.2.0", **versions}, **stated},
        )
        if model_card is not None:
            (staging / "README.md").write_text(model_card, encoding="utf-8")


MODEL_FILES = re.compile(
    r"(model|pytorch_model)(-\d+-of-\d+)?\.(safetensors|bin)|(model\.safetensors|pytorch_model\.bin)\.index\.json"
    r"|(modules|config|config_sentence_transformers|router_config|sentence_[\w-]+_config|generation_config)\.json"
    r"|(tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json|(vocab|merges)\.txt"
    r"|(tokenizer|spiece|spm|sentencepiece\.bpe)\.model|chat_template\.jinja"
)
"""Names of the files of a model in the folder itself."""


def _earlier_model(folder: Path) -> set[str]:
    """Return the files and folders of a model that is already in `folder`; empty if there is no readable one."""
    try:
        paths = [PurePosixPath(entry["path"]).parts[:1] for entry in read_json(folder / "modules.json", list)]
        router = folder / "router_config.json"
        routed = read_json(router, dict)["types"] if router.is_file() else {}
    except (OSError, ValueError, TypeError, KeyError):
        return set()
    files = {entry.name for entry in folder.iterdir() if MODEL_FILES.fullmatch(entry.name)}
    return {part for parts in paths for part in parts} | set(routed) | files


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
        backend = module.tokenizer.backend_tokenizer
        backend.no_padding()
        if module.max_seq_length is None:
            backend.no_truncation()
        else:
            backend.enable_truncation(module.max_seq_length)
        backend.save(str(folder / "tokenizer.json"))
    elif not isinstance(module, models.Module):
        raise ValueError(f"{type(module).__name__} cannot be saved: it is not a subclass of sbertlab.models.Module")
    else:
        activation = getattr(module, "activation_function", None)
        if activation is not None and not _has_default_arguments(activation):
            raise ValueError(
                f"activation_function {activation!r} cannot be saved: a model folder keeps its class, not its "
                "arguments; take one with default arguments, or write a subclass that sets them"
            )
        write_json(folder / CONFIG_FILES.get(type(module).__name__, "config.json"), module.config())
    state = {name: value.detach().cpu().clone().contiguous() for name, value in module.state_dict().items()}
    if state:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        if not isinstance(module, models.StaticEmbedding):
            torch.save(state, folder / "pytorch_model.bin")  # version 2.2 reads nothing else
    return None


def _has_default_arguments(module: nn.Module) -> bool:
    try:
        return repr(type(module)()) == repr(module)
    except TypeError:
        return False


def _write_transformer(module: models.Transformer, folder: Path) -> None:
    auto_model: Any = module.auto_model
    if hasattr(auto_model, "merge_and_unload"):  # with adapters of peft
        auto_model = copy.deepcopy(auto_model).merge_and_unload()
    elif getattr(auto_model, "_hf_peft_config_loaded", False):  # transformers would write the adapters alone
        raise ValueError("adapters of transformers cannot be saved with the model; use adapters.add_lora or peft")
    with no_progress_bar():
        auto_model.save_pretrained(folder)
    module.tokenizer.save_pretrained(folder)
    if module.max_seq_length is not None:
        file = folder / "tokenizer_config.json"
        write_json(file, {**read_json(file, dict), "model_max_length": module.max_seq_length})
    write_json(folder / "sentence_bert_config.json", module.config())


@contextmanager
def no_progress_bar() -> Iterator[None]:
    """Hide transformers' progress bar of a save, which breaks that of a training run."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _write_router(module: models.Router, folder: Path) -> None:
    names: dict[int, str] = {}
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
tags:
- sentence-transformers
- sentence-similarity
- feature-extraction
- sbertlab
{datasets}---

# {title}

Maps texts of {length} to vectors of {dimension} dimensions; compare them by {similarity} similarity.

```python
from sbertlab import SentenceTransformer  # or: from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/to/this/folder")
embeddings = model.encode(["A sentence", "Another sentence"])
```

Building blocks:

```
{blocks}
```
"""


def model_card(model: Any, name: str | None = None, train_datasets: Sequence[str] = ()) -> str:
    """Return the README.md of a model, with the Hub's header; the title is the model's name if none is given."""
    return CARD.format(
        datasets="".join(["datasets:\n", *(f"- {dataset}\n" for dataset in train_datasets)]) if train_datasets else "",
        title=name or model.model_name or "A sentence encoder",
        length="any length" if model.max_seq_length is None else f"up to {model.max_seq_length} tokens",
        dimension=model.get_sentence_embedding_dimension(),
        similarity=model.similarity_fn_name,
        blocks="\n".join(f"{place}. {type(block).__name__}({block.extra_repr()})" for place, block in enumerate(model)),
    )
