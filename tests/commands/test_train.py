"""The commands train, evaluate, embed and convert: their settings and parts, and what they run, write and print."""

import inspect
import json
import re
import signal

import numpy as np
import pandas as pd
import pytest
import torch
from sbertlab.helpdesk import load_helpdesk, triplets
from torch.utils.data import DataLoader

from sbertlab import SentenceTransformer, evaluation, losses
from sbertlab.__main__ import main
from sbertlab.commands.train import (
    EVALUATORS,
    LOSSES,
    RECIPES,
    Data,
    load_model,
    make_evaluator,
    make_loss,
    read_settings,
    train,
    with_teacher,
)
from sbertlab.data import InputExample, NLIDataReader, examples_from_frame, write_nemo
from sbertlab.training.fit import fit

pytestmark = pytest.mark.filterwarnings("ignore::sbertlab.data.texts.TruncationWarning")


def test_nemos_own_command_is_understood(capsys):
    words = (
        "nemo restore_from_path=base trainer.devices=1 trainer.val_check_interval=100 trainer.max_epochs=1 "
        "+trainer.num_sanity_val_steps=0 model.global_batch_size=8 model.micro_batch_size=8 "
        "model.tokenizer.library=huggingface model.tokenizer.type=intfloat/e5 ++model.data.data_prefix=train.json "
        "++model.tokenizer.do_lower_case=False ++model.data.evaluation_sample_size=10 "
        "++model.data.hard_negatives_to_train=2 ++model.data.evaluation_steps=100 exp_manager.explicit_log_dir=out "
        "exp_manager.create_wandb_logger=True exp_manager.wandb_logger_kwargs.name=run "
        "exp_manager.wandb_logger_kwargs.project=mine exp_manager.resume_if_exists=True model.optim.lr=1e-5"
    ).split()
    settings = read_settings(words)
    assert settings["model"]["name"] == "base"
    assert settings["data"] == {
        "hard_negatives_to_train": 2,
        "path": "train.json",
        "batch_size": 8,
        "evaluation_sample_size": 10,
    }
    fitting = settings["fit"]
    assert (fitting["epochs"], fitting["evaluation_steps"], fitting["output_path"]) == (1, 100, "out")
    assert (fitting["resume"], fitting["log_with"], fitting["optimizer_params"]["lr"]) == (True, "wandb", 1e-5)
    assert "model.micro_batch_size=8 is not needed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["stss", "output=x"], "No such file .*stss"),
        (["{broken}", "output=x"], "expected ',' or ']'"),
        (["sts", "epochs"], "'epochs' sets nothing; write key=value"),
        (["sts", "trainer.max_epoch=2"], "unknown key 'trainer.max_epoch'. Did you mean 'trainer.max_epochs'"),
        (["sts", "output=x", "fit.epoch=2"], "fit: .*'epoch'"),
        (["sts", "output=x", "fit.epochs=two"], 'fit: .*"epochs".*float.* two'),
        (["sts"], "output is missing"),
        (["sts", "output=x", "data.path=mine.csv"], "No such file .*mine.csv"),
        (["sts", "output=x", "data.label=score"], "data.path is missing"),
        (["sts", "output=x", "data.evaluation_sample_size=9999"], "leaves none of 1600 examples"),
    ],
)
def test_errors_reach_the_shell_in_words(words, message, tmp_path, capsys):
    (tmp_path / "broken.yaml").write_text("fit: {epochs: [1")
    assert main(["train", *(word.replace("{broken}", str(tmp_path / "broken.yaml")) for word in words)]) == 1
    assert re.search(message, capsys.readouterr().err)


