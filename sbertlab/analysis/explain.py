"""Why two texts are similar: the cosine of their embeddings as a sum over pairs of tokens.

An embedding is the sum of what each token gives to it, so the product of two embeddings is a sum over pairs of tokens:

    cos(a, b) = sum_ij (c_i . d_j) / (|a| |b|),   a = sum_i c_i,   b = sum_j d_j

What token i gives is the derivative of the embedding along its own vector. By Euler's theorem on homogeneous functions
the parts add up to the whole, exactly, for every pooling (mean, cls, max, ...) and every linear map behind it. What
belongs to no token (a bias, the bend of a Tanh) is left over as the last row, `REST`, and is shown as such.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sbertlab.encoder.sentence_transformer import SentenceTransformer
from sbertlab.models import Normalize, Pooling, StaticEmbedding
from sbertlab.models.module import Features, features_to, masked_mean

REST = "(rest)"
"""In the place of a token: the part of an embedding that no token gives."""

NEGLIGIBLE = 1e-5
"""A rest up to this share of the embedding's length is rounding."""


@dataclass(frozen=True)
class TextParts:
    """An embedding as a sum.

    Args:
        tokens: as the tokenizer spells them, special ones too; `REST` last where something is left over.
        parts: `(tokens, dim)`; their sum is the embedding, before it is scaled to length 1.
        exact: whether the tokens alone make up the embedding.
    """

    tokens: list[str]
    parts: Tensor
    exact: bool


@dataclass(frozen=True)
class Explanation:
    """A similarity as a sum over pairs of tokens.

    Args:
        pairs: `(tokens of a, tokens of b)`, the share of each pair in the score; they add up to it. A negative number
            drives the texts apart.
        score: the cosine of the two embeddings.
        exact: whether the pairs of tokens alone make up the score, without `REST`.
    """

    pairs: pd.DataFrame
    score: float
    exact: bool

    def strongest(self, count: int = 10) -> pd.DataFrame:
        """Return the pairs with the largest shares: columns a, b and share, best first.

        >>> shares = pd.DataFrame([[0.1, 0.0], [0.0, 0.5]], index=["[CLS]", "cat"], columns=["[CLS]", "kitten"])
        >>> Explanation(shares, 0.6, True).strongest(1).values.tolist()
        [['cat', 'kitten', 0.5]]
        """
        shares = self.pairs.to_numpy()
        best = np.argsort(-shares, axis=None, kind="stable")[:count]
        rows, columns = np.unravel_index(best, shares.shape)
        found = {"a": self.pairs.index[rows], "b": self.pairs.columns[columns], "share": shares[rows, columns]}
        return pd.DataFrame(found)


def explain(model: SentenceTransformer, a: str, b: str) -> Explanation:
    """Explain the cosine similarity of two texts, pair of tokens by pair of tokens.

    Args:
        model: with a block that pools token vectors; for mean, cls, max and the like `exact` is True, behind a bias or
            an activation the `REST` says how much no token accounts for.
        a: a text.
        b: another.

    Returns:
        The matrix, which sums to the score within 1e-6, with texts cut as the model cuts them.

    Raises:
        TypeError: `a` or `b` is not a text.
        ValueError: the model does not pool token vectors, or gives a text the zero vector.
    """
    first, second = token_parts(model, a), token_parts(model, b)
    whole = [one.parts.sum(dim=0) for one in (first, second)]
    lengths = [vector.norm() for vector in whole]
    for text, length in zip((a, b), lengths, strict=True):
        if not length > 0:
            raise ValueError(f"the model gives {text!r:.60} the zero vector, which has no direction to compare")
    shares = first.parts @ second.parts.T / (lengths[0] * lengths[1])  # (tokens of a, tokens of b)
    pairs = pd.DataFrame(shares.numpy(), index=first.tokens, columns=second.tokens)
    score = float(torch.dot(whole[0], whole[1]) / (lengths[0] * lengths[1]))
    return Explanation(pairs, score, first.exact and second.exact)


def token_parts(model: SentenceTransformer, text: str) -> TextParts:
    """Return what each token gives to the embedding of a text, in float64 for sums that add up.

    Args:
        model: as in `explain`.
        text: a text; the model's default prompt comes before it, as in `encode`.

    Raises:
        TypeError: not a text.
        ValueError: the model does not pool token vectors.
    """
    if not isinstance(text, str):
        raise TypeError(f"a similarity is explained between two texts, got {type(text).__name__}")
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            prompt = model._prompt(None, None)
            (chunk,) = model.chunks([prompt + text], 1, None, prompt)
            features = features_to(chunk.features, model.device)
            vectors, embed = _split(model, features)
            whole = embed(vectors)
            parts = torch.stack([_along(embed, vectors, place) for place in range(len(vectors))])
    finally:
        model.train(was_training)
    tokens = model.tokenizer.convert_ids_to_tokens(features["input_ids"][0].tolist())
    rest = whole - parts.sum(dim=0)
    if rest.norm() <= NEGLIGIBLE * whole.norm():
        return TextParts(list(tokens), parts.cpu(), True)
    return TextParts([*tokens, REST], torch.cat([parts, rest.unsqueeze(0)]).cpu(), False)


def _split(model: SentenceTransformer, features: Features) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The token vectors `(tokens, dim)` of one text, and the function from them to its embedding `(dim,)`."""
    blocks = iter(model)
    for block in blocks:
        if isinstance(block, Pooling):
            break
        features = block(features)
        if isinstance(block, StaticEmbedding):
            break
        if "sentence_embedding" in features:
            raise ValueError(
                f"{type(block).__name__} makes one vector of a text without pooling token vectors, so no token has a "
                "part of its own in it; models with a Pooling or a StaticEmbedding can be explained"
            )
    else:
        raise ValueError("the model has no block that makes one vector of a text; put a Pooling behind the Transformer")
    behind = [copy.deepcopy(later).double() for later in blocks]
    while behind and isinstance(behind[-1], Normalize):  # the cosine takes care of the length
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


def _along(embed: Callable[[Tensor], Tensor], vectors: Tensor, place: int) -> Tensor:
    """The derivative of the embedding along the vector of one token, `(dim,)`."""
    direction = torch.zeros_like(vectors)
    direction[place] = vectors[place]
    return torch.func.jvp(embed, (vectors,), (direction,))[1]
