"""Maps of embeddings: PCA, UMAP, films of a training, clusters; and how much of the original space a map keeps.

Embeddings are `(n, dim)` with at least 3 different rows; a map is `(n, 2)`, float32. Arguments that functions share:

- `n_neighbors`: size of a neighbourhood. For UMAP, few neighbours show detail, many the overall structure.
- `min_dist`: how closely UMAP may pack points, 0 to 1.
- `metric`: "cosine" or "euclidean" in the original space; a zero vector has no cosine.
- `seed`: of the layout or the sample.

A ValueError says which embeddings have no map, an ImportError that UMAP is not installed.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch.nn.functional as F
from scipy import sparse
from scipy.linalg import orthogonal_procrustes
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import PCA
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.manifold import trustworthiness
from sklearn.neighbors import NearestNeighbors

from sbertlab.checks import check_choice, check_same_length, checked_number
from sbertlab.storage.files import sha256_of
from sbertlab.storage.find import cache_home
from sbertlab.util import Embeddings, as_tensor

METRICS = ("cosine", "euclidean")

FEWEST_POINTS = 3
"""Two points lie on a line, whatever they are."""

METHODS = ("chained", "aligned", "pca")
"""Kinds of film, see `film`."""

ALIGNED_POINTS = 32
"""AlignedUMAP fails on very few points; a film of fewer is chained."""

PACKAGES = ("umap-learn", "numba", "pynndescent", "scikit-learn", "numpy")
"""Coordinates depend on the versions of these."""

SMALLEST_CLUSTER = 5
"""Least number of texts per cluster on average; fewer have no characteristic terms."""

WORD = r"(?u)\b[^\W\d_]\w+\b"
"""A term of a cluster: at least two characters, the first one a letter."""


def pca(embeddings: Embeddings) -> np.ndarray:
    """Return the projection on the two directions of largest variance, centred: linear, fast and repeatable.

    >>> xy = pca([[0, 0, 5], [2, 0, 5], [4, 0, 5], [2, 1, 5]])
    >>> np.abs(xy).round(2).tolist()
    [[2.0, 0.25], [0.0, 0.25], [2.0, 0.25], [0.0, 0.75]]
    """
    rows = _rows(embeddings)
    if rows.shape[1] < 2:
        raise ValueError(f"a map needs embeddings of at least 2 dimensions, got the shape {rows.shape}")
    return PCA(n_components=2, svd_solver="covariance_eigh").fit_transform(rows).astype(np.float32)


def umap_map(
    embeddings: Embeddings,
    n_neighbors: int = 15,
    min_dist: float = 0.1,
    seed: int = 0,
    metric: str = "cosine",
    init: np.ndarray | None = None,
) -> np.ndarray:
    """Return a UMAP layout, which keeps nearest neighbours together.

    Neighbourhoods and groups mean something; the distance between groups, their size and density mostly do not. A seed
    repeats bit for bit on one machine only. `init` `(n, 2)` are the starting points, for example an earlier map. The
    first call takes about 20 s, because UMAP is compiled.

    Source: McInnes, Healy, Melville, 2018, UMAP: Uniform Manifold Approximation and Projection (arXiv:1802.03426).
    """
    rows = _rows(embeddings, metric)
    _check_layout(n_neighbors, min_dist)
    start: str | np.ndarray = "spectral" if len(rows) > 16 else "pca"  # the spectral start needs more points
    if init is not None:
        start = np.array(_places(init, len(rows)), dtype=np.float32)  # a copy, which UMAP moves
    layout = _umap().UMAP(
        n_neighbors=min(n_neighbors, len(rows) - 1),
        min_dist=min_dist,
        metric=metric,
        random_state=seed,
        n_jobs=1,  # a seeded layout runs in one thread anyway; asking for it avoids a warning
        init=start,
    )
    return np.asarray(layout.fit_transform(rows), dtype=np.float32)


def cached_umap(embeddings: Embeddings, folder: str | os.PathLike[str] | None = None, **settings: Any) -> np.ndarray:
    """Return `umap_map(embeddings, **settings)`, computed once and then read from disk, even without umap-learn.

    The key is the content of embeddings and settings, this file and the versions of `PACKAGES`. Damaged files are
    computed again. `folder` defaults to maps in sbertlab's cache.
    """
    import joblib

    home = cache_home() / "maps" if folder is None else Path(folder).expanduser()
    rows = np.ascontiguousarray(as_tensor(embeddings).detach().cpu().numpy())
    versions = [next((found.version for found in metadata.distributions(name=name)), "") for name in PACKAGES]
    layout: Any = _keyed_umap
    try:
        layout = joblib.Memory(home, verbose=0).cache(_keyed_umap)
    except OSError as error:
        warnings.warn(f"the map is not cached: {home} cannot be written ({error})", stacklevel=2)
    return layout([sha256_of(Path(__file__)), *versions], rows, settings)


def _keyed_umap(key: list[str], rows: np.ndarray, settings: dict[str, Any]) -> np.ndarray:
    return umap_map(rows, **settings)


@dataclass(frozen=True)
class MapQuality:
    """How much of the original space a map preserves; shares from 0 to 1, higher is better.

    | measure         | of each point's k nearest                               | is lowered by         |
    | --------------- | ------------------------------------------------------- | --------------------- |
    | trustworthiness | on the map: how near they are in the original space     | false neighbours      |
    | continuity      | in the original space: how near they are on the map     | neighbours torn apart |
    | neighbor_recall | in the original space: the share also nearest on the map | both, the strictest  |

    >>> print(MapQuality(0.951, 0.962, 0.403, n_neighbors=15, points=50000, measured=2000))
    trustworthiness 0.95 · continuity 0.96 · 15-neighbour recall 0.40 · on 2,000 of 50,000 points
    """

    trustworthiness: float
    continuity: float
    neighbor_recall: float
    n_neighbors: int
    points: int
    measured: int

    def __str__(self) -> str:
        shares = (
            f"trustworthiness {self.trustworthiness:.2f} · continuity {self.continuity:.2f} · "
            f"{self.n_neighbors}-neighbour recall {self.neighbor_recall:.2f}"
        )
        return shares if self.measured == self.points else f"{shares} · on {self.measured:,} of {self.points:,} points"


def map_quality(
    embeddings: Embeddings,
    xy: Embeddings,
    n_neighbors: int = 15,
    metric: str = "cosine",
    most_points: int = 2000,
    seed: int = 0,
) -> MapQuality:
    """Measure how well a map `xy` `(n, 2)` preserves neighbourhoods: see `MapQuality`.

    k is at most half of the points. Of more than `most_points` a random sample is measured, which flatters the first
    two measures. Source: Venna and Kaski, 2001, Neighborhood preservation in nonlinear projection methods.

    >>> line, swapped = [[1], [2], [4], [8], [16]], [[16, 0], [2, 0], [4, 0], [8, 0], [1, 0]]
    >>> round(map_quality(line, swapped, n_neighbors=1, metric="euclidean").trustworthiness, 4)
    0.5333
    """
    rows = _rows(embeddings, metric)
    places = _places(xy, len(rows))
    checked_number("n_neighbors", n_neighbors, 1, whole=True)
    measured = min(len(rows), checked_number("most_points", most_points, FEWEST_POINTS, whole=True))
    sample = np.sort(np.random.default_rng(seed).choice(len(rows), measured, replace=False))
    k = min(n_neighbors, (measured - 1) // 2)
    return MapQuality(
        float(trustworthiness(rows[sample], places[sample], n_neighbors=k)),
        float(trustworthiness(places[sample], rows[sample], n_neighbors=k)),
        float(_kept(rows, places, sample, k).mean()),
        n_neighbors=k,
        points=len(rows),
        measured=measured,
    )


def film(
    spaces: Mapping[str, Embeddings],
    method: str = "chained",
    *,
    n_neighbors: int = 15,
    min_dist: float = 0.1,
    seed: int = 0,
    metric: str = "cosine",
) -> dict[str, np.ndarray]:
    """Return comparable maps of the same texts at several moments of training, by the name of each moment.

    | method  | frames                                                      | what to expect                       |
    | ------- | ----------------------------------------------------------- | ------------------------------------ |
    | chained | each UMAP map starts where the one before ended             | calm and honest                      |
    | aligned | AlignedUMAP lays out all at once, each point tied to itself | smoothest, about three times as slow |
    | pca     | one PCA of all moments                                      | seconds; keeps few neighbourhoods    |

    >>> line = np.array([[0.0, 0, 1], [1, 0, 1], [2, 1, 1], [5, 0, 1]])
    >>> frames = film({"before": line, "after": 2 * line}, "pca", metric="euclidean")
    >>> round(float(np.ptp(frames["after"][:, 0]) / np.ptp(frames["before"][:, 0])), 2)
    2.0
    """
    check_choice("method", method, METHODS)
    moments = _moments(spaces, metric)
    _check_layout(n_neighbors, min_dist)
    if method == "pca":
        sizes = {rows.shape[1] for rows in moments.values()}
        if len(sizes) > 1:
            raise ValueError(f'one PCA needs embeddings of one size, got {sorted(sizes)}; use method="chained"')
        whole = pca(np.concatenate(list(moments.values())))
        return dict(zip(moments, np.split(whole, len(moments)), strict=True))
    points = len(next(iter(moments.values())))
    if method == "aligned" and points >= ALIGNED_POINTS and len(moments) > 1:
        mapper = _umap().AlignedUMAP(
            n_neighbors=min(n_neighbors, points - 1), min_dist=min_dist, metric=metric, random_state=seed
        )
        same = {row: row for row in range(points)}
        with warnings.catch_warnings():  # about threads that a seeded layout cannot use
            warnings.filterwarnings("ignore", message="n_jobs value")
            made = mapper.fit(list(moments.values()), relations=[same] * (len(moments) - 1))
        return {name: np.asarray(xy, np.float32) for name, xy in zip(moments, list(made.embeddings_), strict=True)}
    frames: dict[str, np.ndarray] = {}
    last: np.ndarray | None = None
    for name, rows in moments.items():
        xy = umap_map(rows, n_neighbors, min_dist, seed, metric, init=last)
        last = frames[name] = xy if last is None else turned(xy, last)
    return frames


def turned(xy: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Rotate, mirror and shift a map onto another map of the same rows; its scale stays.

    Source: Schoenemann, 1966, A generalized solution of the orthogonal Procrustes problem.

    >>> turned(np.array([[0.0, 0], [0, 2], [0, 4]]), np.array([[1.0, 1], [2, 1], [3, 1]])).round(6).tolist()
    [[0.0, 1.0], [2.0, 1.0], [4.0, 1.0]]
    """
    centre, there = xy.mean(axis=0), reference.mean(axis=0)
    rotation, _ = orthogonal_procrustes(xy - centre, reference - there)
    return ((xy - centre) @ rotation + there).astype(xy.dtype)


