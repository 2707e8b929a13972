"""Texts as people give them: in lists, series or alone, repeated, on different routes, or too long."""

import unicodedata
import warnings
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from sbertlab.checks import check_same_length

Text = str | Mapping[str, str]
"""A text, or `{route: text}` for a model with routes."""


class TruncationWarning(UserWarning):
    """Some texts were longer than `max_seq_length`, and what came after was not read."""


def plain_text(text: Any) -> str | None:
    """Return the str of a text, which is a str or `{route: str}`; None for anything else.

    >>> plain_text({"query": "rain"}), plain_text(7)
    ('rain', None)
    """
    plain = next(iter(text.values())) if isinstance(text, Mapping) and len(text) == 1 else text
    return plain if isinstance(plain, str) else None


def checked_text(text: Any, name: str) -> str:
    """Return a str that is not blank and that UTF-8 can hold."""
    if not isinstance(text, str):
        raise ValueError(f"{name} must be a text, got {text!r} of type {type(text).__name__}")
    if not text.strip():
        raise ValueError(f"empty text in {name}")
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, or a byte that `readers.lines` could not decode
        raise ValueError(f"wrong encoding: {name} is not UTF-8, got {text!r}; save the file as UTF-8") from None
    return text


def checked_texts(**columns: Iterable[str]) -> list[list[str]]:
    """Return columns of texts as lists, at least one text long and all of the same length."""
    lists = {name: [] if isinstance(column, str) else list(column) for name, column in columns.items()}
    for name, column in lists.items():
        if not column:
            raise ValueError(f"{name} must be a list of at least one text, got {columns[name]!r:.80}")
        for place, text in enumerate(column):
            if not isinstance(text, str):
                raise ValueError(f"{name}[{place}] must be a text, got {text!r:.80}")
    check_same_length(**lists)
    return list(lists.values())


def as_texts(sentences: Any) -> tuple[list[Text], bool]:
    """Return the texts as a list, and whether it was a single text; a TypeError for anything else.

    >>> as_texts("one")
    (['one'], True)
    >>> as_texts(np.array(["a", "b"]))
    (['a', 'b'], False)
    """
    single = isinstance(sentences, (str, Mapping))
    sentences = [sentences] if single else sentences
    unordered = isinstance(sentences, (bytes, bytearray, set, frozenset)) or not hasattr(sentences, "__iter__")
    if unordered or getattr(sentences, "ndim", 1) != 1:
        raise TypeError(
            "sentences must be a text or a list, tuple, pandas Series or one-dimensional array of texts, "
            f"got {type(sentences).__name__}" + (f" of shape {sentences.shape}" if hasattr(sentences, "shape") else "")
        )
    texts = sentences.tolist() if hasattr(sentences, "tolist") else list(sentences)
    for position, text in enumerate(texts):
        if plain_text(text) is None:
            found = f"{type(text).__name__} ({text!r:.60})"
            raise TypeError(f"sentences[{position}] is {found}, expected str, or {{route: str}} with one route")
    return texts, single


def normalised(text: Text) -> str:
    """Return a text for comparison: Unicode NFKC, lower case, single spaces, stripped.

    >>> normalised({"query": " ﬁne\\u00a0  WEATHER "})
    'fine weather'
    """
    plain = plain_text(text)
    if plain is None:
        raise TypeError(f"expected a text, str or {{route: str}}, got {text!r:.60}")
    return " ".join(unicodedata.normalize("NFKC", plain).lower().split())


def first_rows(keys: Iterable[Hashable]) -> list[int]:
    """Return for each row the first row with the same key.

    >>> first_rows(["a", "b", "a"])
    [0, 1, 0]
    """
    first: dict[Hashable, int] = {}
    return [first.setdefault(key, row) for row, key in enumerate(keys)]


def distinct_texts(texts: Sequence[Text], prompt: str) -> tuple[list[Text], list[int]]:
    """Return each distinct text once, with the prompt in front, and for every text its row among them.

    >>> distinct_texts(["b", "a", "b"], "say: ")
    (['say: b', 'say: a'], [0, 1, 0])
    """
    rows: dict[Any, int] = {}
    keys = [text if isinstance(text, str) else next(iter(text.items())) for text in texts]
    index = [rows.setdefault(key, len(rows)) for key in keys]
    return [prompt + key if isinstance(key, str) else {key[0]: prompt + key[1]} for key in rows], index


def by_route(texts: Sequence[Text], task: str | None) -> Iterator[tuple[str | None, list[int], list[str]]]:
    """Yield the texts route by route: its name, the positions of its texts, and the texts themselves.

    >>> list(by_route([{"query": "a"}, "b", {"query": "c"}], None))
    [('query', [0, 2], ['a', 'c']), (None, [1], ['b'])]
    """
    routes: dict[str | None, dict[int, str]] = {}
    for position, text in enumerate(texts):
        route, plain = (task, text) if isinstance(text, str) else next(iter(text.items()))
        routes.setdefault(route, {})[position] = plain
    for route, found in routes.items():
        yield route, list(found), list(found.values())


def warn_of_truncation(cut: np.ndarray, limit: int | None, read: np.ndarray | None = None) -> None:
    """Warn if texts were truncated, given the numbers of tokens of each that were not read and that were read.

    Training gives no `read` and gets no counts: Python shows equal warnings only once.
    """
    if not cut.any():
        return
    problem = f"some texts are longer than max_seq_length={limit} and are truncated. "
    if read is not None:
        total = int(cut.sum() + read.sum())
        problem = f"{np.count_nonzero(cut):,} of {len(cut):,} texts are longer than max_seq_length={limit}: "
        problem += f"{cut.sum():,} of {total:,} tokens ({cut.sum() / total:.1%}) were not read. "
    warnings.warn(problem + "Raise model.max_seq_length or split the texts.", TruncationWarning, stacklevel=4)
