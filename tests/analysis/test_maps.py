"""Maps and films: the measures against slow formulas, films that are comparable, maps cached by content."""

import importlib.util

import numpy as np
import pytest
import torch
from sklearn.datasets import make_blobs
from sklearn.metrics import silhouette_score

from sbertlab.analysis import maps

POINTS, LABELS = make_blobs(120, n_features=20, centers=4, cluster_std=1.5, random_state=0)
NOISE = np.random.default_rng(0).normal(size=POINTS.shape)


def noise(points=40, dim=8, seed=0):
    return np.random.default_rng(seed).normal(size=(points, dim))


def distances(space, metric):
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


def slow_trustworthiness(original, drawn, k):
    """The formula of Venna and Kaski as it is written, from two matrices of distances."""
    n, penalty = len(original), 0
    for i in range(n):
        order = list(np.argsort(original[i]))
        for j in np.argsort(drawn[i])[:k]:
            penalty += max(order.index(j) + 1 - k, 0)
    return 1 - 2 / (n * k * (2 * n - 3 * k - 1)) * penalty


def slow_recall(original, drawn, k):
    kept = [len(set(np.argsort(a)[:k]) & set(np.argsort(b)[:k])) for a, b in zip(original, drawn, strict=True)]
    return sum(kept) / k / len(kept)


@pytest.mark.parametrize("k", [1, 5, 19])
def test_the_three_measures_equal_their_slow_formulas(k):
    embeddings, xy = noise(), noise(dim=2, seed=1)
    original, drawn = distances(embeddings, "cosine"), distances(xy, "euclidean")
    trust = slow_trustworthiness(original, drawn, k)
    assert 0 < trust < 0.9, "a map that is noise must lose something"
    found = maps.map_quality(embeddings, xy, k)
    assert found.n_neighbors == k
    assert found.trustworthiness == pytest.approx(trust)
    assert found.continuity == pytest.approx(slow_trustworthiness(drawn, original, k))
    assert found.neighbor_recall == pytest.approx(slow_recall(original, drawn, k))


def test_false_neighbours_lower_trustworthiness_and_torn_neighbours_lower_continuity():
    circle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    ring, other = (np.c_[np.cos(circle), np.sin(circle), np.full(60, height)] for height in (3, -3))
    glued = maps.map_quality(np.r_[ring, other], np.r_[ring, other][:, :2])  # two far rings drawn on one another
    assert glued.trustworthiness < 0.8 < 0.9 < glued.continuity
    torn = maps.map_quality(ring, np.c_[circle + 100 * (circle > 3), circle])  # one ring drawn in two pieces
    assert torn.continuity < 0.93 < torn.trustworthiness
    turned = 7 * ring[:, :2] @ np.array([[0.6, 0.8], [-0.8, 0.6]]) + [100, -5]
    perfect = maps.map_quality(ring, turned, n_neighbors=14)
    assert (perfect.trustworthiness, perfect.continuity, perfect.neighbor_recall) == (1, 1, 1)


