"""Similarities of embeddings: every row with every row, or row by row.

Embeddings are `(n, dim)`, as a torch tensor, a numpy array or a list; one vector `(dim,)` counts as one row. They are
compared in float32 at least: float16, bfloat16 and integers are widened first. NaN in the embeddings stays NaN in the
scores, so that a loss may pass it on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Embeddings = Tensor | np.ndarray | Sequence[Any]


def as_tensor(embeddings: Embeddings, name: str = "embeddings", finite: bool = False) -> Tensor:
    """Embeddings in any of their spellings as a dense tensor `(n, dim)` or `(dim,)` of float32 or float64.

    Args:
        embeddings: tensor, array, or list of rows.
        name: what an error calls them.
        finite: also refuse NaN and infinite values.

    Raises:
        ValueError: not numbers, rows of different lengths, neither one vector nor a matrix, no dimensions, not finite.

    >>> as_tensor([[1, 2], [3, 4]])
    tensor([[1., 2.],
            [3., 4.]])
    """
    try:
        rows = embeddings if isinstance(embeddings, (Tensor, np.ndarray)) else list(embeddings)
        if isinstance(rows, list) and rows and isinstance(rows[0], Tensor):
            rows = torch.stack(rows)
        if isinstance(rows, Tensor):
            tensor = rows
        else:
            array = np.asarray(rows)
            # torch shares memory only with arrays that are writeable and have no negative strides
            tensor = torch.from_numpy(array if array.flags.writeable and array.flags.c_contiguous else array.copy())
            plain = isinstance(rows, list) and rows and not hasattr(rows[0], "dtype")
            tensor = tensor.float() if plain else tensor
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{name} must be a tensor, an array or a list of number rows of one length, "
            f"got {type(embeddings).__name__}: {error}"
        ) from error
    tensor = tensor if tensor.layout is torch.strided else tensor.to_dense()
    if tensor.dim() not in (1, 2) or tensor.shape[-1] == 0:
        raise ValueError(
            f"{name} must have the shape (n, dim) or (dim,), got {tuple(tensor.shape)}; "
            "no texts at all are an array of shape (0, dim), which is what encode([]) returns"
        )
    if tensor.dtype not in (torch.float32, torch.float64):
        if tensor.is_complex():
            raise ValueError(f"{name} must hold real numbers, got {tensor.dtype}")
        tensor = tensor.float()
    if finite and not torch.isfinite(tensor).all():
        bad = (~torch.isfinite(torch.atleast_2d(tensor))).any(dim=1).nonzero().flatten().tolist()
        raise ValueError(
            f"{name} holds NaN or infinite values in {len(bad)} rows, the first is row {bad[0]}; "
            "remove these rows, or look for a diverged training or an overflow of half precision"
        )
    return tensor


def _alike(a: Embeddings, b: Embeddings, pairwise: bool) -> tuple[Tensor, Tensor]:
    """`a` and `b` as tensors of one type on one device, whose shapes fit each other."""
    first, second = as_tensor(a, "a"), as_tensor(b, "b")
    if first.shape[-1] != second.shape[-1]:
        raise ValueError(
            f"a has {first.shape[-1]} dimensions and b has {second.shape[-1]}; "
            "only embeddings of the same model, cut to the same truncate_dim, can be compared"
        )
    if pairwise and first.shape != second.shape:
        raise ValueError(
            f"row i of a is compared with row i of b, but their shapes are {tuple(first.shape)} and "
            f"{tuple(second.shape)}; cos_sim, dot_score, ... compare every row with every row"
        )
    dtype = torch.promote_types(first.dtype, second.dtype)
    first, second = first.to(dtype), second.to(first.device, dtype)
    return (first, second) if pairwise else (torch.atleast_2d(first), torch.atleast_2d(second))


def normalize_embeddings(embeddings: Embeddings) -> Tensor:
    """`x / |x|` for each row; a row of zeros stays zero.

    >>> normalize_embeddings([[3.0, 4.0], [0.0, 0.0]])
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    return F.normalize(as_tensor(embeddings), p=2, dim=-1)


