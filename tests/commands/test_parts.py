"""Models, data, losses and evaluators made from settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from sbertlab import SentenceTransformer, evaluation, losses
from sbertlab.commands.parts import (
    EVALUATORS,
    LOSSES,
    Data,
    arguments_of,
    helpdesk_corpus,
    load_model,
    make_evaluator,
    make_loss,
    with_teacher,
)
from sbertlab.data import InputExample
from sbertlab.training.fit import fit

pytestmark = pytest.mark.filterwarnings("ignore::sbertlab.data.texts.TruncationWarning")


def test_every_loss_and_the_named_evaluators_exist() -> None:
    named = {name for name in losses.__all__ if "Loss" in name and not name.endswith("Function")}
    assert set(LOSSES) == named - {"Loss"}
    assert set(EVALUATORS) <= set(evaluation.__all__)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("epochs", "two", "float"),
        ("steps_per_epoch", 1.5, "int"),
        ("use_amp", 3, "bool"),
        ("optimizer_class", "SGD", "import path"),
    ],
)
def test_values_are_checked_against_the_signature(key: str, value: object, expected: str) -> None:
    with pytest.raises(ValueError, match=rf'fit: .*"{key}".*{expected}.* {value}'):
        arguments_of(fit, {key: value}, "fit", ["train_objectives", "evaluator"])
    given = {"epochs": "2", "optimizer_class": "torch.optim.SGD"}
    made = arguments_of(fit, given, "fit", ["train_objectives", "evaluator"])
    assert made == {"epochs": 2.0, "optimizer_class": torch.optim.SGD}


def test_unknown_and_missing_names_and_settings_are_errors(tiny: Callable[..., SentenceTransformer]) -> None:
    model = tiny()
    for make, message in [
        (lambda: make_loss(model, "CosentLoss"), r"loss\.name must be .* got 'CosentLoss'. Did you mean 'CoSENTLoss'"),
        (lambda: make_loss(model, {"name": "CoSENTLoss", "scal": 2}), "loss CoSENTLoss: .*'scal'"),
        (lambda: make_loss(model, {"name": "SoftmaxLoss"}), "required: num_labels"),
        (lambda: make_evaluator(None, []), r"evaluator\.name must be .* got None"),
        (lambda: make_evaluator("TripletEvaluator", []), r"evaluator\.data is missing"),
        (
            lambda: Data(reader="STSReader", path="a").read(),
            r"data\.reader\.name must be .* Did you mean 'STSDataReader",
        ),
        (lambda: Data(reader="STSDataReader").read(), "STSDataReader got None"),
        (lambda: Data(reader="helpdesk", path="mine.csv").read(), "every reader but helpdesk .* got 'mine.csv'"),
        (lambda: Data(reader="helpdesk", evaluation_sample_size=720).read(), "leaves none of 720 examples"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()


def test_losses_accept_functions_losses_and_models(tiny: Callable[..., SentenceTransformer], folder: str) -> None:
    model = tiny()
    nested = {"name": "MatryoshkaLoss", "loss": {"name": "CoSENTLoss", "scale": 3}, "matryoshka_dims": [32, 8]}
    loss = make_loss(model, nested)
    assert isinstance(loss, losses.MatryoshkaLoss)
    assert isinstance(loss.loss, losses.CoSENTLoss)
    assert loss.loss.scale == 3
    assert isinstance(make_loss(model, {"name": "GISTEmbedLoss", "guide": folder}).guide, SentenceTransformer)
    ranking = {"name": "MultipleNegativesRankingLoss", "similarity_fct": "sbertlab.util.dot_score"}
    assert make_loss(model, ranking).similarity_fct.__name__ == "dot_score"
    assert make_loss(model, {"name": "SoftmaxLoss", "num_labels": 3}).sentence_embedding_dimension == 32


def test_pooling_layers_and_length_of_the_model_can_be_changed(folder: str) -> None:
    model = load_model(folder, pooling=["cls", "mean"], max_seq_length=16, layers=1)
    assert model.get_sentence_embedding_dimension() == 64
    assert model.max_seq_length == 16
    assert np.linalg.norm(model.encode("the cat")) == pytest.approx(1, abs=1e-6)
    assert len(model[0].auto_model.encoder.layer) == 1


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_tables_of_every_kind_give_the_same_examples(kind: str, tmp_path: Path) -> None:
    frame = pd.DataFrame({"question": ["how", "NA"], "answer": ["so", "7"], "score": [0.5, 1.0]})
    path = tmp_path / f"table.{kind}"
    if kind == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    elif kind == "parquet":
        pytest.importorskip("pyarrow")
        frame.to_parquet(path)
    else:
        frame.to_csv(path, sep="," if kind == "csv" else "\t", index=False)
    reader = {"name": "table", "texts": ["question", "answer"], "label": "score"}
    examples, held_out = Data(reader=reader, path=str(path)).read()
    assert [(row.texts, row.label) for row in examples] == [(["how", "so"], 0.5), (["NA", "7"], 1.0)]
    assert held_out == []


def test_readers_have_their_own_settings_and_examples_are_held_out(tmp_path: Path) -> None:
    (tmp_path / "s.tsv").write_text("a\tb\t10\nc\td\t0\n")
    data = {"reader": {"name": "STSDataReader", "max_score": 10}, "path": str(tmp_path / "s.tsv")}
    assert [row.label for row in Data(**data).read()[0]] == [1.0, 0.0]
    examples, held_out = Data(**data, evaluation_sample_size=1).read()
    assert len(examples) == len(held_out) == 1
    (tmp_path / "t.txt").write_text("one\n\ntwo\n")
    assert [row.texts for row in Data(path=str(tmp_path / "t.txt")).read()[0]] == [["one"], ["two"]]


def test_batches_have_no_duplicates_or_noise() -> None:
    rows = [InputExample(texts=["one two three four"]) for _ in range(8)]
    with pytest.raises(ValueError, match="8 examples give no batch of 4 in which no text is repeated"):
        Data(no_duplicates=True, batch_size=4).batches(rows, losses.MSELoss(), 0)
    noisy, whole = Data(noise=0.5).batches(rows, losses.MSELoss(), 0).dataset[0].texts
    assert len(noisy) < len(whole)
    assert whole == "one two three four"


def test_the_classes_of_the_helpdesk_pairs_are_those_of_nli() -> None:
    scored = {tuple(row.texts): row.label for row in helpdesk_corpus("sts")}
    classes = {tuple(row.texts): row.label for row in helpdesk_corpus("nli")}
    assert len(classes) == 1200
    expected = {0.0: 0, 1.0: 1, 2 / 3: 2}
    assert all(label == expected[scored[texts]] for texts, label in classes.items())


def test_a_teacher_gives_what_the_loss_learns(tiny: Callable[..., SentenceTransformer]) -> None:
    teacher = tiny(seed=1)
    rows = [InputExample(texts=["the cat", "a dog", "the sea"])]
    vectors = teacher.encode(rows[0].texts)
    assert np.allclose(with_teacher(rows, teacher, losses.MSELoss())[0].label, vectors[0], atol=1e-6)
    scores = with_teacher(rows, teacher, losses.MarginMSELoss())[0].label
    assert np.allclose(scores, vectors[1:] @ vectors[0], atol=1e-5)
    with pytest.raises(ValueError, match="CoSENTLoss has no teacher"):
        with_teacher(rows, teacher, losses.CoSENTLoss())


@pytest.mark.parametrize("name", sorted(EVALUATORS))
def test_every_evaluator_is_made_from_examples(
    name: str, tiny: Callable[..., SentenceTransformer], folder: str
) -> None:
    rows = [InputExample(texts=[f"cat {n}", f"dog {n}", f"fish {n}"], label=n % 2) for n in range(6)]
    given = {"name": name} | ({"teacher_model": folder} if name == "MSEEvaluator" else {})
    metrics = make_evaluator(given, rows)(tiny())
    assert metrics
    assert all(np.isfinite(list(metrics.values())))
