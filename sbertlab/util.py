"""The field's `util`: similarities, search, mining and communities from one place; and smaller embeddings."""

from __future__ import annotations

import warnings
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from sbertlab.search import (
    community_detection,
    information_retrieval,
    paraphrase_mining,
    paraphrase_mining_embeddings,
    semantic_search,
    top_matches,
)
from sbertlab.similarity import (
    Embeddings,
    SimilarityFunction,
    as_tensor,
    cos_sim,
    dot_score,
    euclidean_sim,
    manhattan_sim,
    normalize_embeddings,
    pairwise_angle_sim,
    pairwise_cos_sim,
    pairwise_dot_score,
    pairwise_euclidean_sim,
    pairwise_manhattan_sim,
    pytorch_cos_sim,
)

__all__ = [
    "SimilarityFunction",
    "batch_to_device",
    "community_detection",
    "cos_sim",
    "dot_score",
    "euclidean_sim",
    "information_retrieval",
    "manhattan_sim",
    "normalize_embeddings",
    "pairwise_angle_sim",
    "pairwise_cos_sim",
    "pairwise_dot_score",
    "pairwise_euclidean_sim",
    "pairwise_manhattan_sim",
    "paraphrase_mining",
    "paraphrase_mining_embeddings",
    "pytorch_cos_sim",
    "quantize_embeddings",
    "semantic_search",
    "top_matches",
    "truncate_embeddings",
]

Array = TypeVar("Array", Tensor, np.ndarray)


def truncate_embeddings(embeddings: Array, truncate_dim: int | None) -> Array:
    """The first `truncate_dim` dimensions of each row, as Matryoshka models are cut; None cuts nothing.

    Raises:
        ValueError: `truncate_dim` is less than 1 or more than the embeddings have.

    >>> truncate_embeddings(np.array([[1, 2, 3]]), 2)
    array([[1, 2]])
    """
    if truncate_dim is not None and not 1 <= truncate_dim <= embeddings.shape[-1]:
        raise ValueError(f"truncate_dim must be between 1 and {embeddings.shape[-1]}, got {truncate_dim}")
    return embeddings[..., :truncate_dim]


def quantize_embeddings(
    embeddings: Embeddings,
    precision: str,
    ranges: np.ndarray | None = None,
    calibration_embeddings: Embeddings | None = None,
) -> np.ndarray:
    """Embeddings in fewer bytes: one byte (int8, uint8) or one bit (binary, ubinary) a dimension.

    One byte: the range of each dimension is cut into 255 steps. One bit: whether the value is above zero, eight
    dimensions packed into a byte; "binary" shifts the bytes by -128 into int8.

    Args:
        embeddings: `(n, dim)` or `(dim,)`, floating.
        precision: "float32", "int8", "uint8", "binary" or "ubinary".
        ranges: `(2, dim)`, least and greatest value of each dimension, for int8 and uint8.
        calibration_embeddings: `(m, dim)`, a typical sample to take the ranges from; without it and without ranges the
            embeddings themselves are the sample, of which there should be at least 100.

    Returns:
        `(n, dim)`, for binary and ubinary `(n, ceil(dim / 8))`.

    Raises:
        ValueError: unknown precision, embeddings that are integers already or not finite, ranges or sample that do not
            fit, or a single embedding to take ranges from.

    >>> quantize_embeddings([[-9.0, 2.5], [7.0, 99.0]], "uint8", ranges=np.array([[0.0, 0.0], [255.0, 25.5]]))
    array([[  0,  25],
           [  7, 255]], dtype=uint8)
    >>> quantize_embeddings(np.array([[0.3, -0.1, 0.2, 0.0, 0.0, 0.0, 0.0, 0.0]]), "ubinary")
    array([[160]], dtype=uint8)
    """
    if precision not in ("float32", "int8", "uint8", "binary", "ubinary"):
        raise ValueError(f"precision must be float32, int8, uint8, binary or ubinary, got {precision!r}")
    if isinstance(embeddings, (Tensor, np.ndarray)) and "int" in str(embeddings.dtype):
        raise ValueError(f"embeddings are {embeddings.dtype} already; give the floating embeddings instead")
    values = as_tensor(embeddings, finite=True).detach().cpu().numpy()
    if precision == "float32":
        return values.astype(np.float32)
    if precision in ("binary", "ubinary"):
        packed = np.packbits(values > 0, axis=-1)
        return packed if precision == "ubinary" else (packed.astype(np.int16) - 128).astype(np.int8)
    if ranges is None and len(values):
        ranges = _value_ranges(values, calibration_embeddings, precision)
    bounds = np.zeros((2, values.shape[-1])) if ranges is None else np.asarray(ranges)
    if bounds.shape != (2, values.shape[-1]) or not np.isfinite(bounds).all() or (bounds[0] > bounds[1]).any():
        raise ValueError(
            f"ranges must be finite, of shape (2, {values.shape[-1]}), least values above greatest values; "
            f"got shape {bounds.shape}"
        )
    least, greatest = bounds.astype(np.float32)
    steps = (greatest - least) / 255
    levels = np.clip(np.floor((values - least) / np.where(steps == 0, 1, steps)), 0, 255)
    return levels.astype(np.uint8) if precision == "uint8" else (levels - 128).astype(np.int8)


def _value_ranges(values: np.ndarray, calibration_embeddings: Embeddings | None, precision: str) -> np.ndarray:
    """Least and greatest value of each dimension in the sample, `(2, dim)`."""
    if calibration_embeddings is not None:
        values = as_tensor(calibration_embeddings, "calibration_embeddings", finite=True).detach().cpu().numpy()
    elif values.ndim == 1 or len(values) == 1:
        raise ValueError(
            f"{precision} needs the range of each dimension, which one embedding does not show; "
            "give `ranges`, or a typical sample as `calibration_embeddings`"
        )
    elif len(values) < 100:
        warnings.warn(
            f"{precision} ranges are taken from only {len(values)} embeddings; `ranges` or "
            "`calibration_embeddings` from 100 or more are steadier",
            stacklevel=3,
        )
    rows = np.atleast_2d(values)
    if len(rows) == 0:
        raise ValueError("calibration_embeddings is empty; give a typical sample, or none at all")
    return np.vstack((rows.min(axis=0), rows.max(axis=0)))


def batch_to_device(batch: dict[str, Any], target_device: torch.device | str) -> dict[str, Any]:
    """Move the tensors of `batch` to a device, in place; everything else stays as it is.

    >>> batch_to_device({"input_ids": torch.ones(1, 2), "texts": ["a"]}, "cpu")["input_ids"].device.type
    'cpu'
    """
    for key, value in batch.items():
        if isinstance(value, Tensor):
            batch[key] = value.to(target_device)
    return batch
