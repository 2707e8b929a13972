"""What every building block shares: features in, features out, and how it is made.

The features are `input_ids` and `attention_mask` `(batch, tokens)`, `token_embeddings` `(batch, tokens, dim)`,
`all_layer_embeddings` (one such tensor a layer) and `sentence_embedding` `(batch, dim)`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

Features = dict[str, Any]
"""What flows through the blocks: tensors by name, and `all_layer_embeddings`, a tuple of tensors."""


class Module(nn.Module):
    """A building block: `forward(features) -> features`, and `config()` with the arguments that make it again."""

    config_keys: tuple[str, ...] = ()
    """The constructor's arguments that are attributes of the same name and are kept."""

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments as JSON types, in the key set of sentence-transformers 2.2."""
        return {key: getattr(self, key) for key in self.config_keys}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Make the block, untrained, from what `config()` returned."""
        return cls(**config)


def features_to(features: Mapping[str, Any], device: torch.device) -> Features:
    """Return the features with every tensor on `device`."""
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for name, value in features.items()
    }


def text_vectors(features: Features) -> Tensor:
    """Return `sentence_embedding` `(batch, dim)`.

    Raises:
        ValueError: no block has made one vector of a text yet.
    """
    if "sentence_embedding" not in features:
        raise ValueError("no building block has made one vector of a text; put a Pooling behind the Transformer")
    return features["sentence_embedding"]


def masked_sum(vectors: Tensor, weights: Tensor) -> Tensor:
    """Return `sum_t weights_t * vectors_t`: `(batch, tokens, dim)`, `(batch, tokens)` -> `(batch, dim)`.

    In float32 at least, also inside autocast: sums over many tokens in bfloat16 would lose what the last ones add.

    >>> masked_sum(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[1, 1, 0]])).tolist()
    [[4.0]]
    """
    dtype = torch.promote_types(vectors.dtype, torch.float32)
    with torch.autocast(vectors.device.type, enabled=False):
        return torch.einsum("btd,bt->bd", vectors.to(dtype), weights.to(dtype))


def masked_mean(vectors: Tensor, weights: Tensor) -> Tensor:
    """Return the mean over the tokens that the weights keep, in the type of the vectors; 0 where they keep none.

    >>> masked_mean(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[1, 1, 0]])).tolist()
    [[2.0]]
    """
    return (masked_sum(vectors, weights) / weights.sum(dim=1, keepdim=True).clamp(min=1)).to(vectors.dtype)


def output_dimension(modules: Sequence[nn.Module]) -> int | None:
    """Return the size of the text's vector after these blocks: that of the last which states one."""
    for module in reversed(modules):
        state = getattr(module, "get_sentence_embedding_dimension", None)
        size = state() if callable(state) else None
        if size is not None:
            return int(size)
    return None
