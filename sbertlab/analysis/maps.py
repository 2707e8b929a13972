"""Maps: embeddings drawn on a plane, and how much of the original space such a drawing keeps.

PCA is fast, linear and the same everywhere: the overview. UMAP shows neighbourhoods and groups, but the distances
between its groups, their sizes and their density mean little. `map_quality` says what a map kept of the original space.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from sklearn import manifold
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from sbertlab.util import Embeddings, as_tensor

METRICS = ("cosine", "euclidean")
"""Distances in the original space that maps and their quality know."""

FEWEST_POINTS = 3
"""Two points make a line whatever they are; a map begins at three."""


@dataclass(frozen=True)
class MapQuality:
    """What a map keeps of the original space; every share is between 0 and 1, higher is better.

    >>> print(MapQuality(0.951, 0.962, 0.403, n_neighbors=15, points=900, measured=900))
    trustworthiness 0.95 · continuity 0.96 · 15-neighbour recall 0.40
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


def pca(embeddings: Embeddings) -> np.ndarray:
    """Coordinates along the two directions in which the embeddings vary most.

    Linear, fast and repeatable; signs are those of scikit-learn. A good first look and a fair one for comparing models,
    but two directions of several hundred keep little of the neighbourhoods.

    Args:
        embeddings: `(n, dim)`, at least 3 rows and 2 dimensions.

    Returns:
        `(n, 2)`, float32, centred on the origin.

    Raises:
        ValueError: fewer than 3 rows or all of them equal, fewer than 2 dimensions, NaN or infinite values.

    Source: Hotelling, 1933, Analysis of a complex of statistical variables into principal components.

    >>> xy = pca([[0, 0, 5], [2, 0, 5], [4, 0, 5], [2, 1, 5]])
    >>> np.abs(xy).round(2).tolist()
    [[2.0, 0.25], [0.0, 0.25], [2.0, 0.25], [0.0, 0.75]]
    """
    rows = matrix(embeddings)
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
    """Coordinates that keep each point's nearest neighbours near: UMAP.

    Read it for neighbourhoods and groups. The distance between groups, their size and their density are mostly products
    of the method, and noise makes clumps too. A seed repeats bit for bit on one machine; on another one the
    neighbourhoods agree and the coordinates do not. The first call takes some 20 s: UMAP is imported and compiled then.

    Args:
        embeddings: `(n, dim)`, at least 3 rows.
        n_neighbors: neighbours of a point that the map should keep: few show detail, many the large picture. With fewer
            points than that, all others.
        min_dist: how closely points may be packed, 0 to 1.
        seed: of the layout.
        metric: "cosine" or "euclidean", in the original space.
        init: `(n, 2)`, where the points begin, such as the map of an earlier state; None: UMAP's own beginning.

    Returns:
        `(n, 2)`, float32.

    Raises:
        ImportError: umap-learn is not installed.
        ValueError: fewer than 3 rows or all of them equal, NaN or infinite values, an argument out of range, a zero
            vector with "cosine".

    Source: McInnes, Healy, Melville, 2018, UMAP: Uniform Manifold Approximation and Projection (arXiv:1802.03426).
    """
    rows = matrix(embeddings, metric)
    check_layout(n_neighbors, min_dist)
    start: str | np.ndarray = "spectral" if len(rows) > 16 else "pca"  # the spectral start needs more points than these
    if init is not None:
        start = np.array(_pair(rows, init, "euclidean")[1], dtype=np.float32)  # a copy, which UMAP moves
    try:
        import umap
    except ImportError as error:
        raise ImportError('umap_map needs umap-learn: pip install "sbertlab[lab]"; maps.pca does without') from error
    layout = umap.UMAP(
        n_neighbors=min(n_neighbors, len(rows) - 1),
        min_dist=min_dist,
        metric=metric,
        random_state=seed,
        n_jobs=1,  # a seeded layout runs in one thread in any case; asking for it spares a warning
        init=start,
    )
    return np.asarray(layout.fit_transform(rows), dtype=np.float32)


def check_layout(n_neighbors: int, min_dist: float) -> None:
    """Refuse settings of UMAP that are out of range."""
    if n_neighbors < 2:
        raise ValueError(f"n_neighbors must be at least 2, got {n_neighbors}")
    if not 0 <= min_dist <= 1:
        raise ValueError(f"min_dist must be between 0 and 1, got {min_dist}")


