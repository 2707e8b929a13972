"""What every building block shares: features in, features out, and the arguments that make it again.

`Features` are `input_ids` and `attention_mask` `(batch, tokens)`, `token_embeddings` `(batch, tokens, dim)`,
`all_layer_embeddings` (a tuple of one such tensor per layer) and `sentence_embedding` `(batch, dim)`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

Features = dict[str, Any]


class Module(nn.Module):
    """A building block: `forward(features) -> features`, and `config()` with its constructor's arguments."""

    config_keys: tuple[str, ...] = ()  # the constructor's arguments that are attributes of the same name

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments as JSON types, with the keys of sentence-transformers 2.2."""
        return {key: getattr(self, key) for key in self.config_keys}


def text_vectors(features: Features) -> Tensor:
    """Return `sentence_embedding` `(batch, dim)`, or raise a ValueError if no block has made it yet."""
    if "sentence_embedding" not in features:
        raise ValueError("there is no vector per text yet; put a Pooling after the Transformer")
    return features["sentence_embedding"]


def masked_sum(vectors: Tensor, weights: Tensor) -> Tensor:
    """Return `sum_t weights_t * vectors_t`: `(batch, tokens, dim)`, `(batch, tokens)` -> `(batch, dim)`.

    In float32 at least, also inside autocast: a bfloat16 sum over many tokens would lose the last ones.

    >>> masked_sum(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[1, 1, 0]])).tolist()
    [[4.0]]
    """
    dtype = torch.promote_types(vectors.dtype, torch.float32)
    with torch.autocast(vectors.device.type, enabled=False):
        return torch.einsum("btd,bt->bd", vectors.to(dtype), weights.to(dtype))


def masked_mean(vectors: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean over the tokens, in the dtype of the vectors; 0 if all weights are 0."""
    return (masked_sum(vectors, weights) / weights.sum(dim=1, keepdim=True).clamp(min=1)).to(vectors.dtype)


def output_dimension(modules: Sequence[nn.Module]) -> int | None:
    """Return the size of the text's vector after these blocks, stated by the last that knows it."""
    for module in reversed(modules):
        state = getattr(module, "get_sentence_embedding_dimension", None)
        if callable(state) and (size := state()) is not None:
            return int(size)
    return None
