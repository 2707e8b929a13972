"""InputExample, batches of them, and their way from and to tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sbertlab.data.rows import Row, gather
from sbertlab.data.texts import checked_text, plain_text

if TYPE_CHECKING:
    import datasets

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
            raise ValueError(f"texts must be a list of texts, got the text {self.texts!r}; write texts=[...]")
        try:
            hash(self.group)
        except TypeError:
            raise ValueError(f"group must be hashable, such as a number or a text, got {self.group!r:.60}") from None


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
    labels: list[Any] = []
    for index, example in enumerate(examples):
        if not isinstance(getattr(example, "texts", None), list | tuple) or not example.texts:
            raise ValueError(f"example {index} must be an InputExample with a list of texts, got {example!r}")
        place = f"example {index}" + (f" ({example.guid})" if getattr(example, "guid", "") else "")
        for column, text in enumerate(example.texts):
            if plain_text(text) is None:
                found = f"got {text!r} of type {type(text).__name__}"
                raise ValueError(f"text {column} of {place} must be a text, or {{route: text}}, {found}")
        if len(example.texts) != len(examples[0].texts or ()):
            raise ValueError(
                f"{place} has {len(example.texts)} texts, example 0 has {len(examples[0].texts or ())}; all rows of a "
                "loader need the same number, so put the others into a loader of their own"
            )
        labels.append(_label(example.label, f"the label of {place}"))
        if _kind(labels[-1]) != _kind(labels[0]):
            raise ValueError(
                f"the label of {place} is {_kind(labels[-1])}, that of example 0 is {_kind(labels[0])}; all rows of a "
                "loader need labels of one kind"
            )
    return [list(column) for column in zip(*(example.texts or () for example in examples), strict=True)], labels


def _label(label: Any, name: str) -> int | float | np.ndarray | None:
    """Return a label as None, int, float or float32 vector."""
    if isinstance(label, Tensor | np.ndarray):
        label = np.asarray(label.detach().cpu() if isinstance(label, Tensor) else label)
        label = label if label.ndim else label.item()
    if label is None:
        return None
    if isinstance(label, Real | np.bool_):
        number = int(label) if isinstance(label, Integral | np.bool_) else float(label)
        if not abs(number) <= (2**63 - 1 if isinstance(number, int) else LARGEST):
            raise ValueError(f"{name} must be a finite number, got {label!r}; leave such rows out")
        return number
    if isinstance(label, np.ndarray | list | tuple):
        try:
            vector = np.asarray(label, dtype=np.float64)
        except (TypeError, ValueError):
            vector = np.empty(0)
        if vector.ndim != 1 or not len(vector) or not (np.abs(vector) <= LARGEST).all():
            raise ValueError(f"{name} must be a flat vector of finite numbers, got {label!r}")
        return vector.astype(np.float32)
    raise ValueError(
        f"{name} must be a number, a vector or None, got {label!r} of type {type(label).__name__}; number the classes "
        'first, for example with frame["label"].astype("category").cat.codes'
    )


def _kind(label: Any) -> str:
    if isinstance(label, np.ndarray):
        return f"a vector of {len(label)} numbers"
    return "None" if label is None else "a number"


def examples_from_frame(
    frame: pd.DataFrame,
    texts: Sequence[str],
    label: str | None = None,
    guid: str | None = None,
    on_error: str = "raise",
) -> list[InputExample]:
    """Return one example per row of a DataFrame.

    `texts`, `label` and `guid` name columns, `texts` in the order that the loss takes; without `label`, labels are 0,
    without `guid`, rows are numbered. `on_error="skip"` leaves bad rows out and warns instead of raising.

    >>> table = pd.DataFrame({"question": ["How?"], "answer": ["So."], "score": [0.5]})
    >>> examples_from_frame(table, texts=["question", "answer"], label="score")
    [InputExample(guid='frame:0', texts=['How?', 'So.'], label=0.5)]
    """
    if not isinstance(frame, pd.DataFrame):
        raise ValueError(f"frame must be a pandas DataFrame, got {type(frame).__name__}")
    return _examples(frame, "frame", texts, label, guid, on_error)


def examples_from_dataset(
    dataset: datasets.Dataset | datasets.IterableDataset,
    texts: Sequence[str],
    label: str | None = None,
    guid: str | None = None,
    on_error: str = "raise",
) -> list[InputExample]:
    """Return one example per row of one split of a `datasets` set, streamed or not; see `examples_from_frame`."""
    if isinstance(dataset, Mapping):
        raise ValueError(f"give one split, such as dataset[{next(iter(dataset), 'train')!r}], not a set of splits")
    return _examples(pd.DataFrame(list(dataset)), "dataset", texts, label, guid, on_error)


def _examples(
    frame: pd.DataFrame, source: str, texts: Sequence[str], label: str | None, guid: str | None, on_error: str
) -> list[InputExample]:
    if isinstance(texts, str) or not len(texts):
        raise ValueError(f"texts must be a list of at least one column name, got {texts!r}")
    wanted = list(dict.fromkeys([*texts, *(name for name in (label, guid) if name is not None)]))
    columns = list(frame.columns)
    for name in wanted:
        if columns.count(name) != 1:
            found = "occurs twice" if name in columns else "is missing"
            raise ValueError(f"column {name!r} {found}; the columns are {', '.join(map(repr, columns))}")

    def convert(row: Row) -> InputExample:
        record = row.cells[0]
        return InputExample(
            guid=row.guid if guid is None else str(record[guid]),
            texts=[checked_text(record[name], f"column {name!r}") for name in texts],
            label=0 if label is None else _label(record[label], f"column {label!r}"),
        )

    records = enumerate(frame[wanted].to_dict("records"))
    return gather((Row(source, number, [record], unit="row") for number, record in records), convert, source, on_error)[
        0
    ]


def examples_to_frame(examples: Sequence[InputExample], texts: Sequence[str] | None = None) -> pd.DataFrame:
    """Return a DataFrame with the columns guid, one per text, and label (unless the labels are None).

    Args:
        examples: rows as `collate` takes them.
        texts: names of the text columns; text_1, text_2, ... by default.

    >>> examples_to_frame([InputExample(texts=["How?", "So."], label=0.5)], texts=["question", "answer"])
      guid question answer  label
    0          How?    So.    0.5
    """
    columns, labels = _columns(examples)
    names = [f"text_{number}" for number in range(1, len(columns) + 1)] if texts is None else list(texts)
    if len(names) != len(columns) or len({*names, "guid", "label"}) != len(columns) + 2:
        raise ValueError(
            f'texts must name {len(columns)} columns, all different and none of them "guid" or "label", got {texts!r}'
        )
    table: dict[str, list[Any]] = {"guid": [example.guid for example in examples]}
    table |= dict(zip(names, columns, strict=True))
    if labels[0] is not None:
        table["label"] = [label.tolist() if isinstance(label, np.ndarray) else label for label in labels]
    return pd.DataFrame(table)


def examples_to_dataset(examples: Sequence[InputExample], texts: Sequence[str] | None = None) -> datasets.Dataset:
    """Return a `datasets.Dataset` with the columns of `examples_to_frame`."""
    try:
        import datasets
    except ImportError as error:
        raise ImportError('the package "datasets" is missing: pip install "sbertlab[benchmark]"') from error
    return datasets.Dataset.from_dict(examples_to_frame(examples, texts).to_dict("list"))
