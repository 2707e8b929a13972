"""The folder format of sentence-transformers: where each building block lies, and what its keys are by version."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sbertlab import models


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
    "Router": {"route_mappings": {}},
}
"""Later versions' keys that our blocks do not take, with the one value that means what our blocks do."""

TEXT_MODALITY = {"method": "forward", "method_output_name": "last_hidden_state"}
"""How version 6 says that a transformer reads texts and gives one vector a token."""


def read_json(file: Path, kind: type) -> Any:
    """Read a JSON file whose top is of type `kind`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not JSON, or of another type; the message names the file.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{file} is missing; the model folder is incomplete, fetch or save it again") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(found, kind):
        raise ValueError(f"{file} holds a JSON {type(found).__name__}, expected a {kind.__name__}")
    return found


def write_json(file: Path, content: object) -> None:
    """Write a JSON file for people to read."""
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