def test_settings_and_help_are_printed(capsys):
    assert main(["train", "sts", "fit.epochs=5", "loss=MSELoss", "model.layers=1", "--print_config"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["fit"]["epochs"], printed["loss"], printed["model"]["layers"]) == (5, "MSELoss", 1)
    assert printed["model"]["name"] == "all-MiniLM-L6-v2"
    assert main(["train", "--help"]) == 0
    text = capsys.readouterr().out
    assert "epochs: passes through the data" in text
    assert set(RECIPES) == {"sts", "nli", "retrieval", "nemo", "matryoshka", "tsdae", "distillation"}
    assert all(name in text for name in [*RECIPES, *LOSSES, *EVALUATORS, *inspect.signature(fit).parameters])


def test_unknown_and_missing_names_and_settings_are_errors(tiny):
    model = tiny()
    for make, message in [
        (lambda: make_loss(model, "CosentLoss"), r"loss\.name must be .* got 'CosentLoss'. Did you mean 'CoSENTLoss'"),
        (lambda: make_loss(model, {"name": "CoSENTLoss", "scal": 2}), "loss CoSENTLoss: .*'scal'"),
        (lambda: make_loss(model, {"name": "SoftmaxLoss"}), "required: num_labels"),
        (lambda: make_evaluator(None, []), r"evaluator\.name must be .* got None"),
        (lambda: make_evaluator("TripletEvaluator", []), r"evaluator\.data is missing"),
        (lambda: make_evaluator("TripletEvaluator", [InputExample(texts=["a", "b"])]), "its data has 2 columns"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()


def test_every_loss_is_known_and_accepts_functions_losses_and_models(tiny, folder):
    named = {name for name in losses.__all__ if "Loss" in name and not name.endswith("Function")}
    assert set(LOSSES) == named - {"Loss"}
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


def test_pooling_layers_and_length_of_the_model_can_be_changed(folder):
    model = load_model(folder, pooling=["cls", "mean"], max_seq_length=16, layers=1)
    assert model.get_sentence_embedding_dimension() == 64
    assert model.max_seq_length == 16
    assert len(model[0].auto_model.encoder.layer) == 1


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_tables_of_every_kind_give_the_same_examples(kind, tmp_path):
    frame = pd.DataFrame({"q": ["how", "NA", "who"], "a": ["so", "7", "I"], "s": [0.5, 1.0, 0.0]})
    frame["class"] = ["contradiction", "neutral", "entailment"]
    path = tmp_path / f"table.{kind}"
    if kind == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    elif kind == "parquet":
        pytest.importorskip("pyarrow")
        frame.to_parquet(path)
    else:
        frame.to_csv(path, sep="," if kind == "csv" else "\t", index=False)
    examples, held_out = Data(str(path), ["q", "a"], "s").read()
    assert [(row.texts, row.label) for row in examples] == [(["how", "so"], 0.5), (["NA", "7"], 1), (["who", "I"], 0)]
    assert held_out == []
    examples, held_out = Data(str(path), ["q"], "class", evaluation_sample_size=1).read()
    classes = [NLIDataReader.get_labels()[name] for name in frame["class"]]
    numbered = {row.texts[0]: row.label for row in [*examples, *held_out]}
    assert [numbered[text] for text in frame["q"]] == classes
    assert len(held_out) == 1


def test_batches_have_no_duplicates_or_noise():
    rows = [InputExample(texts=["one two three four"]) for _ in range(8)]
    with pytest.raises(ValueError, match="8 examples give no batch of 4 in which no text is repeated"):
        Data(no_duplicates=True, batch_size=4).batches(rows, losses.MSELoss(), 0)
    noisy, whole = Data(noise=0.5).batches(rows, losses.MSELoss(), 0).dataset[0].texts
    assert len(noisy) < len(whole)
    assert whole == "one two three four"


def test_the_classes_of_the_helpdesk_pairs_are_those_of_nli():
    scored = {tuple(row.texts): row.label for row in Data(helpdesk="sts").read()[0]}
    classes = {tuple(row.texts): row.label for row in Data(helpdesk="nli").read()[0]}
    assert len(classes) == 1200
    expected = {0.0: 0, 1.0: 1, 2 / 3: 2}
    assert all(label == expected[scored[texts]] for texts, label in classes.items())


def test_a_teacher_gives_what_the_loss_learns(tiny):
    teacher = tiny(seed=1)
    rows = [InputExample(texts=["the cat", "a dog", "the sea"])]
    vectors = teacher.encode(rows[0].texts)
    assert np.allclose(with_teacher(rows, teacher, losses.MSELoss())[0].label, vectors[0], atol=1e-6)
    scores = with_teacher(rows, teacher, losses.MarginMSELoss())[0].label
    assert np.allclose(scores, vectors[1:] @ vectors[0], atol=1e-5)
    with pytest.raises(ValueError, match="CoSENTLoss has no teacher"):
        with_teacher(rows, teacher, losses.CoSENTLoss())


@pytest.mark.parametrize("name", sorted(EVALUATORS))
def test_every_evaluator_is_made_from_examples(name, tiny, folder):
    rows = [InputExample(texts=[f"cat {n}", f"dog {n}", f"fish {n}"], label=n % 2) for n in range(6)]
    given = {"name": name} | ({"teacher_model": folder} if name == "MSEEvaluator" else {})
    metrics = make_evaluator(given, rows)(tiny())
    assert metrics
    assert all(np.isfinite(list(metrics.values())))


def test_training_by_a_file_equals_training_by_hand(config, tmp_path, folder, pairs):
    history = train([config, f"output={tmp_path / 'out'}", "fit.seed=3"])
    assert history is not None
    model = SentenceTransformer(folder)
    loader = DataLoader(examples_from_frame(pd.read_csv(pairs), ["one", "two"], "score"), 4, shuffle=True)
    by_hand = fit(
        model, [(loader, losses.CosineSimilarityLoss(model))], warmup_steps=1, seed=3, show_progress_bar=False
    )
    assert history["loss"].tolist() == by_hand["loss"].tolist()
    trained, start = SentenceTransformer(tmp_path / "out"), SentenceTransformer(folder)
    for (name, one), other in zip(trained.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(one, other), name
    assert any(not torch.equal(a, b) for a, b in zip(trained.parameters(), start.parameters(), strict=True))
    assert pd.read_csv(tmp_path / "out" / "history.csv")["step"].tolist() == [1, 2]
    again = train([str(tmp_path / "out" / "settings.json"), f"output={tmp_path / 'two'}"])
    assert again is not None
    assert again["loss"].tolist() == history["loss"].tolist()


def test_an_interrupted_run_resumes_to_the_same_weights(config, tmp_path, monkeypatch, capsys):
    assert main(["train", config, "fit.epochs=2", f"output={tmp_path / 'whole'}"]) == 0
    compute, calls = losses.CosineSimilarityLoss.compute, iter(range(9))

    def press_ctrl_c(*arguments):
        if next(calls) == 1:
            signal.raise_signal(signal.SIGINT)
        return compute(*arguments)

    words = ["train", config, "fit.epochs=2", f"output={tmp_path / 'parts'}"]
    with monkeypatch.context() as patch:
        patch.setattr(losses.CosineSimilarityLoss, "compute", press_ctrl_c)
        assert main(words) == 130
    assert "stopped after 2 steps; the same command with fit.resume=true continues" in capsys.readouterr().err
    assert not (tmp_path / "parts" / "modules.json").exists()
    assert main([*words, "exp_manager.resume_if_exists=True"]) == 0
    whole, parts = (SentenceTransformer(tmp_path / name) for name in ("whole", "parts"))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))


def test_evaluate_prints_what_the_evaluator_returns(tmp_path, config, folder, pairs, capsys):
    assert main(["evaluate", folder, config, "evaluator=EmbeddingSimilarityEvaluator"]) == 0
    printed = json.loads(capsys.readouterr().out)
    frame = pd.read_csv(pairs)
    evaluator = evaluation.EmbeddingSimilarityEvaluator(frame["one"], frame["two"], frame["score"])
    assert printed == pytest.approx(evaluator(SentenceTransformer(folder)))


def test_evaluate_uses_a_recipe_and_nemos_held_out_rows(tmp_path, folder, capsys):
    assert main(["evaluate", folder, "retrieval", "evaluator.truncate_dim=8"]) == 0
    assert 0 < json.loads(capsys.readouterr().out)["max_map@100"] <= 1
    assert main(["evaluate", folder, "retrieval", "data.path=mine.csv"]) == 1
    assert "['data.path=mine.csv'] would change nothing" in capsys.readouterr().err
    table = triplets(load_helpdesk("train")).head(12)
    write_nemo([InputExample(texts=list(row[:3])) for row in table.to_numpy().tolist()], tmp_path / "n.json")
    words = ["nemo", f"model.data.data_prefix={tmp_path / 'n.json'}", "data.evaluation_sample_size=4"]
    assert main(["evaluate", folder, *words]) == 0
    assert "cos_sim_accuracy@1" in json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(("source", "target"), [("in.txt", "out.npy"), ("in.csv", "out.parquet")])
def test_embed_writes_what_encode_returns(source, target, tmp_path, folder):
    texts = [f"the cat sits {n}" * (1 + n % 3) for n in range(8)]
    head = "text\n" if source == "in.csv" else ""
    (tmp_path / source).write_text(head + "\n".join(texts) + "\n\n")
    assert main(["embed", folder, str(tmp_path / source), str(tmp_path / target), "--normalize"]) == 0
    if target == "out.npy":
        found = np.load(tmp_path / target)
    else:
        written = pd.read_parquet(tmp_path / target)
        assert written["text"].tolist() == texts
        found = np.stack(written["embedding"])
    assert found.dtype == np.float32
    expected = SentenceTransformer(folder).encode(texts, normalize_embeddings=True)
    assert np.allclose(found, expected, atol=1e-5)


def test_bad_files_of_embed_are_refused(tmp_path, folder, pairs, capsys):
    for target, message in [
        ("o.npy", "missing the columns ['text']; it has ['one', 'two', 'score']"),
        ("o.bin", "must be one of '.npy', '.parquet', got '.bin'"),
    ]:
        assert main(["embed", folder, pairs, str(tmp_path / target)]) == 1
        assert message in capsys.readouterr().err
        assert not (tmp_path / target).exists()
    pd.DataFrame({"text": ["a"], "more": [1]}).to_parquet(tmp_path / "t.parquet")
    assert main(["embed", folder, str(tmp_path / "t.parquet"), str(tmp_path / "t.parquet")]) == 1
    assert "is the input, whose other columns would be lost" in capsys.readouterr().err


def test_convert_reads_a_folder_of_transformers(tmp_path, tiny):
    model = tiny()
    model[0].auto_model.save_pretrained(tmp_path / "plain")
    model.tokenizer.save_pretrained(tmp_path / "plain")
    assert main(["convert", str(tmp_path / "plain"), str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "modules.json").is_file()
    assert np.allclose(SentenceTransformer(tmp_path / "out").encode("a dog"), model.encode("a dog"), atol=1e-6)
