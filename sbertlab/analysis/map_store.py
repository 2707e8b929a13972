"""Coordinates kept on disk: what was laid out once is there at once, also in another session and without umap-learn."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from sbertlab.storage.files import sha256_of
from sbertlab.storage.find import cache_home
from sbertlab.util import Embeddings, as_tensor

PACKAGES = ("umap-learn", "numba", "pynndescent", "scikit-learn", "numpy")
"""Whose versions coordinates depend on."""


def stored(
    layout: Callable[..., Any],
    embeddings: Embeddings | Mapping[str, Embeddings],
    folder: str | os.PathLike[str] | None = None,
    **settings: Any,
) -> Any:
    """Return `layout(embeddings, **settings)`, computed the first time and read from disk afterwards.

    The key is the content: values, order and names of the embeddings, the settings, the layout's source and the
    versions of `PACKAGES`. What lies damaged on disk is computed again, with a warning of joblib's.

    Args:
        layout: `maps.pca`, `maps.umap_map`, `films.film`, or any function at the top of a module that takes embeddings,
            or embeddings by name, and follows from its arguments alone.
        embeddings: `(n, dim)`, or several by name.
        folder: of the coordinates; None: maps in sbertlab's cache.
        settings: of the layout, in JSON's types, arrays or None.

    Raises:
        Exception: whatever the layout raises; nothing is kept then.

    >>> import tempfile
    >>> from sbertlab.analysis.maps import pca
    >>> rows = [[0, 0, 5], [2, 0, 5], [4, 0, 5], [2, 1, 5]]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     first, again = stored(pca, rows, folder), stored(pca, rows, folder)
    >>> np.array_equal(first, again)
    True
    """
    import joblib

    home = cache_home() / "maps" if folder is None else Path(folder).expanduser()
    names = [str(name) for name in embeddings] if isinstance(embeddings, Mapping) else None
    given = embeddings.values() if isinstance(embeddings, Mapping) else [embeddings]
    spaces = [np.ascontiguousarray(as_tensor(space).detach().cpu().numpy()) for space in given]
    lay_out: Callable[..., Any] = _laid_out
    try:
        lay_out = joblib.Memory(home, verbose=0).cache(_laid_out, ignore=["layout"])
    except OSError as error:
        warnings.warn(f"coordinates are not kept: {home} cannot be written ({error})", stacklevel=2)
    return lay_out(layout, _source(layout), names, spaces, settings)


def _laid_out(
    layout: Callable[..., Any], source: list[str], names: Any, spaces: list[np.ndarray], settings: Any
) -> Any:
    """Call the layout; `source` is part of the key only."""
    return layout(spaces[0] if names is None else dict(zip(names, spaces, strict=True)), **settings)


def _source(layout: Callable[..., Any]) -> list[str]:
    """What the function's results follow from besides its arguments: its name, its file and the packages' versions."""
    file = getattr(sys.modules[layout.__module__], "__file__", None)
    return [
        f"{layout.__module__}.{layout.__qualname__}",
        sha256_of(Path(file)) if file else "",
        *map(_version, PACKAGES),
    ]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
