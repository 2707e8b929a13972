"""Maps of embeddings: PCA, UMAP, films of a training; and how much of the original space a map keeps.

Embeddings are `(n, dim)`, at least 3; a map is `(n, 2)`, float32. Neighbours in the original space are those by cosine.
"""

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
from scipy.linalg import orthogonal_procrustes
from sklearn.decomposition import PCA
from sklearn.manifold import trustworthiness
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from sbertlab.checks import check_choice, check_same_length
from sbertlab.data.texts import first_rows
from sbertlab.storage.files import sha256_of
from sbertlab.storage.find import cache_home
from sbertlab.util import Embeddings, as_tensor

FEWEST_POINTS = 3
"""Two points lie on a line, whatever they are."""

PACKAGES = ("umap-learn", "numba", "pynndescent", "scikit-learn", "numpy")
"""Coordinates depend on the versions of these."""


def pca(embeddings: Embeddings) -> np.ndarray:
    """Return the projection on the two directions of largest variance, centred: linear, fast and repeatable.

    >>> xy = pca([[0, 0, 5], [2, 0, 5], [4, 0, 5], [2, 1, 5]])
    >>> np.abs(xy).round(2).tolist()
    [[2.0, 0.25], [0.0, 0.25], [2.0, 0.25], [0.0, 0.75]]
    """
    return PCA(n_components=2, svd_solver="covariance_eigh").fit_transform(_rows(embeddings).numpy()).astype(np.float32)


def umap_map(
    embeddings: Embeddings, n_neighbors: int = 15, min_dist: float = 0.1, seed: int = 0, init: np.ndarray | None = None
) -> np.ndarray:
    """Return a UMAP layout, which keeps nearest neighbours together.

    Few `n_neighbors` show detail, many the overall structure; `min_dist`, 0 to 1, is how closely points may be packed.
    Neighbourhoods and groups mean something; the distance between groups, their size and density mostly do not. A seed
    repeats bit for bit on one machine only. `init` `(n, 2)` are the starting points, for example an earlier map. The
    first call takes about 20 s, because UMAP is compiled.

    Source: McInnes, Healy, Melville, 2018, UMAP: Uniform Manifold Approximation and Projection (arXiv:1802.03426).
    """
    rows = _directions(embeddings)
    first, places = np.unique(first_rows(row.tobytes() for row in rows), return_inverse=True)  # equal rows, one place
    if len(first) < FEWEST_POINTS:
        return pca(embeddings)
    rows = rows[first]
    start = "spectral" if len(rows) > 16 else "pca"  # the spectral start needs more points
    layout = _umap().UMAP(
        n_neighbors=min(n_neighbors, len(rows) - 1),
        min_dist=min_dist,
        metric="cosine",
        random_state=seed,
        n_jobs=1,  # a seeded layout runs in one thread anyway; asking for it avoids a warning
        init=start if init is None else np.array(init, dtype=np.float32)[first],  # a copy, which UMAP moves
    )
    return np.asarray(layout.fit_transform(rows), dtype=np.float32)[places]


def cached_umap(embeddings: Embeddings, folder: str | os.PathLike[str] | None = None, **settings: Any) -> np.ndarray:
    """Return `umap_map(embeddings, **settings)`, computed once and then read from disk, even without umap-learn.

    The key is the content of embeddings and settings, this file and the versions of `PACKAGES`. Damaged files are
    computed again. `folder` defaults to maps in sbertlab's cache.
    """
    import joblib

    rows = np.ascontiguousarray(as_tensor(embeddings).detach().cpu().numpy())
    versions = [next((found.version for found in metadata.distributions(name=name)), "") for name in PACKAGES]
    layout: Any = joblib.Memory(folder or cache_home() / "maps", verbose=0).cache(_keyed_umap)
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
    embeddings: Embeddings, xy: Embeddings, n_neighbors: int = 15, most_points: int = 2000, seed: int = 0
) -> MapQuality:
    """Measure how well a map `xy` `(n, 2)` preserves neighbourhoods: see `MapQuality`.

    k is at most half of the points. Of more than `most_points` a random sample is measured, which flatters the first
    two measures. Source: Venna and Kaski, 2001, Neighborhood preservation in nonlinear projection methods.
    """
    rows, places = _directions(embeddings), as_tensor(xy, "xy", finite=True).detach().cpu().numpy()
    check_same_length(embeddings=rows, xy=places)
    measured = min(len(rows), most_points)
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


