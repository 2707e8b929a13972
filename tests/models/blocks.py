"""Token vectors and helpers that tests of several building blocks share."""

from typing import Any

import torch
from torch import Tensor, nn


def padded_batch(side: str = "right", dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Random token vectors of texts with 5, 3 and 1 tokens; what lies in the padding is large and must not matter."""
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])
    mask = mask.flip(1) if side == "left" else mask
    vectors = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(1))
    vectors = torch.where(mask.bool().unsqueeze(-1), vectors, torch.full_like(vectors, 1e3))
    return {"token_embeddings": vectors.to(dtype), "attention_mask": mask}


def pooled(block: nn.Module, features: dict[str, Any]) -> Tensor:
    return block(dict(features))["sentence_embedding"]
