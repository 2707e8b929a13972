"""The commands train, evaluate, embed and convert.

Settings are the sections of a YAML file, changed by words `section.key=value`. Each section has a signature, which
jsonargparse checks: `load_model` for `model`, `Data`, `fit`, and for `loss` and `evaluator` that of a class by name.
"""

import inspect
import json
import os
import random
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from torch.utils.data import DataLoader

from sbertlab import evaluation, losses
from sbertlab.checks import check_choice, closest
from sbertlab.data import NeMoReader, collate, examples_from_frame, helpdesk
from sbertlab.data.loaders import DenoisingAutoEncoderDataset, NoDuplicatesDataLoader
from sbertlab.data.readers import InputExample, read_table
from sbertlab.encoder.sentence_transformer import SentenceTransformer
from sbertlab.models import Normalize, Pooling
from sbertlab.storage.files import write_whole
from sbertlab.training.fit import fit

RECIPES = {path.stem: path for path in sorted(Path(__file__).with_name("recipes").glob("*.yaml"))}
SECTIONS = ("model", "data", "loss", "evaluator", "fit")

KEYS: dict[str, str] = {
    "output": "fit.output_path",
    "restore_from_path": "model.name",
    "trainer.max_epochs": "fit.epochs",
    "trainer.val_check_interval": "fit.evaluation_steps",
    "exp_manager.explicit_log_dir": "fit.output_path",
    "exp_manager.resume_if_exists": "fit.resume",
    "model.global_batch_size": "data.batch_size",
    "model.data.data_prefix": "data.path",
    "model.data.evaluation_sample_size": "data.evaluation_sample_size",
    "model.data.evaluation_steps": "fit.evaluation_steps",
    "model.data.hard_negatives_to_train": "data.hard_negatives_to_train",
    "model.optim.lr": "fit.optimizer_params.lr",
    "model.optim.weight_decay": "fit.weight_decay",
}
"""`output` and NeMo's names, and the keys that they stand for."""
NOT_NEEDED = (
    *("trainer.devices", "trainer.num_sanity_val_steps", "model.micro_batch_size"),
    *("model.tokenizer.library", "model.tokenizer.type", "model.tokenizer.do_lower_case"),
    *("exp_manager.wandb_logger_kwargs.name", "exp_manager.wandb_logger_kwargs.project"),
)
"""NeMo's names without a counterpart: accelerate starts processes, the tokenizer comes with the model, ..."""
LOSSES = {name: getattr(losses, name) for name in losses.__all__ if re.search(r"\w(Loss|Negatives)$", name)}
EVALUATORS: Mapping[str, tuple[str, ...]] = {
    "BinaryClassificationEvaluator": ("sentences1", "sentences2", "labels"),
    "EmbeddingSimilarityEvaluator": ("sentences1", "sentences2", "scores"),
    "InformationRetrievalEvaluator": ("queries", "corpus", "relevant_docs"),
    "MSEEvaluator": ("source_sentences", "target_sentences"),
    "TranslationEvaluator": ("source_sentences", "target_sentences"),
    "TripletEvaluator": ("anchors", "positives", "negatives"),
}
"""What each evaluator takes of examples; a search takes (query, positive, negative, ...)."""


def read_settings(words: Sequence[str]) -> dict[str, Any]:
    """Return the settings of a file or recipe (the first word, unless it is key=value), changed by the other words.

    >>> read_settings(["output=x", "loss=CoSENTLoss", "loss.scale=10", "trainer.max_epochs=2"])
    {'fit': {'output_path': 'x', 'epochs': 2}, 'loss': {'name': 'CoSENTLoss', 'scale': 10}}
    """
    from jsonargparse import get_loader  # slow to import

    read_yaml, words = get_loader("yaml"), list(words)
    settings: dict[str, Any] = {}
    if words and "=" not in words[0]:
        path = Path(RECIPES.get(words[0], words[0]))
        for section, part in read_yaml(path.read_text(encoding="utf-8")).items():
            _put(settings, section, part)
        del words[0]
    for word in words:
        key, equals, value = word.lstrip("+").partition("=")  # Hydra marks keys that its file does not have with +
        if not equals:
            raise ValueError(f"{word!r} sets nothing; write key=value")
        _put(settings, key, read_yaml(value))
    return settings


