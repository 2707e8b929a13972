"""The robustness and fairness card of models as files: measured once, drawn from its tables by one command."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from sbertlab.analysis.robustness import associations, card, robustness
from sbertlab.benchmark.encoders import select_encoders
from sbertlab.encoder.embedding_store import EmbeddingStore
from sbertlab.encoder.stored_embeddings import StoredEmbeddings

TABLE, GAPS = "robustness.csv", "associations.csv"


def write_card(models: Sequence[str], output: str | os.PathLike[str] = "figures", seed: int = 0) -> list[Path]:
    """Measure models and leave robustness.csv, associations.csv, robustness.md and the figure in a folder.

    Args:
        models: names of known encoders, or of models as `SentenceTransformer` takes them.
        output: the folder; made when missing.
        seed: of typos, names and draws.

    Returns:
        The files written.

    Raises:
        ValueError: no model, or one twice.
        FileNotFoundError: a model cannot be found.
    """
    folder = Path(output)
    tables, gaps = [], []
    for encoder in tqdm(select_encoders(models), desc="Robustness", unit="model"):
        stored: Any = StoredEmbeddings(encoder.make(seed), EmbeddingStore(), name=encoder.name)
        tables.append(robustness(stored, seed).assign(model=encoder.name))
        gaps.append(associations(stored, seed).assign(model=encoder.name))
    folder.mkdir(parents=True, exist_ok=True)
    for name, parts in ((TABLE, tables), (GAPS, gaps)):
        table = pd.concat(parts)
        table = table[["model", *table.columns.drop("model")]].round(4)
        table.to_csv(folder / name, index=False, lineterminator="\n")
    return [folder / TABLE, folder / GAPS, *draw_card(folder)]


def draw_card(folder: str | os.PathLike[str]) -> list[Path]:
    """Derive robustness.md and the figure from the tables in the folder.

    Returns:
        The files written; none where there are no tables.
    """
    place = Path(folder)
    if not (place / TABLE).exists():
        return []
    tables, gaps = (
        {str(model): part for model, part in pd.read_csv(place / name).groupby("model", sort=False)}
        for name in (TABLE, GAPS)
    )
    page = place / "robustness.md"
    parts = [f"# {name}\n\n{card(table, gaps[name])}" for name, table in tables.items()]
    page.write_text("\n".join(parts), encoding="utf-8")
    try:
        from sbertlab.plots.analysis import robustness_figure
        from sbertlab.plots.style import save_both
    except ImportError as error:
        warnings.warn(f"no picture is drawn: {error}; pip install 'sbertlab[lab]'", stacklevel=2)
        return [page]
    return [page, *save_both(place / "robustness", partial(robustness_figure, tables, gaps))]
