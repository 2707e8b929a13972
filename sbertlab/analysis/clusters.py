"""Clusters of embeddings, and the words that tell what each of them is about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch.nn.functional as F
from scipy import sparse
from sklearn.cluster import MiniBatchKMeans
from sklearn.feature_extraction.text import CountVectorizer

from sbertlab.util import Embeddings, as_tensor

SMALLEST_CLUSTER = 5
"""So many texts a cluster on average at least: fewer have no words in common worth a name."""

WORD = r"(?u)\b[^\W\d_]\w+\b"
"""A word of a cluster's name: two characters at least, the first of them a letter, for numbers tell little."""


def find_clusters(embeddings: Embeddings, count: int = 12, seed: int = 0, metric: str = "cosine") -> np.ndarray:
    """The cluster of each embedding, by k-means: a division into regions, whether or not the space has gaps.

    Args:
        embeddings: `(n, dim)`.
        count: clusters; fewer when these would hold less than 5 embeddings on average.
        seed: of the start.
        metric: "cosine" (on vectors of unit length) or "euclidean".

    Returns:
        `(n,)`, numbers from 0.

    Raises:
        ValueError: `count` below 1, no embeddings, NaN or infinite values.

    Source: Sculley, 2010, Web-scale k-means clustering (the mini-batch form that scikit-learn has).

    >>> found = find_clusters([[1, 0], [1, 0.1], [0, 1], [0.1, 1]] * 5, count=2)
    >>> bool(found[0] == found[1] != found[2] == found[3])
    True
    """
    if count < 1:
        raise ValueError(f"count must be at least 1 cluster, got {count}")
    rows = as_tensor(embeddings, finite=True).detach().cpu()
    if rows.dim() != 2 or not len(rows):
        raise ValueError(f"embeddings must have the shape (n, dim) with n at least 1, got {tuple(rows.shape)}")
    points = (F.normalize(rows, dim=1) if metric == "cosine" else rows).numpy()
    clusters = max(1, min(count, len(points) // SMALLEST_CLUSTER))
    return MiniBatchKMeans(clusters, random_state=seed, n_init=3, batch_size=4096).fit_predict(points)


def cluster_terms(texts: Sequence[str], groups: Sequence[Any] | np.ndarray, terms: int = 3) -> dict[Any, list[str]]:
    """The words that are frequent in each group and not in the others, best first.

    `weight(word, group) = share of the word in the group's words * log(1 + words of an average group / count of the
    word in all groups)`: TF-IDF of groups (c-TF-IDF). English stop words are left out; those of other languages weigh
    little, because all groups have them.

    Args:
        texts: `(n,)`.
        groups: `(n,)`, the group of each text.
        terms: words a group at most.

    Returns:
        For each group, in ascending order, its words; none where its texts have none.

    Raises:
        ValueError: texts and groups of different length, `terms` below 1.

    Source: Grootendorst, 2022, BERTopic: Neural topic modeling with a class-based TF-IDF procedure (arXiv:2203.05794).

    >>> cluster_terms(["refund money", "money please", "parcel late", "late post late"], [0, 0, 1, 1], terms=1)
    {0: ['money'], 1: ['late']}
    """
    if len(texts) != len(groups):
        raise ValueError(f"groups must have one for each text, got {len(groups)} for {len(texts)}")
    if terms < 1:
        raise ValueError(f"terms must be at least 1 word, got {terms}")
    codes, names = pd.factorize(pd.Series(list(groups)), sort=True)
    try:
        vectorizer = CountVectorizer(stop_words="english", token_pattern=WORD)
        counts = vectorizer.fit_transform([str(text) for text in texts])  # (n, words)
    except ValueError:  # not one word: empty texts, stop words or signs only
        return {name: [] for name in names}
    known = codes >= 0
    members = sparse.csr_matrix(
        (known[known].astype(float), (codes[known], np.flatnonzero(known))), (len(names), len(codes))
    )
    counts = (members @ counts).toarray()  # (groups, words)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    weights = share * np.log1p(counts.sum() / len(names) / np.maximum(counts.sum(axis=0), 1))
    words = vectorizer.get_feature_names_out()
    best = np.argsort(-weights, axis=1, kind="stable")[:, :terms]
    return {
        name: [str(words[word]) for word in row if weights[group, word] > 0]
        for group, (name, row) in enumerate(zip(names, best, strict=True))
    }
