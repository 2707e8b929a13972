"""Films: maps of one set of texts at several moments of training, drawn so that they can be compared.

| method | frames | what to expect |
| --- | --- | --- |
| `chained` | each map begins where the one before ended | honest and calm: the default |
| `aligned` | AlignedUMAP lays out all at once and ties each point to itself | smoothest, about three times the time |
| `pca` | one PCA through all moments | linear overview in seconds; keeps little of the neighbourhoods |
| `independent` | each map for itself | points jump although nothing happened: to show why not |

Never lay embeddings onto the finished map of another model (`onto`): noise lands on its clusters, too.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from sbertlab.analysis.maps import check_layout, map_quality, matrix, nearest, pca, umap_map
from sbertlab.util import Embeddings

METHODS = ("chained", "aligned", "pca", "independent")
"""Ways to make a film."""

ALIGNED_POINTS = 32
"""AlignedUMAP fails on very few points; a film of fewer is chained."""


def film(
    spaces: Mapping[str, Embeddings],
    method: str = "chained",
    *,
    n_neighbors: int = 15,
    min_dist: float = 0.1,
    seed: int = 0,
    metric: str = "cosine",
) -> dict[str, np.ndarray]:
    """Return coordinates of the same rows at every moment, by its name.

    Args:
        spaces: name of each moment, in their order, and its embeddings `(n, dim)`; row i is one text in all of them.
        method: one of `METHODS`.
        n_neighbors: as in `maps.umap_map`.
        min_dist: as in `maps.umap_map`.
        seed: as in `maps.umap_map`.
        metric: "cosine" or "euclidean", in the original space.

    Returns:
        `(n, 2)`, float32, for each moment.

    Raises:
        ImportError: another method than "pca" without umap-learn.
        ValueError: no moment, moments with different numbers of rows, an unknown method, embeddings without a map.

    >>> line = np.array([[0.0, 0, 1], [1, 0, 1], [2, 1, 1], [5, 0, 1]])
    >>> frames = film({"before": line, "after": 2 * line}, "pca", metric="euclidean")
    >>> round(float(np.ptp(frames["after"][:, 0]) / np.ptp(frames["before"][:, 0])), 2)
    2.0
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, got {method!r}")
    moments = _moments(spaces, metric)
    check_layout(n_neighbors, min_dist)
    if method == "pca":
        sizes = {rows.shape[1] for rows in moments.values()}
        if len(sizes) > 1:
            raise ValueError(f'one PCA needs embeddings of one size, got {sorted(sizes)}; take method="chained"')
        whole = pca(np.concatenate(list(moments.values())))
        return dict(zip(moments, np.split(whole, len(moments)), strict=True))
    layout: dict[str, Any] = {"n_neighbors": n_neighbors, "min_dist": min_dist, "seed": seed, "metric": metric}
    points = len(next(iter(moments.values())))
    if method == "aligned" and points >= ALIGNED_POINTS and len(moments) > 1:
        return _aligned(moments, layout)
    frames: dict[str, np.ndarray] = {}
    last: np.ndarray | None = None
    for name, rows in moments.items():
        xy = umap_map(rows, **layout, init=None if method == "independent" else last)
        last = frames[name] = xy if last is None else turned(xy, last)
    return frames


