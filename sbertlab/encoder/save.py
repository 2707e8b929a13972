"""Writes model folders: the portable dialect, which sentence-transformers 2.2 to 6.2 read, or that of version 6."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, cast

import torch
import transformers
from safetensors.torch import save_file
from torch import nn
from transformers.utils import logging

from sbertlab import models
from sbertlab.encoder.folder_format import IMPLIED, IN_ROOT, KINDS, RENAMED, TEXT_MODALITY, read_json, write_json
from sbertlab.storage.files import staged_folder


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
    earlier = _earlier_model(Path(folder))
    with staged_folder(Path(folder), keep=lambda entry: entry not in earlier) as staging:
        for index, (name, module) in enumerate(modules.items()):
            dotted, path = _type_and_folder(module, format)
            path = "" if index == 0 and isinstance(module, IN_ROOT) else f"{index}_{path}"
            _write_module(module, staging / path, format)
            entries.append({"idx": index, "name": name, "path": path, "type": dotted})
        write_json(staging / "modules.json", entries)
        write_json(staging / "config_sentence_transformers.json", _settings_to_write(settings, format))
        if model_card is not None:
            (staging / "README.md").write_text(model_card, encoding="utf-8")


MODEL_FILES = re.compile(
    r"(model|pytorch_model)(-\d+-of-\d+)?\.(safetensors|bin)|(model\.safetensors|pytorch_model\.bin)\.index\.json"
    r"|(modules|config|config_sentence_transformers|router_config|sentence_[\w-]+_config|generation_config)\.json"
    r"|(tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json|(vocab|merges)\.txt"
    r"|(tokenizer|spiece|spm|sentencepiece\.bpe)\.model|chat_template\.jinja"
)
"""Names of the files that a model has in its folder itself."""


def _earlier_model(folder: Path) -> set[str]:
    """Name the files and folders of the model that lies in `folder` already; none where there is no readable one."""
    try:
        paths = [PurePosixPath(entry["path"]).parts[:1] for entry in read_json(folder / "modules.json", list)]
        router = folder / "router_config.json"
        routed = read_json(router, dict)["types"] if router.is_file() else {}
    except (OSError, ValueError, TypeError, KeyError):
        return set()
    files = {entry.name for entry in folder.iterdir() if MODEL_FILES.fullmatch(entry.name)}
    return {part for parts in paths for part in parts} | set(routed) | files


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
        if module.max_seq_length is None:
            backend.no_truncation()
        else:
            backend.enable_truncation(module.max_seq_length)
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
    write_json(folder / (KINDS[name].config_file if name else "config.json"), config)
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


@contextmanager
def no_progress_bar() -> Iterator[None]:
    """Keep transformers from drawing a bar for every save, which breaks the bar of a run."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _write_transformer(module: models.Transformer, folder: Path, format: str) -> None:
    with no_progress_bar():
        merged_copy(module.auto_model).save_pretrained(folder)
    module.tokenizer.save_pretrained(folder)
    if module.max_seq_length is not None:
        file = folder / "tokenizer_config.json"
        write_json(file, {**read_json(file, dict), "model_max_length": module.max_seq_length})
    config = module.config()
    if format == "st6":
        config = {key: value for key, value in config.items() if key == "do_lower_case" and value}
        config |= {
            "transformer_task": "feature-extraction",
            "modality_config": {"text": TEXT_MODALITY},
            "module_output_name": "token_embeddings",
        }
    write_json(folder / "sentence_bert_config.json", config)


def adapted_layers(module: nn.Module) -> dict[str, Any]:
    """Return the layers that peft has put adapters beside, by name."""
    layers = dict(module.named_modules())
    return {name: layer for name, layer in layers.items() if hasattr(layer, "base_layer") and hasattr(layer, "merge")}


def fold_adapters(auto_model: Any) -> Any:
    """Add the active adapters to the weights beside them, in place, and return the model with plain layers."""
    if hasattr(auto_model, "merge_and_unload"):  # wrapped by peft
        return auto_model.merge_and_unload()
    for name, layer in adapted_layers(auto_model).items():
        layer.merge()
        auto_model.set_submodule(name, layer.get_base_layer())
    for mark in ("peft_config", "_hf_peft_config_loaded"):  # transformers would write adapters alone
        auto_model.__dict__.pop(mark, None)
    return auto_model


def merged_copy(auto_model: Any) -> Any:
    """Return the model with its adapters folded in, and leave it as it is; without adapters, the model itself.

    Only the adapted layers are copied. Taking the merged weights apart again would not give the same bits.
    """
    layers = adapted_layers(auto_model).values()
    if not layers:
        return auto_model
    changed = {id(tensor) for layer in layers for tensor in chain(layer.parameters(), layer.buffers())}
    tensors = chain(auto_model.parameters(), auto_model.buffers())
    return fold_adapters(copy.deepcopy(auto_model, {id(one): one for one in tensors if id(one) not in changed}))


def _write_router(module: models.Router, folder: Path, format: str) -> None:
    names: dict[int, str] = {}
    types: dict[str, str] = {}
    structure: dict[str, list[str]] = {}
    for route, blocks in module.sub_modules.items():
        if not re.fullmatch(r"[\w-]+", route):
            raise ValueError(f"route {route!r} cannot name a folder; use letters, digits, _ and -")
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
    write_json(folder / ("config.json" if asym else "router_config.json"), content)


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
