"""Rows of files that know where they come from: the mechanism under all readers.

A source (`table`, `aligned_lines`) yields `Row`s with file and line; a reader converts one row; `gather` runs the two
and stops at the first bad row, or leaves bad rows out and reports them. Files are UTF-8, plain or gzip (recognised by
content, not by name).
"""

from __future__ import annotations

import csv
import gzip
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar

from sbertlab.checks import check_choice, checked_number
from sbertlab.data.texts import checked_text

T = TypeVar("T")
Column = int | str

SHOWN = 20  # row numbers in a warning


@dataclass(frozen=True)
class Row:
    """The cells of one row and their names, where it comes from, and the `problem` that makes it unusable.

    >>> print(Row("pairs.csv", 7, problem="empty text in column 0"))
    pairs.csv, line 7: empty text in column 0
    """

    source: str
    line: int
    cells: Sequence[Any] = ()
    names: Sequence[str] = ()
    problem: str = ""
    unit: str = "line"

    def __str__(self) -> str:
        return f"{self.source}, {self.unit} {self.line}: {self.problem}"

    @property
    def guid(self) -> str:
        """`source:line`, which leads from an example back to its row."""
        return f"{self.source}:{self.line}"

    def text(self, index: int) -> str:
        """Return a cell that must be a text."""
        return checked_text(self.cells[index], self.names[index])


def gather(
    rows: Iterable[Row], convert: Callable[[Row], T], source: str, on_error: str = "raise", max_rows: int = 0
) -> tuple[list[T], list[Row]]:
    """Return what the rows were converted to, and the bad rows that were left out.

    Args:
        rows: the rows of a source.
        convert: converts one row, or raises a ValueError that says what is wrong with it.
        source: what is read, for messages.
        on_error: "raise" stops at the first bad row; "skip" leaves bad rows out, with one warning.
        max_rows: stop after this many converted rows; 0 reads all.
    """
    check_choice("on_error", on_error, ("raise", "skip"))
    checked_number("max_examples", max_rows, whole=True)
    made: list[T] = []
    skipped: list[Row] = []
    for row in rows:
        try:
            if row.problem:
                raise ValueError(row.problem)
            made.append(convert(row))
        except ValueError as error:
            bad = replace(row, cells=(), names=(), problem=str(error))
            if on_error == "raise":
                raise ValueError(f'{bad}. Repair this {row.unit}, or leave bad ones out with on_error="skip"') from None
            skipped.append(bad)
        if len(made) == max_rows > 0:
            break
    if not made:
        found = f"all {len(skipped)} rows are bad, the first: {skipped[0]}" if skipped else "it has no rows"
        raise ValueError(f"nothing to read in {source}: {found}")
    if skipped:
        first, more = skipped[0], ", ..." if len(skipped) > SHOWN else ""
        warnings.warn(
            f"{first.source}: skipped {len(skipped)} of {len(skipped) + len(made)} rows, {first.unit}s "
            f"{', '.join(str(bad.line) for bad in skipped[:SHOWN])}{more}; the first: {first.problem}",
            stacklevel=4,
        )
    return made, skipped


def lines(path: Path) -> Iterator[str]:
    """Yield the lines of a plain or gzip file with their ends; bytes that are not UTF-8 become lone surrogates."""
    if not path.is_file():
        there = sorted(entry.name for entry in path.parent.glob("*"))[:10]
        raise FileNotFoundError(f"no file {path}; its folder holds {', '.join(there) or 'nothing'}")
    with path.open("rb") as file:
        opened = gzip.open if file.read(2) == b"\x1f\x8b" else open
    count = 0
    # utf-8-sig drops the mark that spreadsheets write first; newline="" leaves line ends inside quotes as they are
    with opened(path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
        try:
            for line in text:
                yield line
                count += 1
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path.name}: damaged gzip file after line {count} ({error}); fetch it again") from None


def table(
    path: Path,
    columns: Sequence[Column],
    delimiter: str = "\t",
    quoting: int | None = None,
    has_header: bool = False,
    where: Mapping[str, str] | None = None,
) -> Iterator[Row]:
    """Yield the wanted cells of each row of a CSV or TSV file; blank lines are ignored.

    Args:
        path: the file.
        columns: the wanted columns, by position (from 0) or by name; a name implies a header.
        delimiter: one character.
        quoting: one of the csv module's `QUOTE_...`; by default quotes are text in a TSV, and quotes otherwise.
        has_header: the first line is a header although all columns are given by position.
        where: keeps the rows in which each named column has its value, for example `{"split": "train"}`.
    """
    rows = _csv_rows(path, delimiter, quoting)
    positions: list[int] = [column for column in columns if isinstance(column, int)]
    conditions: list[tuple[int, str]] = []
    width = None
    if has_header or where or len(positions) < len(columns):
        header = next(rows, None)
        if header is None:
            return
        if header.problem:
            raise ValueError(str(header))
        positions = [_position(column, header, delimiter) for column in columns]
        conditions = [(_position(name, header, delimiter), value) for name, value in (where or {}).items()]
        width = len(header.cells)
    names = [f"column {column!r}" for column in columns]
    for row in rows:
        cells = len(row.cells)
        if row.problem:
            yield row
        elif width is not None and cells != width:
            yield replace(row, problem=f"{cells} cells with delimiter {delimiter!r}, the header has {width}")
        elif max(positions) >= cells:
            yield replace(row, problem=f"missing column {max(positions)}: {cells} cells with delimiter {delimiter!r}")
        elif all(row.cells[position] == value for position, value in conditions):
            yield replace(row, cells=[row.cells[position] for position in positions], names=names)


def _csv_rows(path: Path, delimiter: str, quoting: int | None) -> Iterator[Row]:
    if quoting is None:
        quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    try:
        # strict: a quote that is never closed is an error, instead of swallowing the rest of the file
        reader = csv.reader(lines(path), delimiter=delimiter, quoting=quoting, strict=True)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise ValueError(f"delimiter {delimiter!r} with quoting {quoting!r}: {error}") from None
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield Row(path.name, line, problem=f"broken table row ({error})")
            continue
        if cells is None:
            return
        if cells:
            yield Row(path.name, line, cells)


def _position(column: Column, header: Row, delimiter: str) -> int:
    if isinstance(column, int) and column < len(header.cells):
        return column
    if column in header.cells:
        return list(header.cells).index(column)
    names = ", ".join(map(repr, header.cells))
    problem = f"missing column {column!r}; with delimiter {delimiter!r} the header has {names}"
    raise ValueError(str(replace(header, problem=problem)))


def aligned_lines(paths: Sequence[Path]) -> Iterator[Row]:
    """Yield line i of every file as one row; the files must have the same number of lines."""
    names = [path.name for path in paths]
    source = " + ".join(names)
    for number, texts in enumerate(zip_longest(*map(lines, paths)), start=1):
        ended = [name for name, text in zip(names, texts, strict=True) if text is None]
        if ended:
            yield Row(source, number, problem=f"{' and '.join(ended)} ended before this line")
        else:
            yield Row(source, number, [text.rstrip("\r\n") for text in texts], names)
