"""The parts of a run made from settings: model, data, loss and evaluator.

Every section of the settings is the signature of what it is passed to, checked by jsonargparse: `model` is that of
`load_model`, `data` that of `Data`; `loss`, `evaluator` and `data.reader` have the name of a class and its arguments.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from torch.utils.data import DataLoader

from sbertlab import evaluation, losses
from sbertlab.checks import check_choice
from sbertlab.data import NeMoReader, collate, examples_from_frame, helpdesk, readers
from sbertlab.data.loaders import DenoisingAutoEncoderDataset, NoDuplicatesDataLoader
from sbertlab.data.readers import InputExample, lines
from sbertlab.encoder.sentence_transformer import SentenceTransformer
from sbertlab.models import Normalize, Pooling


def arguments_of(make: Callable[..., Any], given: Any, where: str, skip: Collection[str] = ()) -> dict[str, Any]:
    """Return settings as arguments of a function or class, checked against its signature but for `skip`.

    An unknown or missing setting, or a value of the wrong type, is a ValueError.
    """
    from jsonargparse import ArgumentError, ArgumentParser  # slow to import

    parser = ArgumentParser(exit_on_error=False)
    add = parser.add_class_arguments if isinstance(make, type) else parser.add_function_arguments
    skipped: Any = {*skip, "model"} & set(inspect.signature(make).parameters)
    add(make, None, skip=skipped, fail_untyped=False)
    try:
        values = parser.parse_object(dict(given or {})).as_dict()
    except ArgumentError as error:
        raise ValueError(f"{where}: {' '.join(str(error).split())}") from error
    return {name: values[name] for name in given or {}}


def name_and_settings(given: Any, where: str, known: Collection[str]) -> tuple[str, dict[str, Any]]:
    """Return the name of a class, which must be known, and its settings; a name alone has none."""
    settings = dict(given) if isinstance(given, Mapping) else {"name": given}
    check_choice(f"{where}.name", name := settings.pop("name", None), known)
    return name, settings


def load_model(
    name: str,
    pooling: str | list[str] | None = None,
    normalize: bool = True,
    max_seq_length: int | None = None,
    layers: int | None = None,
) -> SentenceTransformer:
    """Load the model to train.

    Args:
        name: a folder, a name on the Hub or a packaged model.
        pooling: replaces what follows the transformer: cls, mean, max, ..., or several of them.
        normalize: whether embeddings are scaled to length 1 behind this pooling.
        max_seq_length: texts are truncated to this number of tokens.
        layers: keep only the first layers of the transformer, as for a student.
    """
    model = SentenceTransformer(name)
    transformer: Any = model[0]
    if layers is not None:
        transformer.auto_model.encoder.layer = transformer.auto_model.encoder.layer[:layers]
        transformer.auto_model.config.num_hidden_layers = layers
    if pooling is not None:
        blocks = [transformer, Pooling(transformer.get_word_embedding_dimension(), pooling)]
        model = SentenceTransformer(modules=[*blocks, Normalize()] if normalize else blocks, device=model.device)
    if max_seq_length is not None:
        model.max_seq_length = max_seq_length
    return model


LOSSES = {
    name: kind
    for name in losses.__all__
    if isinstance(kind := getattr(losses, name), type) and issubclass(kind, losses.Loss) and kind is not losses.Loss
}


def make_loss(model: SentenceTransformer, given: Any) -> losses.Loss:
    """Make a loss; the loss inside it has settings of its own, its guide is the name of a model."""
    name, settings = name_and_settings(given, "loss", LOSSES)
    parts: dict[str, Any] = {}
    if "loss" in settings:
        parts["loss"] = make_loss(model, settings.pop("loss"))
    if "guide" in settings:
        parts["guide"] = SentenceTransformer(settings.pop("guide"))
    if "sentence_embedding_dimension" in inspect.signature(LOSSES[name]).parameters:
        parts["sentence_embedding_dimension"] = model.get_sentence_embedding_dimension()
    return LOSSES[name](model, **arguments_of(LOSSES[name], settings, f"loss {name}", parts), **parts)


def read_frame(path: str) -> pd.DataFrame:
    """Return a table (.csv, .tsv, .jsonl, .parquet); of any other file, the non-empty lines in a column `text`.

    The cells of .csv and .tsv are texts, empty ones too. All but Parquet may be compressed by gzip.
    """
    kind = Path(path.removesuffix(".gz")).suffix
    if kind in (".csv", ".tsv"):
        return pd.read_csv(path, sep="\t" if kind == ".tsv" else ",", dtype=str, keep_default_na=False)
    if kind == ".jsonl":
        return pd.read_json(path, lines=True, dtype=False, encoding="utf-8-sig")
    if kind == ".parquet":
        return pd.read_parquet(path)
    return pd.DataFrame({"text": [line.strip() for line in lines(path) if line.strip()]})


def table(path: str, texts: Sequence[str] = ("text",), label: str | None = None) -> list[InputExample]:
    """Read a table as `read_frame` does: columns of texts, in the order of the loss, and one of labels."""
    frame = read_frame(path)
    if label is not None:
        frame[label] = pd.to_numeric(frame[label])  # of .csv, all cells are texts
    return examples_from_frame(frame, texts, label)


def helpdesk_corpus(
    rows: Literal["triplets", "sts", "nli", "retrieval", "texts"] = "triplets",
    split: Literal["train", "dev", "test"] = "train",
    seed: int = 0,
) -> list[InputExample]:
    """Read the packaged help desk corpus.

    Args:
        rows: triplets (anchor, positive, hard negative); sts (pairs with a score from 0 to 1); nli (pairs with a class:
            0 other topic, 1 same intent, 2 near intent); retrieval (a question, its answer, all other answers of the
            knowledge base); texts (a question).
        split: train, dev or test; they share no intent.
        seed: of the rows and their order.
    """
    corpus = helpdesk.load_helpdesk(split)
    if rows == "retrieval":
        answers = helpdesk.load_helpdesk()["answer"].unique()
        asked = zip(corpus["text"], corpus["answer"], strict=True)
        made = [InputExample(texts=[text, own, *answers[answers != own]]) for text, own in asked]
    elif rows == "texts":
        made = examples_from_frame(corpus, ["text"])
    elif rows == "triplets":
        made = examples_from_frame(helpdesk.triplets(corpus, seed), ["anchor", "positive", "negative"])
    else:
        frame = helpdesk.graded_pairs(corpus, seed=seed)
        if rows == "nli":
            classes = frame["score"].mul(3).round().map({0: 0, 3: 1, 2: 2})  # "same topic" is none of the three
            frame = frame.assign(score=classes)[classes.notna()].astype({"score": int})
        made = examples_from_frame(frame, ["sentence1", "sentence2"], "score")
    random.Random(seed).shuffle(made)
    return made


FILE_READERS = (
    *(readers.LabelSentenceReader, NeMoReader, readers.NLIDataReader),
    *(readers.STSBenchmarkDataReader, readers.STSDataReader, readers.TripletReader),
)
READERS: Mapping[str, Callable[..., Any]] = {
    "table": table,
    "helpdesk": helpdesk_corpus,
    **{kind.__name__: kind for kind in FILE_READERS},
}


@dataclass(frozen=True)
class Data:
    """The examples of a run and their batches.

    Args:
        reader: a reader and its own settings, for example `{name: table, texts: [question, answer]}`.
        path: the file that it reads; helpdesk has none.
        evaluation_sample_size: number of examples held out for an evaluator without data of its own, as NeMo does.
        teacher: a model whose vectors (for MSELoss) or scores (for MarginMSELoss) become the labels.
        batch_size: rows per batch, of all processes together.
        no_duplicates: no text occurs twice in a batch, for in-batch negatives.
        noise: share of words to delete, for DenoisingAutoEncoderLoss: makes (noisy text, text) of the first text.
    """

    reader: str | dict[str, Any] = "table"
    path: str | None = None
    evaluation_sample_size: int = 0
    teacher: str | None = None
    batch_size: int = 16
    no_duplicates: bool = False
    noise: float | None = None

    def read(self) -> tuple[list[InputExample], list[InputExample]]:
        """Return the examples to train on, and those held out: the last ones after NeMo's shuffle with seed 42."""
        name, settings = name_and_settings(self.reader, "data.reader", READERS)
        arguments = arguments_of(READERS[name], settings, f"data.reader {name}", ("path", "dataset_folder", "folder"))
        if (self.path is None) != (name == "helpdesk"):
            raise ValueError(f"every reader but helpdesk needs the file data.path, {name} got {self.path!r}")
        if self.path is None:
            examples = helpdesk_corpus(**arguments)
        elif name == "table":
            examples = table(self.path, **arguments)
        else:
            examples = READERS[name](Path(self.path).parent, **arguments).get_examples(Path(self.path).name)
        kept = len(examples) - self.evaluation_sample_size
        if not 0 < kept <= len(examples):
            raise ValueError(f"{self.evaluation_sample_size=} leaves none of {len(examples)} examples to train on")
        if kept < len(examples):
            random.Random(42).shuffle(examples)
        return examples[:kept], examples[kept:]

    def batches(self, examples: Any, loss: losses.Loss, seed: int) -> Any:
        """Return the loader of the examples, which get the teacher's labels or noise first."""
        if self.teacher is not None:
            examples = with_teacher(examples, SentenceTransformer(self.teacher), loss)
        if self.noise is not None:
            texts = [example.texts[0] for example in examples]
            noisy = DenoisingAutoEncoderDataset(texts, seed=seed, del_ratio=self.noise)
            return DataLoader(noisy, self.batch_size, shuffle=True)
        if self.no_duplicates:
            return NoDuplicatesDataLoader(examples, self.batch_size, seed)
        return DataLoader(examples, self.batch_size, shuffle=True)


