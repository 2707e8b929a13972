"""The commands train and evaluate: read settings, make the parts (`train_parts`), run."""

from __future__ import annotations

import inspect
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from sbertlab import evaluation
from sbertlab.commands.settings import arguments_of, described, keys_of, listed, read_settings, recipes
from sbertlab.commands.train import (
    EVALUATORS,
    LOSSES,
    OF_DATA,
    OF_EVALUATOR,
    OF_FIT,
    OF_READER,
    READERS,
    load_model,
    make_evaluator,
    make_loader,
    make_loss,
    make_model,
    read_data,
    take,
    taught,
)
from sbertlab.data.readers import InputExample
from sbertlab.encoder.sentence_transformer import SentenceTransformer
from sbertlab.training.fit import fit


def sections() -> dict[str, list[str]]:
    """Return the names of every section, from the signatures as they are now."""
    data = [*keys_of(take, OF_DATA), *keys_of(make_loader, OF_DATA)]
    data += [name for reader in READERS.values() for name in keys_of(reader, OF_READER)]
    evaluators = [name for kind in EVALUATORS for name in keys_of(getattr(evaluation, kind), OF_EVALUATOR)]
    return {
        "model": list(keys_of(load_model)),
        "data": list(dict.fromkeys(["reader", "teacher", *data])),
        "loss": list(dict.fromkeys(["name", *(name for kind in LOSSES.values() for name in keys_of(kind))])),
        "objectives": [],
        "evaluator": list(dict.fromkeys(["name", "data", *evaluators])),
        "fit": list(keys_of(fit, OF_FIT)),
    }


def train(words: Sequence[str]) -> pd.DataFrame | None:
    """Train as the settings say; write the model, `history.csv` and `settings.json` to the output folder.

    The word `--print_config` prints the settings in place of that.

    Raises:
        ValueError: a setting that is unknown, missing, or of the wrong type or value.
    """
    settings, notes = read_settings([word for word in words if word != "--print_config"], sections())
    for note in notes:
        print(note, file=sys.stderr)
    if "--print_config" in words:
        print(json.dumps(settings, indent=2))
        return None
    arguments = arguments_of(fit, settings.get("fit") or {}, "fit", OF_FIT)
    output = arguments.get("output_path")
    if output is None:
        raise ValueError("output is missing; name the folder for the model: output=my-model")
    if arguments.get("resume") and arguments.get("checkpoint_path") is None:
        arguments["checkpoint_path"] = f"{output}-checkpoints"
    listed = settings.get("objectives")
    parts = [("", settings)] if listed is None else [(f"objectives.{n}.", part) for n, part in enumerate(listed)]
    read = [read_data(part.get("data") or {}, f"{inside}data") for inside, part in parts]
    model = make_model(settings.get("model") or {}, "model")
    objectives = []
    for (inside, part), (examples, _, loading) in zip(parts, read, strict=True):
        loss = make_loss(model, part.get("loss"), f"{inside}loss")
        teacher = (part.get("data") or {}).get("teacher")
        if teacher is not None:
            examples = taught(examples, make_model(teacher, f"{inside}data.teacher"), loss)
        objectives.append((make_loader(examples, arguments.get("seed", 0), **loading), loss))
    evaluator = None
    if settings.get("evaluator"):
        held_out = [example for _, left, _ in read for example in left]
        evaluator = make_evaluator(settings["evaluator"], held_out, loss=objectives[0][1])
    history = fit(model, objectives, evaluator, **arguments)
    if os.environ.get("RANK", "0") != "0":  # of several processes, the first writes
        return history
    if history.attrs.get("interrupted"):
        kept = arguments.get("checkpoint_path")
        best = arguments.get("save_best_model", True) and history["metric"].notna().any()  # fit has written it
        if kept is None and not best:
            model.save(output)
        where = f"{output} has the {'best model so far' if best else 'model as it is'}"
        where = f"the same command with resume=true goes on from {kept}" if kept else where
        print(f"stopped after {len(history)} steps; {where}", file=sys.stderr)
        return history
    history.to_csv(Path(output) / "history.csv", index=False)
    (Path(output) / "settings.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    scores = history["metric"].dropna()
    print(f"{output}: {len(history)} steps" + (f", score {scores.iloc[-1]:.4f}" if len(scores) else ""))
    return history


def evaluate(model: str, words: Sequence[str]) -> dict[str, float]:
    """Print the metrics of a model under the evaluator of a file, a recipe or keys; `output=FILE` writes them as JSON.

    Keys are the evaluator's, with or without `evaluator.` in front: `name=TripletEvaluator data.path=dev.jsonl`. An
    evaluator without data takes what the section `data` holds out, or all of it.

    Raises:
        ValueError: a setting that is unknown, missing, or of the wrong type or value.
    """
    known = sections() | {"metrics": []}
    evaluator = read_settings(words[:1], known)[0].get("evaluator") if words and "=" not in words[0] else None
    own_data = isinstance(evaluator, dict) and "data" in evaluator

    def rename(key: str) -> str:
        first = key.partition(".")[0]
        if own_data and first != "data" and first in known["data"]:
            return f"evaluator.data.{key}"
        inside = first in known["evaluator"] and (own_data or first != "data")
        return "metrics" if key == "output" else f"evaluator.{key}" if inside else key

    settings, _ = read_settings(words, known, rename)
    given = settings.get("evaluator")
    if not given:
        raise ValueError("evaluator is missing; name a recipe, or say name=TripletEvaluator data.path=...")
    examples: list[InputExample] = []
    if settings.get("data") and any("data" not in part for part in (given if isinstance(given, list) else [given])):
        whole, held_out, _ = read_data(settings["data"], "data")
        examples = held_out or whole
    metrics = make_evaluator(given, examples)(SentenceTransformer(model))
    text = json.dumps(metrics, indent=2)
    print(text)
    if "metrics" in settings:
        Path(settings["metrics"]["name"]).write_text(text + "\n", encoding="utf-8")
    return dict(metrics)


def help_text(words: Sequence[str] = ()) -> str:
    """Return the help: all sections with their keys and the recipes, or one class, reader or function by name."""
    kinds = {**LOSSES, **{name: getattr(evaluation, name) for name in EVALUATORS}, **READERS}
    named = [word for word in words if word in kinds]
    if named:
        return f"{named[0]}: {inspect.getdoc(kinds[named[0]])}"
    parts = [
        "usage: python -m sbertlab train CONFIG.yaml|RECIPE key=value ... (or --key value)",
        "       python -m sbertlab train --help NAME (of a loss, an evaluator or a reader)",
        "recipes:\n" + "\n".join(f"  {name}: {first}" for name, first in recipes().items()),
        "model:\n" + described(load_model, "model."),
        "data (reader: one of these, with its settings; table when not given):\n"
        + listed({name: keys_of(reader, OF_READER) for name, reader in READERS.items()}),
        "  data.teacher: str\n        model whose vectors (MSELoss) or scores (MarginMSELoss) become the labels",
        described(take, "data.", (*OF_DATA, "seed")),
        described(make_loader, "data.", OF_DATA),
        "loss:\n" + listed({name: keys_of(kind) for name, kind in LOSSES.items()}),
        "evaluator (its data: the keys of data):\n"
        + listed({name: keys_of(kinds[name], OF_EVALUATOR) for name in EVALUATORS}),
        "objectives: a list of {data, loss}, in place of one of each",
        "fit (output is fit.output_path; a name of fit needs no section):\n" + described(fit, "fit.", OF_FIT),
    ]
    return "\n".join(parts)
