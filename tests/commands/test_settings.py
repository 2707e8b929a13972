"""The command line: keys from signatures, NeMo's names, errors that name the nearest key, and the four commands."""

from __future__ import annotations

import inspect
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sbertlab.helpdesk import load_helpdesk, triplets

from sbertlab import SentenceTransformer, evaluation, losses
from sbertlab.__main__ import main
from sbertlab.commands.embed import embed_file, text_windows
from sbertlab.commands.parts import (
    EVALUATORS,
    LOSSES,
    helpdesk_corpus,
    load_model,
    make_evaluator,
    make_loader,
    make_loss,
    read_data,
    with_teacher,
)
from sbertlab.commands.settings import arguments_of, read_settings, recipes
from sbertlab.commands.train import OF_FIT, sections, train
from sbertlab.data import InputExample, examples_to_frame, write_nemo
from sbertlab.training.fit import fit

pytestmark = pytest.mark.filterwarnings("ignore::sbertlab.data.texts.TruncationWarning")


@pytest.fixture
def folder(tiny: Callable[..., SentenceTransformer], tmp_path: Path) -> str:
    tiny().save(tmp_path / "tiny")
    return str(tmp_path / "tiny")


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    """A table of eight pairs with a score."""
    rows = [(f"the cat sits {n}", f"a dog runs {n}", n / 8) for n in range(8)]
    path = tmp_path / "pairs.csv"
    pd.DataFrame(rows, columns=["one", "two", "score"]).to_csv(path, index=False)
    return str(path)


def config(tmp_path: Path, folder: str, pairs: str) -> str:
    path = tmp_path / "config.yaml"
    path.write_text(
        f"model: {folder}\n"
        f"data: {{reader: table, path: {pairs}, texts: [one, two], label: score, batch_size: 4}}\n"
        "loss: CosineSimilarityLoss\n"
        "fit: {epochs: 1, warmup_steps: 1, optimizer_params: {lr: 2e-5}, show_progress_bar: false}\n"
    )
    return str(path)


# -- Keys --------------------------------------------------------------------------------------------------------------


def test_every_argument_of_fit_is_a_key() -> None:
    parameters = set(inspect.signature(fit).parameters) - {"model", *OF_FIT}
    assert parameters == set(sections()["fit"])


def test_every_loss_and_evaluator_can_be_named() -> None:
    named = {name for name in losses.__all__ if "Loss" in name and not name.endswith("Function")}
    assert set(LOSSES) == named - {"Loss"}
    with_data = {name for name in evaluation.__all__ if name.endswith("Evaluator")}
    assert set(EVALUATORS) == with_data - {"BaseEvaluator", "SentenceEvaluator", "SequentialEvaluator"}


@pytest.mark.parametrize(
    "words",
    [
        ["fit.epochs=2", "data.batch_size=8", "loss.scale=5"],
        ["epochs=2", "batch_size=8", "scale=5"],
        ["--epochs", "2", "--batch_size=8", "--loss.scale", "5"],
        ["trainer.max_epochs=2", "model.global_batch_size=8", "++model.data.softmax_temp=0.2"],
        ["max_epochs=2", "global_batch_size=8", "softmax_temp=0.2"],
    ],
)
def test_a_key_is_written_in_full_or_short_with_dashes_or_as_nemo_writes_it(words: list[str]) -> None:
    assert read_settings(words, sections()) == {"fit": {"epochs": 2}, "data": {"batch_size": 8}, "loss": {"scale": 5}}


def test_nemos_yaml_is_understood(tmp_path: Path) -> None:
    path = tmp_path / "nemo.yaml"
    path.write_text(
        "trainer: {max_epochs: 3, precision: bf16-mixed, max_steps: -1}\n"
        "model: {global_batch_size: 4, micro_batch_size: 4, data: {data_prefix: x.json}, optim: {weight_decay: 0.1}}\n"
    )
    settings = read_settings([str(path)], sections())
    assert settings["fit"] == {"epochs": 3, "mixed_precision": "bf16", "weight_decay": 0.1}
    assert settings["data"] == {"batch_size": 4, "reader": "NeMoReader", "path": "x.json"}


