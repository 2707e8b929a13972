"""The benchmark: encoders, untuned and fine-tuned by one recipe, measured on tasks.

Parts that know little of each other: encoders (what is compared), the recipe (how each is fine-tuned), the runner
(model x variant x seed x task, one row a cell). `sbertlab.tasks` has the tasks, `sbertlab.results` makes tables.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import AutoModel

from sbertlab import helpdesk
from sbertlab.data import InputExample
from sbertlab.encoder import SentenceTransformer, best_device
from sbertlab.losses import MultipleNegativesRankingLoss
from sbertlab.model_source import find_model
from sbertlab.models import Normalize, Pooling, StaticEmbedding, Transformer
from sbertlab.results import COLUMNS, report
from sbertlab.safe_files import sha256_of
from sbertlab.tasks import DATA_VARIABLE, SharedEmbeddings, Task, helpdesk_tasks, select_tasks
from sbertlab.training import fit

UNTUNED, TUNED = "untuned", "fine-tuned"


# -- Encoders: what is compared ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Encoder:
    """An encoder to compare.

    Args:
        name: as it appears in the table.
        make: makes it anew from a seed; anything with `encode` or `transform`.
        learning_rate: for the recipe; None: there is nothing to fine-tune.
        random: every seed makes another one, so the untuned variant is measured with each.
        base: model whose weights it starts from, for the manifest.
    """

    name: str
    make: Callable[[int], Any]
    learning_rate: float | None = None
    random: bool = False
    base: str | None = None


MINILM = "all-MiniLM-L6-v2"


@lru_cache(maxsize=1)
def _loaded(name: str) -> SentenceTransformer:
    return SentenceTransformer(name)


def pretrained(name: str, seed: int = 0) -> SentenceTransformer:
    """Return the model of this name, a copy of one's own to train."""
    return copy.deepcopy(_loaded(name))


def first_layers(name: str, seed: int = 0, layers: int = 3) -> SentenceTransformer:
    """Return the model without the transformer layers after the first few."""
    model = pretrained(name)
    transformer: Any = model[0].auto_model
    transformer.encoder.layer = transformer.encoder.layer[:layers]
    transformer.config.num_hidden_layers = layers
    return model


def token_embeddings(name: str, seed: int = 0) -> SentenceTransformer:
    """Return the mean of the model's token vectors, without any transformer layer."""
    model = _loaded(name)
    transformer: Any = model[0]
    return SentenceTransformer(
        modules=[StaticEmbedding.from_transformer(transformer), Normalize()], device=model.device
    )


def random_weights(name: str, seed: int = 0) -> SentenceTransformer:
    """Return the model's architecture with its tokenizer and weights drawn by the seed."""
    model = _loaded(name)
    trained: Any = model[0]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        body = AutoModel.from_config(trained.auto_model.config)
    transformer = Transformer.from_parts(body, trained.tokenizer, trained.max_seq_length)
    pooling = Pooling(transformer.get_word_embedding_dimension())
    return SentenceTransformer(modules=[transformer, pooling, Normalize()], device=model.device)


def tfidf_svd(seed: int = 0, dimensions: int = 256) -> Any:
    """Return TF-IDF over groups of letters and a truncated SVD, fitted on the training texts: the non-neural line."""
    train = helpdesk.load_helpdesk("train")
    letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)
    pipeline = make_pipeline(letters, TruncatedSVD(dimensions, random_state=0))
    return pipeline.fit(pd.concat([train["text"], train["answer"].drop_duplicates()]))


ENCODERS: Mapping[str, Encoder] = {
    encoder.name: encoder
    for encoder in (
        Encoder(MINILM, partial(pretrained, MINILM), 1e-4, base=MINILM),
        Encoder("MiniLM-3-layers", partial(first_layers, MINILM), 3e-4, base=MINILM),
        Encoder("MiniLM-tokens", partial(token_embeddings, MINILM), 1e-2, base=MINILM),
        Encoder("MiniLM-random", partial(random_weights, MINILM), 5e-5, random=True, base=MINILM),
        Encoder("TF-IDF+SVD", tfidf_svd),
    )
}
"""The encoders compared when none are named. The learning rates were chosen on the dev intents."""


def select_encoders(models: Iterable[str | Encoder] | None = None) -> list[Encoder]:
    """Return the encoders with these names; another name is a model as `SentenceTransformer` takes it.

    Raises:
        ValueError: no names, or one twice.
        FileNotFoundError: a model cannot be found.
    """
    named = [models] if isinstance(models, str) else list(ENCODERS if models is None else models)
    encoders = [_encoder(model) for model in named]
    names = [encoder.name for encoder in encoders]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"models must be names of models, each once, got {names}")
    for base in dict.fromkeys(encoder.base for encoder in encoders if encoder.base):
        find_model(base)
    return encoders


