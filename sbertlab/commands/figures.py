"""Pictures as files, each for light and dark pages: of the benchmark, the robustness card and the README's gallery.

`figures` redraws what follows from committed tables, `robustness` measures models first, and `gallery` trains a small
model. A seeded UMAP differs between machines, so the maps keep their neighbourhoods but not their shapes.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from sbertlab.analysis import maps
from sbertlab.analysis.explain import explain
from sbertlab.analysis.loss_plane import descend, scene
from sbertlab.analysis.robustness import associations, card, robustness
from sbertlab.analysis.thresholds import choose_threshold, threshold_curve
from sbertlab.benchmark.encoders import select_encoders
from sbertlab.benchmark.results import (
    PRESETS,
    check_table,
    ranking,
    read,
    readme_block,
    report,
    rows_of,
    table_resolution,
)
from sbertlab.data import InputExample, helpdesk
from sbertlab.encoder.embedding_store import EmbeddingStore
from sbertlab.encoder.sentence_transformer import SentenceTransformer
from sbertlab.encoder.stored_embeddings import StoredEmbeddings
from sbertlab.losses import MultipleNegativesRankingLoss
from sbertlab.storage.files import write_whole
from sbertlab.training.callbacks import Event
from sbertlab.training.fit import fit
from sbertlab.util import pairwise_cos_sim

MODEL = "all-MiniLM-L6-v2"
LOSSES = ("MultipleNegativesRankingLoss", "TripletLoss", "CosineSimilarityLoss", "ContrastiveLoss")
ROBUSTNESS, GAPS = "robustness.csv", "associations.csv"
BLOCK = re.compile(r"(<!-- benchmark -->\n).*?(<!-- /benchmark -->)", re.DOTALL)

Picture = Callable[..., Any]
"""Returns a figure when called with `theme="light"` or `theme="dark"`."""


def draw_benchmark(folder: str | os.PathLike[str], readme: str | os.PathLike[str] | None = None) -> list[Path]:
    """Write benchmark.md, the pictures and the block of the README that follow from the tables in the folder.

    Args:
        folder: with benchmark.csv, comparisons.csv and environment.json.
        readme: a file with the lines `<!-- benchmark -->` and `<!-- /benchmark -->`, between which the ranking goes;
            None means README.md beside the folder, if there is one with such lines.

    Returns:
        The files written.

    Raises:
        FileNotFoundError: there is no benchmark.csv.
        ValueError: the tables do not belong to the manifest.
    """
    place = Path(folder)
    check_table(place)
    table, pairs, manifest = read(place)
    pages = {place / "benchmark.md": report(table, pairs)}
    page = Path(readme) if readme is not None else place.resolve().parent / "README.md"
    if page.exists() and BLOCK.search(text := page.read_text(encoding="utf-8")):
        pages[page] = BLOCK.sub(lambda found: found[1] + readme_block(table, pairs) + found[2], text)
    for path, text in pages.items():
        with write_whole(path) as file:
            file.write_text(text, encoding="utf-8", newline="\n")
    written = list(pages)
    if (plots := _plots()) is None:
        return written
    pictures: dict[str, Picture] = {}
    for preset in [name for name in PRESETS if name in set(table.loc[table["tag"] != "published", "preset"])]:
        cells, compared = rows_of(table, preset), pairs[pairs["preset"] == preset]
        if cells["value"].notna().any():
            pictures[f"{preset}_tasks"] = partial(plots.score_heatmap, cells, compared, "all")
        if ranking(cells, compared)["mean"].notna().any():
            resolution = table_resolution(compared) or None
            pictures[f"{preset}_ranking"] = partial(plots.standings_figure, cells, compared, resolution)
            models = manifest["presets"][preset]["models"]
            if any(known.get("parameters") or known.get("sentences_per_second") for known in models.values()):
                pictures[f"{preset}_quality"] = partial(plots.quality_figure, cells, models)
    return written + _save(place, pictures)


def write_card(models: Sequence[str], output: str | os.PathLike[str] = "figures", seed: int = 0) -> list[Path]:
    """Measure models and write robustness.csv, associations.csv, robustness.md and the figure.

    Args:
        models: encoders of the benchmark, or models as `SentenceTransformer` takes them.
        output: folder of the files; created if missing.
        seed: of typos, names and resamples.

    Returns:
        The files written.

    Raises:
        ValueError: no model, or one twice.
        FileNotFoundError: a model cannot be found.
    """
    folder, tables = Path(output), dict[str, list[pd.DataFrame]]({ROBUSTNESS: [], GAPS: []})
    for encoder in tqdm(select_encoders(models), desc="Robustness", unit="model"):
        stored: Any = StoredEmbeddings(encoder.make(seed), EmbeddingStore(), name=encoder.name)
        for name, measure in ((ROBUSTNESS, robustness), (GAPS, associations)):
            tables[name].append(measure(stored, seed).assign(model=encoder.name))
    folder.mkdir(parents=True, exist_ok=True)
    for name, parts in tables.items():
        table = pd.concat(parts).round(4)
        table = table[["model", *table.columns.drop("model")]]
        table.to_csv(folder / name, index=False, lineterminator="\n")
    return [*(folder / name for name in tables), *draw_card(folder)]


def draw_card(folder: str | os.PathLike[str]) -> list[Path]:
    """Write robustness.md and the figure that follow from the tables in the folder; nothing if it has none."""
    place = Path(folder)
    if not (place / ROBUSTNESS).exists():
        return []
    tables, gaps = (
        {str(model): part for model, part in pd.read_csv(place / name).groupby("model", sort=False)}
        for name in (ROBUSTNESS, GAPS)
    )
    page = place / "robustness.md"
    page.write_text("\n".join(f"# {name}\n\n{card(tables[name], gaps[name])}" for name in tables), encoding="utf-8")
    if (plots := _plots()) is None:
        return [page]
    return [page, *_save(place, {"robustness": partial(plots.robustness_figure, tables, gaps)})]


def draw_gallery(output: str | os.PathLike[str] = "figures", rows: int = 300, texts: int = 576) -> list[Path]:
    """Train the small model for a few steps on the packaged corpus, and draw the pictures of the README.

    Args:
        output: folder of the pictures; created if missing.
        rows: triplets to train on.
        texts: test questions on the maps.

    Returns:
        The files written.

    Raises:
        FileNotFoundError: the packaged model is not there and cannot be fetched.
    """
    folder, model = Path(output), SentenceTransformer(MODEL)
    folder.mkdir(parents=True, exist_ok=True)
    test = helpdesk.load_helpdesk("test")
    shown = test.head(texts).reset_index(drop=True)
    pictures = {"gallery_explanation": _explanation(model), "gallery_losses": _losses()}
    snapshots = _train(model, shown["text"].tolist(), rows)
    frames = maps.film(snapshots)
    pictures["gallery_film"] = _film(snapshots, frames, shown["topic"])
    pictures["gallery_changed"] = _changed(snapshots, frames)
    pictures["gallery_threshold"] = _threshold(model, test)
    return _save(folder, pictures)


def _explanation(model: SentenceTransformer) -> Picture:
    from sbertlab.plots import explanation_figure

    reason = explain(model, "My parcel has not arrived yet.", "Where is the package I ordered?")
    return partial(explanation_figure, reason, title="Why are these two similar? Cosine as a sum over token pairs")


def _losses() -> Picture:
    from sbertlab.plots import push_figure

    scenes = {name.removesuffix("Loss"): scene(name) for name in LOSSES}
    ways = {name: descend(found.make(), found.points) for name, found in scenes.items()}
    return partial(push_figure, ways, title="Where each loss pushes the embeddings")


def _film(snapshots: Mapping[str, np.ndarray], frames: Mapping[str, np.ndarray], topics: pd.Series) -> Picture:
    from sbertlab.plots import map_comparison

    names = list(frames)
    shown = [names[place * (len(names) - 1) // 3] for place in range(4)]
    captions = {
        name: f"trustworthiness {row.trustworthiness:.2f} · recall {row.neighbor_recall:.2f} · drift {row.drift:.2f}"
        for name, row in maps.film_quality(snapshots, frames).iterrows()
    }
    return partial(
        map_comparison,
        {name: frames[name] for name in shown},
        topics.where(topics.isin(sorted(topics.unique())[:4])),
        {name: captions[name].removesuffix(" · drift nan") for name in shown},
        title="Unseen questions while a model is trained",
        size=3.2,
    )


def _changed(snapshots: Mapping[str, np.ndarray], frames: Mapping[str, np.ndarray]) -> Picture:
    from sbertlab.plots import embedding_map

    (_, before), *_, (last, after) = snapshots.items()
    new = pd.Series(1 - maps.neighbors_kept(before, after, n_neighbors=60), name="new neighbours")
    quality = maps.map_quality(after, frames[last])
    return partial(embedding_map, frames[last], new, quality=quality, title="Share of new neighbours after training")


def _threshold(model: SentenceTransformer, test: pd.DataFrame) -> Picture:
    from sbertlab.plots import threshold_figure

    pairs = helpdesk.duplicate_pairs(test)
    first, second = (model.encode(pairs[side]) for side in ("sentence1", "sentence2"))
    given = pairs["label"].to_numpy(), pairwise_cos_sim(first, second).numpy()
    curve, chosen = threshold_curve(*given), choose_threshold(*given)
    return partial(threshold_figure, curve, *given, chosen, title="Choosing a threshold for duplicates")


def _train(model: SentenceTransformer, texts: list[str], rows: int) -> dict[str, np.ndarray]:
    """Train the model; return the embeddings `(texts, dim)` before and at every second step."""
    snapshots = {"step 0": model.encode(texts)}

    def keep(event: Event) -> None:
        if event.kind == "step" and event.step % 2 == 0:
            snapshots[f"step {event.step}"] = event.model.encode(texts)

    table = helpdesk.triplets(helpdesk.load_helpdesk("train"), 0).head(rows)
    examples: Any = [InputExample(texts=row) for row in table[["anchor", "positive", "negative"]].to_numpy().tolist()]
    objective = (DataLoader(examples, batch_size=30), MultipleNegativesRankingLoss(model, hard_negatives="own"))
    rate = {"lr": 3e-4}
    fit(model, [objective], warmup_steps=1, optimizer_params=rate, callbacks=[keep], seed=0, show_progress_bar=False)
    return snapshots


def _plots() -> Any:
    """The room of the figures; None, with a warning, if matplotlib is missing."""
    try:
        from sbertlab import plots
    except ImportError as error:
        warnings.warn(f"no pictures are drawn: {error}", stacklevel=2)
        return None
    return plots


def _save(folder: Path, pictures: Mapping[str, Picture]) -> list[Path]:
    from sbertlab.plots.style import save_both

    return [path for name, picture in pictures.items() for path in save_both(folder / name, picture)]