def turned(xy: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Turn, mirror and shift a map so that it lies on another one as well as it can: none of these mean anything.

    Args:
        xy: `(n, 2)`, the map to turn; its size stays.
        reference: `(n, 2)`, the same rows on the other map.

    Source: Schoenemann, 1966, A generalized solution of the orthogonal Procrustes problem.

    >>> turned(np.array([[0.0, 0], [0, 2], [0, 4]]), np.array([[1.0, 1], [2, 1], [3, 1]])).round(6).tolist()
    [[0.0, 1.0], [2.0, 1.0], [4.0, 1.0]]
    """
    from scipy.linalg import orthogonal_procrustes

    centre, there = xy.mean(axis=0), reference.mean(axis=0)
    rotation, _ = orthogonal_procrustes(xy - centre, reference - there)
    return ((xy - centre) @ rotation + there).astype(xy.dtype)


def _aligned(moments: Mapping[str, np.ndarray], layout: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """AlignedUMAP with every point tied to itself in the next moment."""
    try:
        import umap
    except ImportError as error:
        raise ImportError('an aligned film needs umap-learn: pip install "sbertlab[lab]"') from error
    points = len(next(iter(moments.values())))
    same = {row: row for row in range(points)}
    mapper = umap.AlignedUMAP(
        n_neighbors=min(layout["n_neighbors"], points - 1),
        min_dist=layout["min_dist"],
        metric=layout["metric"],
        random_state=layout["seed"],
    )
    with warnings.catch_warnings():  # about threads that a seeded layout cannot use, which nobody asked for
        warnings.filterwarnings("ignore", message="n_jobs value")
        made = mapper.fit(list(moments.values()), relations=[same] * (len(moments) - 1))
    return {name: np.asarray(xy, dtype=np.float32) for name, xy in zip(moments, list(made.embeddings_), strict=True)}


def onto(reference: Embeddings, others: Mapping[str, Embeddings], seed: int = 0) -> dict[str, np.ndarray]:
    """Lay embeddings onto the finished UMAP map of a reference: the trap, kept here to be shown, never to be used.

    UMAP places a new point among its nearest points of the reference. Whatever is laid on, pure noise too, comes out in
    the reference's clusters, so the map says nothing about the embeddings laid on it.

    Args:
        reference: `(n, dim)`, whose map it is.
        others: name and `(m, dim)` of what is laid onto it.
        seed: of the layout.

    Returns:
        `(m, 2)` by name; the reference's own map under "reference".

    Raises:
        ImportError: umap-learn is not installed.
        ValueError: embeddings of another size, or without a map.
    """
    rows = matrix(reference, "cosine")
    try:
        import umap
    except ImportError as error:
        raise ImportError('a UMAP map needs umap-learn: pip install "sbertlab[lab]"') from error
    mapper = umap.UMAP(metric="cosine", random_state=seed, n_jobs=1).fit(rows)
    found = {"reference": np.asarray(mapper.embedding_, dtype=np.float32)}
    for name, other in others.items():
        laid = matrix(other, "cosine")
        if laid.shape[1] != rows.shape[1]:
            raise ValueError(f"{name!r} has {laid.shape[1]} dimensions, the reference {rows.shape[1]}")
        found[name] = np.asarray(mapper.transform(laid), dtype=np.float32)
    return found


def film_quality(
    spaces: Mapping[str, Embeddings], frames: Mapping[str, np.ndarray], n_neighbors: int = 15, metric: str = "cosine"
) -> pd.DataFrame:
    """Return, for every moment, what its map keeps and how far its points moved since the moment before.

    Args:
        spaces: as in `film`.
        frames: what `film` returned.
        n_neighbors: size of a neighbourhood.
        metric: "cosine" or "euclidean", in the original space.

    Returns:
        Index: the moments. Columns trustworthiness, continuity, neighbor_recall (see `maps.MapQuality`), drift (see
        `drift`; NaN for the first) and neighbors_kept, the share of each text's nearest in the original space that were
        among its nearest a moment before (NaN for the first): what training really changed.

    Raises:
        ValueError: moments or frames that do not belong together.
    """
    if list(spaces) != list(frames):
        raise ValueError(f"spaces and frames must have the same moments, got {list(spaces)} and {list(frames)}")
    moments = _moments(spaces, metric)
    moved = [np.nan, *drift(list(frames.values()))]
    rows = []
    before: np.ndarray | None = None
    for step, (name, space) in enumerate(moments.items()):
        quality = map_quality(space, frames[name], n_neighbors, metric)
        kept = np.nan if before is None else float(neighbors_kept(before, space, quality.n_neighbors, metric).mean())
        rows.append(
            {
                "trustworthiness": quality.trustworthiness,
                "continuity": quality.continuity,
                "neighbor_recall": quality.neighbor_recall,
                "drift": moved[step],
                "neighbors_kept": kept,
            }
        )
        before = space
    return pd.DataFrame(rows, index=list(moments))


def drift(frames: Sequence[np.ndarray]) -> list[float]:
    """How far points move from frame to frame: the mean step divided by the radius of the frame it leads to.

    The radius is the root mean square distance from the centre. 0 is a standing picture; at 1 a point ends anywhere.

    Args:
        frames: `(n, 2)` each.

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
    """The share of each row's nearest in one space that are among its nearest in another, `(n,)`.

    Args:
        before: `(n, dim)`.
        after: `(n, dim)`, the same rows; the dimensions may differ.
        n_neighbors: less than the rows.
        metric: "cosine" or "euclidean".

    Raises:
        ValueError: different numbers of rows, or too many neighbours.

    >>> line, moved = [[1.0], [2], [4], [9], [10]], [[1.0], [2], [8], [9], [10.5]]
    >>> neighbors_kept(line, moved, 1, "euclidean").tolist()
    [1.0, 1.0, 0.0, 0.0, 1.0]
    """
    first, second = (matrix(rows, metric) for rows in (before, after))
    if len(first) != len(second):
        raise ValueError(
            f"row i of both is one text, so both must be of one length, got {len(first)} and {len(second)}"
        )
    if not 1 <= n_neighbors < len(first):
        raise ValueError(f"n_neighbors must be from 1 to {len(first) - 1}, got {n_neighbors}")
    rows = np.arange(len(first))
    old, new = (nearest(space, rows, n_neighbors) for space in (first, second))
    return (old[:, :, None] == new[:, None, :]).any(axis=2).mean(axis=1)  # (n, k, k) -> (n,)


def _moments(spaces: Mapping[str, Embeddings], metric: str) -> dict[str, np.ndarray]:
    """Checked embeddings of every moment."""
    if not spaces:
        raise ValueError("spaces must hold the embeddings of at least one moment, got none")
    moments = {name: matrix(rows, metric) for name, rows in spaces.items()}
    lengths = {name: len(rows) for name, rows in moments.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"row i is one text at every moment, so all must be of one length, got {lengths}")
    return moments
