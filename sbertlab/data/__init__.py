"""Data for training: examples from and to tables, batches of them, and everything that reads or orders examples.

`readers` has the field's file readers, `nemo` NeMo's JSON, `loaders` the batches; their names are here too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sbertlab.data.loaders import DenoisingAutoEncoderDataset, NoDuplicatesDataLoader, SentenceLabelDataset
from sbertlab.data.nemo import NeMoReader, write_nemo
from sbertlab.data.readers import (
    InputExample,
    LabelSentenceReader,
    NLIDataReader,
    PairedFilesReader,
    STSBenchmarkDataReader,
    STSDataReader,
    TripletReader,
)
from sbertlab.data.rows import Row, gather

if TYPE_CHECKING:
    import datasets

__all__ = [
    "DenoisingAutoEncoderDataset",
    "InputExample",
    "LabelSentenceReader",
    "NLIDataReader",
    "NeMoReader",
    "NoDuplicatesDataLoader",
    "PairedFilesReader",
    "STSBenchmarkDataReader",
    "STSDataReader",
    "SentenceLabelDataset",
    "TripletReader",
    "collate",
    "examples_from_dataset",
    "examples_from_frame",
    "examples_to_dataset",
    "examples_to_frame",
    "groups_of",
    "write_nemo",
]

LARGEST = float(np.finfo(np.float32).max)


def collate(examples: Sequence[InputExample]) -> tuple[list[list[Any]], Tensor | None]:
    """Turn a batch of examples into columns of texts and one tensor of labels.

    | labels of the examples        | tensor                      |
    | ----------------------------- | --------------------------- |
    | int (and bool)                | int64 `(batch,)`            |
    | float, or floats and ints     | float32 `(batch,)`          |
    | vectors of the same length    | float32 `(batch, length)`   |
    | None                          | None                        |

    Args:
        examples: rows with the same number of texts; a text is a str, or `{route: text}` for a model with routes.

    Returns:
        One list of `batch` texts for each column, and the labels.

    Raises:
        ValueError: no example; different numbers of texts; something that is no text; labels of different kinds or
            lengths; a label that is NaN, infinite or no number.

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
    """Return the group ids of a batch, one a row (None for a row without one), or None if no row has one.

    >>> groups_of([InputExample(texts=["a"], group="g"), InputExample(texts=["b"])])
    ['g', None]
    """
    groups = [getattr(example, "group", None) for example in batch]
    return None if all(group is None for group in groups) else groups


def _columns(examples: Sequence[InputExample]) -> tuple[list[list[Any]], list[Any]]:
    """Return columns of checked texts, and checked labels that are all of one kind."""
    if not len(examples):
        raise ValueError("there is no example; a batch needs at least one")
    rows: list[Sequence[Any]] = []
    labels: list[Any] = []
    for index, example in enumerate(examples):
        if not isinstance(getattr(example, "texts", None), list | tuple) or not example.texts:
            raise ValueError(f"example {index} must be an InputExample with a list of texts, got {example!r}")
        place = f"example {index}" + (f" ({example.guid})" if getattr(example, "guid", "") else "")
        for column, text in enumerate(example.texts):
            _check_text(text, f"text {column} of {place}")
        label = _label(example.label, f"the label of {place}")
        if rows and len(example.texts) != len(rows[0]):
            raise ValueError(
                f"{place} has {len(example.texts)} texts, example 0 has {len(rows[0])}; all rows of a loader need as "
                "many, and other rows belong to a loader of their own"
            )
        if labels and _kind(label) != _kind(labels[0]):
            raise ValueError(
                f"the label of {place} is {_kind(label)}, that of example 0 is {_kind(labels[0])}; all rows of a "
                "loader need labels of one kind"
            )
        rows.append(example.texts)
        labels.append(label)
    return [list(column) for column in zip(*rows, strict=True)], labels


def _check_text(text: Any, name: str) -> None:
    inner = next(iter(text.values())) if isinstance(text, dict) and len(text) == 1 else text
    if not isinstance(inner, str):
        raise ValueError(
            f"{name} must be a text, or {{route: text}} for a model with routes, got {text!r} of type "
            f"{type(text).__name__}"
        )