def cos_sim(a: Embeddings, b: Embeddings) -> Tensor:
    """Cosine similarity of every row of `a` with every row of `b`.

    NaN in the embeddings stays NaN in the scores.

    Args:
        a: `(n, dim)`.
        b: `(m, dim)`.

    Returns:
        `(n, m)`.

    Raises:
        ValueError: not embeddings, or of different dimensions.

    >>> cos_sim([[1.0, 0.0]], [[2.0, 0.0], [0.0, 3.0], [3.0, 4.0]])
    tensor([[1.0000, 0.0000, 0.6000]])
    """
    first, second = _alike(a, b, pairwise=False)
    return F.normalize(first, dim=1) @ F.normalize(second, dim=1).T


pytorch_cos_sim = cos_sim


def dot_score(a: Embeddings, b: Embeddings) -> Tensor:
    """Dot product of every row of `a` `(n, dim)` with every row of `b` `(m, dim)`: `(n, m)`; errors as `cos_sim`.

    >>> dot_score([[1.0, 2.0]], [[3.0, 4.0], [0.0, 1.0]])
    tensor([[11.,  2.]])
    """
    first, second = _alike(a, b, pairwise=False)
    return first @ second.T


def euclidean_sim(a: Embeddings, b: Embeddings) -> Tensor:
    """`-|a_i - b_j|_2` for every row of `a` `(n, dim)` and of `b` `(m, dim)`: `(n, m)`; errors as `cos_sim`.

    >>> euclidean_sim([[0.0, 0.0]], [[3.0, 4.0], [0.0, 0.0]])
    tensor([[-5., -0.]])
    """
    return -torch.cdist(*_alike(a, b, pairwise=False), p=2.0)


def manhattan_sim(a: Embeddings, b: Embeddings) -> Tensor:
    """`-|a_i - b_j|_1` for every row of `a` `(n, dim)` and of `b` `(m, dim)`: `(n, m)`; errors as `cos_sim`.

    >>> manhattan_sim([[0.0, 0.0]], [[3.0, 4.0], [0.0, 0.0]])
    tensor([[-7., -0.]])
    """
    return -torch.cdist(*_alike(a, b, pairwise=False), p=1.0)


def pairwise_cos_sim(a: Embeddings, b: Embeddings) -> Tensor:
    """Cosine similarity of row i of `a` with row i of `b`.

    Args:
        a: `(n, dim)`.
        b: `(n, dim)`.

    Returns:
        `(n,)`.

    Raises:
        ValueError: not embeddings, or of different shapes.

    >>> pairwise_cos_sim([[1.0, 0.0], [3.0, 4.0]], [[2.0, 0.0], [0.0, 1.0]])
    tensor([1.0000, 0.8000])
    """
    first, second = _alike(a, b, pairwise=True)
    return (F.normalize(first, dim=-1) * F.normalize(second, dim=-1)).sum(dim=-1)


def pairwise_dot_score(a: Embeddings, b: Embeddings) -> Tensor:
    """Dot product of row i of `a` with row i of `b`, both `(n, dim)`: `(n,)`; errors as `pairwise_cos_sim`.

    >>> pairwise_dot_score([[1.0, 2.0], [3.0, 4.0]], [[1.0, 1.0], [0.0, 2.0]])
    tensor([3., 8.])
    """
    first, second = _alike(a, b, pairwise=True)
    return (first * second).sum(dim=-1)


def pairwise_euclidean_sim(a: Embeddings, b: Embeddings) -> Tensor:
    """`-|a_i - b_i|_2` of two `(n, dim)`: `(n,)`; errors as `pairwise_cos_sim`.

    >>> pairwise_euclidean_sim([[3.0, 4.0]], [[0.0, 0.0]])
    tensor([-5.])
    """
    first, second = _alike(a, b, pairwise=True)
    return -torch.linalg.vector_norm(first - second, dim=-1)


