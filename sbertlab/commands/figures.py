"""The commands benchmark, robustness, figures and gallery: measure, and draw each table for light and dark pages.

`figures` redraws what follows from committed tables, `gallery` trains a small model. A seeded UMAP differs between
machines, so the maps keep their neighbourhoods but not their shapes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from sbertlab import plots
from sbertlab.analysis import maps
from sbertlab.analysis.explain import explain
from sbertlab.analysis.loss_plane import descend, scene
from sbertlab.analysis.ranks import VARIANTS
from sbertlab.analysis.robustness import associations, card, robustness
from sbertlab.analysis.thresholds import choose_threshold, threshold_curve
from sbertlab.benchmark import presets, results
from sbertlab.benchmark.encoders import select_encoders
from sbertlab.data import InputExample, helpdesk
from sbertlab.encoder.sentence_transformer import SentenceTransformer
from sbertlab.encoder.stored_embeddings import EmbeddingStore, StoredEmbeddings
from sbertlab.losses import MultipleNegativesRankingLoss
from sbertlab.storage.files import write_whole
from sbertlab.training.callbacks import Event
from sbertlab.training.fit import fit
from sbertlab.util import pairwise_cos_sim

MEASURES = {"robustness.csv": robustness, "associations.csv": associations}
BLOCK = re.compile(r"(<!-- benchmark -->\n).*?(<!-- /benchmark -->)", re.DOTALL)


def run_benchmark(check: bool, tuned: bool, workers: int, engine: Any, **chosen: Any) -> None:
    """Run the benchmark, print the page and draw the results; or, with `check`, compare cells with the table.

    `chosen` are arguments of both. A SystemExit says how many cells failed, or differ from the table.
    """
    chosen = {name: value for name, value in chosen.items() if value is not None}
    folder, preset = chosen.get("output", presets.OUTPUT), chosen["preset"]
    if check:
        found = presets.check(**chosen, variants=VARIANTS if tuned else VARIANTS[:1])
        print(found.to_string(index=False))
        if not found["same"].all():
            raise SystemExit(f"{(~found['same']).sum()} of {len(found)} cells differ from the table")
        return
    table = presets.run(**chosen, workers=workers, engine=engine)
    every, pairs, _ = results.read(folder)
    print(f"\n{results.report(every[every['preset'] == preset], pairs)}\nWritten to {folder}")
    draw_benchmark(folder)
    if failed := int((table["tag"] == "failed").sum()):
        raise SystemExit(f"{failed} of {len(table)} cells failed; benchmark.csv has their errors")


def draw_figures(output: str) -> list[Path]:
    """Derive pages and pictures from the tables in the folder; return their paths."""
    return [*draw_benchmark(output), *draw_card(output)]


def draw_benchmark(folder: str | Path) -> list[Path]:
    """Write benchmark.md, the README's ranking and the pictures that follow from the tables in the folder.

    The ranking goes between the lines `<!-- benchmark -->` and `<!-- /benchmark -->` of the README.md beside the
    folder, if it has such lines. Returns the files written.
    """
    place = Path(folder)
    table, pairs, manifest = results.read(place)
    pages = {place / "benchmark.md": results.report(table, pairs)}
    page = place.resolve().parent / "README.md"
    if page.exists() and BLOCK.search(text := page.read_text(encoding="utf-8")):
        pages[page] = BLOCK.sub(lambda found: found[1] + results.readme_block(table, pairs) + found[2], text)
    for path, text in pages.items():
        with write_whole(path) as file:
            file.write_text(text, encoding="utf-8", newline="\n")
    pictures: dict[str, Callable[..., Any]] = {}
    for preset in [name for name in results.PRESETS if name in set(table.loc[table["tag"] != "published", "preset"])]:
        cells, compared = results.rows_of(table, preset), pairs[pairs["preset"] == preset]
        if cells["value"].notna().any():
            pictures[f"{preset}_tasks"] = partial(plots.score_heatmap, cells, compared, "all")
        if results.ranking(cells, compared)["mean"].notna().any():
            resolution = results.table_resolution(compared) or None
            pictures[f"{preset}_ranking"] = partial(plots.standings_figure, cells, compared, resolution)
            models = manifest["presets"][preset]["models"]
            if any(known.get("parameters") or known.get("sentences_per_second") for known in models.values()):
                pictures[f"{preset}_quality"] = partial(plots.quality_figure, cells, models)
    return [*pages, *_save(place, pictures)]


def write_card(models: Sequence[str], output: str | Path = "figures", seed: int = 0) -> list[Path]:
    """Measure models and write robustness.csv, associations.csv, robustness.md and the figure; return their paths.

    `models` are encoders of the benchmark, or models as `SentenceTransformer` takes them; `seed` is that of typos,
    names and resamples.
    """
    folder, tables = Path(output), dict[str, list[pd.DataFrame]]({name: [] for name in MEASURES})
    for encoder in tqdm(select_encoders(models), desc="Robustness", unit="model"):
        stored: Any = StoredEmbeddings(encoder.make(seed), EmbeddingStore(), name=encoder.name)
        for name, measure in MEASURES.items():
            tables[name].append(measure(stored, seed).assign(model=encoder.name))
    folder.mkdir(parents=True, exist_ok=True)
    for name, parts in tables.items():
        table = pd.concat(parts).round(4)
        table = table[["model", *table.columns.drop("model")]]
        table.to_csv(folder / name, index=False, lineterminator="\n")
    return [*(folder / name for name in tables), *draw_card(folder)]


def draw_card(folder: str | Path) -> list[Path]:
    """Write robustness.md and the figure that follow from the tables in the folder; nothing if it has none."""
    place = Path(folder)
    if not (place / "robustness.csv").exists():
        return []
    tables, gaps = (
        {str(model): part for model, part in pd.read_csv(place / name).groupby("model", sort=False)}
        for name in MEASURES
    )
    page = place / "robustness.md"
    page.write_text("\n".join(f"# {name}\n\n{card(tables[name], gaps[name])}" for name in tables), encoding="utf-8")
    return [page, *_save(place, {"robustness": partial(plots.robustness_figure, tables, gaps)})]


def draw_gallery(output: str | Path = "figures") -> list[Path]:
    """Train the small model for ten steps on the packaged corpus, draw the README's pictures, return their paths."""
    folder, model = Path(output), SentenceTransformer("all-MiniLM-L6-v2")
    folder.mkdir(parents=True, exist_ok=True)
    reason = explain(model, "My parcel has not arrived yet.", "Where is the package I ordered?")
    title = "Why are these two similar? Cosine as a sum over token pairs"
    pictures: dict[str, Callable[..., Any]] = {"explanation": partial(plots.explanation_figure, reason, title=title)}

    losses = ("MultipleNegativesRankingLoss", "TripletLoss", "CosineSimilarityLoss", "ContrastiveLoss")
    scenes = {name.removesuffix("Loss"): scene(name) for name in losses}
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


def _save(folder: Path, pictures: Mapping[str, Callable[..., Any]]) -> list[Path]:
    """Write each picture, a function of the theme, for light pages (`name.png`) and for dark ones (`name_dark.png`)."""
    paths = []
    for name, picture in pictures.items():
        for theme, ending in (("light", ""), ("dark", "_dark")):
            paths.append(folder / f"{name}{ending}.png")
            picture(theme=theme).savefig(paths[-1], dpi=160)
    return paths