def test_equal_rows_do_not_count_as_their_own_neighbours():
    twins = np.repeat(noise(points=10), 3, axis=0)
    found = maps.nearest(twins, np.arange(30), 2)
    assert found.shape == (30, 2)
    assert all(row not in neighbors for row, neighbors in enumerate(found))
    assert all(neighbor // 3 == row // 3 for row, neighbors in enumerate(found) for neighbor in neighbors)


def test_many_points_are_measured_by_a_sample_and_the_quality_says_so():
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


def test_pca_finds_the_plane_that_singular_values_give():
    embeddings = noise(points=50, dim=6) * [9, 5, 1, 1, 1, 1] + 3
    centred = embeddings - embeddings.mean(axis=0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    xy = maps.pca(torch.tensor(embeddings, requires_grad=True))
    assert xy.dtype == np.float32
    assert np.abs(xy) == pytest.approx(np.abs(left[:, :2] * values[:2]), abs=1e-4)
    assert np.array_equal(xy, maps.pca(embeddings))


def growing(steps):
    """From noise to clusters."""
    shares = np.linspace(0, 1, steps)
    return {f"step {step}": share * POINTS + 4 * (1 - share) * NOISE for step, share in enumerate(shares)}


def test_one_pca_runs_through_all_moments():
    frames = maps.film({"a": POINTS[:60], "b": POINTS[60:]}, "pca")
    unit = POINTS / np.linalg.norm(POINTS, axis=1, keepdims=True)
    np.testing.assert_allclose(np.concatenate([frames["a"], frames["b"]]), maps.pca(unit), atol=1e-4)
    assert maps.drift(list(maps.film({"a": POINTS, "b": POINTS}, "pca").values())) == [0.0]


def test_a_map_is_turned_and_shifted_onto_another_but_not_scaled():
    angle = np.array([[np.cos(1), -np.sin(1)], [np.sin(1), np.cos(1)]])
    xy = np.random.default_rng(2).normal(size=(50, 2))
    np.testing.assert_allclose(maps.turned(xy @ angle * [1, -1] + 7, xy), xy, atol=1e-9)
    assert np.ptp(maps.turned(3 * xy, xy)) == pytest.approx(3 * np.ptp(xy), rel=0.3)


def test_neighbours_kept_equal_a_plain_count():
    a = noise(30, 6, seed=1)
    b = a + 0.5 * noise(30, 6, seed=2)
    found = maps.neighbors_kept(a, b, 5)
    near = [np.argsort(distances(space, "cosine"))[:, :5] for space in (a, b)]
    assert found == pytest.approx([len({*one} & {*other}) / 5 for one, other in zip(*near, strict=True)])
    assert 0 < found.mean() < 1


@pytest.mark.slow
def test_the_method_sets_how_far_points_jump_where_nothing_happened():
    still = {"one": POINTS, "two": POINTS + 1e-4 * NOISE, "three": POINTS - 1e-4 * NOISE}
    moves = {name: max(maps.drift(list(maps.film(still, name).values()))) for name in ("chained", "aligned", "pca")}
    assert moves["pca"] < 0.01
    assert moves["chained"] < 0.6
    assert moves["aligned"] < 0.25


@pytest.mark.slow
def test_a_film_shows_clusters_form_and_says_what_it_keeps():
    spaces = growing(3)
    frames = maps.film(spaces)
    table = maps.film_quality(spaces, frames, n_neighbors=10)
    assert table.index.tolist() == list(spaces)
    quality = maps.map_quality(spaces["step 1"], frames["step 1"], 10)
    assert table.loc["step 1", "neighbor_recall"] == quality.neighbor_recall
    assert table.loc["step 0", ["drift", "neighbors_kept"]].isna().all()
    assert table["trustworthiness"].between(0.5, 1).all()
    assert table["neighbors_kept"].iloc[1:].between(0.05, 0.95).all()
    formed = [silhouette_score(xy, LABELS) for xy in frames.values()]
    assert formed[0] < 0.2 < 0.5 < formed[-1]


CALLS = []


@pytest.fixture
def calls(monkeypatch):
    """Counts the layouts, which are PCA here."""

    def layout(rows, scale=1.0, init=None):
        CALLS.append(rows)
        return scale * maps.pca(rows) if init is None else init

    CALLS.clear()
    monkeypatch.setattr(maps, "umap_map", layout)
    return CALLS


def test_the_same_content_is_laid_out_once_and_anything_that_matters_makes_another_map(tmp_path, calls, monkeypatch):
    rows = ROWS.astype(np.float32)
    first = maps.cached_umap(rows, tmp_path, scale=2.0)
    for same in (rows.copy(), torch.from_numpy(rows), np.asfortranarray(rows), rows.tolist()):
        again = maps.cached_umap(same, tmp_path, scale=2.0)
        np.testing.assert_array_equal(again, first)
        assert again.dtype == np.float32
    assert len(calls) == 1
    np.testing.assert_array_equal(first, 2 * maps.pca(rows))
    for count, (other, given) in enumerate([(rows[::-1], 2.0), (np.nextafter(rows, 9), 2.0), (rows, 1.0)], start=2):
        maps.cached_umap(other, tmp_path, scale=given)
        assert len(calls) == count
    monkeypatch.setattr(maps, "PACKAGES", ("numpy",))
    monkeypatch.setenv("SBERTLAB_CACHE", str(tmp_path / "cache"))
    maps.cached_umap(rows)
    assert len(calls) == 5
    assert [*(tmp_path / "cache" / "maps").rglob("output.pkl")]


@pytest.mark.filterwarnings("ignore:Exception while loading results")
@pytest.mark.parametrize("damage", [b"", b"no pickle", None], ids=["emptied", "overwritten", "cut"])
def test_damaged_coordinates_are_laid_out_again(tmp_path, calls, damage):
    first = maps.cached_umap(ROWS, tmp_path)
    (file,) = tmp_path.rglob("output.pkl")
    file.write_bytes(file.read_bytes()[:-40] if damage is None else damage)
    for _ in range(2):
        np.testing.assert_array_equal(maps.cached_umap(ROWS, tmp_path), first)
        assert len(calls) == 2


ROWS = noise(points=20)
MAP = noise(points=20, dim=2, seed=1)


def with_row(value, row=7):
    return np.where(np.arange(20)[:, None] == row, value, ROWS)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: maps.pca(with_row(np.nan)), "NaN or infinite .* row 7"),
        (lambda: maps.pca(ROWS[:2]), r"n at least 3, got \(2, 8\)"),
        (lambda: maps.pca(ROWS[0]), r"got \(8,\)"),
        (lambda: maps.map_quality(with_row(0), MAP), "row 7 is a zero vector"),
        (lambda: maps.map_quality(ROWS, MAP[:19]), "embeddings has 20, xy has 19"),
        (lambda: maps.map_quality(ROWS, with_row(np.nan)[:, :2]), "xy has NaN .* row 7"),
        (lambda: maps.film({"a": POINTS}, "fast"), "method must be one of .*'fast'"),
        (lambda: maps.film({"a": POINTS, "b": POINTS[:100]}), "a has 120, b has 100"),
    ],
)
def test_what_has_no_map_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("umap") is None, reason="umap-learn is not installed")
def test_umap_keeps_blobs_apart_repeats_itself_and_maps_even_three_points():
    blob = np.repeat(np.arange(3), 20)
    embeddings = noise(points=60, dim=16) + 12 * np.eye(16)[blob]
    xy = maps.umap_map(embeddings, n_neighbors=10, seed=1)
    assert xy.shape == (60, 2)
    assert xy.dtype == np.float32
    neighbors = maps.nearest(xy, np.arange(60), 5)
    assert (blob[neighbors] == blob[:, None]).mean() > 0.98, "neighbours on the map come from one blob"
    assert np.array_equal(xy, maps.umap_map(embeddings, n_neighbors=10, seed=1)), "one seed, one map"
    assert not np.allclose(xy, maps.umap_map(embeddings, n_neighbors=10, seed=2))
    copies = maps.umap_map(np.concatenate([embeddings, embeddings[:1], embeddings[:1]]), n_neighbors=10, seed=1)
    np.testing.assert_array_equal(copies, np.concatenate([xy, xy[:1], xy[:1]]))
    assert not maps.umap_map(np.ones((4, 3))).any(), "one place for all"
    for points in (3, 4, 16, 17):
        few = maps.umap_map(embeddings[:: 60 // points][:points])
        assert few.shape == (points, 2)
        assert np.isfinite(few).all()