def pairwise_manhattan_sim(a: Embeddings, b: Embeddings) -> Tensor:
    """`-|a_i - b_i|_1` of two `(n, dim)`: `(n,)`; errors as `pairwise_cos_sim`.

    >>> pairwise_manhattan_sim([[3.0, 4.0]], [[0.0, 0.0]])
    tensor([-7.])
    """
    first, second = _alike(a, b, pairwise=True)
    return -(first - second).abs().sum(dim=-1)


def pairwise_angle_sim(x: Embeddings, y: Embeddings) -> Tensor:
    """`|cos + sin|` of the angles between rows read as complex vectors (first half real, second half imaginary).

    With unit vectors `x = a + bi` and `y = c + di`: `|sum(ac + bd) + sum(bc - ad)|`. An odd dimension is padded by a
    zero. Source: Li and Li, 2023, AnglE-optimized Text Embeddings (arXiv:2309.12871), equations 4 to 6.

    Args:
        x: `(n, dim)`.
        y: `(n, dim)`.

    Returns:
        `(n,)`.

    Raises:
        ValueError: not embeddings, or of different shapes.

    >>> pairwise_angle_sim([[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.6, 0.8]])
    tensor([1.0000, 1.4000])
    """
    first, second = _alike(x, y, pairwise=True)
    odd = first.shape[-1] % 2
    a, b = F.normalize(F.pad(first, (0, odd)), dim=-1).chunk(2, dim=-1)  # each (n, dim / 2)
    c, d = F.normalize(F.pad(second, (0, odd)), dim=-1).chunk(2, dim=-1)
    return (a * c + b * d + b * c - a * d).sum(dim=-1).abs()


class SimilarityFunction(Enum):
    """The four similarities, higher meaning more alike; distances are negated.

    >>> SimilarityFunction("dot") is SimilarityFunction.DOT_PRODUCT
    True
    """

    COSINE = "cosine"
    DOT_PRODUCT = "dot"
    DOT = "dot"  # noqa: PIE796, the second name is the field's
    EUCLIDEAN = "euclidean"
    MANHATTAN = "manhattan"

    @classmethod
    def _missing_(cls, value: object) -> SimilarityFunction:
        raise ValueError(f"unknown similarity function {value!r}; use one of {', '.join(cls.possible_values())}")

    @staticmethod
    def to_similarity_fn(similarity_function: str | SimilarityFunction) -> Callable[[Embeddings, Embeddings], Tensor]:
        """The function `(n, dim), (m, dim) -> (n, m)` of that name.

        >>> SimilarityFunction.to_similarity_fn("cosine") is cos_sim
        True
        """
        return {"cosine": cos_sim, "dot": dot_score, "euclidean": euclidean_sim, "manhattan": manhattan_sim}[
            SimilarityFunction(similarity_function).value
        ]

    @staticmethod
    def to_similarity_pairwise_fn(
        similarity_function: str | SimilarityFunction,
    ) -> Callable[[Embeddings, Embeddings], Tensor]:
        """The function `(n, dim), (n, dim) -> (n,)` of that name.

        >>> SimilarityFunction.to_similarity_pairwise_fn(SimilarityFunction.DOT) is pairwise_dot_score
        True
        """
        return {
            "cosine": pairwise_cos_sim,
            "dot": pairwise_dot_score,
            "euclidean": pairwise_euclidean_sim,
            "manhattan": pairwise_manhattan_sim,
        }[SimilarityFunction(similarity_function).value]

    @staticmethod
    def possible_values() -> list[str]:
        """The names.

        >>> SimilarityFunction.possible_values()
        ['cosine', 'dot', 'euclidean', 'manhattan']
        """
        return [function.value for function in SimilarityFunction]
