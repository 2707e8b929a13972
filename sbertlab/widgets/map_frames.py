"""What a map is made of, checked: rows with texts and colours, original spaces, and coordinates frame by frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from sbertlab.analysis import maps
from sbertlab.plots.maps import as_floats, is_continuous
from sbertlab.util import Embeddings, as_tensor

MOST_GROUPS = 256
"""A column with more different names than this gives no colours: nobody can tell them apart."""


def check_frame(frame: pd.DataFrame, text: str, color: str | None = None) -> None:
    """Raise a TypeError or ValueError when rows, the column of texts or the one of colours are not there."""
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(f'frame must be a DataFrame, as pd.DataFrame({{"text": texts}}) is, got {type(frame).__name__}')
    if not frame.columns.is_unique:
        raise ValueError(f"the columns of frame must differ, got {list(frame.columns)}")
    if text not in frame:
        raise ValueError(f"text must be a column of frame, got {text!r}; its columns are {list(frame.columns)}")
    columns = list(color_columns(frame, text))
    if color is not None and color not in columns:
        raise ValueError(
            f"color must be one of {columns}, got {color!r}; a column of the frame with numbers, or with at most "
            f"{MOST_GROUPS} different names, gives colours"
        )


def color_columns(frame: pd.DataFrame, text: str) -> dict[Any, pd.Series]:
    """Columns that can give colours: numbers as floats, and few enough names as strings; no value is the name "none".

    >>> frame = pd.DataFrame({"text": ["a", "b"], "topic": ["x", None], "score": [5, 1]})
    >>> {name: column.tolist() for name, column in color_columns(frame, "text").items()}
    {'topic': ['x', 'none'], 'score': ['5', '1']}
    """
    columns = {}
    for name in frame.columns.drop(text):
        column = frame[name].reset_index(drop=True)
        if is_continuous(column):
            # a colour scale has no colour for a missing number, five ranges have
            floats = as_floats(column)
            column = pd.cut(floats, 5).astype(str) if floats.hasnans else floats
        if column.dtype != float:
            column = column.astype(object).where(column.notna(), "none").astype(str).replace("nan", "none")
        if column.dtype == float or column.nunique() <= MOST_GROUPS:
            columns[name] = column
    return columns


def frames_and_spaces(
    count: int,
    embeddings: Embeddings | Mapping[str, Embeddings] | None,
    xy: Embeddings | None,
    frames: Mapping[str, Embeddings] | Sequence[Embeddings] | None,
    method: str,
) -> tuple[dict[str, np.ndarray], dict[str, Tensor]]:
    """Checked coordinates `(count, 2)` and embeddings `(count, dim)` by the name of their frame.

    A single map is the frame "", without coordinates when they are still to be computed. Embeddings without a name
    belong to the last frame.

    Raises:
        ValueError: neither coordinates nor embeddings, both `xy` and `frames`, another number of rows, another shape,
            NaN in coordinates, no frame, embeddings of no frame, or an unknown method.

    >>> frames, spaces = frames_and_spaces(2, [[1, 0, 0], [0, 1, 0]], None, [[[0, 0], [1, 1]], [[0, 0], [2, 2]]], "pca")
    >>> list(frames), list(spaces)
    (['1', '2'], ['2'])
    """
    if method not in ("pca", "umap"):
        raise ValueError(f'method must be "pca" or "umap", got {method!r}')
    if frames is not None and xy is not None:
        raise ValueError("xy and frames are both given; a single map has xy, a film has frames")
    if frames is not None and not len(frames):
        raise ValueError("frames must hold at least one map, got none")
    if frames is None:
        frames = {} if xy is None else {"": xy}
    elif not isinstance(frames, Mapping):
        frames = {str(number): places for number, places in enumerate(frames, start=1)}
    named = isinstance(embeddings, Mapping)
    if isinstance(embeddings, Mapping):
        if unknown := [name for name in embeddings if name not in frames]:
            raise ValueError(f"embeddings by name must be those of frames {list(frames)}, got {unknown}")
        spaces = {name: as_tensor(embeddings[name], f"embeddings[{name!r}]") for name in frames if name in embeddings}
    else:
        last = list(frames)[-1] if frames else ""
        spaces = {} if embeddings is None else {last: as_tensor(embeddings, "embeddings")}
    for name, space in spaces.items():
        _check_length(f"embeddings[{name!r}]" if named else "embeddings", len(space), count)
    if not frames and not spaces:
        raise ValueError("an EmbeddingMap needs embeddings (n, dim) or coordinates xy (n, 2), got neither")
    places = {}
    for key, given in frames.items():
        name = str(key)
        called = f"frames[{name!r}]" if name else "xy"
        tensor = as_tensor(given, called, finite=True)
        _check_length(called, len(tensor), count)
        if tensor.shape != (count, 2):
            raise ValueError(f"{called} must have the shape ({count}, 2), got {tuple(tensor.shape)}")
        places[name] = tensor.detach().cpu().numpy()
    return places, {str(name): space for name, space in spaces.items()}


def coordinates(embeddings: Tensor, method: str, seed: int, metric: str) -> np.ndarray:
    """Coordinates `(n, 2)` by "pca", or by "umap", which is laid out once and then read from disk."""
    return maps.pca(embeddings) if method == "pca" else maps.cached_umap(embeddings, seed=seed, metric=metric)


def _check_length(name: str, rows: int, count: int) -> None:
    if rows != count:
        raise ValueError(f"{name} must have a row for each row of frame, got {rows} for {count}")