def _label(label: Any, name: str) -> int | float | np.ndarray | None:
    """Return a label as None, int, float or float32 vector, or say what is wrong with it."""
    if isinstance(label, Tensor):
        label = label.detach().cpu().numpy()
    if isinstance(label, np.ndarray) and label.ndim == 0:
        label = label.item()
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
    """Make one example of each row of a DataFrame.

    Args:
        frame: the table.
        texts: the columns of the texts, in the order in which the loss wants them (anchor, positive, negative).
        label: the column of the labels; None leaves the label at 0.
        guid: the column of the identifiers; None numbers the rows.
        on_error: "raise" stops at the first bad row; "skip" leaves bad rows out and warns with their number.

    Raises:
        ValueError: a missing column; a text that is missing, empty or no text; a label that is no number; no row.

    >>> table = pd.DataFrame({"question": ["How?"], "answer": ["So."], "score": [0.5]})
    >>> examples_from_frame(table, texts=["question", "answer"], label="score")
    [InputExample(guid='frame:0', texts=['How?', 'So.'], label=0.5)]
    """
    if not isinstance(frame, pd.DataFrame):
        raise ValueError(f"frame must be a pandas DataFrame, got {type(frame).__name__}")
    wanted = _wanted(list(frame.columns), texts, label, guid)
    records = zip(*(frame[column] for column in wanted), strict=True)
    return _examples(
        (dict(zip(wanted, cells, strict=True)) for cells in records), "frame", texts, label, guid, on_error
    )


def examples_from_dataset(
    dataset: datasets.Dataset | datasets.IterableDataset,
    texts: Sequence[str],
    label: str | None = None,
    guid: str | None = None,
    on_error: str = "raise",
) -> list[InputExample]:
    """Make one example of each row of a `datasets.Dataset`, or of a streamed one.

    Arguments and errors are those of `examples_from_frame`; a set of several splits must be given split by split.
    """
    if isinstance(dataset, Mapping):
        raise ValueError(f"give one split, such as dataset[{next(iter(dataset), 'train')!r}], not a set of splits")
    if not hasattr(dataset, "column_names"):
        raise ValueError(f"dataset must be a datasets.Dataset, got {type(dataset).__name__}")
    if dataset.column_names is not None:
        _wanted(dataset.column_names, texts, label, guid)
    return _examples(dataset, "dataset", texts, label, guid, on_error)


def _wanted(columns: list[str], texts: Sequence[str], label: str | None, guid: str | None) -> list[str]:
    if isinstance(texts, str) or not len(texts):
        raise ValueError(f"texts must be a list of at least one column name, got {texts!r}")
    wanted = list(dict.fromkeys([*texts, *(name for name in (label, guid) if name is not None)]))
    for name in wanted:
        if columns.count(name) != 1:
            found = "is there twice" if name in columns else "is missing"
            raise ValueError(f"column {name!r} {found}; the columns are {', '.join(map(repr, columns))}")
    return wanted


def _examples(
    records: Iterable[Mapping[str, Any]],
    source: str,
    texts: Sequence[str],
    label: str | None,
    guid: str | None,
    on_error: str,
) -> list[InputExample]:
    names = [f"column {name!r}" for name in texts]

    def rows() -> Iterator[Row]:
        for number, record in enumerate(records):
            missing = [name for name in (*texts, label, guid) if name is not None and name not in record]
            cells = () if missing else [*(record[name] for name in texts), record]
            problem = f"missing column {missing[0]!r}" if missing else ""
            yield Row(source, number, cells, names, problem, unit="row")

    def convert(row: Row) -> InputExample:
        record = row.cells[-1]
        return InputExample(
            guid=row.guid if guid is None else str(record[guid]),
            texts=[row.text(index) for index in range(len(texts))],
            label=0 if label is None else _label(record[label], f"column {label!r}"),
        )

    return gather(rows(), convert, source, on_error)[0]


def _table(examples: Sequence[InputExample], texts: Sequence[str] | None) -> dict[str, list[Any]]:
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
    return table


def examples_to_frame(examples: Sequence[InputExample], texts: Sequence[str] | None = None) -> pd.DataFrame:
    """Make a DataFrame with the columns guid, one for each text, and label (unless the labels are None).

    Args:
        examples: rows with the same number of texts and labels of one kind.
        texts: names of the text columns; None calls them text_1, text_2, ...

    Raises:
        ValueError: rows that `collate` would not take; names that do not fit.

    >>> examples_to_frame([InputExample(texts=["How?", "So."], label=0.5)], texts=["question", "answer"])
      guid question answer  label
    0          How?    So.    0.5
    """
    return pd.DataFrame(_table(examples, texts))


def examples_to_dataset(examples: Sequence[InputExample], texts: Sequence[str] | None = None) -> datasets.Dataset:
    """Make a `datasets.Dataset` with the columns of `examples_to_frame`.

    Raises:
        ImportError: the package `datasets` is not installed.
        ValueError: rows that `collate` would not take; names that do not fit.
    """
    try:
        import datasets
    except ImportError as error:
        raise ImportError('the package "datasets" is missing: pip install "sbertlab[benchmark]"') from error
    return datasets.Dataset.from_dict(_table(examples, texts))