def test_nemos_own_command_is_understood(capsys: pytest.CaptureFixture[str]) -> None:
    words = (
        "nemo restore_from_path=base trainer.devices=1 trainer.val_check_interval=100 trainer.max_epochs=1 "
        "+trainer.num_sanity_val_steps=0 model.global_batch_size=8 model.micro_batch_size=8 "
        "model.tokenizer.library=huggingface model.tokenizer.type=intfloat/e5 ++model.data.data_prefix=train.json "
        "++model.tokenizer.do_lower_case=False ++model.data.evaluation_sample_size=10 "
        "++model.data.hard_negatives_to_train=2 ++model.data.evaluation_steps=100 exp_manager.explicit_log_dir=out "
        "exp_manager.create_wandb_logger=True exp_manager.wandb_logger_kwargs.name=run "
        "exp_manager.wandb_logger_kwargs.project=mine exp_manager.resume_if_exists=True model.optim.lr=1e-5"
    ).split()
    settings = read_settings(words, sections())
    assert settings["model"]["name"] == "base"
    assert settings["data"] == {
        "reader": "NeMoReader",
        "path": "train.json",
        "batch_size": 8,
        "hard_negatives_to_train": 2,
        "evaluation_sample_size": 10,
    }
    fitting = settings["fit"]
    assert (fitting["epochs"], fitting["evaluation_steps"], fitting["output_path"]) == (1, 100, "out")
    assert (fitting["resume"], fitting["log_with"], fitting["optimizer_params"]["lr"]) == (True, "wandb", 1e-5)
    assert "model.micro_batch_size=8 is not needed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "nearest"),
    [
        ("epoch=2", "epochs"),
        ("fit.warm_up_steps=2", "warmup_steps"),
        ("data.bach_size=2", "batch_size"),
        ("global_batchsize=2", "global_batch_size"),
        ("trainer.max_epoch=2", "max_epochs"),
        ("modle.name=x", "name"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest(word: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=f"unknown key '{word.split('=')[0]}'. Did you mean '{nearest}'"):
        read_settings([word], sections())


def test_the_name_of_a_section_replaces_it_and_an_inner_key_changes_it(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("loss: {name: CoSENTLoss, scale: 7}\n")
    assert read_settings([str(path), "loss=MSELoss"], sections())["loss"] == {"name": "MSELoss"}
    assert read_settings([str(path), "scale=9"], sections())["loss"] == {"name": "CoSENTLoss", "scale": 9}


def test_a_place_in_a_list_can_be_set(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("objectives:\n- data: {batch_size: 4}\n- data: {batch_size: 8}\n")
    settings = read_settings([str(path), "objectives.1.data.batch_size=2"], sections())
    assert [part["data"]["batch_size"] for part in settings["objectives"]] == [4, 2]
    with pytest.raises(ValueError, match="places 0 to 1"):
        read_settings([str(path), "objectives.2.data.batch_size=2"], sections())


def test_broken_words_and_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("fit: {epochs: [1")
    for words, error, message in [
        (["stss"], FileNotFoundError, r"stss is neither a file nor a recipe; the recipes are .*sts"),
        ([str(path)], ValueError, r"broken\.yaml is not valid YAML"),
        (["epochs=1", "sts"], ValueError, "'sts' sets nothing; write key=value"),
        (["softmax_temp=0"], ValueError, "softmax_temp must be a number above 0, got 0"),
    ]:
        with pytest.raises(error, match=message):
            read_settings(words, sections())


# -- Types and classes -------------------------------------------------------------------------------------------------


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
        arguments_of(fit, {key: value}, "fit", OF_FIT)
    made = arguments_of(fit, {"epochs": "2", "optimizer_class": "torch.optim.SGD"}, "fit", OF_FIT)
    assert made == {"epochs": 2.0, "optimizer_class": torch.optim.SGD}


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


# -- Model and data ----------------------------------------------------------------------------------------------------


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


# -- Commands ----------------------------------------------------------------------------------------------------------


def test_training_by_a_file_equals_training_by_hand(
    tmp_path: Path, folder: str, pairs: str, tiny: Callable[..., SentenceTransformer]
) -> None:
    history = train([config(tmp_path, folder, pairs), f"output={tmp_path / 'out'}", "seed=3"])
    assert history is not None
    examples = read_data({"path": pairs, "texts": ["one", "two"], "label": "score"}, "data")[0]
    model = SentenceTransformer(folder)
    loader = make_loader(examples, batch_size=4)
    by_hand = fit(
        model, [(loader, losses.CosineSimilarityLoss(model))], warmup_steps=1, seed=3, show_progress_bar=False
    )
    assert history["loss"].tolist() == by_hand["loss"].tolist()
    trained = SentenceTransformer(tmp_path / "out")
    start = SentenceTransformer(folder)
    for (name, one), other in zip(trained.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(one, other), name
    assert any(not torch.equal(a, b) for a, b in zip(trained.parameters(), start.parameters(), strict=True))
    assert pd.read_csv(tmp_path / "out" / "history.csv")["step"].tolist() == [1, 2]
    again = train([str(tmp_path / "out" / "settings.json"), f"output={tmp_path / 'two'}"])
    assert again is not None
    assert again["loss"].tolist() == history["loss"].tolist()


def test_two_objectives_train_in_turn(tmp_path: Path, folder: str, pairs: str) -> None:
    path = tmp_path / "two.yaml"
    data = f"{{path: {pairs}, texts: [one, two], label: score, batch_size: 4}}"
    path.write_text(
        f"model: {folder}\nobjectives:\n- {{data: {data}, loss: CoSENTLoss}}\n- {{data: {data}, loss: {{name: "
        "MultipleNegativesRankingLoss, scale: 5}}\n"
    )
    history = train([str(path), f"output={tmp_path / 'out'}", "steps_per_epoch=1", "warmup_steps=0"])
    assert history is not None
    assert history["objective"].tolist() == ["0:CoSENTLoss", "1:MultipleNegativesRankingLoss"]


def test_an_interrupted_run_resumes_to_the_same_weights(
    tmp_path: Path, folder: str, pairs: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = config(tmp_path, folder, pairs)
    assert main(["train", settings, "epochs=2", f"output={tmp_path / 'whole'}"]) == 0
    compute, calls = losses.CosineSimilarityLoss.compute, iter(range(9))

    def press_ctrl_c(*arguments: object) -> torch.Tensor:
        if next(calls) == 1:
            signal.raise_signal(signal.SIGINT)
        return compute(*arguments)  # type: ignore[arg-type]

    words = ["train", settings, "epochs=2", f"output={tmp_path / 'parts'}", "exp_manager.resume_if_exists=True"]
    with monkeypatch.context() as patch:
        patch.setattr(losses.CosineSimilarityLoss, "compute", press_ctrl_c)
        assert main(words) == 130
    assert "stopped after 2 steps; the same command with resume=true resumes from" in capsys.readouterr().err
    assert not (tmp_path / "parts" / "modules.json").exists()
    calls = iter([1])
    with monkeypatch.context() as patch:  # without checkpoints the model as it is stays
        patch.setattr(losses.CosineSimilarityLoss, "compute", press_ctrl_c)
        assert main(["train", settings, f"output={tmp_path / 'left'}"]) == 130
    assert SentenceTransformer(tmp_path / "left").encode("the cat").shape == (32,)
    assert main(words) == 0
    whole, parts = (SentenceTransformer(tmp_path / name) for name in ("whole", "parts"))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))


def test_errors_reach_the_shell_as_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["train", "sts", "epoch=2"]) == 1
    assert capsys.readouterr().err == "sbertlab train: unknown key 'epoch'. Did you mean 'epochs'?\n"
    assert main(["train", "sts"]) == 1
    assert "output is missing" in capsys.readouterr().err
    assert main(["train", "sts", "epochs=5", "--print_config"]) == 0
    assert json.loads(capsys.readouterr().out)["fit"]["epochs"] == 5


def test_help_lists_keys_with_their_docs_and_the_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    text = capsys.readouterr().out
    assert "epochs: passes through the data" in text
    assert set(recipes()) >= {"sts", "nli", "retrieval", "nemo", "matryoshka", "tsdae", "distillation"}
    assert all(name in text for name in [*recipes(), *LOSSES, *EVALUATORS, *sections()["fit"], *sections()["model"]])
    assert main(["train", "--help", "MSELoss"]) == 0
    assert "Embeddings must equal the teacher's" in capsys.readouterr().out


def test_evaluate_prints_and_writes_what_the_evaluator_returns(
    tmp_path: Path, folder: str, pairs: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        f"data.path={pairs}",
        "data.texts=[one, two]",
        "data.label=score",
        "--name",
        "EmbeddingSimilarityEvaluator",
    ]
    assert main(["evaluate", folder, *words, f"output={tmp_path / 'm.json'}"]) == 0
    printed = json.loads(capsys.readouterr().out)
    frame = pd.read_csv(pairs)
    evaluator = evaluation.EmbeddingSimilarityEvaluator(frame["one"], frame["two"], frame["score"])
    assert printed == pytest.approx(evaluator(SentenceTransformer(folder)))
    assert json.loads((tmp_path / "m.json").read_text()) == printed


def test_evaluate_uses_a_recipe_and_nemos_held_out_rows(
    tmp_path: Path, folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", folder, "retrieval", "rows=retrieval", "truncate_dim=8"]) == 0
    assert 0 < json.loads(capsys.readouterr().out)["max_map@100"] <= 1
    table = triplets(load_helpdesk("train")).head(12)
    write_nemo([InputExample(texts=list(row[:3])) for row in table.to_numpy().tolist()], tmp_path / "n.json")
    words = ["nemo", f"data_prefix={tmp_path / 'n.json'}", "evaluation_sample_size=4"]
    assert main(["evaluate", folder, *words]) == 0
    assert "cos_sim_accuracy@1" in json.loads(capsys.readouterr().out)


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


@pytest.mark.parametrize("target", ["out.npy", "out.csv", "out.parquet"])
@pytest.mark.parametrize("source", ["in.txt", "in.csv", "in.jsonl"])
def test_embed_writes_what_encode_returns(
    source: str, target: str, tmp_path: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_windows, "__defaults__", (3,))  # several windows
    texts = [f"the cat sits {n}" * (1 + n % 3) for n in range(8)]
    frame = pd.DataFrame({"text": texts})
    if source == "in.txt":
        (tmp_path / source).write_text("\n".join(texts) + "\n\n")
    elif source == "in.csv":
        frame.to_csv(tmp_path / source, index=False)
    else:
        frame.to_json(tmp_path / source, orient="records", lines=True)
    if target == "out.parquet":
        pytest.importorskip("pyarrow")
    embed_file(folder, str(tmp_path / source), str(tmp_path / target), normalize=True)
    if target == "out.npy":
        found = np.load(tmp_path / target)
        assert found.dtype == np.float32
    elif target == "out.csv":
        written = pd.read_csv(tmp_path / target)
        assert written.pop("text").tolist() == texts
        found = written.to_numpy()
    else:
        written = pd.read_parquet(tmp_path / target)
        assert written["text"].tolist() == texts
        found = np.stack(written["embedding"])
    expected = SentenceTransformer(folder).encode(texts, normalize_embeddings=True)
    assert np.allclose(found, expected, atol=1e-5)
    assert not list(tmp_path.glob(".*.part"))


def test_bad_files_of_embed_are_refused(tmp_path: Path, folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    examples_to_frame([InputExample(texts=["a"])], ["question"]).to_csv(tmp_path / "a.csv", index=False)
    for source, target, message in [
        ("a.csv", "o.npy", "column 'text' is missing; the columns are 'guid', 'question', 'label'"),
        ("a.csv", "o.bin", "must be one of '.npy', '.parquet', '.csv', got '.bin'"),
        ("none.txt", "o.npy", "there is no file"),
    ]:
        assert main(["embed", folder, str(tmp_path / source), str(tmp_path / target)]) == 1
        assert message in capsys.readouterr().err
    assert not (tmp_path / "o.npy").exists()


def test_convert_reads_a_folder_of_transformers(tmp_path: Path, tiny: Callable[..., SentenceTransformer]) -> None:
    model = tiny()
    model[0].auto_model.save_pretrained(tmp_path / "plain")
    model.tokenizer.save_pretrained(tmp_path / "plain")
    assert main(["convert", str(tmp_path / "plain"), str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "modules.json").is_file()
    assert np.allclose(SentenceTransformer(tmp_path / "out").encode("a dog"), model.encode("a dog"), atol=1e-6)


@pytest.mark.slow
def test_the_package_is_imported_without_jsonargparse() -> None:
    code = "import sys, sbertlab; print('jsonargparse' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