def map_quality(
    embeddings: Embeddings,
    xy: Embeddings,
    n_neighbors: int = 15,
    metric: str = "cosine",
    most_points: int = 2000,
    seed: int = 0,
) -> MapQuality:
    """Trustworthiness, continuity and neighbour recall of a map, all judged by the original space.

    The first two compare all points with all others, so of more than `most_points` points a random sample of that many
    is taken; neighbourhoods inside a sample are wider, which flatters them. Recall seeks neighbours among all points.

    Args:
        embeddings: `(n, dim)`.
        xy: `(n, 2)`, the same rows on the map.
        n_neighbors: size of a neighbourhood; with few points, the most that is less than half of them.
        metric: "cosine" or "euclidean", in the original space.
        most_points: measure at most so many.
        seed: of the sample.

    Raises:
        ValueError: fewer than 3 rows or all of them equal, `xy` of another length or shape, NaN or infinite values, a
            zero vector with "cosine".

    >>> line = [[1, 0], [2, 0], [4, 0], [8, 0], [16, 0]]
    >>> print(map_quality(line, line, metric="euclidean"))
    trustworthiness 1.00 · continuity 1.00 · 2-neighbour recall 1.00
    """
    rows, places = _pair(embeddings, xy, metric)
    if n_neighbors < 1:
        raise ValueError(f"n_neighbors must be at least 1, got {n_neighbors}")
    if most_points < FEWEST_POINTS:
        raise ValueError(f"most_points must be at least {FEWEST_POINTS}, got {most_points}")
    measured = min(len(rows), most_points)
    sample = np.sort(np.random.default_rng(seed).choice(len(rows), measured, replace=False))
    neighbors = min(n_neighbors, (measured - 1) // 2)
    return MapQuality(
        trustworthiness(rows[sample], places[sample], neighbors, "euclidean"),
        continuity(rows[sample], places[sample], neighbors, "euclidean"),
        neighbor_recall(rows, places, neighbors, "euclidean", queries=sample),
        n_neighbors=neighbors,
        points=len(rows),
        measured=measured,
    )


def trustworthiness(embeddings: Embeddings, xy: Embeddings, n_neighbors: int = 15, metric: str = "cosine") -> float:
    """How far the neighbours on the map are true neighbours: 1 when none was far away in the original space.

    `1 - 2 / (n k (2n - 3k - 1)) * sum_i sum_j (rank(i, j) - k)`, over the neighbours j of i on the map that are not
    among the k nearest in the original space, where `rank(i, j)` is j's rank. False neighbours lower it, torn ones do
    not.

    Args:
        embeddings: `(n, dim)`.
        xy: `(n, 2)`, the same rows on the map.
        n_neighbors: k, less than half of the points.
        metric: "cosine" or "euclidean", in the original space.

    Raises:
        ValueError: as `map_quality`, and too many neighbours.

    Source: Venna and Kaski, 2001, Neighborhood preservation in nonlinear projection methods.

    The first and the last point of a line change places; three points get a neighbour that was their third, fourth and
    third nearest: 1 - 2 / (5 (10 - 3 - 1)) * (2 + 3 + 2).

    >>> line, swapped = [[1], [2], [4], [8], [16]], [[16, 0], [2, 0], [4, 0], [8, 0], [1, 0]]
    >>> round(trustworthiness(line, swapped, n_neighbors=1, metric="euclidean"), 4)
    0.5333
    """
    rows, places = _pair(embeddings, xy, metric)
    _check_neighbors(n_neighbors, len(rows))
    return float(manifold.trustworthiness(rows, places, n_neighbors=n_neighbors))


def continuity(embeddings: Embeddings, xy: Embeddings, n_neighbors: int = 15, metric: str = "cosine") -> float:
    """How far true neighbours stay together on the map: 1 when none was torn away.

    Trustworthiness with the two spaces exchanged. Torn neighbours lower it, false ones do not. Arguments, errors and
    source are those of `trustworthiness`.

    >>> line, swapped = [[16], [2], [4], [8], [1]], [[1, 0], [2, 0], [4, 0], [8, 0], [16, 0]]
    >>> round(continuity(line, swapped, n_neighbors=1, metric="euclidean"), 4)
    0.5333
    """
    rows, places = _pair(embeddings, xy, metric)
    _check_neighbors(n_neighbors, len(rows))
    return float(manifold.trustworthiness(places, rows, n_neighbors=n_neighbors))


def neighbor_recall(
    embeddings: Embeddings,
    xy: Embeddings,
    n_neighbors: int = 15,
    metric: str = "cosine",
    queries: np.ndarray | None = None,
) -> float:
    """The share of each point's k nearest in the original space that are among its k nearest on the map.

    The strictest of the three: a map of a space of several hundred dimensions that keeps half of them is a good one.

    Args:
        embeddings: `(n, dim)`.
        xy: `(n, 2)`, the same rows on the map.
        n_neighbors: k, less than half of the points.
        metric: "cosine" or "euclidean", in the original space.
        queries: `(m,)`, the rows to average over, all when None; their neighbours are sought among all rows.

    Raises:
        ValueError: as `map_quality`, and too many neighbours.

    The third and the last point of a line move away; only the first and the last keep the nearest they had.

    >>> line, moved = [[0], [2], [3], [9], [10]], [[0, 0], [2, 0], [8, 0], [9, 0], [20, 0]]
    >>> neighbor_recall(line, moved, n_neighbors=1, metric="euclidean")
    0.4
    """
    rows, places = _pair(embeddings, xy, metric)
    _check_neighbors(n_neighbors, len(rows))
    queries = np.arange(len(rows)) if queries is None else np.asarray(queries)
    true, drawn = (nearest(space, queries, n_neighbors) for space in (rows, places))
    return float((true[:, :, None] == drawn[:, None, :]).any(axis=2).mean())  # (m, k, k) -> (m, k)


def nearest(space: np.ndarray, queries: np.ndarray, n_neighbors: int) -> np.ndarray:
    """The rows of `space` `(n, dim)` nearest to each query row, itself left out, `(m, n_neighbors)`; euclidean."""
    search = NearestNeighbors(n_neighbors=n_neighbors + 1, algorithm="brute").fit(space)
    found = search.kneighbors(space[queries], return_distance=False)
    others = found != queries[:, None]
    others[others.all(axis=1), -1] = False  # among equal rows a query may miss itself
    return found[others].reshape(-1, n_neighbors)


def matrix(embeddings: Embeddings, metric: str = "euclidean") -> np.ndarray:
    """Checked embeddings `(n, dim)`; scaled to unit length for "cosine", where euclidean order is cosine order.

    Raises:
        ValueError: fewer than 3 rows or all of them equal, NaN or infinite values, an unknown metric, a zero vector
            with "cosine".
    """
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {METRICS}, got {metric!r}")
    rows = as_tensor(embeddings, finite=True).detach().cpu()
    if rows.dim() != 2 or len(rows) < FEWEST_POINTS:
        raise ValueError(
            f"a map needs embeddings of the shape (n, dim) with n at least {FEWEST_POINTS}, got {tuple(rows.shape)}"
        )
    if (rows == rows[0]).all():
        raise ValueError(f"all {len(rows)} embeddings are equal: there is nothing to map, the model has collapsed")
    if metric == "cosine":
        empty = (rows == 0).all(dim=1).nonzero().flatten().tolist()
        if empty:
            raise ValueError(
                f"embeddings hold {len(empty)} zero vectors, the first in row {empty[0]}, and these have no cosine; "
                'remove the rows (texts without any known token?) or take metric="euclidean"'
            )
        rows = F.normalize(rows, dim=1)
    return rows.numpy()


def _pair(embeddings: Embeddings, xy: Embeddings, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Checked embeddings `(n, dim)` and their places on the map `(n, 2)`."""
    rows = matrix(embeddings, metric)
    places = as_tensor(xy, "xy", finite=True).detach().cpu().numpy()
    if places.shape != (len(rows), 2):
        raise ValueError(f"xy must have the shape ({len(rows)}, 2), a place for each embedding, got {places.shape}")
    return rows, places


def _check_neighbors(n_neighbors: int, points: int) -> None:
    if not 1 <= n_neighbors < points / 2:
        raise ValueError(f"n_neighbors must be at least 1 and less than half of the {points} points, got {n_neighbors}")
