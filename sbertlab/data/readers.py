"""Readers of training and evaluation files, with the field's names: each row becomes an `InputExample`.

Every reader takes plain and gzip files in UTF-8 and names file and line of a bad row. `on_error="skip"` leaves bad rows
out, warns once with their number and lines, and keeps them in `reader.skipped`. Tables are TSV or CSV; a column is
given by position (from 0) or by name, and a name means that the first line is a header. `where={"split": "train"}`
keeps the rows with that value in that column.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from sbertlab.data.rows import BadRow, Column, Row, aligned_lines, check_on_error, gather, table

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


@dataclass(eq=False)
class InputExample:
    """One row of data: its texts (one, a pair, a triplet, ...), a label, and what it belongs together with.

    Args:
        guid: where the row comes from; readers write `file:line`.
        texts: the texts; for models with routes a text may be a dict of one entry, `{route: text}`.
        label: a number, a vector, or None.
        group: an id, the same in rows that mean the same, so that losses that take the other rows of a batch as
            negatives leave these out (`sbertlab.losses.known_positives`); a number, a text or the like, or None.

    Raises:
        ValueError: `texts` is one string, or `group` is not hashable.

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


class Reader:
    """What all readers share: `on_error`, and `skipped`, the bad rows that the last reading left out."""

    def __init__(self, on_error: str) -> None:
        check_on_error(on_error)
        self.on_error = on_error
        self.skipped: list[BadRow] = []

    def _gather(self, rows: Iterable[Row], convert: Callable[[Row], T], source: str, max_rows: int) -> list[T]:
        made, self.skipped = gather(rows, convert, source, self.on_error, max_rows)
        return made


class TableReader(Reader):
    """What readers of one CSV or TSV file share; `rows.table` explains the arguments."""

    def __init__(
        self,
        dataset_folder: PathLike,
        columns: Sequence[Column],
        delimiter: str,
        quoting: int | None,
        has_header: bool,
        where: Mapping[str, str] | None,
        on_error: str,
    ) -> None:
        super().__init__(on_error)
        for column in columns:
            if not isinstance(column, str) and (not isinstance(column, int) or column < 0):
                raise ValueError(f"a column is a position from 0 or a name in the header, got {column!r}")
        self.dataset_folder = Path(dataset_folder)
        self.columns = tuple(columns)
        self.delimiter = delimiter
        self.quoting = quoting
        self.has_header = has_header
        self.where = {name: str(value) for name, value in (where or {}).items()}

    def get_examples(self, filename: PathLike, max_examples: int = 0) -> list[InputExample]:
        """Read `filename` in the folder: the first `max_examples` usable rows, all of them for 0.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a bad row, named by file and line; a missing column; no usable row.
        """
        return self._gather(self._rows(filename), self._example, self._source(filename), max_examples)

    def _rows(self, filename: PathLike) -> Iterable[Row]:
        path = self.dataset_folder / filename
        return table(path, self.columns, self.delimiter, self.quoting, self.has_header, self.where)

    def _source(self, filename: PathLike) -> str:
        return f"{self.dataset_folder / filename}" + (f" where {self.where}" if self.where else "")

    def _example(self, row: Row) -> InputExample:
        raise NotImplementedError(f"{type(self).__name__} does not say what a row means")


