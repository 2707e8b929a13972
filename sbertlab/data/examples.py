"""InputExample, batches of them, and their way from and to tables."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sbertlab.checks import check_columns
from sbertlab.data.texts import checked_text, plain_text

LARGEST = float(np.finfo(np.float32).max)


@dataclass(eq=False)
class InputExample:
    """One row of data: its texts (one, a pair, a triplet, ...), a label, and an optional group.

    Args:
        guid: where the row comes from; readers write `file:line`.
        texts: the texts; for models with routes a text may be `{route: text}`.
        label: a number, a vector, or None.
        group: an id shared by rows that mean the same, so that losses with in-batch negatives do not treat them as
            negatives (`sbertlab.losses.known_positives`); any hashable value, or None.

    >>> InputExample(texts=["My first sentence", "My second sentence"], label=0.8).label
    0.8
    """

    guid: str = ""
    texts: list[Any] | None = None
    label: Any = 0
    group: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.texts, str):
            raise ValueError(f"texts must be a list of texts, got the text {self.texts!r}")


def collate(examples: Sequence[InputExample]) -> tuple[list[list[Any]], Tensor | None]:
    """Return a batch as one list of texts per column, and one tensor of labels (None if the labels are None).

    Integers and bools become int64 `(batch,)`, other numbers float32 `(batch,)`, vectors float32 `(batch, length)`.

    >>> collate([InputExample(texts=["a", "b"], label=0.5), InputExample(texts=["c", "d"], label=1)])
    ([['a', 'c'], ['b', 'd']], tensor([0.5000, 1.0000]))
    """
    columns, labels = _columns(examples)
    if labels[0] is None:
        return columns, None
    if isinstance(labels[0], np.ndarray):
        return columns, torch.from_numpy(np.stack(labels))
    whole = all(isinstance(label, int) for label in labels)
    return columns, torch.tensor(labels, dtype=torch.int64 if whole else torch.float32)


def groups_of(batch: Sequence[InputExample]) -> list[Any] | None:
    """Return one group id per row (None for a row without a group), or None if no row has a group.

    >>> groups_of([InputExample(texts=["a"], group="g"), InputExample(texts=["b"])])
    ['g', None]
    """
    groups = [getattr(example, "group", None) for example in batch]
    return None if all(group is None for group in groups) else groups


def _columns(examples: Sequence[InputExample]) -> tuple[list[list[Any]], list[Any]]:
    """Return columns of checked texts, and checked labels of one kind."""
    if not len(examples):
        raise ValueError("there is no example; a batch needs at least one")
    rows: list[list[Any]] = []
    labels: list[Any] = []
    for index, example in enumerate(examples):
        texts = getattr(example, "texts", None)
        if not texts or any(plain_text(text) is None for text in texts):
            raise ValueError(f"example {index} must be an InputExample of texts (str or {{route: str}}): {example!r}")
        place = f"example {index}" + (f" ({example.guid})" if example.guid else "")
        rows.append(texts)
        labels.append(_label(example.label, f"the label of {place}"))
        first, found = ((len(rows[row]), labels[row] is None, np.shape(labels[row])) for row in (0, index))
        if found != first:
            raise ValueError(
                f"{place} has {len(texts)} texts and the label {labels[index]}, example 0 has {len(rows[0])} and "
                f"{labels[0]}; all rows of a loader need texts and labels alike, so put the others into their own"
            )
    return [list(column) for column in zip(*rows, strict=True)], labels


def _label(label: Any, name: str) -> int | float | np.ndarray | None:
    """Return a label as None, int, float or float32 vector."""
    if label is None:
        return None
    value = np.asarray(label.detach().cpu() if isinstance(label, Tensor) else label)
    numeric = value.dtype.kind in "biuf" and value.ndim < 2 and value.size
    if not numeric or not (np.abs(value.astype(np.float64)) <= LARGEST).all():
        raise ValueError(
            f"{name} must be a finite number, a flat vector of them, or None, got {label!r}; number the classes first, "
            'for example with frame["label"].astype("category").cat.codes'
        )
    if value.ndim:
        return value.astype(np.float32)
    return float(value) if value.dtype.kind == "f" else int(value)


def examples_from_frame(frame: pd.DataFrame, texts: Sequence[str], label: str | None = None) -> list[InputExample]:
    """Return one example per row of a DataFrame.

    `texts` and `label` name columns, `texts` in the order that the loss takes; without `label`, labels are 0.

    >>> table = pd.DataFrame({"question": ["How?"], "answer": ["So."], "score": [0.5]})
    >>> examples_from_frame(table, texts=["question", "answer"], label="score")
    [InputExample(guid='row 0', texts=['How?', 'So.'], label=0.5)]
    """
    check_columns("frame", frame, [*texts, *([] if label is None else [label])])
    examples = []
    for number, row in enumerate(frame.to_dict("records")):
        place = f"row {number}"
        cells = [checked_text(row[name], f"column {name!r} of {place}") for name in texts]
        value = 0 if label is None else _label(row[label], f"column {label!r} of {place}")
        examples.append(InputExample(place, cells, value))
    return examples


def examples_to_frame(examples: Sequence[InputExample], texts: Sequence[str] | None = None) -> pd.DataFrame:
    """Return a DataFrame with the columns guid, one per text, and label (unless the labels are None).

    `texts` names the text columns; by default they are text_1, text_2, ...

    >>> examples_to_frame([InputExample(texts=["How?", "So."], label=0.5)], texts=["question", "answer"])
      guid question answer  label
    0          How?    So.    0.5
    """
    columns, labels = _columns(examples)
    names = [f"text_{number}" for number in range(1, len(columns) + 1)] if texts is None else texts
    table: dict[str, list[Any]] = {"guid": [example.guid for example in examples]}
    table |= dict(zip(names, columns, strict=True))
    if labels[0] is not None:
        table["label"] = [label.tolist() if isinstance(label, np.ndarray) else label for label in labels]
    return pd.DataFrame(table)
