"""Models, data, losses and evaluators made from settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sbertlab import SentenceTransformer, losses
from sbertlab.commands.parts import (
    EVALUATORS,
    helpdesk_corpus,
    load_model,
    make_evaluator,
    make_loader,
    make_loss,
    read_data,
    with_teacher,
)
from sbertlab.data import InputExample

pytestmark = pytest.mark.filterwarnings("ignore::sbertlab.data.texts.TruncationWarning")


def test_unknown_classes_and_settings_of_classes_name_the_nearest(tiny: Callable[..., SentenceTransformer]) -> None:
    model = tiny()
    with pytest.raises(ValueError, match=r"loss\.name must be .* got 'CosentLoss'. Did you mean 'CoSENTLoss'"):
        make_loss(model, {"name": "CosentLoss"}, "loss")
    with pytest.raises(ValueError, match=r"loss: .*'scal'"):
        make_loss(model, {"name": "CoSENTLoss", "scal": 2}, "loss")
    with pytest.raises(ValueError, match=r"data\.reader must be .* got 'STSReader'. Did you mean 'STSDataReader'"):
        read_data({"reader": "STSReader"}, "data")
    with pytest.raises(
        ValueError, match=r"evaluator\.name must be .* got 'TripletsEvaluator'. Did you mean 'TripletEval"
    ):
        make_evaluator({"name": "TripletsEvaluator"}, [])
    with pytest.raises(ValueError, match="required: num_labels"):
        make_loss(model, {"name": "SoftmaxLoss"}, "loss")


def test_losses_accept_functions_losses_and_models(tiny: Callable[..., SentenceTransformer], folder: str) -> None:
    model = tiny()
    nested = {"name": "MatryoshkaLoss", "loss": {"name": "CoSENTLoss", "scale": 3}, "matryoshka_dims": [32, 8]}
    loss = make_loss(model, nested, "loss")
    assert isinstance(loss, losses.MatryoshkaLoss)
    assert isinstance(loss.loss, losses.CoSENTLoss)
    assert loss.loss.scale == 3
    guided = make_loss(model, {"name": "GISTEmbedLoss", "guide": folder}, "loss")
    assert isinstance(guided.guide, SentenceTransformer)
    ranking = {"name": "MultipleNegativesRankingLoss", "similarity_fct": "sbertlab.util.dot_score"}
    assert make_loss(model, ranking, "loss").similarity_fct.__name__ == "dot_score"
    assert make_loss(model, {"name": "SoftmaxLoss", "num_labels": 3}, "loss").sentence_embedding_dimension == 32


def test_pooling_layers_and_length_of_the_model_can_be_changed(folder: str) -> None:
    model = load_model(folder, pooling=["cls", "mean"], normalize=True, max_seq_length=16, layers=1)
    assert model.get_sentence_embedding_dimension() == 64
    assert model.max_seq_length == 16
    assert np.linalg.norm(model.encode("the cat")) == pytest.approx(1, abs=1e-6)
    assert len(model[0].auto_model.encoder.layer) == 1
    with pytest.raises(ValueError, match="layers=3"):
        load_model(folder, layers=3)


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_tables_of_every_kind_give_the_same_examples(kind: str, tmp_path: Path) -> None:
    frame = pd.DataFrame({"question": ["how", "NA"], "answer": ["so", "then"], "score": [0.5, 1.0]})
    path = tmp_path / f"table.{kind}"
    if kind == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    elif kind == "parquet":
        pytest.importorskip("pyarrow")
        frame.to_parquet(path)
    else:
        frame.to_csv(path, sep="," if kind == "csv" else "\t", index=False)
    examples, held_out, loading = read_data(
        {"path": str(path), "texts": ["question", "answer"], "label": "score", "batch_size": 2}, "data"
    )
    assert [(row.texts, row.label) for row in examples] == [(["how", "so"], 0.5), (["NA", "then"], 1.0)]
    assert (held_out, loading) == ([], {"batch_size": 2})


def test_readers_have_their_own_settings_and_a_file(tmp_path: Path) -> None:
    (tmp_path / "s.tsv").write_text("a\tb\t10\nc\td\t0\n")
    given = {"reader": "STSDataReader", "path": str(tmp_path / "s.tsv"), "max_score": 10}
    assert [row.label for row in read_data(given, "data")[0]] == [1.0, 0.0]
    (tmp_path / "one.txt").write_text("a\nb\n")
    (tmp_path / "two.txt").write_text("c\nd\n")
    both = [str(tmp_path / "one.txt"), str(tmp_path / "two.txt")]
    assert [row.texts for row in read_data({"reader": "PairedFilesReader", "path": both}, "data")[0]] == [
        ["a", "c"],
        ["b", "d"],
    ]
    given = {"reader": "STSDataReader", "path": str(tmp_path / "s.tsv"), "max_score": 10, "evaluation_sample_size": 1}
    examples, held_out, _ = read_data(given, "data")
    assert {row.texts[0] for row in [*examples, *held_out]} == {"a", "c"}
    with pytest.raises(ValueError, match="evaluation_sample_size=2 does not split 2 examples"):
        read_data({**given, "evaluation_sample_size": 2}, "data")
    with pytest.raises(ValueError, match="PairedFilesReader a list of files"):
        read_data({"reader": "PairedFilesReader", "path": both[0]}, "data")
    with pytest.raises(ValueError, match="max_scor"):
        read_data({"reader": "STSDataReader", "max_scor": 1}, "data")


def test_loaders_are_chosen_by_name() -> None:
    rows = [InputExample(texts=[f"t{n}"], label=n % 2) for n in range(8)]
    assert type(make_loader(rows, loader="no_duplicates", batch_size=4)).__name__ == "NoDuplicatesDataLoader"
    by_label = make_loader(rows, loader="by_label", batch_size=4)
    by_label.collate_fn = list
    assert [sorted(row.label for row in batch) for batch in by_label] == [[0, 0, 1, 1]] * 2
    noisy = make_loader([InputExample(texts=["one two three four"])], noise=0.5)
    assert noisy.dataset[0].texts[1] == "one two three four"


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


@pytest.mark.parametrize("name", sorted(set(EVALUATORS) - {"LabelAccuracyEvaluator"}))
def test_every_evaluator_is_made_from_examples(
    name: str, tiny: Callable[..., SentenceTransformer], folder: str
) -> None:
    rows = [InputExample(texts=[f"cat {n}", f"dog {n}", f"fish {n}"], label=n % 2) for n in range(6)]
    if name in ("EmbeddingSimilarityEvaluator", "BinaryClassificationEvaluator", "ParaphraseMiningEvaluator"):
        rows = [InputExample(texts=row.texts[:2], label=row.label) for row in rows if row.texts]
    given = {"name": name} | ({"teacher_model": folder} if name == "MSEEvaluator" else {})
    metrics = make_evaluator(given, rows)(tiny())
    assert metrics
    assert all(np.isfinite(list(metrics.values())))


def test_the_softmax_head_of_the_run_is_evaluated(tiny: Callable[..., SentenceTransformer]) -> None:
    model = tiny()
    loss = make_loss(model, {"name": "SoftmaxLoss", "num_labels": 2}, "loss")
    rows = [InputExample(texts=["cat", "dog"], label=n % 2) for n in range(4)]
    assert make_evaluator({"name": "LabelAccuracyEvaluator"}, rows, loss=loss)(model) == {"accuracy": 0.5}