def film_quality(
    spaces: Mapping[str, Embeddings], frames: Mapping[str, np.ndarray], n_neighbors: int = 15, metric: str = "cosine"
) -> pd.DataFrame:
    """Return for each moment what its map keeps and how far its points moved.

    Columns trustworthiness, continuity and neighbor_recall (see `map_quality`), drift (see `drift`) and neighbors_kept:
    the share of each text's nearest in the original space that were already nearest a moment before, which is what
    training changed. The last two are NaN for the first moment.
    """
    if list(spaces) != list(frames):
        raise ValueError(f"spaces and frames must have the same moments, got {list(spaces)} and {list(frames)}")
    moments = _moments(spaces, metric)
    table = pd.DataFrame([vars(map_quality(moments[name], frames[name], n_neighbors, metric)) for name in moments])
    kept = [
        float(neighbors_kept(*pair, k, metric).mean())
        for pair, k in zip(pairwise(moments.values()), table["n_neighbors"], strict=False)
    ]
    columns = {"drift": [np.nan, *drift(list(frames.values()))], "neighbors_kept": [np.nan, *kept]}
    return table[["trustworthiness", "continuity", "neighbor_recall"]].assign(**columns).set_axis(list(moments))


def drift(frames: Sequence[np.ndarray]) -> list[float]:
    """Return the mean step of the points between frames, divided by the radius of the later frame.

    The radius is the root mean square distance from the centre: 0 is a still picture, about 1 a reshuffled one.

    >>> square = np.array([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    >>> [round(step, 3) for step in drift([square, square, -square])]
    [0.0, 2.0]
    """
    steps = []
    for old, new in pairwise(frames):
        radius = np.sqrt(((new - new.mean(axis=0)) ** 2).sum(axis=1).mean())
        steps.append(float(np.linalg.norm(new - old, axis=1).mean() / max(radius, 1e-12)))
    return steps