def _put(settings: dict[str, Any], key: str, value: Any) -> None:
    """Set `a.b.c` in nested dictionaries; a name that a key goes into becomes `{name: ...}`."""
    if key in NOT_NEEDED:
        print(f"{key}={value} is not needed", file=sys.stderr)
        return
    if key == "exp_manager.create_wandb_logger":
        key, value = "fit.log_with", "wandb" if value else None
    own = KEYS.get(key, key)
    if own.partition(".")[0] not in SECTIONS:
        raise ValueError(f"unknown key {key!r}.{closest(key, KEYS)} The sections are {', '.join(SECTIONS)}")
    *parents, last = own.split(".")
    for parent in parents:
        inner = settings.get(parent) or {}
        settings[parent] = inner if isinstance(inner, dict) else {"name": inner}
        settings = settings[parent]
    settings[last] = value


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
    name: str, pooling: str | list[str] | None = None, max_seq_length: int | None = None, layers: int | None = None
) -> SentenceTransformer:
    """Load the model to train.

    Args:
        name: a folder, a name on the Hub or a packaged model.
        pooling: replaces what follows the transformer, but for Normalize: cls, mean, max, ..., or several of them.
        max_seq_length: texts are truncated to this number of tokens.
        layers: keep only the first layers of the transformer, as for a student.
    """
    model = SentenceTransformer(name)
    transformer: Any = model[0]
    if layers is not None:
        transformer.auto_model.encoder.layer = transformer.auto_model.encoder.layer[:layers]
        transformer.auto_model.config.num_hidden_layers = layers
    if pooling is not None:
        pool = Pooling(transformer.get_word_embedding_dimension(), pooling)
        rest = [block for block in model if isinstance(block, Normalize)]
        model = SentenceTransformer(modules=[transformer, pool, *rest], device=model.device)
    if max_seq_length is not None:
        model.max_seq_length = max_seq_length
    return model


def helpdesk_rows(kind: str, split: str) -> list[InputExample]:
    """Return rows of the packaged help desk corpus in random order; `Data` lists the kinds."""
    corpus = helpdesk.load_helpdesk(split)
    if kind == "retrieval":
        answers = helpdesk.load_helpdesk()["answer"].unique()
        asked = zip(corpus["text"], corpus["answer"], strict=True)
        rows = [InputExample(texts=[text, own, *answers[answers != own]]) for text, own in asked]
    elif kind == "texts":
        rows = examples_from_frame(corpus, ["text"])
    elif kind == "triplets":
        rows = examples_from_frame(helpdesk.triplets(corpus), ["anchor", "positive", "negative"])
    else:
        frame = helpdesk.graded_pairs(corpus)
        if kind == "nli":
            classes = frame["score"].mul(3).round().map({0: 0, 3: 1, 2: 2})  # "same topic" is none of the three
            frame = frame.assign(score=classes)[classes.notna()].astype({"score": int})
        rows = examples_from_frame(frame, ["sentence1", "sentence2"], "score")
    random.Random(0).shuffle(rows)
    return rows


@dataclass(frozen=True)
class Data:
    """The examples of a run and their batches.

    Args:
        path: a table (.csv, .tsv, .jsonl, .parquet), a file with one text per line, or NeMo's JSON.
        texts: the columns of the texts, in the order of the loss; default: text.
        label: the column of the labels; names of classes are numbered in alphabetical order.
        hard_negatives_to_train: the file is NeMo's; its rows get this number of negatives.
        helpdesk: without a path, rows of the packaged corpus: triplets (with hard negatives), sts (pairs with a score),
            nli (pairs with a class), retrieval (a question, its answer, all other answers) or texts (a question).
        split: of the packaged corpus; splits share no intent.
        evaluation_sample_size: number of examples held out for an evaluator without data of its own, as NeMo does.
        teacher: a model whose vectors (for MSELoss) or scores (for MarginMSELoss) become the labels.
        batch_size: rows per batch, of all processes together.
        no_duplicates: no text occurs twice in a batch, for in-batch negatives.
        noise: share of words to delete, for DenoisingAutoEncoderLoss: makes (noisy text, text) of the first text.
    """

    path: str | None = None
    texts: Sequence[str] | None = None
    label: str | None = None
    hard_negatives_to_train: int | None = None
    helpdesk: Literal["triplets", "sts", "nli", "retrieval", "texts"] | None = None
    split: Literal["train", "dev", "test"] = "train"
    evaluation_sample_size: int = 0
    teacher: str | None = None
    batch_size: int = 16
    no_duplicates: bool = False
    noise: float | None = None

    def read(self) -> tuple[list[InputExample], list[InputExample]]:
        """Return the examples to train on, and those held out: the last ones after NeMo's shuffle with seed 42."""
        if self.path is not None and self.hard_negatives_to_train is not None:
            examples = NeMoReader("", self.hard_negatives_to_train).get_examples(self.path)
        elif self.path is not None:
            frame = read_table(self.path)
            if self.label in frame:
                numbers = pd.to_numeric(frame[self.label], errors="coerce")
                classes = frame[self.label].astype("category").cat.codes
                frame[self.label] = classes if numbers.isna().all() else numbers
            examples = examples_from_frame(frame, self.texts or ["text"], self.label)
        elif self.helpdesk is not None and self.texts is None and self.label is None:
            examples = helpdesk_rows(self.helpdesk, self.split)
        else:
            raise ValueError("data.path is missing; name a file")
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
            examples = DenoisingAutoEncoderDataset(texts, seed=seed, del_ratio=self.noise)
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
        columns[len(wanted) - 1 :] = [[example.label for example in examples]]
    elif name == "MSEEvaluator":
        columns = [columns[0], columns[-1]]  # a text may be its own target
    if len(columns) < len(wanted):
        raise ValueError(f"{name} needs {', '.join(wanted)}; its data has {len(columns)} columns")
    return dict(zip(wanted, columns, strict=False))


