from __future__ import annotations

import time

import numpy as np
import pytest

from sbertlab.widgets.word_search import find_words, fold_texts

TEXTS = [
    "Refund the PAYMENT",
    "Straße gesperrt",
    "ИМЯ файла",
    "Cafe\u0301 au lait",
    "שלום עולם 😀",
    "a.b*c (x)",
    None,
    float("nan"),
]


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("payment", [0]),
        ("payment refund", [0]),
        ("refund parcel", []),
        ("pay", [0]),
        ("STRASSE", [1]),
        ("имя", [2]),
        ("CAFÉ", [3]),
        ("😀", [4]),
        ("עולם שלום", [4]),
        ("b*c", [5]),
        (".", [5]),
        ("nan", []),
        ("", []),
        ("  \n ", []),
    ],
)
def test_words_are_found_whatever_their_case_and_spelling(query: str, rows: list[int]) -> None:
    assert find_words(fold_texts(TEXTS), query).tolist() == rows


def test_no_texts_hold_no_words() -> None:
    assert find_words(fold_texts([]), "money").tolist() == []


def test_two_hundred_thousand_texts_are_searched_in_a_moment() -> None:
    folded = fold_texts([f"Sentence {i} of many words" for i in range(200_000)])
    start = time.process_time()
    assert len(find_words(folded, "SENTENCE 777")) == np.sum(["777" in str(i) for i in range(200_000)])
    assert time.process_time() - start < 2
