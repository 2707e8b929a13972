"""What a table must hold before anything is computed or drawn from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd


def checked_numbers(values: Any, name: str, dimensions: int = 1) -> np.ndarray:
    """Checked finite numbers, at least one, with so many dimensions."""
    try:
        array = np.asarray(values, dtype=float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numbers: {error}") from error
    if array.ndim != dimensions or not array.size:
        shape = "(n,)" if dimensions == 1 else "(rows, columns)"
        raise ValueError(f"{name} must have the shape {shape} and at least one number, got the shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got {np.count_nonzero(~np.isfinite(array))} NaN or infinite values")
    return array


def check_columns(table: pd.DataFrame, needed: Sequence[str], name: str) -> None:
    """Raise a ValueError when the table lacks columns or has no rows."""
    if missing := [column for column in needed if column not in table]:
        raise ValueError(f"{name} lacks the columns {missing}; it has {list(table.columns)}")
    if table.empty:
        raise ValueError(f"{name} has no rows")