def _encoder(model: str | Encoder) -> Encoder:
    if isinstance(model, Encoder):
        return model
    return ENCODERS.get(model) or Encoder(model, partial(pretrained, model), 5e-5, base=model)


# -- Recipe: how an encoder is fine-tuned ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """Ranking loss over triplets of the training intents, by `training.fit`; only the learning rate is the encoder's.

    Rows are those of `helpdesk.triplets`: batches never hold an intent twice, and every row brings a negative of a near
    intent for its own anchor. Nothing is selected on the way; the model after the last step counts.

    Args:
        name: as it appears in the manifest.
        rows: triplets in all.
        batch_size: triplets a step; a divisor of the number of training intents.
        scale: inverse temperature of the loss.
        warmup: share of the steps over which the learning rate rises; then it falls to 0.
        weight_decay: for AdamW.
    """

    name: str = "helpdesk-triplets"
    rows: int = 300
    batch_size: int = 30
    scale: float = 20.0
    warmup: float = 0.1
    weight_decay: float = 0.01

    def fine_tune(self, model: SentenceTransformer, learning_rate: float, seed: int) -> pd.DataFrame:
        """Train the model in place and return the history of `fit`."""
        table = helpdesk.triplets(helpdesk.load_helpdesk("train"), seed).head(self.rows)
        rows = table[["anchor", "positive", "negative"]].to_numpy().tolist()
        examples: Any = [InputExample(texts=texts) for texts in rows]
        loader: DataLoader[InputExample] = DataLoader(examples, batch_size=self.batch_size)
        return fit(
            model,
            [(loader, MultipleNegativesRankingLoss(model, scale=self.scale, hard_negatives="own"))],
            warmup_steps=max(1, round(self.warmup * len(loader))),
            optimizer_params={"lr": learning_rate},
            weight_decay=self.weight_decay,
            seed=seed,
        )


OFFLINE = Recipe()
"""The recipe on the packaged corpus."""


# -- Runner: model x variant x seed x task -----------------------------------------------------------------------------


def run(
    models: Iterable[str | Encoder] | None = None,
    tasks: Iterable[str | Task] | None = None,
    seeds: int = 3,
    output: str | os.PathLike[str] = "figures",
    recipe: Recipe = OFFLINE,
) -> pd.DataFrame:
    """Measure every encoder, untuned and fine-tuned with each seed, on every task.

    The table is written after every model, so an interrupted run leaves what it has. A cell that fails is recorded with
    its error, and the run goes on.

    Args:
        models: names of `ENCODERS`, or of models as `SentenceTransformer` takes them, or encoders; None: `ENCODERS`.
        tasks: names for `select_tasks`, or tasks; None: its default.
        seeds: fine-tuned models of each encoder, with the seeds 0, 1, ...
        output: folder of benchmark.csv, benchmark.md, benchmark.png and environment.json; made when missing.
        recipe: of the fine-tuned variant.

    Returns:
        The table, with `COLUMNS`.

    Raises:
        ValueError: an unknown task, a name twice, seeds below 1.
        FileNotFoundError: a model or a data set cannot be found.
    """
    if isinstance(seeds, bool) or not isinstance(seeds, int) or seeds < 1:
        raise ValueError(f"seeds must be a whole number of at least 1, got {seeds!r}")
    start = time.perf_counter()
    encoders, chosen = select_encoders(models), select_tasks(tasks)
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [job for encoder in encoders for job in jobs_of(encoder, seeds)]
    cells: list[dict[str, Any]] = []
    with tqdm(total=len(jobs) * len(chosen), desc="Benchmark", unit="cell") as bar:
        for encoder, variant, seed in jobs:
            bar.set_postfix_str(f"{encoder.name}, {variant}, seed {seed}")
            for cell in measure(encoder, variant, seed, chosen, recipe):
                cells.append(cell)
                bar.update()
            table = pd.DataFrame(cells)[COLUMNS]
            write(folder / "benchmark.csv", table.to_csv(index=False, lineterminator="\n"))
    manifest = environment(encoders, chosen, recipe) | {"seconds": round(time.perf_counter() - start)}
    write(folder / "environment.json", json.dumps(manifest, indent=2) + "\n")
    draw(folder)
    return table


def jobs_of(encoder: Encoder, seeds: int) -> Iterator[tuple[Encoder, str, int]]:
    """Yield (encoder, variant, seed) of all models that are measured of one encoder.

    >>> [job[1:] for job in jobs_of(Encoder("fixed", make=len, learning_rate=1e-4), seeds=2)]
    [('untuned', 0), ('fine-tuned', 0), ('fine-tuned', 1)]
    >>> [job[1:] for job in jobs_of(Encoder("not trained", make=len), seeds=2)]
    [('untuned', 0)]
    """
    yield from ((encoder, UNTUNED, seed) for seed in range(seeds if encoder.random else 1))
    if encoder.learning_rate is not None:
        yield from ((encoder, TUNED, seed) for seed in range(seeds))


def measure(
    encoder: Encoder, variant: str, seed: int, tasks: Sequence[Task], recipe: Recipe
) -> Iterator[dict[str, Any]]:
    """Make one model, fine-tune it when the variant says so, and yield one cell a task, failed ones too."""
    broken: Exception | None = None
    try:
        model = encoder.make(seed)
        if variant == TUNED and encoder.learning_rate is not None:
            recipe.fine_tune(model, encoder.learning_rate, seed)
        shared = SharedEmbeddings(model, name=encoder.name)
    except Exception as error:
        broken = error
    for task in tasks:
        cell = {"model": encoder.name, "variant": variant, "seed": seed, "task": task.name, "family": task.family}
        cell |= {"metric": task.metric, "value": np.nan, "n": 0, "tag": "failed", "error": ""}
        start = time.perf_counter()
        try:
            if broken is not None:
                raise broken
            score = task.evaluate(shared)
            cell |= {"value": round(score.value, 4), "n": len(score.per_example), "tag": "measured"}
        except Exception as error:
            cell["error"] = " ".join(f"{type(error).__name__}: {error}".split())
        yield cell | {"seconds": round(time.perf_counter() - start, 2)}


# -- Files: what a run leaves behind -----------------------------------------------------------------------------------


def draw(folder: str | os.PathLike[str]) -> None:
    """Derive benchmark.md and benchmark.png from the benchmark.csv in the folder.

    Raises:
        FileNotFoundError: there is no benchmark.csv.
    """
    path = Path(folder) / "benchmark.csv"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; `python -m sbertlab benchmark` makes it")
    table = pd.read_csv(path, keep_default_na=False, na_values={"value": [""]})
    write(path.with_suffix(".md"), report(table))
    try:
        from sbertlab import plots
    except ImportError as error:
        warnings.warn(f"no benchmark.png is drawn: {error}; pip install 'sbertlab[lab]'", stacklevel=2)
        return
    measured = table[table["tag"] == "measured"]
    if len(measured):
        plots.benchmark_figure(measured).savefig(path.with_suffix(".png"), dpi=160)


def environment(encoders: Sequence[Encoder], tasks: Sequence[Task], recipe: Recipe) -> dict[str, Any]:
    """Return what the figures depend on: command, machine, versions, recipe, and SHA-256 of data and weights."""
    bases = dict.fromkeys(encoder.base for encoder in encoders if encoder.base)
    weights = {
        f"{base}/{file.name}": file
        for base in bases
        for file in sorted(find_model(base).iterdir())
        if file.suffix in (".safetensors", ".bin")
    }
    data = {f"{file.parent.name}/{file.name}": file for task in tasks for file in task.files}
    by_command = sys.orig_argv[1:3] == ["-m", "sbertlab"]
    return {
        "command": " ".join(["python", *sys.orig_argv[1:]]) if by_command else "sbertlab.benchmark.run(...)",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "system": platform.platform(),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(best_device()),
        "recipe": asdict(recipe),
        "learning_rates": {encoder.name: encoder.learning_rate for encoder in encoders},
        "tasks": {task.name: task.note for task in tasks},
        "sha256": {name: sha256_of(file) for name, file in {**weights, **data}.items()},
    }


PACKAGES = ("sbertlab", "torch", "transformers", "tokenizers", "accelerate", "scikit-learn", "numpy", "pandas")
"""Whose versions the manifest names."""


def processor_name() -> str:
    """Return the processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    unfinished = path.with_name(f"{path.name}.partial")
    unfinished.write_text(text, encoding="utf-8", newline="\n")
    unfinished.replace(path)


# -- Command line ------------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `python -m sbertlab benchmark`."""
    compared = f"{', '.join(ENCODERS)} (default: these), or any other model"
    measured = f"{', '.join(task.name for task in helpdesk_tasks())}, or sets in the folder that {DATA_VARIABLE} names"
    parser.add_argument("--models", nargs="+", metavar="NAME", help=compared)
    parser.add_argument("--tasks", nargs="+", metavar="NAME", help=measured)
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="fine-tunings of each encoder (default: 3)")
    parser.add_argument("--output", default="figures", metavar="DIR", help="folder of the results (default: figures)")


def run_from(given: argparse.Namespace) -> None:
    """Run the benchmark as the command line says, print the page and where it lies.

    Raises:
        SystemExit: cells failed; the message says how many.
    """
    table = run(given.models, given.tasks, given.seeds, given.output)
    print(f"\n{report(table)}\nWritten to {given.output}: benchmark.csv, benchmark.md, benchmark.png, environment.json")
    failed = int((table["tag"] == "failed").sum())
    if failed:
        raise SystemExit(f"{failed} of {len(table)} cells failed; benchmark.csv has their errors")