def neighbors_kept(before: Embeddings, after: Embeddings, n_neighbors: int = 15, metric: str = "cosine") -> np.ndarray:
    """Return for each text the share of its nearest in one space that are also nearest in another, `(n,)`.

    >>> line, moved = [[1.0], [2], [4], [9], [10]], [[1.0], [2], [8], [9], [10.5]]
    >>> neighbors_kept(line, moved, 1, "euclidean").tolist()
    [1.0, 1.0, 0.0, 0.0, 1.0]
    """
    first, second = (_rows(rows, metric) for rows in (before, after))
    check_same_length(before=first, after=second)
    checked_number("n_neighbors", n_neighbors, 1, len(first) - 1, whole=True)
    return _kept(first, second, np.arange(len(first)), n_neighbors).mean(axis=1)


def find_clusters(embeddings: Embeddings, count: int = 12, seed: int = 0, metric: str = "cosine") -> np.ndarray:
    """Return the k-means cluster of each embedding, `(n,)` from 0; fewer than `count` clusters for few embeddings.

    Source: Sculley, 2010, Web-scale k-means clustering (the mini-batch form of scikit-learn).

    >>> found = find_clusters([[1, 0], [1, 0.1], [0, 1], [0.1, 1]] * 5, count=2)
    >>> bool(found[0] == found[1] != found[2] == found[3])
    True
    """
    checked_number("count", count, 1, whole=True)
    rows = as_tensor(embeddings, finite=True).detach().cpu()
    if rows.dim() != 2 or not len(rows):
        raise ValueError(f"embeddings must have the shape (n, dim) with n at least 1, got {tuple(rows.shape)}")
    points = (F.normalize(rows, dim=1) if metric == "cosine" else rows).numpy()
    clusters = max(1, min(count, len(points) // SMALLEST_CLUSTER))
    return MiniBatchKMeans(clusters, random_state=seed, n_init=3, batch_size=4096).fit_predict(points)


def cluster_terms(texts: Sequence[str], groups: Sequence[Any] | np.ndarray, terms: int = 3) -> dict[Any, list[str]]:
    """Return for each group, in ascending order, the words frequent in it and rare in the others, best first.

    `weight(word, group) = share of the word in the group * log(1 + words per group / count of the word)`: c-TF-IDF,
    without English stop words.

    Source: Grootendorst, 2022, BERTopic: Neural topic modeling with a class-based TF-IDF procedure (arXiv:2203.05794).

    >>> cluster_terms(["refund money", "money please", "parcel late", "late post late"], [0, 0, 1, 1], terms=1)
    {0: ['money'], 1: ['late']}
    """
    check_same_length(texts=texts, groups=groups)
    checked_number("terms", terms, 1, whole=True)
    codes, names = pd.factorize(pd.Series(list(groups)), sort=True)
    try:
        vectorizer = CountVectorizer(stop_words="english", token_pattern=WORD)
        counts = vectorizer.fit_transform([str(text) for text in texts])  # (n, words)
    except ValueError:  # no word at all: empty texts, stop words or punctuation only
        return {name: [] for name in names}
    known = np.flatnonzero(codes >= 0)
    members = sparse.csr_matrix((np.ones(len(known)), (codes[known], known)), (len(names), len(codes)))
    counts = (members @ counts).toarray()  # (groups, words)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    weights = share * np.log1p(counts.sum() / len(names) / np.maximum(counts.sum(axis=0), 1))
    words = vectorizer.get_feature_names_out()
    best = np.argsort(-weights, axis=1, kind="stable")[:, :terms]
    return {
        name: [str(words[word]) for word in row if weights[group, word] > 0]
        for group, (name, row) in enumerate(zip(names, best, strict=True))
    }


def _umap() -> Any:
    try:
        import umap
    except ImportError as error:
        raise ImportError('UMAP maps need umap-learn: pip install "sbertlab[lab]"; maps.pca does not') from error
    return umap


def _check_layout(n_neighbors: int, min_dist: float) -> None:
    checked_number("n_neighbors", n_neighbors, 2, whole=True)
    checked_number("min_dist", min_dist, 0, 1)


def _rows(embeddings: Embeddings, metric: str = "euclidean") -> np.ndarray:
    """Checked embeddings `(n, dim)`; scaled to unit length for "cosine", where euclidean order is cosine order."""
    check_choice("metric", metric, METRICS)
    rows = as_tensor(embeddings, finite=True).detach().cpu()
    if rows.dim() != 2 or len(rows) < FEWEST_POINTS:
        raise ValueError(f"a map needs embeddings (n, dim) with n at least {FEWEST_POINTS}, got {tuple(rows.shape)}")
    if (rows == rows[0]).all():
        raise ValueError(f"all {len(rows)} embeddings are equal: there is nothing to map, the model has collapsed")
    if metric == "cosine":
        if zeros := (rows == 0).all(dim=1).nonzero().flatten().tolist():
            raise ValueError(
                f"embeddings hold {len(zeros)} zero vectors, the first in row {zeros[0]}, which have no cosine; remove "
                'these rows (texts without a known token?) or use metric="euclidean"'
            )
        rows = F.normalize(rows, dim=1)
    return rows.numpy()


def _places(xy: Embeddings, count: int) -> np.ndarray:
    """Checked coordinates `(count, 2)`."""
    places = as_tensor(xy, "xy", finite=True).detach().cpu().numpy()
    if places.shape != (count, 2):
        raise ValueError(f"xy must have the shape ({count}, 2), one row per embedding, got {places.shape}")
    return places


def _moments(spaces: Mapping[str, Embeddings], metric: str) -> dict[str, np.ndarray]:
    """Checked embeddings of every moment, all of one length."""
    if not spaces:
        raise ValueError("spaces must hold the embeddings of at least one moment, got none")
    moments = {name: _rows(rows, metric) for name, rows in spaces.items()}
    check_same_length(**{str(name): rows for name, rows in moments.items()})
    return moments


def nearest(space: np.ndarray, queries: np.ndarray, n_neighbors: int) -> np.ndarray:
    """The rows of `space` `(n, dim)` nearest to each query row, without itself, `(m, n_neighbors)`; euclidean."""
    search = NearestNeighbors(n_neighbors=n_neighbors + 1, algorithm="brute").fit(space)
    found = search.kneighbors(space[queries], return_distance=False)
    others = found != queries[:, None]
    others[others.all(axis=1), -1] = False  # among equal rows a query may miss itself
    return found[others].reshape(-1, n_neighbors)


def _kept(first: np.ndarray, second: np.ndarray, queries: np.ndarray, n_neighbors: int) -> np.ndarray:
    """Which neighbours of each query row in one space are also its neighbours in another, `(m, n_neighbors)`."""
    one, other = (nearest(space, queries, n_neighbors) for space in (first, second))
    return (one[:, :, None] == other[:, None, :]).any(axis=2)  # (m, k, k) -> (m, k)
