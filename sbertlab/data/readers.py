"""Readers of training and evaluation files, with the field's names: each row becomes an `InputExample`.

Files are UTF-8, plain or gzip; a bad row is named by file and line. Arguments that readers share:

| argument               | meaning                                                                                    |
| ---------------------- | ------------------------------------------------------------------------------------------ |
| dataset_folder, folder | folder of the files                                                                        |
| ..._col_idx            | a column by position (from 0) or by name; a name means that the first line is a header     |
| delimiter, separator   | one character; tab by default                                                              |
| quoting                | one of the csv module's `QUOTE_...`; by default quotes are text in a TSV, quotes otherwise |
| has_header             | the first line is a header although the columns are given by position                      |
| where                  | keeps rows with these values, for example `{"split": "train"}`                             |
| on_error               | "raise", or "skip": leave bad rows out, warn once, keep them in `reader.skipped`           |
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TypeVar

from sbertlab.checks import check_choice
from sbertlab.data.examples import InputExample
from sbertlab.data.rows import Column, Row, aligned_lines, gather, table

__all__ = [
    "InputExample",
    "LabelSentenceReader",
    "NLIDataReader",
    "PairedFilesReader",
    "STSBenchmarkDataReader",
    "STSDataReader",
    "TripletReader",
]

T = TypeVar("T")
PathLike = str | os.PathLike[str]


class Reader:
    """What all readers share: `on_error`, and `skipped`, the bad rows that the last reading left out."""

    on_error: str

    def __post_init__(self) -> None:
        check_choice("on_error", self.on_error, ("raise", "skip"))
        self.skipped: list[Row] = []

    def _gather(self, rows: Iterable[Row], convert: Callable[[Row], T], source: str, max_rows: int) -> list[T]:
        made, self.skipped = gather(rows, convert, source, self.on_error, max_rows)
        return made


class TableReader(Reader):
    """What readers of one CSV or TSV file share."""

    dataset_folder: PathLike
    delimiter: str
    quoting: int | None
    has_header: bool
    where: Mapping[str, str] | None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.columns = [value for name, value in vars(self).items() if name.endswith("_col_idx")]
        for column in self.columns:
            if not isinstance(column, str) and (not isinstance(column, int) or column < 0):
                raise ValueError(f"a column is a position from 0 or a name in the header, got {column!r}")

    def get_examples(self, filename: PathLike, max_examples: int = 0) -> list[InputExample]:
        """Return the first `max_examples` usable rows of a file in the folder, or all of them for 0.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a bad row, named by file and line; a missing column; no usable row.
        """
        return self._gather(self._rows(filename), self._example, self._source(filename), max_examples)

    def _rows(self, filename: PathLike) -> Iterable[Row]:
        where = {name: str(value) for name, value in (self.where or {}).items()}
        path = Path(self.dataset_folder) / filename
        return table(path, self.columns, self.delimiter, self.quoting, self.has_header, where)

    def _source(self, filename: PathLike) -> str:
        return f"{Path(self.dataset_folder) / filename}" + (f" where {self.where}" if self.where else "")

    def _example(self, row: Row) -> InputExample:
        raise NotImplementedError(f"{type(self).__name__} does not convert rows")


@dataclass(eq=False)
class STSDataReader(TableReader):
    """Reads sentence pairs with a similarity score, checked against its range and rescaled to 0..1.

    | texts                  | label                             |
    | ---------------------- | --------------------------------- |
    | (sentence1, sentence2) | float, 0..1 if `normalize_scores` |

    Args:
        normalize_scores: rescale `min_score..max_score` to 0..1; False keeps the scores.
        min_score, max_score: the range that every score must lie in.
    """

    dataset_folder: PathLike
    s1_col_idx: Column = 0
    s2_col_idx: Column = 1
    score_col_idx: Column = 2
    delimiter: str = "\t"
    quoting: int | None = None
    normalize_scores: bool = True
    min_score: float = 0
    max_score: float = 5
    _: KW_ONLY
    has_header: bool = False
    where: Mapping[str, str] | None = None
    on_error: str = "raise"

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.min_score, self.max_score
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"min_score must be below max_score, both finite, got {low} and {high}")

    def get_examples(self, filename: PathLike, max_examples: int = 0) -> list[InputExample]:
        """Read as other readers do; warn if all scores lie far below `max_score`, as in a file of scores 0..1."""
        examples = self._gather(self._rows(filename), self._example, self._source(filename), max_examples)
        if self.normalize_scores and len(examples) >= 10 and max(example.label for example in examples) <= 0.25:
            warnings.warn(
                f"{filename}: all {len(examples)} scores lie in the lowest quarter of the range "
                f"{self.min_score}..{self.max_score}; if the file's scores end at 1, pass max_score=1",
                stacklevel=2,
            )
        return examples

    def _example(self, row: Row) -> InputExample:
        texts = [row.text(0), row.text(1)]
        try:
            score = float(row.cells[2])
        except ValueError:
            hint = "; if this line is a header, pass has_header=True" if row.line == 1 else ""
            raise ValueError(f"score in {row.names[2]} must be a number, got {row.cells[2]!r}{hint}") from None
        if not self.min_score <= score <= self.max_score:
            raise ValueError(
                f"score {score:g} in {row.names[2]} is out of the range {self.min_score}..{self.max_score}; "
                "state the file's range with min_score and max_score"
            )
        if self.normalize_scores:
            score = (score - self.min_score) / (self.max_score - self.min_score)
        return InputExample(guid=row.guid, texts=texts, label=score)


@dataclass(eq=False)
class STSBenchmarkDataReader(STSDataReader):
    """STSDataReader for the STS benchmark's own files, such as `sts-dev.csv`: tabs, no header."""

    s1_col_idx: Column = 5
    s2_col_idx: Column = 6
    score_col_idx: Column = 4


