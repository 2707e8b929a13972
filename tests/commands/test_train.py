"""The commands train and evaluate: what they run, write and print."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from sbertlab.helpdesk import load_helpdesk, triplets

from sbertlab import SentenceTransformer, evaluation, losses
from sbertlab.__main__ import main
from sbertlab.commands.parts import (
    EVALUATORS,
    LOSSES,
    make_loader,
    read_data,
)
from sbertlab.commands.settings import recipes
from sbertlab.commands.train import sections, train
from sbertlab.data import InputExample, write_nemo
from sbertlab.training.fit import fit

pytestmark = pytest.mark.filterwarnings("ignore::sbertlab.data.texts.TruncationWarning")


def test_training_by_a_file_equals_training_by_hand(
    config: str, tmp_path: Path, folder: str, pairs: str, tiny: Callable[..., SentenceTransformer]
) -> None:
    history = train([config, f"output={tmp_path / 'out'}", "seed=3"])
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
    config: str,
    tmp_path: Path,
    folder: str,
    pairs: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = config
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
