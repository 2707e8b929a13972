"""Arguments and tables, checked in one place. A ValueError names the argument, the value and the remedy."""

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence, Set, Sized
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

Embeddings = Tensor | np.ndarray | Sequence[Any]


def checked_number(
    name: str, value: Any, low: float = 0, high: float = math.inf, *, above: bool = False, whole: bool = False
) -> Any:
    """Return a finite number from `low` (or strictly above it) to `high`; with `whole`, an integer.

    >>> checked_number("scale", 20.0)
    20.0
    """
    kind = Integral if whole else Real
    number = float(value) if isinstance(value, kind) and not isinstance(value, bool) else math.nan
    if not math.isfinite(number) or not low <= number <= high or (above and number == low):
        article, lower = "a whole number" if whole else "a number", "above" if above else "of at least"
        upper = f" and at most {high:g}" if high < math.inf else ""
        raise ValueError(f"{name} must be {article} {lower} {low:g}{upper}, got {value!r}")
    return value


def check_sizes(**sizes: Any) -> None:
    """Check that arguments are whole numbers of at least 1."""
    for name, size in sizes.items():
        checked_number(name, size, 1, whole=True)


def checked_numbers(name: str, values: Any, *, length: int | None = None, dimensions: int = 1) -> np.ndarray:
    """Return finite numbers as float64, at least one, of shape `(length,)` or with `dimensions` axes."""
    try:
        array = np.asarray(values, dtype=float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numbers: {error}") from error
    if array.ndim != dimensions or not array.size or (length is not None and len(array) != length):
        shape = f"({'n' if length is None else length},)" if dimensions == 1 else "(rows, columns)"
        raise ValueError(f"{name} must have the shape {shape} and at least one number, got the shape {array.shape}")
    if wrong := np.argwhere(~np.isfinite(array)).tolist():
        value = array[tuple(wrong[0])]
        raise ValueError(f"{name} must be finite, but {name}{wrong[0]} is {value} ({len(wrong)} such values in all)")
    return array


def checked_binary(name: str, labels: Any, *, length: int | None = None) -> np.ndarray:
    """Return labels 0 and 1, both of which must occur, as integers of shape `(length,)`."""
    numbers = checked_numbers(name, labels, length=length)
    kinds = np.unique(numbers).tolist()
    if kinds != [0, 1]:
        raise ValueError(f"{name} must be 0 and 1, and both must occur, got the values {kinds[:5]}")
    return numbers.astype(int)


def check_columns(name: str, table: pd.DataFrame, needed: Sequence[str]) -> None:
    """Check that a table has the needed columns and at least one row."""
    if missing := [column for column in needed if column not in table]:
        raise ValueError(f"{name} is missing the columns {missing}; it has {list(table.columns)}")
    if table.empty:
        raise ValueError(f"{name} has no rows")


def check_same_length(**columns: Sized) -> None:
    """Check that columns whose rows belong together are equally long."""
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise ValueError(f"row i of each column belongs together, so their lengths must be equal: {found}")


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Check that a value is one of the choices; the message suggests the closest one."""
    known = list(choices)
    if value not in known:
        listed = ", ".join(repr(choice) for choice in known)
        raise ValueError(f"{name} must be one of {listed}, got {value!r}.{closest(str(value), known)}")


def closest(word: str, known: Iterable[Any]) -> str:
    """Return a suggestion for a misspelt word, with a leading space; empty if nothing comes close.

    >>> closest("epoch", ["epochs", "seed"])
    " Did you mean 'epochs'?"
    """
    by_lower_case = {str(name).lower(): str(name) for name in known}
    found = difflib.get_close_matches(word.lower(), by_lower_case, n=1, cutoff=0.5)
    return f" Did you mean {by_lower_case[found[0]]!r}?" if found else ""


def as_tensor(embeddings: Embeddings, name: str = "embeddings", finite: bool = False) -> Tensor:
    """Return embeddings as a tensor `(n, dim)` or `(dim,)` of float32 or float64; `finite` refuses NaN.

    >>> as_tensor([[1, 2], [3, 4]])
    tensor([[1., 2.],
            [3., 4.]])
    """
    rows: Any = embeddings
    if isinstance(rows, (str, Mapping, Set)):
        raise ValueError(f"{name} must be rows of numbers, got {type(rows).__name__}")
    if hasattr(rows, "to_numpy"):  # of pandas: iterated, a table gives the names of its columns
        rows = rows.to_numpy()
    try:
        if not isinstance(rows, (Tensor, np.ndarray)) or rows.dtype == object:
            rows = list(rows)
            dtype = None if hasattr(rows[0], "dtype") else np.float32
            rows = torch.stack(rows) if isinstance(rows[0], Tensor) else np.asarray(rows, dtype)
        if isinstance(rows, np.ndarray):  # torch shares memory with arrays that are contiguous and writeable
            rows = torch.from_numpy(np.require(rows, None, ["C", "W"]))
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        raise ValueError(f"{name} must be rows of numbers, all of one length: {error}") from error
    if rows.dim() not in (1, 2) or rows.shape[-1] == 0:
        raise ValueError(f"{name} must have the shape (n, dim) or (dim,), got {tuple(rows.shape)}")
    tensor = rows if rows.dtype in (torch.float32, torch.float64) else rows.float()
    if finite and not torch.isfinite(tensor).all():
        bad = (~torch.isfinite(torch.atleast_2d(tensor))).any(dim=1).nonzero().flatten().tolist()
        raise ValueError(f"{name} has NaN or infinite values in {len(bad)} rows, first in row {bad[0]}")
    return tensor
