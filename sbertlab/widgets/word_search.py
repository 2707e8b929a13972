"""Search by words: which texts contain them, whatever their case and their spelling in Unicode."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd


def fold(text: Any) -> str:
    """A text as it is compared: no case, one spelling of letters that Unicode can spell in several ways.

    >>> fold("Straße ﬁne ＡＢＣ") == fold("STRASSE FINE abc"), fold(None)
    (True, '')
    """
    missing = text is None or (pd.api.types.is_scalar(text) and pd.isna(text))
    return "" if missing else unicodedata.normalize("NFKC", str(text)).casefold()


def fold_texts(texts: Iterable[object]) -> pd.Series:
    """All texts as they are compared; do it once, then search often."""
    return pd.Series([fold(text) for text in texts], dtype="str")


def find_words(folded: pd.Series, query: str) -> np.ndarray:
    """Positions of the texts that contain every word of the query, or a longer word with it inside, in any order.

    Args:
        folded: `(n,)`, from `fold_texts`.
        query: words; without any, nothing is found.

    Returns:
        `(found,)`, ascending.

    >>> texts = fold_texts(["Refund the PAYMENT", "payment late", "Café menu", None])
    >>> find_words(texts, "pay  refund").tolist(), find_words(texts, "CAFE\\u0301").tolist(), find_words(texts, " ")
    ([0], [2], array([], dtype=int64))
    """
    words = fold(query).split()
    if not words:
        return np.array([], dtype=int)
    hits = np.ones(len(folded), dtype=bool)
    for word in words:
        hits &= folded.str.contains(word, regex=False).to_numpy(dtype=bool)
    return np.flatnonzero(hits)
