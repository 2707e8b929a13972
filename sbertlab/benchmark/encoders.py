"""What the benchmark compares: encoders by name, what each is made from, and the facts of a model.

An `Encoder` says how a model is made, anew for every seed; it knows nothing of tasks. `OFFLINE_ENCODERS`,
`LOCAL_ENCODERS` and `PUBLISHED_ENCODERS` are the models of the three presets.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline
from torch import nn
from transformers import AutoModel

from sbertlab.benchmark.published_table import BASE_MODELS
from sbertlab.data import helpdesk
from sbertlab.encoder.fingerprint import fingerprint
from sbertlab.encoder.sentence_transformer import SentenceTransformer
from sbertlab.models import Normalize, Pooling, StaticEmbedding, Transformer
from sbertlab.storage.files import sha256_of
from sbertlab.storage.find import ModelNotFoundError, find_model

UNTUNED, TUNED = "untuned", "fine-tuned"
"""The two variants of an encoder."""

MINILM, MPNET = "all-MiniLM-L6-v2", "all-mpnet-base-v2"


@dataclass(frozen=True)
class Encoder:
    """An encoder to compare.

    Args:
        name: as it appears in the table.
        make: makes it anew from a seed; anything with `encode` or `transform`. A function at the top of a module, or a
            `functools.partial` of one with all that it depends on: of a lambda, a function inside another or one of a
            notebook nothing tells whether it is still the same, so what is measured with it is not kept between runs.
        random: every seed makes another one, so the untuned variant is measured with each.
        trainable: a recipe can fine-tune it.
        learning_rates: by the name of a recipe, where this encoder needs another rate than the recipe's own.
        base: model whose weights or architecture it starts from.
        files: what else it is made from.
    """

    name: str
    make: Callable[[int], Any]
    random: bool = False
    trainable: bool = False
    learning_rates: Mapping[str, float] = field(default_factory=dict)
    base: str | None = None
    files: tuple[Path, ...] = ()

    def revision(self) -> str:
        """Return what tells this version from others: the commit of the base on the Hub, else a SHA-256 of its weights.

        Empty where nothing is known: without base and files, and as long as the base is not on this machine.
        """
        if self.base is None:
            return weights_digest(self.files)
        folder = _folder_of(self.base)
        if folder is None:
            return ""
        if folder.parent.name == "snapshots":  # of Hugging Face's cache, which names them by commit
            return folder.name
        return weights_digest(sorted(path for path in folder.rglob("*") if path.suffix in (".safetensors", ".bin")))

    def content(self) -> dict[str, Any]:
        """Return what its models follow from beside the seed: the maker, every file of the base, the other files.

        Raises:
            TypeError: nothing tells the content of `make`, e.g. of a lambda.
        """
        folder = None if self.base is None else _folder_of(self.base)
        return {
            "make": fingerprint(self.make),
            "base": None if folder is None else _folder_content(folder),
            "files": weights_digest(self.files),
        }


def _folder_of(base: str) -> Path | None:
    """The folder of a model, or None as long as it is not on this machine."""
    try:
        return find_model(base, local_files_only=True)
    except ModelNotFoundError:
        return None


def _folder_content(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file of a model folder by its name; hidden ones, such as those of git, are no part of it."""
    files = {file.relative_to(folder): file for file in sorted(folder.rglob("*")) if file.is_file()}
    return {name.as_posix(): weights_digest([file]) for name, file in files.items() if name.parts[0][0] != "."}


def weights_digest(files: Iterable[Path]) -> str:
    """Return the SHA-256 of a file, or of the list of those of several; empty for none.

    A file is read once, and again when its size or time has changed.
    """
    stats = [(file, file.stat()) for file in files]
    digests = [_digest(file, stat.st_size, stat.st_mtime_ns) for file, stat in stats]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest() if len(digests) > 1 else "".join(digests)


@lru_cache(maxsize=1024)
def _digest(file: Path, size: int, changed: int) -> str:
    return sha256_of(file)


# -- Makers ------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _loaded(name: str) -> SentenceTransformer:
    return SentenceTransformer(name)


def pretrained(name: str, seed: int = 0) -> SentenceTransformer:
    """Return the model of this name, a copy of one's own to train; a model without pooling gets the mean of its tokens.

    The base models of the Training Overview are such: a body, mean pooling, no Normalize.
    """
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


# -- Which encoders there are ------------------------------------------------------------------------------------------


def named(model: str) -> Encoder:
    """Return the encoder that a model's name stands for; the recipe's own learning rate applies.

    >>> named("all-mpnet-base-v2").base
    'all-mpnet-base-v2'
    """
    return Encoder(model, partial(pretrained, model), trainable=True, base=model)


def _cut(name: str, make: Callable[..., Any], **settings: Any) -> Encoder:
    return Encoder(name, partial(make, MINILM), trainable=True, base=MINILM, **settings)


_OFFLINE = (
    _cut(MINILM, pretrained, learning_rates={"helpdesk-triplets": 1e-4}),
    _cut("MiniLM-3-layers", first_layers, learning_rates={"helpdesk-triplets": 3e-4}),
    _cut("MiniLM-tokens", token_embeddings, learning_rates={"helpdesk-triplets": 1e-2, "nli-local": 1e-2}),
    _cut("MiniLM-random", random_weights, random=True, learning_rates={"helpdesk-triplets": 5e-5}),
    Encoder("TF-IDF+SVD", tfidf_svd, files=(helpdesk.CORPUS,)),
)