def film(spaces: Mapping[str, Embeddings], method: str = "chained", seed: int = 0) -> dict[str, np.ndarray]:
    """Return comparable maps of the same texts at several moments of training, by the name of each moment.

    | method  | frames                                                      | what to expect                       |
    | ------- | ----------------------------------------------------------- | ------------------------------------ |
    | chained | each UMAP map starts where the one before ended             | calm and honest                      |
    | aligned | AlignedUMAP lays out all at once, each point tied to itself | smoothest, about three times as slow |
    | pca     | one PCA of all moments                                      | seconds; keeps few neighbourhoods    |
    """
    check_choice("method", method, ("chained", "aligned", "pca"))
    every = [_directions(rows) for rows in spaces.values()]
    check_same_length(**dict(zip(map(str, spaces), every, strict=True)))
    if method == "pca":
        frames = np.split(pca(np.concatenate(every)), len(every))
    elif method == "aligned":
        same = {row: row for row in range(len(every[0]))}
        mapper = _umap().AlignedUMAP(n_neighbors=15, metric="cosine", random_state=seed)
        with warnings.catch_warnings():  # about threads that a seeded layout cannot use
            warnings.filterwarnings("ignore", message="n_jobs value")
            made = mapper.fit(every, relations=[same] * (len(every) - 1))
        frames = [np.asarray(xy, np.float32) for xy in made.embeddings_]
    else:
        frames = [umap_map(every[0], seed=seed)]
        for rows in every[1:]:
            frames.append(turned(umap_map(rows, seed=seed, init=frames[-1]), frames[-1]))
    return dict(zip(spaces, frames, strict=True))


def turned(xy: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Rotate, mirror and shift a map onto another map of the same rows; its scale stays.

    Source: Schoenemann, 1966, A generalized solution of the orthogonal Procrustes problem.
    """
    centre, there = xy.mean(axis=0), reference.mean(axis=0)
    rotation, _ = orthogonal_procrustes(xy - centre, reference - there)
    return ((xy - centre) @ rotation + there).astype(xy.dtype)


def film_quality(
    spaces: Mapping[str, Embeddings], frames: Mapping[str, np.ndarray], n_neighbors: int = 15
) -> pd.DataFrame:
    """Return for each moment what its map keeps (see `map_quality`) and how far its points moved (see `drift`).

    Column neighbors_kept is the share of each text's nearest in the original space that were already nearest a moment
    before, which is what training changed. It and drift are NaN for the first moment.
    """
    qualities = [map_quality(spaces[name], frames[name], n_neighbors) for name in spaces]
    table = pd.DataFrame([vars(quality) for quality in qualities], index=list(spaces))
    kept = [float(neighbors_kept(*pair, qualities[0].n_neighbors).mean()) for pair in pairwise(spaces.values())]
    moved = [np.nan, *drift(list(frames.values()))]
    table = table[["trustworthiness", "continuity", "neighbor_recall"]]
    return table.assign(drift=moved, neighbors_kept=[np.nan, *kept])


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


def neighbors_kept(before: Embeddings, after: Embeddings, n_neighbors: int = 15) -> np.ndarray:
    """Return for each text the share of its nearest in one space that are also nearest in another, `(n,)`."""
    first, second = _directions(before), _directions(after)
    check_same_length(before=first, after=second)
    return _kept(first, second, np.arange(len(first)), n_neighbors).mean(axis=1)


def _umap() -> Any:
    try:
        import umap
    except ImportError as error:
        raise ImportError('UMAP maps need umap-learn: pip install "sbertlab[lab]"; maps.pca does not') from error
    return umap


def _rows(embeddings: Embeddings) -> Tensor:
    """Checked embeddings `(n, dim)`."""
    rows = as_tensor(embeddings, finite=True).detach().cpu()
    if rows.dim() != 2 or len(rows) < FEWEST_POINTS:
        raise ValueError(f"a map needs embeddings (n, dim) with n at least {FEWEST_POINTS}, got {tuple(rows.shape)}")
    return rows


def _directions(embeddings: Embeddings) -> np.ndarray:
    """Checked embeddings at unit length, where euclidean neighbours are those by cosine."""
    rows = _rows(embeddings)
    if zeros := (rows == 0).all(dim=1).nonzero().flatten().tolist():
        raise ValueError(f"row {zeros[0]} is a zero vector, which has no cosine; remove it")
    return F.normalize(rows, dim=1).numpy()


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
