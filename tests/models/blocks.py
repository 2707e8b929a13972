"""Token vectors and helpers that tests of several building blocks share."""

import torch


def padded_batch(side="right", dtype=torch.float32):
    """Random token vectors of texts with 5, 3 and 1 tokens; what lies in the padding is large and must not matter."""
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])
    mask = mask.flip(1) if side == "left" else mask
    vectors = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(1))
    vectors = torch.where(mask.bool().unsqueeze(-1), vectors, torch.full_like(vectors, 1e3))
    return {"token_embeddings": vectors.to(dtype), "attention_mask": mask}


def pooled(block, features):
    return block(dict(features))["sentence_embedding"]
