from __future__ import annotations

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
import torch

from sbertlab.analysis import maps


def noise(points: int = 40, dim: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(points, dim))


def distances(space: np.ndarray, metric: str) -> np.ndarray:
    """Row by row, without any library of neighbours."""
    count = len(space)
    found = np.full((count, count), np.inf)
    for i in range(count):
        for j in range(count):
            if i != j and metric == "euclidean":
                found[i, j] = np.sqrt(sum((space[i] - space[j]) ** 2))
            elif i != j:
                found[i, j] = 1 - space[i] @ space[j] / np.sqrt(space[i] @ space[i]) / np.sqrt(space[j] @ space[j])
    return found


def slow_trustworthiness(original: np.ndarray, drawn: np.ndarray, k: int) -> float:
    """The formula of Venna and Kaski as it is written, from two matrices of distances."""
    n, penalty = len(original), 0
    for i in range(n):
        order = list(np.argsort(original[i]))
        for j in np.argsort(drawn[i])[:k]:
            penalty += max(order.index(j) + 1 - k, 0)
    return 1 - 2 / (n * k * (2 * n - 3 * k - 1)) * penalty


def slow_recall(original: np.ndarray, drawn: np.ndarray, k: int) -> float:
    kept = [len(set(np.argsort(a)[:k]) & set(np.argsort(b)[:k])) for a, b in zip(original, drawn, strict=True)]
    return sum(kept) / k / len(kept)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("k", [1, 5, 19])
def test_the_three_measures_equal_their_slow_formulas(metric: str, k: int) -> None:
    embeddings, xy = noise(), noise(dim=2, seed=1)
    original, drawn = distances(embeddings, metric), distances(xy, "euclidean")
    trust = slow_trustworthiness(original, drawn, k)
    assert 0 < trust < 0.9, "a map that is noise must lose something"
    assert maps.trustworthiness(embeddings, xy, k, metric) == pytest.approx(trust)
    assert maps.continuity(embeddings, xy, k, metric) == pytest.approx(slow_trustworthiness(drawn, original, k))
    assert maps.neighbor_recall(embeddings, xy, k, metric) == pytest.approx(slow_recall(original, drawn, k))


def test_false_neighbours_lower_trustworthiness_and_torn_neighbours_lower_continuity() -> None:
    plane = noise(points=60, dim=2)
    layers = np.c_[np.r_[plane, plane + 0.01], np.repeat([0, 100], 60)]
    glued = maps.map_quality(layers, layers[:, :2], metric="euclidean")  # two far layers drawn on one another
    assert glued.trustworthiness < 0.9 < glued.continuity
    cut = plane + 100 * (plane[:, :1] > 0)  # one plane drawn in two pieces
    torn = maps.map_quality(plane, cut, metric="euclidean")
    assert torn.continuity < 0.9 < torn.trustworthiness


def test_a_perfect_map_keeps_everything_however_it_is_turned_scaled_and_shifted() -> None:
    plane = noise(points=60, dim=2)
    turned = 7 * plane @ np.array([[0.6, 0.8], [-0.8, 0.6]]) + [100, -5]
    quality = maps.map_quality(plane, turned, metric="euclidean")
    assert (quality.trustworthiness, quality.continuity, quality.neighbor_recall) == (1, 1, 1)


def test_a_map_of_noise_keeps_no_more_than_chance() -> None:
    quality = maps.map_quality(noise(points=400, dim=50), noise(points=400, dim=2, seed=1), n_neighbors=20)
    assert quality.trustworthiness == pytest.approx(0.5, abs=0.05)
    assert quality.neighbor_recall == pytest.approx(20 / 399, abs=0.02)