def with_teacher(examples: list[InputExample], teacher: SentenceTransformer, loss: losses.Loss) -> list[InputExample]:
    """Return the examples with the labels that the loss learns from the teacher: its vectors, or its scores."""
    columns, _ = collate(examples)
    if loss.label == "vector":
        labels = teacher.encode(columns[0])
    elif loss.label == "scores":
        query, *passages = map(teacher.encode, columns)
        labels = np.stack([(query * passage).sum(axis=1) for passage in passages], axis=1)
    else:
        raise ValueError(f"data.teacher: {type(loss).__name__} has no teacher; MSELoss and MarginMSELoss do")
    return [InputExample(row.guid, row.texts, label) for row, label in zip(examples, labels, strict=True)]


EVALUATORS: Mapping[str, tuple[str, ...]] = {
    "BinaryClassificationEvaluator": ("sentences1", "sentences2", "labels"),
    "ClusteringEvaluator": ("texts", "labels"),
    "EmbeddingSimilarityEvaluator": ("sentences1", "sentences2", "scores"),
    "InformationRetrievalEvaluator": ("queries", "corpus", "relevant_docs"),
    "MSEEvaluator": ("source_sentences", "target_sentences"),
    "TranslationEvaluator": ("source_sentences", "target_sentences"),
    "TripletEvaluator": ("anchors", "positives", "negatives"),
}
"""What each evaluator takes of examples; a search takes (query, positive, negative, ...)."""


