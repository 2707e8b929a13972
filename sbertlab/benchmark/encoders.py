"""The models that the benchmark compares.

A `Candidate` says how a model is built, anew for each seed; it knows nothing about tasks.
"""

import copy
import hashlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline
from torch import nn
from transformers import AutoModel

from sbertlab.benchmark.published import BASE_MODELS
from sbertlab.data import helpdesk
from sbertlab.encoder.sentence_transformer import SentenceTransformer
from sbertlab.models import Normalize, Pooling, StaticEmbedding, Transformer
from sbertlab.storage.files import sha256_of
from sbertlab.storage.find import ModelNotFoundError, find_model

MINILM, MPNET = "all-MiniLM-L6-v2", "all-mpnet-base-v2"


@dataclass(frozen=True)
class Candidate:
    """A model to compare.

    Args:
        name: as it appears in the table.
        make: builds it from a seed; anything with `encode` or `transform`. Results of lambdas, nested and notebook
            functions are not cached.
        random: each seed gives another model, so the untuned variant too is measured with every seed.
        trainable: a recipe can fine-tune it.
        learning_rates: by the name of a recipe, if this model needs another rate than the recipe's own.
        base: model whose weights or architecture it starts from.
        files: other files that it is made from.
    """

    name: str
    make: Callable[[int], Any]
    random: bool = False
    trainable: bool = False
    learning_rates: Mapping[str, float] = field(default_factory=dict)
    base: str | None = None
    files: tuple[Path, ...] = ()

    def source_files(self) -> dict[str, Path]:
        """Return the files that it is made from, by name; of the base if it is on this machine, without hidden ones."""
        files = {path.name: path for path in self.files}
        if self.base is not None:
            with suppress(ModelNotFoundError):
                folder = find_model(self.base, local_files_only=True)
                paths = sorted(path for path in folder.rglob("*") if path.is_file())
                files |= {path.relative_to(folder).as_posix(): path for path in paths}
        return {name: path for name, path in files.items() if not name.startswith(".")}

    def revision(self) -> str:
        """Return the commit of the base on the Hub, or the SHA-256 of the weights or files; empty if unknown."""
        files = self.source_files()
        for path in files.values():
            if "snapshots" in path.parts:  # Hugging Face's cache names them by commit
                return path.parts[path.parts.index("snapshots") + 1]
        weights = [path for name, path in files.items() if name.endswith((".safetensors", ".bin"))]
        return digest_of(weights if self.base else files.values())


def digest_of(files: Iterable[Path]) -> str:
    """Return the SHA-256 of one file, of the digests of several, or "" for none; unchanged files are read once."""
    digests = [_digest(file, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest() if len(digests) > 1 else "".join(digests)


@lru_cache(maxsize=1024)
def _digest(file: Path, size: int, changed: int) -> str:
    return sha256_of(file)


@lru_cache(maxsize=1)
def _loaded(name: str) -> SentenceTransformer:
    return SentenceTransformer(name)


def pretrained(name: str, seed: int = 0) -> SentenceTransformer:
    """Return a copy of the named model; a model without pooling, such as a base model, gets mean pooling."""
    return copy.deepcopy(_loaded(name))


def first_layers(name: str, seed: int = 0, layers: int = 3) -> SentenceTransformer:
    """Return the model with only its first transformer layers."""
    model = pretrained(name)
    transformer: Any = model[0].auto_model
    transformer.encoder.layer = transformer.encoder.layer[:layers]
    transformer.config.num_hidden_layers = layers
    return model


def token_embeddings(name: str, seed: int = 0) -> SentenceTransformer:
    """Return the mean of the model's token embeddings, without any transformer layer."""
    model = _loaded(name)
    transformer: Any = model[0]
    modules = [StaticEmbedding.from_transformer(transformer), Normalize()]
    return SentenceTransformer(modules=modules, device=model.device)


def random_weights(name: str, seed: int = 0) -> SentenceTransformer:
    """Return the model's architecture and tokenizer with random weights drawn from the seed."""
    model = _loaded(name)
    trained: Any = model[0]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        body = AutoModel.from_config(trained.auto_model.config)
    transformer = Transformer.from_parts(body, trained.tokenizer, trained.max_seq_length)
    pooling = Pooling(transformer.get_word_embedding_dimension())
    return SentenceTransformer(modules=[transformer, pooling, Normalize()], device=model.device)


def tfidf_svd(seed: int = 0, dimensions: int = 256) -> Any:
    """Return the non-neural baseline: TF-IDF of character n-grams and a truncated SVD, fitted on the training texts."""
    train = helpdesk.load_helpdesk("train")
    letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)
    pipeline = make_pipeline(letters, TruncatedSVD(dimensions, random_state=0))
    return pipeline.fit(pd.concat([train["text"], train["answer"].drop_duplicates()]))


def named(model: str) -> Candidate:
    """Return the candidate for a model's name, fine-tuned with the recipe's own learning rate."""
    return Candidate(model, partial(pretrained, model), trainable=True, base=model)


def _of_minilm(name: str, make: Callable[..., Any], rates: dict[str, float], random: bool = False) -> Candidate:
    return Candidate(name, partial(make, MINILM), random, trainable=True, learning_rates=rates, base=MINILM)


_OFFLINE = (
    _of_minilm(MINILM, pretrained, {"helpdesk-triplets": 1e-4}),
    _of_minilm("MiniLM-3-layers", first_layers, {"helpdesk-triplets": 3e-4}),
    _of_minilm("MiniLM-tokens", token_embeddings, {"helpdesk-triplets": 1e-2, "nli-local": 1e-2}),
    _of_minilm("MiniLM-random", random_weights, {"helpdesk-triplets": 5e-5}, random=True),
    Candidate("TF-IDF+SVD", tfidf_svd, files=(helpdesk.CORPUS,)),
)

OFFLINE_ENCODERS = tuple(candidate.name for candidate in _OFFLINE)
"""Made from the small packaged model and the packaged corpus. Their learning rates for "helpdesk-triplets" were chosen
on the dev intents; that of MiniLM-tokens for "nli-local", among 1e-3, 3e-3 and 1e-2, on STSb-dev."""

LOCAL_ENCODERS = (*OFFLINE_ENCODERS, MPNET)
"""Those and the large packaged model."""

ENCODERS: Mapping[str, Candidate] = {
    candidate.name: candidate for candidate in (*_OFFLINE, named(MPNET), *map(named, BASE_MODELS))
}
"""All candidates that are known by name."""


def select_encoders(models: Iterable[str | Candidate]) -> list[Candidate]:
    """Return the candidates with these names; any other name is a model that `SentenceTransformer` can load."""
    candidates = [model if isinstance(model, Candidate) else ENCODERS.get(model) or named(model) for model in models]
    names = [candidate.name for candidate in candidates]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"models must be names of models, each once, got {names}")
    return candidates


def parameter_count(model: Any) -> int | None:
    """Return the number of parameters of a model, or of weights and projections of scikit-learn; None if unknown."""
    if isinstance(model, nn.Module):
        return sum(parameter.numel() for parameter in model.parameters())
    steps = [step for _, step in getattr(model, "steps", [])]
    arrays = [getattr(step, name) for step in steps for name in ("idf_", "components_") if hasattr(step, name)]
    return sum(array.size for array in arrays) or None