def train(words: Sequence[str]) -> pd.DataFrame | None:
    """Train as the settings say; write the model, `history.csv` and `settings.json` to the output folder.

    The word `--print_config` prints the settings instead, `--help` what can be set.
    """
    if not words or {"-h", "--help"} & set(words):
        print(help_text())
        return None
    settings = read_settings([word for word in words if word != "--print_config"])
    if "--print_config" in words:
        print(json.dumps(settings, indent=2))
        return None
    arguments = arguments_of(fit, settings.get("fit"), "fit", ("train_objectives", "evaluator"))
    if (output := arguments.get("output_path")) is None:
        raise ValueError("output is missing; name the folder of the model: output=my-model")
    arguments = {"checkpoint_path": f"{output}-checkpoints", "checkpoint_save_total_limit": 2, **arguments}
    data = Data(**arguments_of(Data, settings.get("data"), "data"))
    examples, held_out = data.read()
    model = load_model(**arguments_of(load_model, settings.get("model"), "model"))
    loss = make_loss(model, settings.get("loss"))
    evaluator = make_evaluator(settings["evaluator"], held_out) if settings.get("evaluator") else None
    history = fit(model, [(data.batches(examples, loss, arguments.get("seed", 0)), loss)], evaluator, **arguments)
    if history.attrs["interrupted"]:
        print(f"stopped after {len(history)} steps; the same command with fit.resume=true continues", file=sys.stderr)
        raise KeyboardInterrupt
    if os.environ.get("RANK", "0") == "0":  # of several processes, the first writes
        history.to_csv(Path(output, "history.csv"), index=False)
        Path(output, "settings.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        scores = history["metric"].dropna()
        print(f"{output}: {len(history)} steps" + (f", score {scores.iloc[-1]:.4f}" if len(scores) else ""))
    return history


def evaluate(model: str, words: Sequence[str]) -> None:
    """Print the metrics of a model under the evaluator of a file, a recipe or keys, as JSON.

    An evaluator without data uses what the section `data` holds out, or all of it.
    """
    settings = read_settings(words)
    given = settings.get("evaluator", "")
    held_out: list[InputExample] = []
    if any("data" not in part for part in (given if isinstance(given, list) else [given])):
        whole, held_out = Data(**arguments_of(Data, settings.get("data"), "data")).read()
        held_out = held_out or whole
    elif ignored := [word for word in words[1:] if not word.startswith("evaluator.")]:
        raise ValueError(f"{ignored} would change nothing: the evaluator has data of its own, evaluator.data")
    print(json.dumps(make_evaluator(given, held_out)(SentenceTransformer(model)), indent=2))


def embed_file(model: str, source: str, target: str, column: str, batch_size: int, normalize: bool) -> None:
    """Write the embeddings of a column of a table (see `read_table`) into a file that appears whole or not at all.

    The target is .npy, `(texts, dim)` float32, or .parquet together with the texts.
    """
    check_choice("the ending of the output", kind := Path(target).suffix, [".npy", ".parquet"])
    if Path(target).resolve() == Path(source).resolve():
        raise ValueError(f"{target} is the input, whose other columns would be lost; name another file")
    [texts] = collate(examples_from_frame(read_table(source), [column]))[0]
    vectors = SentenceTransformer(model).encode(texts, batch_size, True, normalize_embeddings=normalize)
    with write_whole(Path(target)) as path:
        if kind == ".npy":
            np.save(path, vectors)
        else:
            pd.DataFrame({column: texts, "embedding": list(vectors)}).to_parquet(path)


def convert_model(source: str, target: str) -> None:
    """Write a model folder of any kind as a portable one."""
    SentenceTransformer(source, device="cpu").save(target)


def help_text() -> str:
    """Return what can be set: names, and the signatures whose parameters are the keys."""
    text = "usage: sbertlab train FILE.yaml|RECIPE section.key=value ...\n\n"
    for kind, names in (("recipes", RECIPES), ("losses", LOSSES), ("evaluators", EVALUATORS)):
        text += f"{kind}: {', '.join(names)}\n"
    text += "\nloss, evaluator: a name and the parameters of its class; evaluator.data is like data.\n"
    for section, make in (("model", load_model), ("data", Data), ("fit", fit)):
        text += f"\n{section}: {inspect.signature(make)}\n{inspect.getdoc(make)}\n"
    return text