def make_evaluator(given: Any, held_out: list[InputExample]) -> Any:
    """Make an evaluator of its own data, or of examples held out; a list makes several in a row."""
    if isinstance(given, list):
        return evaluation.SequentialEvaluator([make_evaluator(part, held_out) for part in given])
    name, settings = name_and_settings(given, "evaluator", EVALUATORS)
    if "data" in settings:
        held_out = Data(**arguments_of(Data, settings.pop("data"), "evaluator.data")).read()[0]
    if not held_out:
        raise ValueError("evaluator.data is missing; pass it, or hold examples out by data.evaluation_sample_size")
    parts = _evaluator_data(name, held_out)
    if "teacher_model" in settings:
        parts["teacher_model"] = SentenceTransformer(settings.pop("teacher_model"))
    kind = getattr(evaluation, name)
    return kind(**parts, **arguments_of(kind, settings, f"evaluator {name}", (*parts, "name")))


def _evaluator_data(name: str, examples: list[InputExample]) -> dict[str, Any]:
    columns: list[Any] = collate(examples)[0]
    wanted = EVALUATORS[name]
    if name == "InformationRetrievalEvaluator":
        relevant: dict[str, set[str]] = {}
        for query, positive in zip(*columns[:2], strict=True):
            relevant.setdefault(query, set()).add(positive)
        corpus = {text: text for column in columns[1:] for text in column}
        columns = [{query: query for query in relevant}, corpus, relevant]
    elif wanted[-1] in ("labels", "scores"):
        columns = [*columns[: len(wanted) - 1], [example.label for example in examples]]
    elif name == "MSEEvaluator":
        columns = [columns[0], columns[-1]]  # a text may be its own target
    if len(columns) < len(wanted):
        raise ValueError(f"{name} needs {', '.join(wanted)}; its data has {len(columns)} columns")
    return dict(zip(wanted, columns, strict=False))
