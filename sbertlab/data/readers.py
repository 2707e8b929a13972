"""Readers of training and evaluation files, with the field's names: each row becomes an `InputExample`.

Files are UTF-8, plain or gzip (recognised by content). A bad row is a ValueError that begins with `file:line`, which is
also the `guid` of an example. Arguments that readers share:

| argument               | meaning                                                                                     |
| ---------------------- | ------------------------------------------------------------------------------------------- |
| dataset_folder, folder | folder of the files                                                                         |
| ..._col_idx            | a column by position (from 0) or by name; a name means that the first line is a header      |
| delimiter, separator   | one character; tab by default                                                               |
| quoting                | one of the csv module's `QUOTE_...`; by default quotes are text in a TSV, quotes otherwise  |

A table that needs more than that: `data.examples_from_frame(read_table(...), ...)`.
"""

import csv
import gzip
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import pandas as pd

from sbertlab.checks import check_choice, checked_number
from sbertlab.data.examples import InputExample
from sbertlab.data.texts import checked_text

Column = int | str
PathLike = str | os.PathLike[str]
Row = tuple[str, list[str]]
"""Where a row comes from (`file:line`), and its cells."""


def lines(path: PathLike) -> Iterator[str]:
    """Yield the lines of a plain or gzip file with their ends; bytes that are not UTF-8 become lone surrogates."""
    with open(path, "rb") as file:
        opened = gzip.open if file.read(2) == b"\x1f\x8b" else open
    # utf-8-sig drops the mark that spreadsheets write first; newline="" leaves line ends inside quotes as they are
    with opened(path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
        yield from text


def read_table(path: PathLike, columns: Iterable[str] = (), rows: int | None = None) -> pd.DataFrame:
    """Return a table (.csv, .tsv, .jsonl, .parquet), which must have `columns`; `rows` limits those of a .csv or .tsv.

    Their cells are texts, even "NA". Of any other file, the lines that are not blank become the column `text`.
    """
    kind = Path(os.fspath(path).removesuffix(".gz")).suffix
    try:
        if kind in (".csv", ".tsv"):
            form: dict[str, Any] = {"sep": "\t", "quoting": csv.QUOTE_NONE} if kind == ".tsv" else {}
            table = pd.read_csv(path, nrows=rows, dtype=str, keep_default_na=False, **form)
        elif kind == ".jsonl":
            table = pd.read_json(path, lines=True, dtype=False, encoding="utf-8-sig")
        elif kind == ".parquet":
            table = pd.read_parquet(path)
        else:
            table = pd.DataFrame({"text": [line.strip() for line in lines(path) if line.strip()]})
    except (gzip.BadGzipFile, EOFError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}; it must be gzip (if named .gz) and UTF-8") from error
    if missing := set(columns) - set(table):
        raise ValueError(f"{path} is missing {', '.join(sorted(missing))}; its columns are {', '.join(table)}")
    return table


def aligned_lines(paths: Sequence[Path]) -> Iterator[Row]:
    """Yield line i of every file as one row; the files must have the same number of lines."""
    source = " + ".join(path.name for path in paths)
    for number, texts in enumerate(zip_longest(*map(lines, paths)), start=1):
        if None in texts:
            raise ValueError(f"{source}:{number}: {paths[texts.index(None)].name} ended before this line")
        yield f"{source}:{number}", [text.rstrip("\r\n") for text in texts]


def gather(rows: Iterable[Row], convert: Callable[[list[str]], tuple[list[str], Any]], most: int) -> list[InputExample]:
    """Return the examples of the first `most` rows (0: of all), given how cells become texts and a label."""
    checked_number("max_examples", most, whole=True)
    examples = []
    for place, cells in islice(rows, most or None):
        try:
            examples.append(InputExample(place, *convert(cells)))
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None
    return examples


class TableReader:
    """What readers of one CSV or TSV file share."""

    dataset_folder: PathLike
    delimiter: str
    quoting: int | None = None
    has_header: bool = False
    _convert: Any  # a method: cells -> texts and label; a ValueError says what is wrong with the row

    def __post_init__(self) -> None:
        self.columns: list[Column] = [value for name, value in vars(self).items() if name.endswith("_col_idx")]

    def get_examples(self, filename: PathLike, max_examples: int = 0) -> list[InputExample]:
        """Return the examples of the first `max_examples` rows of a file in the folder, or of all of them for 0."""
        return gather(self._rows(Path(self.dataset_folder) / filename), self._convert, max_examples)

    def _rows(self, path: Path) -> Iterator[Row]:
        """Yield the wanted cells of each row that is not blank."""
        default = csv.QUOTE_NONE if self.delimiter == "\t" else csv.QUOTE_MINIMAL
        quoting = default if self.quoting is None else self.quoting
        # strict: a quote that is never closed is an error, instead of swallowing the rest of the file
        rows = csv.reader(lines(path), delimiter=self.delimiter, quoting=quoting, strict=True)  # type: ignore[arg-type]
        names = [column for column in self.columns if isinstance(column, str)]
        header = next(rows, []) if names or self.has_header else []
        if missing := [name for name in names if name not in header]:
            raise ValueError(f"{path}: missing columns {missing}; with delimiter {self.delimiter!r} it has {header}")
        places = [header.index(column) if isinstance(column, str) else column for column in self.columns]
        line = rows.line_num + 1
        try:
            for cells in rows:
                if cells:
                    yield f"{path.name}:{line}", [cells[place] for place in places]
                line = rows.line_num + 1
        except (csv.Error, IndexError) as error:
            problem = f"broken row, read with delimiter {self.delimiter!r} for the columns {self.columns} ({error})"
            raise ValueError(f"{path.name}:{line}: {problem}") from None

    def _texts(self, cells: list[str]) -> list[str]:
        return [checked_text(cell, f"column {column!r}") for cell, column in zip(cells, self.columns, strict=False)]


@dataclass(eq=False)
class STSDataReader(TableReader):
    """Reads sentence pairs with a similarity score.

    | texts                  | label                             |
    | ---------------------- | --------------------------------- |
    | (sentence1, sentence2) | float, 0..1 if `normalize_scores` |

    Every score must lie in `min_score..max_score`, which is rescaled to 0..1 with `normalize_scores`.
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

    def _convert(self, cells: list[str]) -> tuple[list[str], float]:
        score = float(cells[2])
        if not self.min_score <= score <= self.max_score:
            raise ValueError(f"score {score:g} is out of the range {self.min_score}..{self.max_score}")
        if self.normalize_scores:
            score = (score - self.min_score) / (self.max_score - self.min_score)
        return self._texts(cells[:2]), score


@dataclass(eq=False)
class STSBenchmarkDataReader(STSDataReader):
    """STSDataReader for the STS benchmark's own files, such as `sts-dev.csv`: tabs, no header."""

    s1_col_idx: Column = 5
    s2_col_idx: Column = 6
    score_col_idx: Column = 4


@dataclass(eq=False)
class NLIDataReader(TableReader):
    """Reads premise, hypothesis and their relation, from three aligned files or from one table.

    | texts                 | label                                         |
    | --------------------- | --------------------------------------------- |
    | (premise, hypothesis) | int: contradiction 0, entailment 1, neutral 2 |

    If the folder has `s1.train.gz`, `get_examples("train.gz")` reads `s1.train.gz`, `s2.train.gz` and
    `labels.train.gz` line by line; otherwise it reads `train.gz`, a table.
    """

    dataset_folder: PathLike
    s1_col_idx: Column = "sentence1"
    s2_col_idx: Column = "sentence2"
    label_col_idx: Column = "label"
    delimiter: str = "\t"

    def _rows(self, path: Path) -> Iterator[Row]:
        parts = [path.with_name(f"{part}.{path.name}") for part in ("s1", "s2", "labels")]
        return aligned_lines(parts) if parts[0].is_file() else super()._rows(path)

    def _convert(self, cells: list[str]) -> tuple[list[str], int]:
        return self._texts(cells[:2]), self.map_label(cells[2])

    @staticmethod
    def get_labels() -> dict[str, int]:
        """Return the classes and their numbers."""
        return {"contradiction": 0, "entailment": 1, "neutral": 2}

    def get_num_labels(self) -> int:
        """Return the number of classes."""
        return len(self.get_labels())

    def map_label(self, label: str) -> int:
        """Return the number of a class, ignoring spaces and case."""
        check_choice("label", label.strip().lower(), self.get_labels())
        return self.get_labels()[label.strip().lower()]


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

    def _convert(self, cells: list[str]) -> tuple[list[str], int]:
        return self._texts(cells), 0


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

    def __post_init__(self) -> None:
        super().__post_init__()
        self.dataset_folder, self.delimiter = self.folder, self.separator
        self.label_map: dict[str, int] = {}

    def _convert(self, cells: list[str]) -> tuple[list[str], int]:
        label, sentence = self._texts(cells)
        return [sentence], self.label_map.setdefault(label.strip(), len(self.label_map))


@dataclass(eq=False)
class PairedFilesReader:
    """Reads pairs (or n-tuples) from files with one text per line: line i of every file makes one row.

    | texts                      | label |
    | -------------------------- | ----- |
    | (line i of each file, ...) | 1     |
    """

    filepaths: Sequence[PathLike]

    def get_examples(self, max_examples: int = 0) -> list[InputExample]:
        """Return the examples of the first `max_examples` lines, or of all of them for 0."""
        paths = [*map(Path, self.filepaths)]
        names = [path.name for path in paths]
        return gather(aligned_lines(paths), lambda texts: ([*map(checked_text, texts, names)], 1), max_examples)
