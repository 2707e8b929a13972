"""The commands benchmark, robustness, figures and gallery: measure, and draw each table for light and dark pages.

`figures` redraws what follows from committed tables, `gallery` trains a small model. A seeded UMAP differs between
machines, so the maps keep their neighbourhoods but not their shapes.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from sbertlab import losses, plots, util
from sbertlab.analysis import explain, loss_plane, maps, ranks, robustness, thresholds
from sbertlab.benchmark import presets, results
from sbertlab.benchmark.encoders import select_encoders
from sbertlab.data import InputExample, helpdesk
from sbertlab.encoder.sentence_transformer import SentenceTransformer
from sbertlab.encoder.stored_embeddings import EmbeddingStore, StoredEmbeddings
from sbertlab.storage.files import write_whole
from sbertlab.training.callbacks import Event
from sbertlab.training.fit import fit

MEASURES = {"robustness.csv": robustness.robustness, "associations.csv": robustness.associations}
BLOCK = re.compile(r"(<!-- benchmark -->\n).*?(<!-- /benchmark -->)", re.DOTALL)


def run_benchmark(check: bool, tuned: bool, workers: int, engine: Any, **chosen: Any) -> None:
    """Run the benchmark, print the page and draw the results; or, with `check`, compare cells with the table.

    `chosen` are arguments of both. A SystemExit says how many cells failed, or differ from the table.
    """
    chosen = {name: value for name, value in chosen.items() if value is not None}
    folder, preset = chosen.get("output", presets.OUTPUT), chosen["preset"]
    if check:
        found = presets.check(**chosen, variants=ranks.VARIANTS if tuned else ranks.VARIANTS[:1])
        print(found.to_string(index=False))
        if not found["same"].all():
            raise SystemExit(f"{(~found['same']).sum()} of {len(found)} cells differ from the table")
        return
    table = presets.run(**chosen, workers=workers, engine=engine)
    every, pairs, _ = results.read(folder)
    print(f"\n{results.report(every[every['preset'] == preset], pairs)}\nWritten to {folder}")
    draw_figures(folder)
    if failed := int((table["tag"] == "failed").sum()):
        raise SystemExit(f"{failed} of {len(table)} cells failed; benchmark.csv has their errors")


def draw_figures(output: str | Path) -> list[Path]:
    """Write the pages and pictures that follow from the tables in a folder, and the README's ranking; return the paths.

    The ranking goes between the lines `<!-- benchmark -->` and `<!-- /benchmark -->` of the README.md beside the
    folder, if it has such lines.
    """
    folder = Path(output)
    table, pairs, manifest = results.read(folder)
    pages = {folder / "benchmark.md": results.report(table, pairs)}
    readme = folder.resolve().parent / "README.md"
    if readme.exists() and BLOCK.search(text := readme.read_text(encoding="utf-8")):
        pages[readme] = BLOCK.sub(lambda found: found[1] + results.readme_block(table, pairs) + found[2], text)
    for path, text in pages.items():
        with write_whole(path) as file:
            file.write_text(text, encoding="utf-8", newline="\n")
    written = list(pages)
    for preset, about in manifest["presets"].items():
        cells, compared = results.rows_of(table, preset), pairs[pairs["preset"] == preset]
        if results.ranking(cells, compared)["mean"].isna().all():
            continue
        resolution = results.table_resolution(compared) or None
        written += _save(folder, f"{preset}_tasks", plots.score_heatmap, cells, compared, "all")
        written += _save(folder, f"{preset}_ranking", plots.standings_figure, cells, compared, resolution)
        written += _save(folder, f"{preset}_quality", plots.quality_figure, cells, about["models"])
    return written + draw_card(folder)


def write_card(models: Sequence[str], output: str | Path) -> list[Path]:
    """Measure models and write robustness.csv, associations.csv, robustness.md and the figure; return their paths.

    `models` are encoders of the benchmark, or models as `SentenceTransformer` takes them.
    """
    folder, parts = Path(output), dict[str, list[pd.DataFrame]]({name: [] for name in MEASURES})
    for encoder in tqdm(select_encoders(models), desc="Robustness", unit="model"):
        stored: Any = StoredEmbeddings(encoder.make(0), EmbeddingStore(), name=encoder.name)
        for name, measure in MEASURES.items():
            table = measure(stored, 0)
            table.insert(0, "model", encoder.name)
            parts[name].append(table)
    folder.mkdir(parents=True, exist_ok=True)
    for name in MEASURES:
        pd.concat(parts[name]).round(4).to_csv(folder / name, index=False, lineterminator="\n")
    return [*(folder / name for name in MEASURES), *draw_card(folder)]


def draw_card(folder: Path) -> list[Path]:
    """Write robustness.md and the figure that follow from the tables in the folder; nothing if it has none."""
    if not (folder / "robustness.csv").exists():
        return []
    tables, gaps = (
        {str(model): part for model, part in pd.read_csv(folder / name).groupby("model", sort=False)}
        for name in MEASURES
    )
    page = folder / "robustness.md"
    text = "\n".join(f"# {name}\n\n{robustness.card(tables[name], gaps[name])}" for name in tables)
    page.write_text(text, encoding="utf-8")
    return [page, *_save(folder, "robustness", plots.robustness_figure, tables, gaps)]


def draw_gallery(output: str | Path) -> list[Path]:
    """Train the small model for ten steps on the packaged corpus, draw the README's pictures, return their paths."""
    folder, model = Path(output), SentenceTransformer("all-MiniLM-L6-v2")
    folder.mkdir(parents=True, exist_ok=True)
    reason = explain.explain(model, "My parcel has not arrived yet.", "Where is the package I ordered?")
    title = "Why are these two similar? Cosine as a sum over token pairs"
    written = _save(folder, "gallery_explanation", plots.explanation_figure, reason, title=title)

    four = ("MultipleNegativesRankingLoss", "TripletLoss", "CosineSimilarityLoss", "ContrastiveLoss")
    scenes = {name.removesuffix("Loss"): loss_plane.scene(name) for name in four}
    paths = {name: loss_plane.descend(found.make(), found.points) for name, found in scenes.items()}
    title = "Where each loss pushes the embeddings"
    written += _save(folder, "gallery_losses", plots.push_figure, paths, title=title)

    test = helpdesk.load_helpdesk("test")
    snapshots = {"step 0": model.encode(test["text"])}  # and at every second step, (texts, dim)

    def keep(event: Event) -> None:
        if event.kind == "step" and event.step % 2 == 0:
            snapshots[f"step {event.step}"] = event.model.encode(test["text"])

    rows = helpdesk.triplets(helpdesk.load_helpdesk("train"), 0).head(300)[["anchor", "positive", "negative"]]
    examples: Any = [InputExample(texts=row) for row in rows.to_numpy().tolist()]
    objective = (DataLoader(examples, batch_size=30), losses.MultipleNegativesRankingLoss(model, hard_negatives="own"))
    settings: dict[str, Any] = {"optimizer_params": {"lr": 3e-4}, "callbacks": [keep], "show_progress_bar": False}
    fit(model, [objective], warmup_steps=1, seed=0, **settings)
    frames, names = maps.film(snapshots), list(snapshots)
    captions = {
        name: f"trustworthiness {row.trustworthiness:.2f} · recall {row.neighbor_recall:.2f} · drift {row.drift:.2f}"
        for name, row in maps.film_quality(snapshots, frames).iterrows()
    }
    topics = test["topic"].where(test["topic"].isin(sorted(test["topic"].unique())[:4]))
    shown = {name: frames[name] for name in (names[place * (len(names) - 1) // 3] for place in range(4))}
    said = {name: captions[name].removesuffix(" · drift nan") for name in shown}
    title = "Unseen questions while a model is trained"
    written += _save(folder, "gallery_film", plots.map_comparison, shown, topics, said, title=title, size=3.2)

    before, after, xy = snapshots[names[0]], snapshots[names[-1]], frames[names[-1]]
    new = pd.Series(1 - maps.neighbors_kept(before, after, n_neighbors=60), name="new neighbours")
    quality, title = maps.map_quality(after, xy), "Share of new neighbours after training"
    written += _save(folder, "gallery_changed", plots.embedding_map, xy, new, quality=quality, title=title)

    pairs = helpdesk.duplicate_pairs(test)
    first, second = (model.encode(pairs[side]) for side in ("sentence1", "sentence2"))
    given = pairs["label"].to_numpy(), util.pairwise_cos_sim(first, second).numpy()
    curve, chosen = thresholds.threshold_curve(*given), thresholds.choose_threshold(*given)
    title = "Choosing a threshold for duplicates"
    return written + _save(folder, "gallery_threshold", plots.threshold_figure, curve, *given, chosen, title=title)


def _save(folder: Path, name: str, draw: Callable[..., Any], *given: Any, **settings: Any) -> list[Path]:
    """Draw a picture for light pages (`name.png`) and for dark ones (`name_dark.png`)."""
    paths = {"light": folder / f"{name}.png", "dark": folder / f"{name}_dark.png"}
    for theme, path in paths.items():
        draw(*given, theme=theme, **settings).savefig(path, dpi=160)
    return list(paths.values())