OFFLINE_ENCODERS = tuple(encoder.name for encoder in _OFFLINE)
"""Made from the small packaged model and the packaged corpus. Their rates for "helpdesk-triplets" were chosen on the
dev intents; that of MiniLM-tokens for "nli-local", out of 1e-3, 3e-3 and 1e-2, by STSb-dev."""

LOCAL_ENCODERS = (*OFFLINE_ENCODERS, MPNET)
"""Those, and the large packaged model."""

PUBLISHED_ENCODERS = tuple(model for model, _, _ in BASE_MODELS)
"""The thirteen base models of the Training Overview by their names on the Hub, in its order."""

ENCODERS: Mapping[str, Encoder] = {
    encoder.name: encoder for encoder in (*_OFFLINE, named(MPNET), *map(named, PUBLISHED_ENCODERS))
}
"""All encoders that are known by name."""


def select_encoders(models: Iterable[str | Encoder] | None = None, *, fetch: bool = True) -> list[Encoder]:
    """Return the encoders with these names; another name is a model as `SentenceTransformer` takes it.

    Args:
        models: names, or encoders, which stand for themselves; None: `OFFLINE_ENCODERS`.
        fetch: have the models that they start from on this machine before anything is made; False leaves that to the
            making of each, so that one that cannot be had does not keep the others from being measured.

    Raises:
        TypeError: a model that is neither a name nor an encoder.
        ValueError: no names, or one twice.
        FileNotFoundError: a model cannot be found; the message has the known names that are nearest.

    >>> [encoder.name for encoder in select_encoders(["TF-IDF+SVD"])]
    ['TF-IDF+SVD']
    """
    given = [models] if isinstance(models, str | Encoder) else list(OFFLINE_ENCODERS if models is None else models)
    for model in given:
        if not isinstance(model, str | Encoder):
            raise TypeError(
                f"models must be names or Encoders, got a {type(model).__name__}; a model of your own needs a name and "
                "a function that makes it from a seed: Encoder('my model', lambda seed: model)"
            )
    encoders = [
        model if isinstance(model, Encoder) else ENCODERS[model] if model in ENCODERS else named(model)
        for model in given
    ]
    names = [encoder.name for encoder in encoders]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"models must be names of models, each once, got {names}")
    for base in dict.fromkeys(encoder.base for encoder in encoders if encoder.base and fetch):
        try:
            find_model(base)
        except ModelNotFoundError as error:
            near = [] if base in ENCODERS else nearest(base)
            hint = f". Did you mean {' or '.join(near)}?" if near else ""
            raise ModelNotFoundError(f"{error}{hint}") from error
    return encoders


def nearest(name: str, most: int = 3) -> list[str]:
    """Return the known names that a mistyped one may mean, the likeliest first.

    >>> nearest("minilm-token")[0], nearest("mpnet-base")[0]
    ('MiniLM-tokens', 'microsoft/mpnet-base')
    """
    known = {short: full for full in ENCODERS for short in (full.lower(), full.lower().rpartition("/")[2])}
    found = get_close_matches(name.lower(), known, n=2 * most, cutoff=0.5)
    return list(dict.fromkeys(known[short] for short in found))[:most]


# -- Facts of a model --------------------------------------------------------------------------------------------------


def facts(model: Any) -> dict[str, float | int | None]:
    """Return what a model is, in numbers.

    Args:
        model: a module of torch with `encode`, or a pipeline of scikit-learn with `transform`.

    Returns:
        parameters (of a pipeline the numbers that it weighs and projects with), megabytes (10^6 bytes) that these take,
        dimensions of an embedding, max_seq_length (None where nothing is cut). None where something is not known.

    >>> from sbertlab import models
    >>> block = models.Dense(3, 2)
    >>> block.encode = lambda texts: np.zeros((len(texts), 2))
    >>> facts(block)
    {'parameters': 8, 'megabytes': 0.0, 'dimensions': 2, 'max_seq_length': None}
    """
    if isinstance(model, nn.Module):
        sizes = [(parameter.numel(), parameter.nbytes) for parameter in model.parameters()]
    else:
        steps = [step for _, step in getattr(model, "steps", [])]
        arrays = [getattr(step, name) for step in steps for name in ("idf_", "components_") if hasattr(step, name)]
        sizes = [(array.size, array.nbytes) for array in arrays]
    stated = getattr(model, "get_sentence_embedding_dimension", None)
    dimensions = stated() if callable(stated) else None
    if dimensions is None:
        embed = getattr(model, "encode", None) or model.transform
        dimensions = np.asarray(embed(["text"])).shape[-1]
    return {
        "parameters": sum(count for count, _ in sizes) if sizes else None,
        "megabytes": round(sum(size for _, size in sizes) / 1e6, 1) if sizes else None,
        "dimensions": int(dimensions),
        "max_seq_length": getattr(model, "max_seq_length", None),
    }
