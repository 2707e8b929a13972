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
from sbertlab.encoder.sentence_transformer import SentenceTransformer
from sbertlab.encoder.stored_embeddings import EmbeddingStore, StoredEmbeddings
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

    The ranking goes between the lines `<!-- benchmark -->` and `<!-- /benchmark -->` of `readme`; None means README.md
    beside the folder, if it has such lines. Returns the files written.

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

    `models` are encoders of the benchmark, or models as `SentenceTransformer` takes them; `seed` is that of typos,
    names and resamples. Returns the files written.

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


def draw_gallery(output: str | os.PathLike[str] = "figures") -> list[Path]:
    """Train the small model for ten steps on the packaged corpus, draw the pictures of the README, return their paths.

    Raises:
        FileNotFoundError: the packaged model is not there and cannot be fetched.
    """
    from sbertlab import plots

    folder, model = Path(output), SentenceTransformer(MODEL)
    folder.mkdir(parents=True, exist_ok=True)
    reason = explain(model, "My parcel has not arrived yet.", "Where is the package I ordered?")
    title = "Why are these two similar? Cosine as a sum over token pairs"
    pictures: dict[str, Picture] = {"explanation": partial(plots.explanation_figure, reason, title=title)}

    scenes = {name.removesuffix("Loss"): scene(name) for name in LOSSES}
    paths = {name: descend(found.make(), found.points) for name, found in scenes.items()}
    pictures["losses"] = partial(plots.push_figure, paths, title="Where each loss pushes the embeddings")

    test = helpdesk.load_helpdesk("test")
    snapshots = _train(model, test["text"].tolist())
    frames, names = maps.film(snapshots), list(snapshots)
    captions = {
        name: f"trustworthiness {row.trustworthiness:.2f} · recall {row.neighbor_recall:.2f} · drift {row.drift:.2f}"
        for name, row in maps.film_quality(snapshots, frames).iterrows()
    }
    topics = test["topic"].where(test["topic"].isin(sorted(test["topic"].unique())[:4]))
    shown = {name: frames[name] for name in (names[place * (len(names) - 1) // 3] for place in range(4))}
    said = {name: captions[name].removesuffix(" · drift nan") for name in shown}
    title = "Unseen questions while a model is trained"
    pictures["film"] = partial(plots.map_comparison, shown, topics, said, title=title, size=3.2)

    before, after, xy = snapshots[names[0]], snapshots[names[-1]], frames[names[-1]]
    new = pd.Series(1 - maps.neighbors_kept(before, after, n_neighbors=60), name="new neighbours")
    quality, title = maps.map_quality(after, xy), "Share of new neighbours after training"
    pictures["changed"] = partial(plots.embedding_map, xy, new, quality=quality, title=title)

    pairs = helpdesk.duplicate_pairs(test)
    first, second = (model.encode(pairs[side]) for side in ("sentence1", "sentence2"))
    given = pairs["label"].to_numpy(), pairwise_cos_sim(first, second).numpy()
    curve, chosen = threshold_curve(*given), choose_threshold(*given)
    title = "Choosing a threshold for duplicates"
    pictures["threshold"] = partial(plots.threshold_figure, curve, *given, chosen, title=title)
    return _save(folder, {f"gallery_{name}": picture for name, picture in pictures.items()})


def _train(model: SentenceTransformer, texts: list[str]) -> dict[str, np.ndarray]:
    """Train the model; return the embeddings `(texts, dim)` before and at every second step."""
    snapshots = {"step 0": model.encode(texts)}

    def keep(event: Event) -> None:
        if event.kind == "step" and event.step % 2 == 0:
            snapshots[f"step {event.step}"] = event.model.encode(texts)

    table = helpdesk.triplets(helpdesk.load_helpdesk("train"), 0).head(300)
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
    """Write each picture for light pages (`name.png`) and for dark ones (`name_dark.png`)."""
    paths = []
    for name, picture in pictures.items():
        for theme, ending in (("light", ""), ("dark", "_dark")):
            paths.append(folder / f"{name}{ending}.png")
            picture(theme=theme).savefig(paths[-1], dpi=160)
    return paths