class STSDataReader(TableReader):
    """Reads sentence pairs with a similarity score; the score's range is stated, checked, and rescaled to 0..1.

    | texts                  | label                       |
    | ---------------------- | --------------------------- |
    | (sentence1, sentence2) | float, 0..1 if `normalize_scores` |

    Args:
        dataset_folder: folder of the files.
        s1_col_idx, s2_col_idx, score_col_idx: columns, by position or by name.
        delimiter, quoting, has_header, where: see the top of this module; quotes are text in a TSV.
        normalize_scores: rescale `min_score..max_score` to 0..1; False keeps the scores as they are.
        min_score, max_score: the range that a score must lie in, whether it is rescaled or not.
        on_error: "raise" or "skip".
    """

    def __init__(
        self,
        dataset_folder: PathLike,
        s1_col_idx: Column = 0,
        s2_col_idx: Column = 1,
        score_col_idx: Column = 2,
        delimiter: str = "\t",
        quoting: int | None = None,
        normalize_scores: bool = True,
        min_score: float = 0,
        max_score: float = 5,
        *,
        has_header: bool = False,
        where: Mapping[str, str] | None = None,
        on_error: str = "raise",
    ) -> None:
        columns = (s1_col_idx, s2_col_idx, score_col_idx)
        super().__init__(dataset_folder, columns, delimiter, quoting, has_header, where, on_error)
        if not (math.isfinite(min_score) and math.isfinite(max_score) and min_score < max_score):
            raise ValueError(f"min_score must be below max_score, both finite, got {min_score} and {max_score}")
        self.normalize_scores = normalize_scores
        self.min_score = min_score
        self.max_score = max_score

    def get_examples(self, filename: PathLike, max_examples: int = 0) -> list[InputExample]:
        """As `TableReader.get_examples`; warns when all scores lie far below `max_score`, as in a file of 0..1."""
        examples = self._gather(self._rows(filename), self._example, self._source(filename), max_examples)
        if self.normalize_scores and len(examples) >= 10 and max(example.label for example in examples) <= 0.25:
            warnings.warn(
                f"{filename}: all {len(examples)} scores lie in the lowest quarter of the stated range "
                f"{self.min_score}..{self.max_score}; if the file's scores end at 1, pass max_score=1",
                stacklevel=2,
            )
        return examples

    def _example(self, row: Row) -> InputExample:
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
        return InputExample(guid=row.guid, texts=[row.text(0), row.text(1)], label=score)


class STSBenchmarkDataReader(STSDataReader):
    """Reads the STS benchmark's own files (`sts-dev.csv`: tabs, no header; sentences in columns 5 and 6, score in 4).

    Arguments, examples and errors are those of `STSDataReader`.
    """

    def __init__(
        self,
        dataset_folder: PathLike,
        s1_col_idx: Column = 5,
        s2_col_idx: Column = 6,
        score_col_idx: Column = 4,
        delimiter: str = "\t",
        quoting: int | None = None,
        normalize_scores: bool = True,
        min_score: float = 0,
        max_score: float = 5,
        *,
        has_header: bool = False,
        where: Mapping[str, str] | None = None,
        on_error: str = "raise",
    ) -> None:
        super().__init__(
            dataset_folder,
            s1_col_idx,
            s2_col_idx,
            score_col_idx,
            delimiter,
            quoting,
            normalize_scores,
            min_score,
            max_score,
            has_header=has_header,
            where=where,
            on_error=on_error,
        )


class NLIDataReader(TableReader):
    """Reads premise, hypothesis and their relation, from three aligned files or from one table.

    `get_examples("train.gz")` reads `s1.train.gz`, `s2.train.gz` and `labels.train.gz` line by line where the folder
    has the first of them and there is no `where`; otherwise `train.gz` is a table with a header, as AllNLI.tsv.gz is.

    | texts                 | label                                            |
    | --------------------- | ------------------------------------------------ |
    | (premise, hypothesis) | int: contradiction 0, entailment 1, neutral 2    |

    Args:
        dataset_folder: folder of the files.
        s1_col_idx, s2_col_idx, label_col_idx: columns of a table, by name or by position.
        delimiter, quoting, has_header, where: see the top of this module.
        on_error: "raise" or "skip"; SNLI marks pairs without agreement with the label "-", which is a bad row.
    """

    def __init__(
        self,
        dataset_folder: PathLike,
        s1_col_idx: Column = "sentence1",
        s2_col_idx: Column = "sentence2",
        label_col_idx: Column = "label",
        delimiter: str = "\t",
        quoting: int | None = None,
        *,
        has_header: bool = False,
        where: Mapping[str, str] | None = None,
        on_error: str = "raise",
    ) -> None:
        columns = (s1_col_idx, s2_col_idx, label_col_idx)
        super().__init__(dataset_folder, columns, delimiter, quoting, has_header, where, on_error)

    def _rows(self, filename: PathLike) -> Iterable[Row]:
        paths = [self.dataset_folder / f"{part}.{os.fspath(filename)}" for part in ("s1", "s2", "labels")]
        return aligned_lines(paths) if paths[0].is_file() and not self.where else super()._rows(filename)

    def _example(self, row: Row) -> InputExample:
        return InputExample(guid=row.guid, texts=[row.text(0), row.text(1)], label=self.map_label(row.cells[2]))

    @staticmethod
    def get_labels() -> dict[str, int]:
        """The classes and their numbers."""
        return {"contradiction": 0, "entailment": 1, "neutral": 2}

    def get_num_labels(self) -> int:
        """How many classes there are."""
        return len(self.get_labels())

    def map_label(self, label: str) -> int:
        """The number of a class; spaces and case do not matter.

        >>> NLIDataReader("folder").map_label(" Entailment")
        1
        """
        number = self.get_labels().get(label.strip().lower())
        if number is None:
            raise ValueError(f"label must be one of {', '.join(self.get_labels())}, got {label!r}")
        return number


