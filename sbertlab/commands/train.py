"""The commands train and evaluate: read settings, make the parts, run.

Every section of the settings is the signature of what it is passed to: `model` is `load_model`, `fit` is `fit`, `loss`
and `evaluator` are a class by name, `data` is a reader by name together with `read` and `make_loader`.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from sbertlab import evaluation
from sbertlab.commands import parts
from sbertlab.commands.parts import EVALUATORS, LOSSES, OF_DATA, OF_EVALUATOR, READERS
from sbertlab.commands.settings import arguments_of, keys_of, read_settings, recipes
from sbertlab.encoder.sentence_transformer import SentenceTransformer
from sbertlab.training.fit import fit

OF_FIT = ("train_objectives", "evaluator")


def sections() -> dict[str, list[str]]:
    """Return the names of every section, from the signatures as they are now."""
    makes: list[Any] = [parts.read, parts.make_loader, *READERS.values()]
    data = [name for make in makes for name in keys_of(make, OF_DATA)]
    evaluators = [name for kind in EVALUATORS for name in keys_of(getattr(evaluation, kind), OF_EVALUATOR)]
    return {
        "fit": keys_of(fit, OF_FIT),
        "model": keys_of(parts.load_model),
        "data": ["reader", "teacher", *dict.fromkeys(data)],
        "loss": ["name", *dict.fromkeys(name for kind in LOSSES.values() for name in keys_of(kind))],
        "objectives": [],
        "evaluator": ["name", "data", *dict.fromkeys(evaluators)],
    }


def train(words: Sequence[str]) -> pd.DataFrame | None:
    """Train as the settings say; write the model, `history.csv` and `settings.json` to the output folder.

    The word `--print_config` prints the settings instead, `--help` what can be set.
    """
    if not words or {"-h", "--help"} & set(words):
        print(help_text(words))
        return None
    settings = read_settings([word for word in words if word != "--print_config"], sections())
    if "--print_config" in words:
        print(json.dumps(settings, indent=2))
        return None
    arguments = arguments_of(fit, settings.get("fit") or {}, "fit", OF_FIT)
    output = arguments.get("output_path")
    if output is None:
        raise ValueError("output is missing; name the folder of the model: output=my-model")
    if arguments.get("resume"):
        arguments.setdefault("checkpoint_path", f"{output}-checkpoints")
    listed = settings.get("objectives")
    given = [("", settings)] if listed is None else [(f"objectives.{n}.", part) for n, part in enumerate(listed)]
    data = [parts.read_data(part.get("data") or {}, f"{inside}data") for inside, part in given]
    model = parts.make_model(settings.get("model"), "model")
    objectives = []
    for (inside, part), (examples, _, loading) in zip(given, data, strict=True):
        loss = parts.make_loss(model, part.get("loss"), f"{inside}loss")
        if teacher := (part.get("data") or {}).get("teacher"):
            examples = parts.with_teacher(examples, parts.make_model(teacher, f"{inside}data.teacher"), loss)
        objectives.append((parts.make_loader(examples, arguments.get("seed", 0), **loading), loss))
    evaluator = None
    if settings.get("evaluator"):
        held_out = [example for _, left, _ in data for example in left]
        evaluator = parts.make_evaluator(settings["evaluator"], held_out, loss=objectives[0][1])
    history = fit(model, objectives, evaluator, **arguments)
    if os.environ.get("RANK", "0") == "0":  # of several processes, the first writes
        _finish(history, model, settings, arguments)
    return history


def _finish(history: pd.DataFrame, model: SentenceTransformer, settings: Any, arguments: Mapping[str, Any]) -> None:
    """Write what a run leaves and say where; an interrupted one leaves checkpoints or its model."""
    output = Path(arguments["output_path"])
    scores = history["metric"].dropna()
    if history.attrs.get("interrupted"):
        best = arguments.get("save_best_model", True) and len(scores)  # fit has written it
        where = f"{output} has the {'best model so far' if best else 'model as it is'}"
        if (checkpoints := arguments.get("checkpoint_path")) is not None:
            where = f"the same command with resume=true resumes from {checkpoints}"
        elif not best:
            model.save(output)
        print(f"stopped after {len(history)} steps; {where}", file=sys.stderr)
        return
    history.to_csv(output / "history.csv", index=False)
    (output / "settings.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    print(f"{output}: {len(history)} steps" + (f", score {scores.iloc[-1]:.4f}" if len(scores) else ""))


def evaluate(words: Sequence[str]) -> dict[str, float] | None:
    """Print the metrics of a model (the first word) under the evaluator of a file, a recipe or keys.

    `output=FILE` writes them as JSON. Names without a section are the evaluator's or those of its data:
    `name=TripletEvaluator path=dev.jsonl`. An evaluator without data uses what the section `data` holds out, or all.
    """
    if not words or {"-h", "--help"} & set(words):
        print(
            f"usage: sbertlab evaluate MODEL FILE.yaml|RECIPE|key=value ... [output=METRICS.json]\n\n{help_text(words)}"
        )
        return None
    known, (model, *words) = sections(), words
    count = int(bool(words) and "=" not in words[0] and not words[0].startswith("-"))
    settings = read_settings(words[:count], known)
    changes = read_settings(words[count:], {name: known[name] for name in ("evaluator", "data")})
    data, given = settings.get("data", {}), settings.get("evaluator", {})
    listed = given if isinstance(given, list) else [given]
    for part in listed:
        part |= changes.get("evaluator", {})
        part.get("data", data).update(changes.get("data", {}))
    if not given:
        raise ValueError("evaluator is missing; name a recipe, or set name=TripletEvaluator path=...")
    whole, held_out = parts.read_data(data, "data")[:2] if any("data" not in part for part in listed) else ([], [])
    metrics = parts.make_evaluator(given, held_out or whole)(SentenceTransformer(model))
    text = json.dumps(metrics, indent=2)
    print(text)
    if "fit" in changes:
        Path(changes["fit"]["output_path"]).write_text(text + "\n", encoding="utf-8")
    return dict(metrics)


def help_text(words: Sequence[str] = ()) -> str:
    """Return the help on the losses, evaluators and readers that the words name, or on all keys."""

    def document(make: Any) -> str:
        return f"{make.__name__}{inspect.signature(make)}\n{inspect.getdoc(make)}\n"

    kinds = {**LOSSES, **{name: getattr(evaluation, name) for name in EVALUATORS}, **READERS}
    if named := [kinds[word] for word in words if word in kinds]:
        return "\n".join(map(document, named))
    listed: dict[str, Any] = {"recipes": recipes(), "losses": LOSSES, "evaluators": EVALUATORS, "readers": READERS}
    lines = [
        "usage: sbertlab train FILE.yaml|RECIPE key=value ... (or --key value)",
        "       sbertlab train --help NAME (of a loss, an evaluator or a reader)",
        *(f"{kind}: {', '.join(names)}" for kind, names in listed.items()),
        "keys: the parameters of loss, evaluator and reader (data), and of these functions (model, data, data, fit):\n",
    ]
    return "\n".join([*lines, *map(document, (parts.load_model, parts.read, parts.make_loader, fit))])
