"""Films: one set of texts at several moments, comparable; and the trap that makes noise look like clusters."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import make_blobs
from sklearn.metrics import silhouette_score

from sbertlab.analysis.films import METHODS, drift, film, film_quality, neighbors_kept, onto, turned
from sbertlab.analysis.maps import pca, umap_map

POINTS, LABELS = make_blobs(120, n_features=20, centers=4, cluster_std=1.5, random_state=0)
NOISE = np.random.default_rng(0).normal(size=POINTS.shape)


def growing(steps: int = 3) -> dict[str, np.ndarray]:
    """From noise to clusters."""
    shares = np.linspace(0, 1, steps)
    return {f"step {step}": share * POINTS + 4 * (1 - share) * NOISE for step, share in enumerate(shares)}


def test_one_pca_runs_through_all_moments() -> None:
    spaces = {"a": POINTS[:60], "b": POINTS[60:]}
    frames = film(spaces, "pca", metric="euclidean")
    np.testing.assert_allclose(np.concatenate([frames["a"], frames["b"]]), pca(POINTS), atol=1e-4)


@pytest.mark.slow
def test_the_method_sets_how_far_points_jump_where_nothing_happened() -> None:
    still = {"one": POINTS, "two": POINTS + 1e-4 * NOISE, "three": POINTS - 1e-4 * NOISE}
    moves = {method: max(drift(list(film(still, method, metric="euclidean").values()))) for method in METHODS}
    assert moves["pca"] < 0.01
    assert moves["chained"] < 0.6
    assert moves["aligned"] < 0.25
    assert 0 < moves["independent"] < 2.0


def test_a_map_is_turned_and_shifted_onto_another_but_not_stretched() -> None:
    angle = np.array([[np.cos(1), -np.sin(1)], [np.sin(1), np.cos(1)]])
    xy = np.random.default_rng(2).normal(size=(50, 2))
    np.testing.assert_allclose(turned(xy @ angle * [1, -1] + 7, xy), xy, atol=1e-9)
    assert np.ptp(turned(3 * xy, xy)) == pytest.approx(3 * np.ptp(xy), rel=0.3)


def test_equal_embeddings_stand_still_in_a_pca_film() -> None:
    assert drift(list(film({"a": POINTS, "b": POINTS}, "pca").values())) == [0.0]


@pytest.mark.slow
def test_a_chained_film_begins_each_map_where_the_last_one_ended() -> None:
    spaces = growing(2)
    frames = film(spaces, seed=3)
    first = umap_map(spaces["step 0"], seed=3)
    np.testing.assert_array_equal(frames["step 0"], first)
    second = turned(umap_map(spaces["step 1"], seed=3, init=first), first)
    np.testing.assert_array_equal(frames["step 1"], second)
    assert not np.allclose(second, turned(umap_map(spaces["step 1"], seed=3), first))


@pytest.mark.slow
def test_a_film_shows_clusters_form_and_says_what_it_keeps() -> None:
    spaces = growing(3)
    frames = film(spaces, metric="euclidean")
    table = film_quality(spaces, frames, n_neighbors=10, metric="euclidean")
    assert table.index.tolist() == list(spaces)
    assert table.loc["step 0", ["drift", "neighbors_kept"]].isna().all()
    assert table["trustworthiness"].between(0.5, 1).all()
    assert table["neighbors_kept"].iloc[1:].between(0.05, 0.95).all()
    formed = [silhouette_score(xy, LABELS) for xy in frames.values()]
    assert formed[0] < 0.2 < 0.5 < formed[-1]


@pytest.mark.slow
def test_noise_laid_onto_a_finished_map_lands_in_its_clusters() -> None:
    from sklearn.cluster import KMeans

    found = onto(POINTS, {"noise": NOISE}, seed=1)
    own = umap_map(NOISE, seed=1)
    tightness = [
        silhouette_score(xy, KMeans(4, random_state=0, n_init=3).fit_predict(xy)) for xy in (found["noise"], own)
    ]
    assert tightness[0] > tightness[1] + 0.1
    assert silhouette_score(found["noise"], LABELS) < 0.05, "the clusters mean nothing"
    assert silhouette_score(found["reference"], LABELS) > 0.5


def test_neighbours_kept_are_those_of_a_plain_count() -> None:
    rng = np.random.default_rng(1)
    a = rng.normal(size=(30, 6))
    b = a + 0.5 * rng.normal(size=a.shape)
    found = neighbors_kept(a, b, 5, "euclidean")
    for row in range(30):
        near = [
            set(np.argsort(np.where(np.arange(30) == row, np.inf, np.linalg.norm(space - space[row], axis=1)))[:5])
            for space in (a, b)
        ]
        assert found[row] == pytest.approx(len(near[0] & near[1]) / 5)
    assert 0 < found.mean() < 1


def test_what_does_not_fit_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="method must be one of"):
        film({"a": POINTS}, "fast")
    with pytest.raises(ValueError, match="at least one moment, got none"):
        film({})
    with pytest.raises(ValueError, match=r"of one length, got \{'a': 120, 'b': 100\}"):
        film({"a": POINTS, "b": POINTS[:100]})
    with pytest.raises(ValueError, match="one PCA needs embeddings of one size"):
        film({"a": POINTS, "b": POINTS[:, :5]}, "pca")
    with pytest.raises(ValueError, match="min_dist must be between 0 and 1"):
        film({"a": POINTS}, min_dist=2)
    with pytest.raises(ValueError, match="same moments"):
        film_quality({"a": POINTS}, {"b": POINTS[:, :2]})
    with pytest.raises(ValueError, match="'noise' has 5 dimensions, the reference 20"):
        onto(POINTS, {"noise": NOISE[:, :5]})
    with pytest.raises(ValueError, match=r"xy must have the shape \(120, 2\)"):
        umap_map(POINTS, init=np.zeros((3, 2)))
    with pytest.raises(ValueError, match="n_neighbors must be from 1 to 119"):
        neighbors_kept(POINTS, POINTS, 120)
