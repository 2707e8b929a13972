"""Rows of files that know where they stand: the one mechanism under all readers of data.

A source (`table`, `aligned_lines`) turns files into `Row`s that carry file and line; a reader says what is made of one
row; `gather` runs the two, and either stops at the first bad row, naming it, or leaves bad rows out and reports them.
Files are UTF-8, plain or gzip (told by their content, not by their name).
"""

from __future__ import annotations

import csv
import gzip
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from numbers import Integral
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
Column = int | str

NOT_UTF8 = "wrong encoding: these bytes are not UTF-8; save the file as UTF-8"


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used: where it stands and what is wrong with it.

    >>> print(BadRow("pairs.csv", 7, "empty text in column 0"))
    pairs.csv, line 7: empty text in column 0
    """

    source: str
    line: int
    reason: str
    unit: str = "line"

    def __str__(self) -> str:
        return f"{self.source}, {self.unit} {self.line}: {self.reason}"


@dataclass(frozen=True)
class Row:
    """The cells of one row with their names, and where the row stands; `problem` is set if it could not be read."""

    source: str
    line: int
    cells: Sequence[Any] = ()
    names: Sequence[str] = ()
    problem: str = ""
    unit: str = "line"

    @property
    def guid(self) -> str:
        """`source:line`, an example's way back to its row."""
        return f"{self.source}:{self.line}"

    def text(self, index: int) -> str:
        """Return cell `index`, which must be a text with more in it than spaces."""
        return checked_text(self.cells[index], self.names[index])


def checked_text(value: Any, name: str) -> str:
    """Return `value` if it is a non-empty text that UTF-8 can hold; in messages it is called `name`.

    >>> checked_text("   ", "column 0")
    Traceback (most recent call last):
    ...
    ValueError: empty text in column 0
    """
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a text, got {value!r} of type {type(value).__name__}")
    if not value.strip():
        raise ValueError(f"empty text in {name}")
    if not is_utf8(value):
        raise ValueError(f"{name} holds half a surrogate pair, which is no character: {value!r}")
    return value


def is_utf8(text: str) -> bool:
    """Tell whether UTF-8 can hold `text`; it cannot where `lines` met bytes that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def gather(
    rows: Iterable[Row], convert: Callable[[Row], T], source: str, on_error: str = "raise", max_rows: int = 0
) -> tuple[list[T], list[BadRow]]:
    """Convert row after row; stop at the first bad one, or leave bad ones out and report them in one warning.

    Args:
        rows: what a source yields.
        convert: makes something of one row, or raises a ValueError that says what is wrong with it.
        source: what is read, for the message when there is nothing in it.
        on_error: "raise" stops at the first bad row; "skip" leaves bad rows out.
        max_rows: stop after so many converted rows; 0 reads all.

    Returns:
        What was made, and the bad rows that were left out.

    Raises:
        ValueError: a bad row with `on_error="raise"`; no usable row at all; an argument out of range.
    """
    check_on_error(on_error)
    check_whole("max_examples", max_rows, least=0)
    made: list[T] = []
    skipped: list[BadRow] = []
    for row in rows:
        try:
            if row.problem:
                raise ValueError(row.problem)
            made.append(convert(row))
        except ValueError as error:
            bad = BadRow(row.source, row.line, str(error), row.unit)
            if on_error == "raise":
                raise ValueError(f'{bad}. Mend this {row.unit}, or leave such out with on_error="skip"') from None
            skipped.append(bad)
        if len(made) == max_rows > 0:
            break
    if not made:
        found = f"all {len(skipped)} rows are bad, the first: {skipped[0]}" if skipped else "there is no row in it"
        raise ValueError(f"nothing to read in {source}: {found}")
    if skipped:
        first = skipped[0]
        warnings.warn(
            f"{first.source}: skipped {len(skipped)} of {len(skipped) + len(made)} rows, {first.unit}s "
            f"{spans([bad.line for bad in skipped])}; the first: {first.reason}",
            stacklevel=4,
        )
    return made, skipped


def check_on_error(on_error: str) -> None:
    """Raise a ValueError unless `on_error` is "raise" or "skip"."""
    if on_error not in ("raise", "skip"):
        raise ValueError(f'on_error must be "raise" or "skip", got {on_error!r}')


def check_whole(name: str, value: int, least: int) -> None:
    """Raise a ValueError that names the argument unless `value` is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")


def spans(numbers: Sequence[int], most: int = 20) -> str:
    """Write ascending line numbers in few characters, as at most `most` spans.

    >>> spans([3, 7, 8, 9])
    '3, 7-9'
    >>> spans([1, 3, 5], most=2)
    '1, 3 and 1 more'
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    shown = ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs[:most])
    hidden = sum(len(run) for run in runs[most:])
    return f"{shown} and {hidden} more" if hidden else shown


def lines(path: Path) -> Iterator[str]:
    """Yield the lines of a plain or gzip file with their ends; bytes that are not UTF-8 become lone surrogates.

    Raises:
        FileNotFoundError: there is no such file; the message lists what is there.
        ValueError: a damaged gzip file.
    """
    if not path.is_file():
        there = sorted(entry.name for entry in path.parent.glob("*"))[:10]
        raise FileNotFoundError(f"no file {path}; its folder holds {', '.join(there) or 'nothing'}")
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    opened = gzip.open if packed else open
    count = 0
    # utf-8-sig drops the mark that spreadsheets write first; newline="" leaves line ends inside quotes as they are.
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
    """Yield the wanted cells of each row of a CSV or TSV file; blank lines are passed over.

    Args:
        path: the file.
        columns: the wanted columns, by position (from 0) or by name; a name means that there is a header.
        delimiter: one character.
        quoting: one of the csv module's `QUOTE_...`; None takes quotes as text where the delimiter is a tab, and as
            quotes otherwise.
        has_header: the first line is a header although all columns are given by position.
        where: keeps the rows in which each named column has its value, for example `{"split": "train"}`.

    Raises:
        ValueError: the header lacks a column; a delimiter that csv does not take.
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
            raise ValueError(f"{header.source}, line {header.line}: {header.problem}")
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
        # strict: a quote that is never closed is an error, instead of swallowing the rest of the file.
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
            yield Row(path.name, line, cells, problem="" if is_utf8(" ".join(cells)) else NOT_UTF8)


def _position(column: Column, header: Row, delimiter: str) -> int:
    if isinstance(column, int) and column < len(header.cells):
        return column
    if column in header.cells:
        return list(header.cells).index(column)
    raise ValueError(
        f"{header.source}, line {header.line}: missing column {column!r}; with delimiter {delimiter!r} the header has "
        f"{', '.join(map(repr, header.cells))}"
    )


def aligned_lines(paths: Sequence[Path]) -> Iterator[Row]:
    """Yield line i of every file as one row; the files must have the same number of lines."""
    names = [path.name for path in paths]
    source = " + ".join(names)
    for number, texts in enumerate(zip_longest(*map(lines, paths)), start=1):
        ended = [name for name, text in zip(names, texts, strict=True) if text is None]
        if ended:
            yield Row(source, number, problem=f"{' and '.join(ended)} ended before this line")
        elif not all(map(is_utf8, texts)):
            yield Row(source, number, problem=NOT_UTF8)
        else:
            yield Row(source, number, [text.rstrip("\r\n") for text in texts], names)
