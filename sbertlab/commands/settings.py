"""Settings of the commands train and evaluate: YAML and `key=value` words, checked by jsonargparse against signatures.

A key is `section.name`, such as `fit.epochs`; the names of a section are the parameters of what it is passed to, so
every new parameter is a new key. A name without its section is looked up in the sections, in their order.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sbertlab.checks import checked_number, closest

RECIPES = Path(__file__).with_name("recipes")
Sections = Mapping[str, Collection[str]]

NEMO_GROUPS = (
    *("trainer", "exp_manager", "exp_manager.wandb_logger_kwargs"),
    *("model", "model.data", "model.optim", "model.optim.sched", "model.tokenizer"),
)
PRECISIONS = {"32": "no", "32-true": "no", "16": "fp16", "16-mixed": "fp16", "bf16": "bf16", "bf16-mixed": "bf16"}
NEMO: dict[str, str | Callable[[Any], dict[str, Any]]] = {
    "data_train": "data.path",
    "data_validation": "evaluator.data.path",
    "restore_from_path": "model.name",
    "encoder_seq_length": "model.max_seq_length",
    "seq_length": "model.max_seq_length",
    "explicit_log_dir": "fit.output_path",
    "output": "fit.output_path",
    "resume_if_exists": "fit.resume",
    "global_batch_size": "data.batch_size",
    "gradient_clip_val": "fit.max_grad_norm",
    "max_epochs": "fit.epochs",
    "label_smoothing": "loss.label_smoothing",
    "lr": "fit.optimizer_params.lr",
    "create_wandb_logger": lambda value: {"fit.log_with": "wandb"} if value else {},
    "data_prefix": lambda value: {"data.reader": "NeMoReader", "data.path": value},
    "max_steps": lambda value: {"fit.steps_per_epoch": value, "fit.epochs": 1} if value > 0 else {},
    "precision": lambda value: {"fit.mixed_precision": PRECISIONS.get(str(value), value)},
    "softmax_temp": lambda value: {"loss.scale": 1 / checked_number("softmax_temp", value, above=True)},
    "val_check_interval": lambda value: {"fit.evaluation_steps": 0 if str(value) == "1.0" else value},
}
"""NeMo's names (and `output`), without their groups: the key, or the settings that a value stands for."""
NEMO_IGNORED = (
    *("devices", "num_nodes", "do_lower_case", "library", "type", "name", "project", "micro_batch_size"),
    *("num_sanity_val_steps", "resume_ignore_no_checkpoint"),
)
"""NeMo's names that need no setting: accelerate starts processes, the tokenizer comes with the model, ..."""


def read_settings(words: Sequence[str], sections: Sections) -> dict[str, Any]:
    """Return the settings of a file or recipe (the first word, unless it is a setting) and of the words after it.

    >>> read_settings(["epochs=2", "--loss", "CoSENTLoss"], {"fit": ["epochs"], "loss": ["name"]})
    {'fit': {'epochs': 2}, 'loss': {'name': 'CoSENTLoss'}}
    """
    words = list(words)
    given: list[tuple[str, Any]] = []
    if words and "=" not in words[0] and not words[0].startswith("-"):
        given += _flat(_read_file(words.pop(0)), sections)
    tree: dict[str, Any] = {}
    for key, value in [*given, *_spoken(words)]:
        for full, setting in resolve(key, value, sections).items():
            _put(tree, full, setting, sections)
    return tree


def resolve(key: str, value: Any, sections: Sections) -> dict[str, Any]:
    """Return the settings, by full key, that a key and its value stand for.

    >>> resolve("trainer.max_epochs", 3, {"fit": ["epochs"]})
    {'fit.epochs': 3}
    """
    key = key.lstrip("+")  # Hydra's signs for a key that its file does not have
    section, _, rest = key.partition(".")
    inside = rest.partition(".")[0]
    if section in sections and (not rest or inside in sections[section] or inside.isdigit()):  # a place in a list
        return {key: value}
    group, _, name = key.rpartition(".")
    home = next((home for home, names in sections.items() if name in names), None)
    nemos = not group or group in NEMO_GROUPS
    if home is not None and (not group or (nemos and name not in {*NEMO, *NEMO_IGNORED})):
        return {f"{home}.{name}": value}
    if nemos and name in NEMO_IGNORED:
        print(f"{key}={value} is not needed", file=sys.stderr)
        return {}
    if not nemos or name not in NEMO:
        near = closest(name, [*(own for names in sections.values() for own in names), *NEMO])
        raise ValueError(f"unknown key {key!r}.{near or ' The sections are ' + ', '.join(sections)}")
    meaning = NEMO[name]
    return {meaning: value} if isinstance(meaning, str) else meaning(value)


