"""Texts as people give them: in lists, series or alone, repeated, on different routes, or too long."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

Text = str | Mapping[str, str]
"""A text, or `{route: text}` for a model with routes."""


class TruncationWarning(UserWarning):
    """Some texts were longer than `max_seq_length`, and what came after was not read."""


def as_texts(sentences: Any) -> tuple[list[Text], bool]:
    """Return the texts as a list, and whether it was one text alone.

    Raises:
        TypeError: bytes, a number, a two-dimensional array and the like.
        ValueError: a dictionary with another number of keys than one.

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
            f"sentences must be a text or a list, tuple, pandas Series or one-dimensional array of texts, "
            f"got {type(sentences).__name__}" + (f" of shape {sentences.shape}" if hasattr(sentences, "shape") else "")
        )
    texts = sentences.tolist() if hasattr(sentences, "tolist") else list(sentences)
    for position, text in enumerate(texts):
        if isinstance(text, Mapping) and len(text) != 1:
            raise ValueError(f"sentences[{position}] must be {{route: text}} with one key, got the keys {list(text)}")
        plain = next(iter(text.values())) if isinstance(text, Mapping) else text
        if not isinstance(plain, str):
            raise TypeError(
                f"sentences[{position}] is {type(plain).__name__} ({plain!r:.60}), expected str; "
                "convert the column with .astype(str) or drop missing values first"
            )
    return texts, single


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
    routes: dict[str | None, tuple[list[int], list[str]]] = {}
    for position, text in enumerate(texts):
        route, plain = (task, text) if isinstance(text, str) else next(iter(text.items()))
        positions, plains = routes.setdefault(route, ([], []))
        positions.append(position)
        plains.append(plain)
    for route, (positions, plains) in routes.items():
        yield route, positions, plains


def warn_of_cuts(cut: np.ndarray, read: np.ndarray, limit: int | None) -> None:
    """Say how many texts were longer than the limit, and by how much; nothing where none was.

    Args:
        cut: tokens of each text that were not read.
        read: tokens of each text that were.
        limit: most tokens of a text that are read.
    """
    if not cut.any():
        return
    total = int(cut.sum() + read.sum())
    warnings.warn(
        f"{np.count_nonzero(cut):,} of {len(cut):,} texts are longer than max_seq_length={limit}: "
        f"{cut.sum():,} of {total:,} tokens ({cut.sum() / total:.1%}) were not read. "
        "Raise model.max_seq_length or split the texts.",
        TruncationWarning,
        stacklevel=4,
    )
