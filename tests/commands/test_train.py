"""The commands train and evaluate: their settings, and what they run, write and print."""

from __future__ import annotations

import inspect
import json
import re
import signal
from pathlib import Path

import pandas as pd
import pytest
import torch
from sbertlab.helpdesk import load_helpdesk, triplets
from torch.utils.data import DataLoader

from sbertlab import SentenceTransformer, evaluation, losses
from sbertlab.__main__ import main
from sbertlab.commands.parts import EVALUATORS, LOSSES, READERS
from sbertlab.commands.train import RECIPES, read_settings, train
from sbertlab.data import InputExample, examples_from_frame, write_nemo
from sbertlab.training.fit import fit

pytestmark = pytest.mark.filterwarnings("ignore::sbertlab.data.texts.TruncationWarning")


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
    settings = read_settings(words)
    assert settings["model"]["name"] == "base"
    assert settings["data"] == {
        "reader": {"name": "NeMoReader", "hard_negatives_to_train": 2},
        "path": "train.json",
        "batch_size": 8,
        "evaluation_sample_size": 10,
    }
    fitting = settings["fit"]
    assert (fitting["epochs"], fitting["evaluation_steps"], fitting["output_path"]) == (1, 100, "out")
    assert (fitting["resume"], fitting["log_with"], fitting["optimizer_params"]["lr"]) == (True, "wandb", 1e-5)
    assert "model.micro_batch_size=8 is not needed" in capsys.readouterr().err


def test_the_name_of_a_section_replaces_it_and_an_inner_key_changes_it(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("loss: {name: CoSENTLoss, scale: 7}\n")
    assert read_settings([str(path), "loss=MSELoss"])["loss"] == "MSELoss"
    assert read_settings([str(path), "loss.scale=9"])["loss"] == {"name": "CoSENTLoss", "scale": 9}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["stss", "output=x"], "stss is neither a file nor a recipe; the recipes are .*sts"),
        (["{broken}", "output=x"], "broken.yaml is not valid YAML"),
        (["sts", "epochs"], "'epochs' sets nothing; write key=value"),
        (["sts", "trainer.max_epoch=2"], "unknown key 'trainer.max_epoch'. Did you mean 'trainer.max_epochs'"),
        (["sts", "output=x", "fit.epoch=2"], "fit: .*'epoch'"),
        (["sts"], "output is missing"),
        (["sts", "output=x", "data.path=mine.csv"], "every reader but helpdesk needs the file data.path"),
    ],
)
def test_errors_reach_the_shell_as_one_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.yaml").write_text("fit: {epochs: [1")
    assert main(["train", *(word.replace("{broken}", str(tmp_path / "broken.yaml")) for word in words)]) == 1
    [line] = capsys.readouterr().err.strip().splitlines()
    assert re.search(message, line)


def test_settings_and_help_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "sts", "fit.epochs=5", "--print_config"]) == 0
    assert json.loads(capsys.readouterr().out)["fit"]["epochs"] == 5
    assert main(["train", "--help"]) == 0
    text = capsys.readouterr().out
    assert "epochs: passes through the data" in text
    assert set(RECIPES) == {"sts", "nli", "retrieval", "nemo", "matryoshka", "tsdae", "distillation"}
    assert all(name in text for name in [*RECIPES, *LOSSES, *EVALUATORS, *READERS, *inspect.signature(fit).parameters])


def test_training_by_a_file_equals_training_by_hand(config: str, tmp_path: Path, folder: str, pairs: str) -> None:
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


def test_an_interrupted_run_resumes_to_the_same_weights(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", config, "fit.epochs=2", f"output={tmp_path / 'whole'}"]) == 0
    compute, calls = losses.CosineSimilarityLoss.compute, iter(range(9))

    def press_ctrl_c(*arguments: object) -> torch.Tensor:
        if next(calls) == 1:
            signal.raise_signal(signal.SIGINT)
        return compute(*arguments)  # type: ignore[arg-type]

    words = ["train", config, "fit.epochs=2", f"output={tmp_path / 'parts'}"]
    with monkeypatch.context() as patch:
        patch.setattr(losses.CosineSimilarityLoss, "compute", press_ctrl_c)
        assert main(words) == 130
    assert "stopped after 2 steps; the same command with fit.resume=true continues" in capsys.readouterr().err
    assert not (tmp_path / "parts" / "modules.json").exists()
    assert main([*words, "exp_manager.resume_if_exists=True"]) == 0
    whole, parts = (SentenceTransformer(tmp_path / name) for name in ("whole", "parts"))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))


def test_evaluate_prints_what_the_evaluator_returns(
    tmp_path: Path, config: str, folder: str, pairs: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", folder, config, "evaluator=EmbeddingSimilarityEvaluator"]) == 0
    printed = json.loads(capsys.readouterr().out)
    frame = pd.read_csv(pairs)
    evaluator = evaluation.EmbeddingSimilarityEvaluator(frame["one"], frame["two"], frame["score"])
    assert printed == pytest.approx(evaluator(SentenceTransformer(folder)))


def test_evaluate_uses_a_recipe_and_nemos_held_out_rows(
    tmp_path: Path, folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", folder, "retrieval", "evaluator.truncate_dim=8"]) == 0
    assert 0 < json.loads(capsys.readouterr().out)["max_map@100"] <= 1
    assert main(["evaluate", folder, "retrieval", "data.path=mine.csv"]) == 1
    assert "['data.path=mine.csv'] would change nothing" in capsys.readouterr().err
    table = triplets(load_helpdesk("train")).head(12)
    write_nemo([InputExample(texts=list(row[:3])) for row in table.to_numpy().tolist()], tmp_path / "n.json")
    words = ["nemo", f"model.data.data_prefix={tmp_path / 'n.json'}", "data.evaluation_sample_size=4"]
    assert main(["evaluate", folder, *words]) == 0
    assert "cos_sim_accuracy@1" in json.loads(capsys.readouterr().out)
