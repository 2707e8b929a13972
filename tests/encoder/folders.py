"""What the tests of loading and saving share: reading a folder here and with sentence-transformers, and comparing."""

import numpy as np
import sentence_transformers

from sbertlab import SentenceTransformer

TEXTS = [
    "the cat sits on the red chair",
    "where is my parcel?",
    "a",
    "reset the password for my new e mail account now",
]


def peer(folder):
    return sentence_transformers.SentenceTransformer(str(folder), device="cpu")


def read(folder, **arguments):
    return SentenceTransformer(folder, device="cpu", **arguments)


def assert_same(first, second, tolerance=1e-5, **arguments):
    """Two encoders give the same vectors, and vectors that differ from text to text."""
    ours, theirs = first.encode(TEXTS, **arguments), second.encode(TEXTS, **arguments)
    assert np.abs(ours[0] - ours[1]).max() > 1e-4
    np.testing.assert_allclose(ours, theirs, atol=tolerance, rtol=0)
