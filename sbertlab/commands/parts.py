"""The parts of a run made from settings: model, losses, data and evaluators."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from torch.utils.data import DataLoader

from sbertlab import evaluation, losses
from sbertlab.checks import check_choice
from sbertlab.commands.embed import read_frames
from sbertlab.commands.settings import arguments_of, keys_of
from sbertlab.data import collate, examples_from_frame, helpdesk, nemo, readers
from sbertlab.data.loaders import DenoisingAutoEncoderDataset, NoDuplicatesDataLoader, SentenceLabelDataset
from sbertlab.data.readers import InputExample
from sbertlab.encoder.lora import add_lora
from sbertlab.encoder.sentence_transformer import SentenceTransformer
from sbertlab.models import Normalize, Pooling

MODELS = ("guide", "teacher_model")
"""Settings of losses and evaluators that are models."""
OF_DATA = ("dataset_folder", "folder", "filepaths", "kind", "arguments", "examples", "default_seed")
OF_EVALUATOR = (
    *("sentences1", "sentences2", "scores", "labels", "anchors", "positives", "negatives", "queries", "corpus"),
    *("relevant_docs", "samples", "texts", "source_sentences", "target_sentences", "sentences_map", "duplicates_list"),
    *("duplicates_dict", "dataloader", "softmax_model", "name"),
)
"""Parameters of readers and evaluators that are filled in here, so that they are not settings."""


def load_model(
    name: str,
    pooling: str | list[str] | None = None,
    normalize: bool | None = None,
    max_seq_length: int | None = None,
    layers: int | None = None,
    lora: dict[str, Any] | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> SentenceTransformer:
    """Load the model to train.

    Args:
        name: a folder, a name on the Hub or a packaged model.
        pooling: replaces the model's pooling: cls, mean, max, ..., or several of them.
        normalize: whether embeddings are scaled to length 1; default: as the model does.
        max_seq_length: texts are truncated to this number of tokens.
        layers: keep only the first layers of the transformer, as for a student.
        lora: train LoRA adapters instead of all weights: settings of `adapters.add_lora`, such as `{r: 8}`.
        device: cuda, mps or cpu; default: the best available.
        trust_remote_code: run code that comes with the model.
    """
    model = SentenceTransformer(name, device=device, trust_remote_code=trust_remote_code)
    first: Any = model[0]
    if layers is not None:
        encoder: Any = getattr(getattr(first, "auto_model", None), "encoder", None)
        if not 0 < layers <= len(getattr(encoder, "layer", ())):
            raise ValueError(f"model.layers={layers}: {name} does not have that many layers in encoder.layer")
        encoder.layer = encoder.layer[:layers]
        first.auto_model.config.num_hidden_layers = layers
    if pooling is not None or normalize is not None:
        normalize = isinstance(model[-1], Normalize) if normalize is None else normalize
        blocks = [block for block in model if not isinstance(block, Normalize)]
        if pooling is not None:
            blocks = [first, Pooling(first.get_word_embedding_dimension(), pooling)]
        model = SentenceTransformer(modules=[*blocks, *[Normalize()] * normalize], device=model.device)
    if max_seq_length is not None:
        model.max_seq_length = max_seq_length
    return model if lora is None else add_lora(model, **arguments_of(add_lora, lora, "model.lora"))


def make_model(given: Any, where: str) -> SentenceTransformer:
    """Load the model that a section of settings, or a name alone, describes."""
    return load_model(**arguments_of(load_model, {"name": given} if isinstance(given, str) else given or {}, where))


LOSSES = {
    name: kind
    for name in losses.__all__
    if isinstance(kind := getattr(losses, name), type) and issubclass(kind, losses.Loss) and kind is not losses.Loss
}


def make_loss(model: SentenceTransformer, given: Any, where: str) -> losses.Loss:
    """Make a loss by its class name; a loss or a model inside it has settings of its own."""
    given = {"name": given} if isinstance(given, str) else dict(given or {})
    name = given.pop("name", None)
    check_choice(f"{where}.name", name, LOSSES)
    kind = LOSSES[name]
    if "sentence_embedding_dimension" in keys_of(kind):
        given.setdefault("sentence_embedding_dimension", model.get_sentence_embedding_dimension())
    arguments = arguments_of(kind, given, where, raw=("loss", *MODELS))
    for name in {"loss", *MODELS} & set(arguments):
        make = functools.partial(make_loss, model) if name == "loss" else make_model
        arguments[name] = make(arguments[name], f"{where}.{name}")
    return kind(model, **arguments)


def table(path: str, texts: list[str], label: str | None = None, separator: str | None = None) -> list[InputExample]:
    """Read columns of texts, in the order that the loss expects, and of labels: .csv, .tsv, .jsonl or .parquet."""
    frame = pd.concat(read_frames(path, sep=separator))
    return examples_from_frame(frame, texts, label)


def text_lines(path: str) -> list[InputExample]:
    """Read a file with one text per line; empty lines are left out."""
    return table(path, ["text"])


def helpdesk_corpus(
    rows: Literal["triplets", "sts", "nli", "duplicates", "retrieval", "texts"] = "triplets",
    split: Literal["train", "dev", "test"] = "train",
    seed: int = 0,
) -> list[InputExample]:
    """Read the packaged help desk corpus.

    Args:
        rows: triplets (anchor, positive, hard negative); sts (pairs with a score from 0 to 1); nli (pairs with a class:
            0 other topic, 1 same intent, 2 near intent); duplicates (pairs with 0 or 1); retrieval (a question, its
            answer, all other answers of the knowledge base); texts (a question and the number of its intent).
        split: train, dev or test; they share no intent.
        seed: of the rows and their order.
    """
    corpus = helpdesk.load_helpdesk(split)
    pair = ["sentence1", "sentence2"]
    if rows == "retrieval":
        answers = helpdesk.load_helpdesk().drop_duplicates("intent").set_index("intent")["answer"]
        asked = zip(corpus["text"], corpus["intent"], corpus["answer"], strict=True)
        made = [InputExample(texts=[text, own, *answers.drop(intent)]) for text, intent, own in asked]
    elif rows == "texts":
        made = examples_from_frame(corpus.assign(number=pd.factorize(corpus["intent"])[0]), ["text"], "number")
    elif rows == "triplets":
        made = examples_from_frame(helpdesk.triplets(corpus, seed), ["anchor", "positive", "negative"])
    elif rows == "duplicates":
        made = examples_from_frame(helpdesk.duplicate_pairs(corpus, seed=seed), pair, "label")
    else:
        frame = helpdesk.graded_pairs(corpus, seed=seed)
        if rows == "nli":
            classes = frame["score"].mul(3).round().map({0: 0, 3: 1, 2: 2})  # "same topic" is none of the three
            frame = frame.assign(score=classes)[classes.notna()].astype({"score": int})
        made = examples_from_frame(frame, pair, "score")
    random.Random(seed).shuffle(made)
    return made


READERS: Mapping[str, Callable[..., Any]] = {
    "table": table,
    "lines": text_lines,
    "helpdesk": helpdesk_corpus,
    "NeMoReader": nemo.NeMoReader,
    **{name: getattr(readers, name) for name in readers.__all__ if name.endswith("Reader")},
}


def read(
    kind: Callable[..., Any],
    arguments: Mapping[str, Any],
    path: str | list[str] | None = None,
    max_examples: int = 0,
    evaluation_sample_size: int = 0,
    seed: int = 42,
) -> tuple[list[InputExample], list[InputExample]]:
    """Read examples; return those to train on and those held out.

    Args:
        path: the file; for PairedFilesReader a list of files.
        max_examples: read only the first ones; 0 for all.
        evaluation_sample_size: number of examples (rows of NeMo's files) held out for an evaluator without data.
        seed: of their choice.
    """
    if not isinstance(kind, type):
        examples = kind(**arguments)[: max_examples or None]
    elif path is None or isinstance(path, list) != (kind is readers.PairedFilesReader):
        raise ValueError(f"data.path: {kind.__name__} needs a file (PairedFilesReader a list of files), got {path!r}")
    elif isinstance(path, list):
        examples = kind(path, **arguments).get_examples(max_examples)
    else:
        reader = kind(Path(path).parent, **arguments)
        examples = reader.get_examples(Path(path).name, max_examples)
    if not evaluation_sample_size:
        return examples, []
    if not 0 < evaluation_sample_size < len(examples):
        raise ValueError(f"evaluation_sample_size={evaluation_sample_size} does not split {len(examples)} examples")
    random.Random(seed).shuffle(examples)
    return examples[:-evaluation_sample_size], examples[-evaluation_sample_size:]


def make_loader(
    examples: Sequence[InputExample],
    default_seed: int = 0,
    batch_size: int = 16,
    loader: Literal["plain", "no_duplicates", "by_label"] = "plain",
    shuffle: bool = True,
    samples_per_label: int = 2,
    noise: float | None = None,
    seed: int | None = None,
) -> Any:
    """Make the batches.

    Args:
        batch_size: rows per batch, of all processes together.
        loader: plain; no_duplicates (no text twice in a batch, for in-batch negatives); by_label (`samples_per_label`
            rows of a class together, for the BatchHard losses).
        shuffle: a new order in each epoch; the other loaders always shuffle.
        noise: share of words to delete, for DenoisingAutoEncoderLoss: makes (noisy text, text) of the first text.
        seed: of order and noise; default: the run's.
    """
    seed = default_seed if seed is None else seed
    if noise is not None:
        texts = [example.texts[0] for example in examples if example.texts]
        return DataLoader(DenoisingAutoEncoderDataset(texts, seed=seed, del_ratio=noise), batch_size, shuffle)
    if loader == "no_duplicates":
        return NoDuplicatesDataLoader(examples, batch_size, seed)
    if loader == "by_label":
        return DataLoader(SentenceLabelDataset(examples, samples_per_label, seed=seed), batch_size)
    return DataLoader(list(examples), batch_size, shuffle)  # type: ignore[arg-type]


def read_data(given: Mapping[str, Any], where: str) -> tuple[list[InputExample], list[InputExample], dict[str, Any]]:
    """Return the examples to train on, those held out, and the arguments of the loader."""
    reader = given.get("reader", "table")
    reader = dict(reader) if isinstance(reader, dict) else {"name": reader}
    check_choice(f"{where}.reader", name := reader.pop("name", None), READERS)
    given = {**reader, **given}
    shared, loading = keys_of(read, OF_DATA), keys_of(make_loader, OF_DATA)
    own = [key for key in given if key in keys_of(READERS[name]) or key not in ("reader", "teacher", *shared, *loading)]
    arguments = [
        arguments_of(make, {key: given[key] for key in given if key in keys}, where, OF_DATA)
        for make, keys in ((READERS[name], own), (read, shared), (make_loader, loading))
    ]
    return (*read(READERS[name], arguments[0], **arguments[1]), arguments[2])


def with_teacher(examples: list[InputExample], teacher: SentenceTransformer, loss: losses.Loss) -> list[InputExample]:
    """Return the examples with the labels that the loss learns from the teacher: its vectors, or its scores."""
    if loss.label == "vector":
        vectors = teacher.encode([example.texts[0] for example in examples if example.texts])
        labels: Iterable[Any] = list(vectors)
    elif loss.label == "scores":
        columns, _ = collate(examples)
        query, *passages = (teacher.encode(column, convert_to_tensor=True) for column in columns)
        labels = np.stack([(query * passage).sum(dim=1).cpu().numpy() for passage in passages], axis=1)
    else:
        raise ValueError(f"data.teacher: {type(loss).__name__} has no teacher; MSELoss and MarginMSELoss do")
    return [InputExample(row.guid, row.texts, label) for row, label in zip(examples, labels, strict=True)]


def _columns(examples: list[InputExample], *names: str) -> dict[str, list[str]]:
    columns, _ = collate(examples)
    if len(columns) < len(names):
        raise ValueError(f"the evaluator needs the texts {', '.join(names)}, its data has {len(columns)} per row")
    return dict(zip(names, columns, strict=False))


def _labels(examples: list[InputExample]) -> list[Any]:
    return [example.label for example in examples]


def _searches(examples: list[InputExample]) -> dict[str, tuple[list[str], list[str]]]:
    """Return, for every distinct first text, its positives (second texts) and negatives (all others)."""
    _columns(examples, "query", "positive")
    found: dict[str, tuple[list[str], list[str]]] = {}
    for query, positive, *negatives in (example.texts or [] for example in examples):
        positives, others = found.setdefault(query, ([], []))
        positives.append(positive)
        others.extend(negatives)
    return found


def _corpus(examples: list[InputExample]) -> dict[str, Any]:
    searches = _searches(examples)
    texts = dict.fromkeys(text for both in searches.values() for some in both for text in some)
    return {
        "queries": {query: query for query in searches},
        "corpus": {text: text for text in texts},
        "relevant_docs": {query: set(positives) for query, (positives, _) in searches.items()},
    }


def _duplicates(examples: list[InputExample]) -> dict[str, Any]:
    first, second = _columns(examples, "text", "duplicate").values()
    alike = [pair for pair, label in zip(zip(first, second, strict=True), _labels(examples), strict=True) if label]
    return {"sentences_map": {text: text for text in (*first, *second)}, "duplicates_list": alike}


def _pairs(label: str, rows: list[InputExample]) -> dict[str, Any]:
    return {**_columns(rows, "sentences1", "sentences2"), label: _labels(rows)}


def _samples(rows: list[InputExample]) -> dict[str, Any]:
    names = ("query", "positive", "negative")
    return {"samples": [dict(zip(names, (query, *both), strict=True)) for query, both in _searches(rows).items()]}


EVALUATORS: Mapping[str, Callable[[list[InputExample]], dict[str, Any]]] = {
    "EmbeddingSimilarityEvaluator": functools.partial(_pairs, "scores"),
    "BinaryClassificationEvaluator": functools.partial(_pairs, "labels"),
    "TripletEvaluator": lambda rows: _columns(rows, "anchors", "positives", "negatives"),
    "InformationRetrievalEvaluator": _corpus,
    "RerankingEvaluator": _samples,
    "ParaphraseMiningEvaluator": _duplicates,
    "TranslationEvaluator": lambda rows: _columns(rows, "source_sentences", "target_sentences"),
    "MSEEvaluator": lambda rows: {"source_sentences": collate(rows)[0][0], "target_sentences": collate(rows)[0][-1]},
    "ClusteringEvaluator": lambda rows: {**_columns(rows, "texts"), "labels": _labels(rows)},
    "LabelAccuracyEvaluator": lambda rows: {"dataloader": DataLoader(rows, batch_size=32)},  # type: ignore[arg-type]
}
"""What each evaluator takes of examples."""


def make_evaluator(given: Any, held_out: list[InputExample], where: str = "evaluator", loss: Any = None) -> Any:
    """Make an evaluator by its class name from its data, or from examples held out; a list makes several in a row."""
    if isinstance(given, list):
        parts = [make_evaluator(part, held_out, f"{where}.{place}", loss) for place, part in enumerate(given)]
        return evaluation.SequentialEvaluator(parts)
    given = dict(given)
    name, data = given.pop("name", None), given.pop("data", None)
    check_choice(f"{where}.name", name, EVALUATORS)
    if data is None and not held_out:
        raise ValueError(f"{where}.data is missing; pass it, or hold examples out by data.evaluation_sample_size")
    arguments = arguments_of(getattr(evaluation, name), given, where, OF_EVALUATOR, MODELS)
    if "teacher_model" in arguments:
        arguments["teacher_model"] = make_model(arguments["teacher_model"], f"{where}.teacher_model")
    if name == "LabelAccuracyEvaluator":
        arguments["softmax_model"] = loss
    examples = held_out if data is None else read_data(data, f"{where}.data")[0]
    return getattr(evaluation, name)(**EVALUATORS[name](examples), **arguments)
