"""The commands train, evaluate, embed and convert: read settings, make the parts (`parts.py`), run.

Settings are the sections of a YAML file, changed by words `section.key=value`, or by NeMo's names for them.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sbertlab.checks import check_choice, closest
from sbertlab.commands import parts
from sbertlab.commands.parts import Data, arguments_of, load_model, read_frame
from sbertlab.data import examples_from_frame
from sbertlab.encoder.sentence_transformer import SentenceTransformer
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
    "model.data.hard_negatives_to_train": "data.reader.hard_negatives_to_train",
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


def read_settings(words: Sequence[str]) -> dict[str, Any]:
    """Return the settings of a file or recipe (the first word, unless it is key=value), changed by the other words.

    >>> read_settings(["output=x", "loss=CoSENTLoss", "loss.scale=10", "trainer.max_epochs=2"])
    {'fit': {'output_path': 'x', 'epochs': 2}, 'loss': {'name': 'CoSENTLoss', 'scale': 10}}
    """
    settings: dict[str, Any] = {}
    words = list(words)
    if words and "=" not in words[0]:
        name = words.pop(0)
        path = Path(RECIPES.get(name, name))
        if not path.is_file():
            raise FileNotFoundError(f"{name} is neither a file nor a recipe; the recipes are {', '.join(RECIPES)}")
        for section, part in _yaml(path.read_text(encoding="utf-8"), name).items():
            _put(settings, section, part)
    for word in words:
        key, equals, value = word.lstrip("+").partition("=")  # Hydra marks keys that its file does not have with +
        if not equals:
            raise ValueError(f"{word!r} sets nothing; write key=value")
        _put(settings, key, _yaml(value, word))
    return settings


def _yaml(text: str, where: str) -> Any:
    from jsonargparse import get_loader  # slow to import

    try:
        return get_loader("yaml")(text)
    except Exception as error:  # whatever the YAML library raises on broken text
        raise ValueError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from error


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
    loss = parts.make_loss(model, settings.get("loss"))
    evaluator = parts.make_evaluator(settings["evaluator"], held_out) if settings.get("evaluator") else None
    history = fit(model, [(data.batches(examples, loss, arguments.get("seed", 0)), loss)], evaluator, **arguments)
    if history.attrs["interrupted"]:
        print(f"stopped after {len(history)} steps; the same command with fit.resume=true continues", file=sys.stderr)
    elif os.environ.get("RANK", "0") == "0":  # of several processes, the first writes
        history.to_csv(Path(output, "history.csv"), index=False)
        Path(output, "settings.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        scores = history["metric"].dropna()
        print(f"{output}: {len(history)} steps" + (f", score {scores.iloc[-1]:.4f}" if len(scores) else ""))
    return history


def evaluate(words: Sequence[str]) -> dict[str, float] | None:
    """Print the metrics of a model (the first word) under the evaluator of a file, a recipe or keys, as JSON.

    An evaluator without data uses what the section `data` holds out, or all of it.
    """
    if not words or {"-h", "--help"} & set(words):
        print(f"usage: sbertlab evaluate MODEL FILE.yaml|RECIPE key=value ...\n\n{help_text()}")
        return None
    settings = read_settings(words[1:])
    given = settings.get("evaluator", "")
    examples = []
    if any("data" not in part for part in (given if isinstance(given, list) else [given])):
        whole, held_out = Data(**arguments_of(Data, settings.get("data"), "data")).read()
        examples = held_out or whole
    elif ignored := [word for word in words[2:] if not word.startswith("evaluator.")]:
        raise ValueError(
            f"{ignored} would change nothing: the evaluator has data of its own; write evaluator.key=value"
        )
    metrics = dict(parts.make_evaluator(given, examples)(SentenceTransformer(words[0])))
    print(json.dumps(metrics, indent=2))
    return metrics


def embed_file(
    model: str, source: str, target: str, column: str = "text", batch_size: int = 32, normalize: bool = False
) -> None:
    """Write the embeddings of a column of a table (see `read_frame`) into a file that appears whole or not at all.

    The target is .npy, `(texts, dim)` float32, or .parquet or .csv together with the texts.
    """
    kind = Path(target).suffix
    check_choice("the ending of the output", kind, [".npy", ".parquet", ".csv"])
    frame = read_frame(source)
    texts = [text for example in examples_from_frame(frame, [column]) for text in example.texts or []]
    vectors = SentenceTransformer(model).encode(texts, batch_size, True, normalize_embeddings=normalize)
    with write_whole(Path(target)) as path:
        if kind == ".npy":
            np.save(path, vectors)
        elif kind == ".parquet":
            pd.DataFrame({column: texts, "embedding": list(vectors)}).to_parquet(path)
        else:
            pd.DataFrame({column: texts}).join(pd.DataFrame(vectors).add_prefix("dim_")).to_csv(path, index=False)


def convert_model(source: str, target: str) -> str:
    """Write a model folder of any kind as a portable one."""
    SentenceTransformer(source, device="cpu").save(target)
    return target


def help_text() -> str:
    """Return what can be set: names, and the signatures whose parameters are the keys."""
    lines = ["usage: sbertlab train FILE.yaml|RECIPE section.key=value ...\n", f"recipes: {', '.join(RECIPES)}"]
    for kind, names in {"losses": parts.LOSSES, "evaluators": parts.EVALUATORS, "readers": parts.READERS}.items():
        lines.append(f"{kind}: {', '.join(names)}")
    lines.append("\nloss, evaluator and data.reader: a name and the parameters of its class; evaluator.data as data.\n")
    for section, make in (("model", load_model), ("data", Data), ("fit", fit)):
        lines.append(f"{section}: {inspect.signature(make)}\n{inspect.getdoc(make)}\n")
    return "\n".join(lines)