class TripletReader(TableReader):
    """Reads (anchor, positive, negative) rows.

    | texts                        | label      |
    | ---------------------------- | ---------- |
    | (anchor, positive, negative) | 0, unused  |

    Args:
        dataset_folder: folder of the files.
        s1_col_idx, s2_col_idx, s3_col_idx: columns of anchor, positive and negative, by position or by name.
        has_header, delimiter, quoting, where: see the top of this module.
        on_error: "raise" or "skip".
    """

    def __init__(
        self,
        dataset_folder: PathLike,
        s1_col_idx: Column = 0,
        s2_col_idx: Column = 1,
        s3_col_idx: Column = 2,
        has_header: bool = False,
        delimiter: str = "\t",
        quoting: int | None = None,
        *,
        where: Mapping[str, str] | None = None,
        on_error: str = "raise",
    ) -> None:
        columns = (s1_col_idx, s2_col_idx, s3_col_idx)
        super().__init__(dataset_folder, columns, delimiter, quoting, has_header, where, on_error)

    def _example(self, row: Row) -> InputExample:
        return InputExample(guid=row.guid, texts=[row.text(0), row.text(1), row.text(2)])


class LabelSentenceReader(TableReader):
    """Reads sentences with a class; class names are numbered in the order in which they first occur.

    The numbering is kept in `label_map` and goes on over several files, so that train and test agree.

    | texts       | label                |
    | ----------- | -------------------- |
    | (sentence,) | int, class number    |

    Args:
        folder: folder of the files.
        label_col_idx, sentence_col_idx: columns, by position or by name.
        separator, quoting, has_header, where: see the top of this module; `separator` is the delimiter.
        on_error: "raise" or "skip".
    """

    def __init__(
        self,
        folder: PathLike,
        label_col_idx: Column = 0,
        sentence_col_idx: Column = 1,
        separator: str = "\t",
        quoting: int | None = None,
        *,
        has_header: bool = False,
        where: Mapping[str, str] | None = None,
        on_error: str = "raise",
    ) -> None:
        columns = (label_col_idx, sentence_col_idx)
        super().__init__(folder, columns, separator, quoting, has_header, where, on_error)
        self.label_map: dict[str, int] = {}

    def _example(self, row: Row) -> InputExample:
        label, sentence = row.text(0).strip(), row.text(1)
        number = self.label_map.setdefault(label, len(self.label_map))
        return InputExample(guid=row.guid, texts=[sentence], label=number)


class PairedFilesReader(Reader):
    """Reads pairs (or n-tuples) from files with one text a line: line i of every file makes one row.

    | texts                      | label |
    | -------------------------- | ----- |
    | (line i of each file, ...) | 1     |

    Args:
        filepaths: two files or more, all with the same number of lines.
        on_error: "raise" or "skip".
    """

    def __init__(self, filepaths: Sequence[PathLike], *, on_error: str = "raise") -> None:
        super().__init__(on_error)
        if isinstance(filepaths, str) or len(filepaths) < 2:
            raise ValueError(f"filepaths must be a list of two files or more, got {filepaths!r}")
        self.filepaths = [Path(path) for path in filepaths]

    def get_examples(self, max_examples: int = 0) -> list[InputExample]:
        """Read the files: the first `max_examples` usable rows, all of them for 0.

        Raises:
            FileNotFoundError: no such file.
            ValueError: a bad row, named by files and line; files of different lengths; no usable row.
        """
        source = " + ".join(map(str, self.filepaths))
        return self._gather(aligned_lines(self.filepaths), self._example, source, max_examples)

    def _example(self, row: Row) -> InputExample:
        texts = [row.text(index) for index in range(len(row.cells))]
        return InputExample(guid=row.guid, texts=texts, label=1)
