"""Keys from signatures, NeMo's names, and values checked against signatures."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sbertlab import evaluation, losses
from sbertlab.commands.parts import (
    EVALUATORS,
    LOSSES,
)
from sbertlab.commands.settings import arguments_of, read_settings
from sbertlab.commands.train import OF_FIT, sections
from sbertlab.training.fit import fit

pytestmark = pytest.mark.filterwarnings("ignore::sbertlab.data.texts.TruncationWarning")


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


@pytest.mark.slow
def test_the_package_is_imported_without_jsonargparse() -> None:
    code = "import sys, sbertlab; print('jsonargparse' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