@dataclass(eq=False)
class NLIDataReader(TableReader):
    """Reads premise, hypothesis and their relation, from three aligned files or from one table.

    If the folder has `s1.train.gz` and there is no `where`, `get_examples("train.gz")` reads `s1.train.gz`,
    `s2.train.gz` and `labels.train.gz` line by line; otherwise it reads `train.gz`, a table with a header.

    | texts                 | label                                         |
    | --------------------- | --------------------------------------------- |
    | (premise, hypothesis) | int: contradiction 0, entailment 1, neutral 2 |

    SNLI marks pairs without agreement with the label "-", which is a bad row: pass `on_error="skip"`.
    """

    dataset_folder: PathLike
    s1_col_idx: Column = "sentence1"
    s2_col_idx: Column = "sentence2"
    label_col_idx: Column = "label"
    delimiter: str = "\t"
    quoting: int | None = None
    _: KW_ONLY
    has_header: bool = False
    where: Mapping[str, str] | None = None
    on_error: str = "raise"

    def _rows(self, filename: PathLike) -> Iterable[Row]:
        paths = [Path(self.dataset_folder) / f"{part}.{os.fspath(filename)}" for part in ("s1", "s2", "labels")]
        return aligned_lines(paths) if paths[0].is_file() and not self.where else super()._rows(filename)

    def _example(self, row: Row) -> InputExample:
        return InputExample(guid=row.guid, texts=[row.text(0), row.text(1)], label=self.map_label(row.cells[2]))

    @staticmethod
    def get_labels() -> dict[str, int]:
        """Return the classes and their numbers."""
        return {"contradiction": 0, "entailment": 1, "neutral": 2}

    def get_num_labels(self) -> int:
        """Return the number of classes."""
        return len(self.get_labels())

    def map_label(self, label: str) -> int:
        """Return the number of a class, ignoring spaces and case."""
        number = self.get_labels().get(label.strip().lower())
        if number is None:
            raise ValueError(f"label must be one of {', '.join(self.get_labels())}, got {label!r}")
        return number


@dataclass(eq=False)
class TripletReader(TableReader):
    """Reads rows of anchor, positive and negative.

    | texts                        | label     |
    | ---------------------------- | --------- |
    | (anchor, positive, negative) | 0, unused |
    """

    dataset_folder: PathLike
    s1_col_idx: Column = 0
    s2_col_idx: Column = 1
    s3_col_idx: Column = 2
    has_header: bool = False
    delimiter: str = "\t"
    quoting: int | None = None
    _: KW_ONLY
    where: Mapping[str, str] | None = None
    on_error: str = "raise"

    def _example(self, row: Row) -> InputExample:
        return InputExample(guid=row.guid, texts=[row.text(0), row.text(1), row.text(2)])


@dataclass(eq=False)
class LabelSentenceReader(TableReader):
    """Reads sentences with a class; classes are numbered in the order in which they first occur.

    `label_map` keeps the numbers over several files, so that train and test agree.

    | texts       | label             |
    | ----------- | ----------------- |
    | (sentence,) | int, class number |
    """

    folder: PathLike
    label_col_idx: Column = 0
    sentence_col_idx: Column = 1
    separator: str = "\t"
    quoting: int | None = None
    _: KW_ONLY
    has_header: bool = False
    where: Mapping[str, str] | None = None
    on_error: str = "raise"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.dataset_folder, self.delimiter = self.folder, self.separator
        self.label_map: dict[str, int] = {}

    def _example(self, row: Row) -> InputExample:
        label, sentence = row.text(0).strip(), row.text(1)
        number = self.label_map.setdefault(label, len(self.label_map))
        return InputExample(guid=row.guid, texts=[sentence], label=number)


@dataclass(eq=False)
class PairedFilesReader(Reader):
    """Reads pairs (or n-tuples) from files with one text per line: line i of every file makes one row.

    | texts                      | label |
    | -------------------------- | ----- |
    | (line i of each file, ...) | 1     |
    """

    filepaths: Sequence[PathLike]
    _: KW_ONLY
    on_error: str = "raise"

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.filepaths, str) or len(self.filepaths) < 2:
            raise ValueError(f"filepaths must be a list of two files or more, got {self.filepaths!r}")

    def get_examples(self, max_examples: int = 0) -> list[InputExample]:
        """Return the first `max_examples` usable rows, or all of them for 0; the errors are those of other readers."""
        source = " + ".join(map(str, self.filepaths))
        return self._gather(aligned_lines([*map(Path, self.filepaths)]), self._example, source, max_examples)

    def _example(self, row: Row) -> InputExample:
        texts = [row.text(index) for index in range(len(row.cells))]
        return InputExample(guid=row.guid, texts=texts, label=1)
