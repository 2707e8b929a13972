"""Why two texts are similar: the cosine of their embeddings as a sum over pairs of tokens.

    cos(a, b) = sum_ij (c_i . d_j) / (|a| |b|),   a = sum_i c_i,   b = sum_j d_j

The part c_i of token i is the derivative of the embedding along the token's vector. By Euler's theorem on homogeneous
functions the parts add up exactly to the embedding, for every pooling (mean, cls, max, ...) and every linear layer
behind it. What belongs to no token (a bias, the nonlinear part of a Tanh) is shown as the last row, `REST`.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sbertlab.encoder.sentence_transformer import SentenceTransformer, evaluating
from sbertlab.models import Normalize, Pooling, StaticEmbedding
from sbertlab.models.module import Features, masked_mean
from sbertlab.util import batch_to_device

REST = "(rest)"
"""Stands for a token: the part of an embedding that belongs to no token."""

NEGLIGIBLE = 1e-5
"""A rest up to this share of the embedding's length is rounding."""


@dataclass(frozen=True)
class Explanation:
    """A cosine similarity `score` as the sum of `pairs` `(tokens of a, tokens of b)`; a negative share pushes apart."""

    pairs: pd.DataFrame
    score: float

    @property
    def exact(self) -> bool:
        """Whether the pairs of tokens add up to the score without `REST`."""
        return REST not in {*self.pairs.index, *self.pairs.columns}

    def strongest(self, count: int = 10) -> pd.DataFrame:
        """Return the pairs with the largest shares: columns a, b and share, best first.

        >>> shares = pd.DataFrame([[0.1, 0.0], [0.0, 0.5]], index=["[CLS]", "cat"], columns=["[CLS]", "kitten"])
        >>> Explanation(shares, 0.6).strongest(1).values.tolist()
        [['cat', 'kitten', 0.5]]
        """
        shares = self.pairs.to_numpy()
        best = np.argsort(-shares, axis=None, kind="stable")[:count]
        rows, columns = np.unravel_index(best, shares.shape)
        found = {"a": self.pairs.index[rows], "b": self.pairs.columns[columns], "share": shares[rows, columns]}
        return pd.DataFrame(found)


def explain(model: SentenceTransformer, a: str, b: str) -> Explanation:
    """Explain the cosine similarity of two texts; they are truncated and prompted as in `encode`.

    A ValueError says that the model does not pool token vectors, or that a text has the zero vector.
    """
    (tokens_a, parts_a), (tokens_b, parts_b) = token_parts(model, a), token_parts(model, b)
    one, other = parts_a.sum(dim=0), parts_b.sum(dim=0)
    lengths = one.norm() * other.norm()
    if not lengths > 0:
        raise ValueError(f"the embedding of {a!r:.60} or {b!r:.60} is the zero vector, which has no cosine")
    shares = parts_a @ parts_b.T / lengths  # (tokens of a, tokens of b)
    pairs = pd.DataFrame(shares.numpy(), index=tokens_a, columns=tokens_b)
    return Explanation(pairs, float(torch.dot(one, other) / lengths))


def token_parts(model: SentenceTransformer, text: str) -> tuple[list[str], Tensor]:
    """Return the tokens of a text and their parts of its embedding, `(tokens, dim)` in float64 so that sums add up."""
    with evaluating(model), torch.no_grad():
        prompt = model._prompt(None, None)
        (chunk,) = model.chunks([prompt + text], 1, None, prompt)
        features = batch_to_device(dict(chunk.features), model.device)
        vectors, embed = _split(model, features)
        whole = embed(vectors)
        each = torch.eye(len(vectors), dtype=vectors.dtype, device=vectors.device)[:, :, None]  # token by token
        parts = torch.stack([torch.func.jvp(embed, (vectors,), (one * vectors,))[1] for one in each])
    tokens = model.tokenizer.convert_ids_to_tokens(features["input_ids"][0].tolist())
    rest = whole - parts.sum(dim=0)
    if rest.norm() <= NEGLIGIBLE * whole.norm():
        return list(tokens), parts.cpu()
    return [*tokens, REST], torch.cat([parts, rest.unsqueeze(0)]).cpu()


def _split(model: SentenceTransformer, features: Features) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The token vectors `(tokens, dim)` of one text, and the function from them to its embedding `(dim,)`."""
    blocks = iter(model)
    for block in blocks:
        if isinstance(block, Pooling):
            break
        features = block(features)
        if isinstance(block, StaticEmbedding):
            break
    else:
        raise ValueError("the model has no Pooling or StaticEmbedding, so there are no token vectors to explain")
    behind = [copy.deepcopy(later).double() for later in blocks]
    while behind and isinstance(behind[-1], Normalize):  # the cosine divides by the length
        behind.pop()

    def embed(vectors: Tensor) -> Tensor:
        found: Features = {**features, "token_embeddings": vectors.unsqueeze(0)}  # (1, tokens, dim)
        if isinstance(block, Pooling):
            found = block(found)
        else:
            found["sentence_embedding"] = masked_mean(vectors.unsqueeze(0), features["attention_mask"])
        for later in behind:
            found = later(found)
        return found["sentence_embedding"][0]

    return features["token_embeddings"][0].double(), embed
