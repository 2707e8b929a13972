"""Pictures for the README that need a model: one training run on the packaged corpus, and what can be seen of it.

`python -m sbertlab gallery` makes them all, each for light and dark pages. A seeded UMAP differs between machines, so
the maps keep their neighbourhoods and not their shapes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch.utils.data import DataLoader

from sbertlab import plots
from sbertlab.analysis import maps
from sbertlab.analysis.explain import explain
from sbertlab.analysis.loss_plane import descend, scene
from sbertlab.analysis.thresholds import choose_threshold, threshold_curve
from sbertlab.data import InputExample, helpdesk
from sbertlab.encoder.sentence_transformer import SentenceTransformer
from sbertlab.losses import MultipleNegativesRankingLoss
from sbertlab.plots.explain_plots import explanation_figure
from sbertlab.plots.losses import push_figure
from sbertlab.plots.style import Figure, save_both
from sbertlab.plots.threshold_plots import threshold_figure
from sbertlab.training.callbacks import Event
from sbertlab.training.fit import fit
from sbertlab.util import pairwise_cos_sim

MODEL = "all-MiniLM-L6-v2"
LOSSES = ("MultipleNegativesRankingLoss", "TripletLoss", "CosineSimilarityLoss", "ContrastiveLoss")


def draw_gallery(output: str | os.PathLike[str] = "figures", rows: int = 300, texts: int = 576) -> list[Path]:
    """Train the small model for a few steps, and draw film, before and after, history, explanation, threshold, losses.

    Args:
        output: folder of the pictures; made when missing.
        rows: triplets to learn from.
        texts: test questions on the maps.

    Returns:
        The files written.

    Raises:
        FileNotFoundError: the packaged model is not there and cannot be fetched.
    """
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    test = helpdesk.load_helpdesk("test").head(texts).reset_index(drop=True)
    model = SentenceTransformer(MODEL)
    pictures: dict[str, Callable[..., Figure]] = {
        "explanation": partial(
            explanation_figure,
            explain(model, "My parcel has not arrived yet.", "Where is the package I ordered?"),
            title="Why are these two alike? cosine as a sum over tokens",
        ),
        "losses": partial(
            push_figure,
            {name.removesuffix("Loss"): descend(*_scene(name)) for name in LOSSES},
            title="What a loss pushes where",
        ),
    }
    snapshots, history = _trained(model, test["text"].tolist(), rows)
    frames = maps.film(snapshots)
    qualities = maps.film_quality(snapshots, frames)
    names = list(frames)
    four = test["topic"].where(test["topic"].isin(sorted(test["topic"].unique())[:4]))
    said = {
        name: f"trustworthiness {row.trustworthiness:.2f} · recall {row.neighbor_recall:.2f} · drift {row.drift:.2f}"
        for name, row in qualities.iterrows()
    }
    shown = [names[0], names[len(names) // 2], names[-1]]
    pictures["film"] = partial(
        plots.map_comparison,
        {name: frames[name] for name in shown},
        four,
        {name: said[name].replace(" · drift nan", "") for name in shown},
        title="Questions never trained on, while a model learns",
        size=3.6,
    )
    before, after = snapshots[names[0]], snapshots[names[-1]]
    new = pd.Series(1 - maps.neighbors_kept(before, after, n_neighbors=60), name="new")
    pictures["changed"] = partial(
        plots.embedding_map,
        frames[names[-1]],
        new,
        quality=maps.map_quality(after, frames[names[-1]]),
        title="Share of each question's neighbours that are new",
    )
    pictures["history"] = partial(plots.training_history, history, title="One run, step by step")
    pairs = helpdesk.duplicate_pairs(helpdesk.load_helpdesk("test"))
    first, second = (model.encode(pairs[side]) for side in ("sentence1", "sentence2"))
    given = pairs["label"].to_numpy(), pairwise_cos_sim(first, second).numpy()
    pictures["threshold"] = partial(
        threshold_figure, threshold_curve(*given), *given, choose_threshold(*given), title="Where to draw the line"
    )
    return [path for name, figure in pictures.items() for path in save_both(folder / f"gallery_{name}", figure)]


def _scene(name: str) -> tuple[Any, Any]:
    """A loss and the points that show what it does."""
    found = scene(name)
    return found.make(), found.points


def _trained(model: SentenceTransformer, texts: list[str], rows: int) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    """Train the model; return its embeddings `(texts, dim)` every second step, and the history."""
    snapshots = {"step 0": model.encode(texts)}

    def take(event: Event) -> None:
        if event.kind == "step" and event.step % 2 == 0:
            snapshots[f"step {event.step}"] = event.model.encode(texts)

    table = helpdesk.triplets(helpdesk.load_helpdesk("train"), 0).head(rows)
    examples: Any = [InputExample(texts=row) for row in table[["anchor", "positive", "negative"]].to_numpy().tolist()]
    objective = (DataLoader(examples, batch_size=30), MultipleNegativesRankingLoss(model, hard_negatives="own"))
    history = fit(
        model,
        [objective],
        warmup_steps=1,
        optimizer_params={"lr": 3e-4},
        callbacks=[take],
        probe_steps=2,
        seed=0,
        show_progress_bar=False,
    )
    return snapshots, history
