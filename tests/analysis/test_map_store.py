"""Coordinates on disk: computed once, found by content alone, and never wrong after damage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sbertlab.analysis import map_store
from sbertlab.analysis.films import film
from sbertlab.analysis.map_store import stored
from sbertlab.analysis.maps import pca

ROWS = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
CALLS: list[Any] = []


def layout(
    embeddings: np.ndarray | Mapping[str, np.ndarray], scale: float = 1.0, init: np.ndarray | None = None
) -> Any:
    """Count the calls."""
    CALLS.append(embeddings)
    if isinstance(embeddings, Mapping):
        return {name: scale * pca(rows) for name, rows in embeddings.items()}
    return scale * pca(embeddings) if init is None else init


@pytest.fixture(autouse=True)
def calls() -> list[Any]:
    CALLS.clear()
    return CALLS


def test_the_same_content_is_laid_out_once_whatever_holds_it(tmp_path: Path, calls: list[Any]) -> None:
    first = stored(layout, ROWS, tmp_path, scale=2.0)
    for same in (ROWS.copy(), torch.from_numpy(ROWS), np.asfortranarray(ROWS), ROWS.tolist()):
        again = stored(layout, same, tmp_path, scale=2.0)
        np.testing.assert_array_equal(again, first)
        assert again.dtype == np.float32
    assert len(calls) == 1
    np.testing.assert_array_equal(first, 2 * pca(ROWS))


def test_anything_that_matters_makes_another_map(
    tmp_path: Path, calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = ROWS.copy()
    changed[3, 1] = np.nextafter(changed[3, 1], 9)
    stored(layout, ROWS, tmp_path)
    for rows, settings in (
        (changed, {}),
        (ROWS[::-1], {}),
        (ROWS, {"scale": 2.0}),
        (ROWS, {"init": ROWS[:, :2]}),
        (ROWS, {"init": ROWS[:, 1:3]}),
    ):
        before = len(calls)
        stored(layout, rows, tmp_path, **settings)
        assert len(calls) == before + 1
    monkeypatch.setattr(map_store, "version", lambda package: "another")
    stored(layout, ROWS, tmp_path)
    assert len(calls) == 7


def test_a_film_is_kept_with_its_names_and_their_order(tmp_path: Path, calls: list[Any]) -> None:
    spaces = {"before": ROWS, "after": ROWS[::-1]}
    first = stored(layout, spaces, tmp_path)
    assert list(stored(layout, dict(spaces), tmp_path)) == ["before", "after"]
    assert len(calls) == 1
    assert list(stored(layout, dict(reversed(spaces.items())), tmp_path)) == ["after", "before"]
    assert len(calls) == 2
    np.testing.assert_array_equal(first["before"], pca(ROWS))
    made, expected = stored(film, spaces, tmp_path, method="pca"), film(spaces, "pca")
    for name in spaces:
        np.testing.assert_array_equal(made[name], expected[name])


@pytest.mark.filterwarnings("ignore:Exception while loading results")
@pytest.mark.parametrize("damage", [b"", b"no pickle", None], ids=["emptied", "overwritten", "cut"])
def test_damaged_coordinates_are_laid_out_again(tmp_path: Path, calls: list[Any], damage: bytes | None) -> None:
    first = stored(layout, ROWS, tmp_path)
    (file,) = tmp_path.rglob("output.pkl")
    file.write_bytes(file.read_bytes()[:-40] if damage is None else damage)
    np.testing.assert_array_equal(stored(layout, ROWS, tmp_path), first)
    assert len(calls) == 2
    stored(layout, ROWS, tmp_path)
    assert len(calls) == 2


def test_what_cannot_be_mapped_is_refused_each_time(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match="collapsed"):
            stored(pca, np.ones((4, 3)), tmp_path)
    assert not [*tmp_path.rglob("output.pkl")]


def test_the_folder_is_that_of_sbertlabs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SBERTLAB_CACHE", str(tmp_path))
    stored(layout, ROWS)
    assert [*(tmp_path / "maps").rglob("output.pkl")]


def test_without_a_folder_to_write_the_map_is_there_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.warns(UserWarning, match="coordinates are not kept: .* cannot be written"):
        np.testing.assert_array_equal(stored(pca, ROWS, tmp_path / "file" / "maps"), pca(ROWS))