def _read_file(name: str) -> dict[str, Any]:
    path = next((path for path in (Path(name), RECIPES / f"{name}.yaml") if path.is_file()), None)
    if path is None:
        raise FileNotFoundError(f"{name} is neither a file nor a recipe; the recipes are {', '.join(recipes())}")
    tree = _yaml(path.read_text(encoding="utf-8"), str(path))
    if not isinstance(tree, dict):
        raise ValueError(f"{path} must have sections such as `model:` and `fit:`, got {type(tree).__name__}")
    return tree


def _yaml(text: str, where: str) -> Any:
    from jsonargparse import get_loader  # slow to import

    try:
        return get_loader("yaml")(text)
    except Exception as error:  # whatever the YAML library raises on broken text
        raise ValueError(f"{where} is not valid YAML: {error}") from error


def _flat(tree: Mapping[str, Any], sections: Sections, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and (key in sections or key in NEMO_GROUPS):
            yield from _flat(value, sections, f"{key}.")
        else:
            yield key, value


def _spoken(words: Sequence[str]) -> Iterator[tuple[str, Any]]:
    rest = iter(words)
    for word in rest:
        key, equals, value = word.partition("=")
        if not equals:
            value = next(rest, "") if word.startswith("--") else ""
            if not value:
                raise ValueError(f"{word!r} sets nothing; write key=value or --key value")
        yield key.removeprefix("--"), _yaml(value, word)


def _put(tree: dict[str, Any], key: str, value: Any, sections: Sections) -> None:
    """Set `a.b.c` in nested dictionaries and lists; the section's own key, `loss=X`, replaces the section."""
    if key in sections and not isinstance(value, dict | list | None):
        tree[key] = {"name": value}
        return
    *parents, last = key.split(".")
    inner: Any = tree
    try:
        for parent in parents:
            if isinstance(inner, dict) and not isinstance(inner.get(parent), dict | list):
                inner[parent] = {}
            inner = inner[int(parent) if isinstance(inner, list) else parent]
        inner[int(last) if isinstance(inner, list) else last] = value
    except (IndexError, ValueError) as error:
        raise ValueError(f"{key}: the list has the places 0 to {len(inner) - 1}") from error


def keys_of(make: Callable[..., Any], skip: Collection[str] = ()) -> list[str]:
    """Return the parameters of a function or class that are settings."""
    return [name for name in inspect.signature(make).parameters if name not in {*skip, "model"}]


def arguments_of(
    make: Callable[..., Any],
    given: Mapping[str, Any],
    where: str,
    skip: Collection[str] = (),
    raw: Collection[str] = (),
) -> dict[str, Any]:
    """Return settings as arguments of a function or class, checked against its signature.

    `skip` are its parameters that are not settings, `raw` those that are returned unchecked. An unknown or missing
    setting, or a value of the wrong type, is a ValueError.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    raw = set(raw) & set(keys_of(make))
    parser = ArgumentParser(exit_on_error=False)
    add = parser.add_class_arguments if isinstance(make, type) else parser.add_function_arguments
    skipped: Any = {*skip, *raw, "model"} & set(inspect.signature(make).parameters)
    add(make, None, skip=skipped, fail_untyped=False)
    try:
        values = parser.parse_object({name: value for name, value in given.items() if name not in raw}).as_dict()
    except ArgumentError as error:
        raise ValueError(f"{where}: {' '.join(str(error).split())}") from error
    return {name: given[name] if name in raw else values[name] for name in given}


def recipes() -> dict[str, str]:
    """Return the packaged recipes and the first line of each."""
    texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted(RECIPES.glob("*.yaml"))}
    return {name: text.partition("\n")[0].lstrip("# ") for name, text in texts.items()}