def test_lengths_do_not_matter_to_cosine_and_the_order_of_rows_to_nothing() -> None:
    embeddings, xy = noise(), noise(dim=2, seed=1)
    scaled = embeddings * np.linspace(0.1, 50, len(embeddings))[:, None]
    order = np.random.default_rng(2).permutation(len(xy))
    expected = maps.map_quality(embeddings, xy)
    assert maps.map_quality(scaled, xy) == expected
    shuffled = maps.map_quality(embeddings[order], xy[order])
    assert shuffled.trustworthiness == pytest.approx(expected.trustworthiness)
    assert shuffled.neighbor_recall == pytest.approx(expected.neighbor_recall)


def test_equal_rows_do_not_count_as_their_own_neighbours() -> None:
    twins = np.repeat(noise(points=10), 3, axis=0)
    found = maps.nearest(twins, np.arange(30), 2)
    assert found.shape == (30, 2)
    assert all(row not in neighbors for row, neighbors in enumerate(found))
    assert all(neighbor // 3 == row // 3 for row, neighbors in enumerate(found) for neighbor in neighbors)


def test_many_points_are_measured_by_a_sample_and_the_quality_says_so() -> None:
    embeddings = noise(points=300)
    xy = maps.pca(embeddings)
    sampled, repeated = (maps.map_quality(embeddings, xy, most_points=100, seed=3) for _ in range(2))
    assert sampled == repeated
    assert sampled != maps.map_quality(embeddings, xy, most_points=100, seed=4)
    assert (sampled.measured, sampled.points) == (100, 300)
    assert str(sampled).endswith("on 100 of 300 points")
    chosen = np.sort(np.random.default_rng(3).choice(300, 100, replace=False))
    original, drawn = distances(embeddings, "cosine"), distances(xy.astype(float), "euclidean")
    among_all = slow_recall(original[chosen], drawn[chosen], 15)
    assert sampled.neighbor_recall == pytest.approx(among_all), "neighbours are sought among all points"


def test_few_points_get_the_largest_neighbourhood_that_is_less_than_half_of_them() -> None:
    for points, expected in ((3, 1), (5, 2), (31, 15), (100, 15)):
        assert maps.map_quality(noise(points), noise(points, 2, seed=1)).n_neighbors == expected


def test_pca_finds_the_plane_that_singular_values_give() -> None:
    embeddings = noise(points=50, dim=6) * [9, 5, 1, 1, 1, 1] + 3
    centred = embeddings - embeddings.mean(axis=0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    xy = maps.pca(embeddings)
    assert xy.dtype == np.float32
    assert np.abs(xy) == pytest.approx(np.abs(left[:, :2] * values[:2]), abs=1e-4)
    assert np.array_equal(xy, maps.pca(embeddings))


def test_tensors_of_any_kind_are_taken() -> None:
    embeddings = noise().astype(np.float32)
    expected = maps.pca(embeddings)
    tensor = torch.tensor(embeddings, requires_grad=True)
    assert maps.pca(tensor) == pytest.approx(expected)
    assert maps.pca(tensor.detach().bfloat16()) == pytest.approx(expected, abs=0.1)
    assert maps.map_quality(tensor, torch.tensor(expected)) == maps.map_quality(embeddings, expected)


ROWS = noise(points=20)
MAP = noise(points=20, dim=2, seed=1)


@pytest.mark.parametrize(
    ("embeddings", "message"),
    [
        (np.where(np.arange(20)[:, None] == 7, np.nan, ROWS), "row 7"),
        (np.where(np.arange(20)[:, None] == 7, np.inf, ROWS), "NaN or infinite"),
        (np.zeros((0, 8)), r"n at least 3, got \(0, 8\)"),
        (ROWS[:1], r"n at least 3, got \(1, 8\)"),
        (ROWS[:2], r"n at least 3, got \(2, 8\)"),
        (ROWS[0], r"got \(8,\)"),
        (np.ones((20, 8)), "all 20 embeddings are equal"),
        ([["a", "b"]] * 3, "rows of numbers"),
    ],
)
def test_embeddings_without_a_map_are_refused(embeddings: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        maps.pca(embeddings)
    with pytest.raises(ValueError, match=message):
        maps.umap_map(embeddings)
    with pytest.raises(ValueError, match=message):
        maps.map_quality(embeddings, MAP)


@pytest.mark.parametrize(
    ("xy", "message"),
    [
        (MAP[:19], r"shape \(20, 2\), a place for each embedding, got \(19, 2\)"),
        (noise(points=20, dim=3), r"got \(20, 3\)"),
        (np.where(np.arange(20)[:, None] == 4, np.nan, MAP), "xy has NaN .* row 4"),
    ],
)
def test_coordinates_that_do_not_fit_are_refused(xy: np.ndarray, message: str) -> None:
    for measure in (maps.map_quality, maps.trustworthiness, maps.continuity, maps.neighbor_recall):
        with pytest.raises(ValueError, match=message):
            measure(ROWS, xy, 3)


def test_a_zero_vector_has_no_cosine_but_a_place_in_euclidean_space() -> None:
    rows = np.where(np.arange(20)[:, None] == 5, 0, ROWS)
    with pytest.raises(ValueError, match=r'the first in row 5.*metric="euclidean"'):
        maps.map_quality(rows, MAP)
    assert maps.map_quality(rows, MAP, metric="euclidean").points == 20


def test_arguments_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 dimensions"):
        maps.pca(noise(dim=1))
    with pytest.raises(ValueError, match="n_neighbors must be at least 2, got 1"):
        maps.umap_map(ROWS, n_neighbors=1)
    with pytest.raises(ValueError, match=r"min_dist must be between 0 and 1, got -0\.1"):
        maps.umap_map(ROWS, min_dist=-0.1)
    with pytest.raises(ValueError, match=r"metric must be one of .*'manhattan'"):
        maps.umap_map(ROWS, metric="manhattan")
    with pytest.raises(ValueError, match="metric must be one of"):
        maps.map_quality(ROWS, MAP, metric="dot")
    for neighbors in (0, 10):
        with pytest.raises(ValueError, match=f"less than half of the 20 points, got {neighbors}"):
            maps.trustworthiness(ROWS, MAP, neighbors)
    with pytest.raises(ValueError, match="n_neighbors must be at least 1"):
        maps.map_quality(ROWS, MAP, n_neighbors=0)
    with pytest.raises(ValueError, match="most_points must be at least 3"):
        maps.map_quality(ROWS, MAP, most_points=2)


def test_a_missing_umap_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ImportError, match=r'pip install "sbertlab\[lab\]"'):
        maps.umap_map(ROWS)


@pytest.mark.slow
def test_importing_maps_pulls_in_no_umap_and_no_matplotlib() -> None:
    heavy = ["umap", "numba", "matplotlib", "ipywidgets", "jscatter"]
    code = f"import sys, sbertlab.analysis.maps; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("umap") is None, reason="umap-learn is not installed")
def test_umap_keeps_blobs_apart_repeats_itself_and_maps_even_three_points() -> None:
    blob = np.repeat(np.arange(3), 20)
    embeddings = noise(points=60, dim=16) + 12 * np.eye(16)[blob]
    xy = maps.umap_map(embeddings, n_neighbors=10, seed=1)
    assert xy.shape == (60, 2)
    assert xy.dtype == np.float32
    neighbors = maps.nearest(xy, np.arange(60), 5)
    assert (blob[neighbors] == blob[:, None]).mean() > 0.98, "neighbours on the map come from one blob"
    assert np.array_equal(xy, maps.umap_map(embeddings, n_neighbors=10, seed=1)), "one seed, one map"
    assert not np.allclose(xy, maps.umap_map(embeddings, n_neighbors=10, seed=2))
    for points in (3, 4, 16, 17):
        few = maps.umap_map(embeddings[:: 60 // points][:points])
        assert few.shape == (points, 2)
        assert np.isfinite(few).all()
