"""Settings of a command: from YAML and `key=value` words to checked arguments of functions and classes.

A key is `section.name`, such as `fit.epochs`, and the names of a section are the parameters of what it is made with, so
every new parameter is a new key. Types are checked by jsonargparse from the annotations. NeMo's names are translated.
"""

from __future__ import annotations

import difflib
import inspect
import re
import textwrap
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

RECIPES = Path(__file__).with_name("recipes")

Sections = Mapping[str, Collection[str]]
"""The names of each section. The first is what the section's own key means: `loss=X` is `loss: {name: X}`."""

NEMO_GROUPS = (
    *("trainer", "exp_manager", "exp_manager.wandb_logger_kwargs"),
    *("model", "model.data", "model.optim", "model.optim.sched", "model.tokenizer"),
)

NEMO_NAMES: Mapping[str, str] = {
    "data_train": "data.path",
    "data_validation": "evaluator.data.path",
    "devices": "the processes are started by: accelerate launch -m sbertlab train ...",
    "do_lower_case": "the tokenizer of the model knows it",
    "encoder_seq_length": "model.max_seq_length",
    "explicit_log_dir": "fit.output_path",
    "global_batch_size": "data.batch_size",
    "gradient_clip_val": "fit.max_grad_norm",
    "label_smoothing": "loss.label_smoothing",
    "library": "the tokenizer comes with the model",
    "lr": "fit.optimizer_params.lr",
    "max_epochs": "fit.epochs",
    "micro_batch_size": "a batch of any size goes through the encoder in chunks of fit.token_budget tokens",
    "name": "runs are named by WANDB_NAME, the optimizer is fit.optimizer_class",
    "num_nodes": "the processes are started by: accelerate launch -m sbertlab train ...",
    "num_sanity_val_steps": "data and loss are checked before the first step in any case",
    "output": "fit.output_path",
    "project": "projects are named by WANDB_PROJECT",
    "restore_from_path": "model.name",
    "resume_if_exists": "fit.resume",
    "resume_ignore_no_checkpoint": "fit.resume begins anew where there is no checkpoint",
    "seq_length": "model.max_seq_length",
    "type": "the tokenizer comes with the model",
}
"""Other names of keys, most of them NeMo's: the key, or why nothing has to be set."""


def nemo_settings(name: str, value: Any) -> dict[str, Any] | None:
    """Return what a name of NeMo's sets, by key; nothing where it has no meaning here; None if it is none of them.

    Raises:
        ValueError: a value that has no equivalent; the message says what to write.

    >>> nemo_settings("softmax_temp", 0.05), nemo_settings("max_epochs", 2), nemo_settings("max_steps", -1)
    ({'loss.scale': 20.0}, {'fit.epochs': 2}, {})
    """
    if name in NEMO_NAMES:
        key = NEMO_NAMES[name]
        return {} if " " in key else {key: value}
    number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0
    if name == "softmax_temp":
        if number <= 0:
            raise ValueError(f"softmax_temp must be a number above 0, got {value!r}; it is 1 / loss.scale")
        return {"loss.scale": 1 / number}
    if name == "val_check_interval":
        if number == 1 and isinstance(value, float):
            return {"fit.evaluation_steps": 0}  # every epoch, as always
        if number < 1 or number % 1:
            raise ValueError(f"val_check_interval must be a number of steps here, got {value!r}; fit.evaluation_steps")
        return {"fit.evaluation_steps": int(number)}
    if name == "max_steps":
        return {"fit.steps_per_epoch": value, "fit.epochs": 1} if number > 0 else {}
    if name == "precision":
        words = {"32": "no", "32-true": "no", "16": "fp16", "16-mixed": "fp16", "bf16": "bf16", "bf16-mixed": "bf16"}
        return {"fit.mixed_precision": words.get(str(value), value)}
    if name == "create_wandb_logger":
        return {"fit.log_with": "wandb"} if value else {}
    if name == "data_prefix":
        return {"data.reader": "NeMoReader", "data.path": value}
    return None


NEMO_COMPUTED = ("create_wandb_logger", "data_prefix", "max_steps", "precision", "softmax_temp", "val_check_interval")


# -- From words and files to one tree of settings ----------------------------------------------------------------------


def read_settings(
    words: Sequence[str], sections: Sections, rename: Callable[[str], str] = str
) -> tuple[dict[str, Any], list[str]]:
    """Return the settings of a file or recipe (the first word, unless it is a setting) and of the words after it.

    Args:
        words: such as `["sts", "epochs=2", "--model", "all-mpnet-base-v2"]`.
        sections: the names of every section.
        rename: what a key among the words, not in the file, stands for.

    Returns:
        The settings by section, and sentences on what was left aside.

    Raises:
        FileNotFoundError: no such file or recipe.
        ValueError: a broken file, an unknown key (the nearest one is named), or a word that is no setting.

    >>> read_settings(["epochs=2", "--loss", "CoSENTLoss"], {"fit": ["epochs"], "loss": ["name"]})
    ({'fit': {'epochs': 2}, 'loss': {'name': 'CoSENTLoss'}}, [])
    """
    words = list(words)
    given: list[tuple[str, Any]] = []
    if words and "=" not in words[0] and not words[0].startswith("-"):
        given += _flat(_read_file(words.pop(0)), sections)
    given += [(rename(key), value) for key, value in _spoken(words)]
    tree: dict[str, Any] = {}
    notes = []
    for key, value in given:
        settings = resolve(key, value, sections)
        if not settings:
            reason = NEMO_NAMES.get(key.rpartition(".")[2], "that is so anyway")
            notes.append(f"{key}={value} is not needed: {reason}")
        for own, setting in settings.items():
            _put(tree, own, setting, sections)
    return tree, notes


def resolve(key: str, value: Any, sections: Sections) -> dict[str, Any]:
    """Return the settings, by full key, that one key and value stand for.

    A name without its section is sought in `fit`, then it must be in one other section; names of an evaluator need
    theirs, for they are those of the data over again.

    Raises:
        ValueError: the key is unknown, or in several sections.

    >>> resolve("trainer.max_epochs", 3, {"fit": ["epochs"]})
    {'fit.epochs': 3}
    """
    key = key.lstrip("+")  # Hydra's signs for a key that the file lacks
    section, _, rest = key.partition(".")
    inside = rest.partition(".")[0]
    if section in sections and (not rest or inside in sections[section] or inside.isdigit()):  # a place in a list
        return {key: value}
    group, _, name = key.rpartition(".")
    if group in NEMO_GROUPS:
        settings = nemo_settings(name, value)
        homes = _homes(name, sections) if settings is None and group != "model" else []
    else:
        homes = [] if group else _homes(name, sections)
        settings = nemo_settings(name, value) if not group and not homes else None
    if len(homes) > 1:
        raise ValueError(f"{key} could be {' or '.join(f'{home}.{name}' for home in homes)}; write which")
    if homes:
        return {f"{homes[0]}.{name}": value}
    if settings is None:
        known = [f"{home}.{own}" for home, names in sections.items() for own in names]
        raise ValueError(unknown("key", key, [*known, *sections, *NEMO_NAMES, *NEMO_COMPUTED]))
    return settings


def _homes(name: str, sections: Sections) -> list[str]:
    homes = [section for section, names in sections.items() if name in names and section != "evaluator"]
    return ["fit"] if "fit" in homes else homes


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """Say that there is no such thing, and what is nearest.

    >>> unknown("key", "epoch", ["fit.epochs", "fit.seed"])
    "unknown key 'epoch'; the nearest is 'fit.epochs'"
    """
    names = list(dict.fromkeys(known))
    by_last = {other.rpartition(".")[2].lower(): other for other in reversed(names)}
    near = difflib.get_close_matches(name, names, 1, 0.75) or [
        by_last[last] for last in difflib.get_close_matches(name.rpartition(".")[2].lower(), by_last, 1, 0.5)
    ]
    listed = f"; the nearest is {near[0]!r}" if near else f"; there are {', '.join(names)}"
    return f"unknown {what} {name!r}{listed}"


def _read_file(name: str) -> dict[str, Any]:
    path = Path(name)
    if not path.is_file() and (RECIPES / f"{name}.yaml").is_file():
        path = RECIPES / f"{name}.yaml"
    if not path.is_file():
        raise FileNotFoundError(f"{name} is neither a file nor a recipe; the recipes are {', '.join(recipes())}")
    tree = _yaml(path.read_text(encoding="utf-8"), str(path))
    if not isinstance(tree, dict):
        raise ValueError(f"{path} must hold sections such as `model:` and `fit:`, got {type(tree).__name__}")
    return tree


def _yaml(text: str, where: str) -> Any:
    from jsonargparse import get_loader  # not needed by a mere `--help` of the other commands

    try:
        return get_loader("yaml")(text)
    except Exception as error:  # whatever the YAML library raises on broken text
        raise ValueError(f"{where} is no YAML: {error}") from error


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
    """Set `a.b.c` in nested dictionaries and lists; the section's own key replaces the section."""
    if key in sections and not isinstance(value, dict | list | None):
        tree[key] = {next(iter(sections[key]), "name"): value}
        return
    *parents, last = key.split(".")
    inner: Any = tree
    for parent in parents:
        if isinstance(inner, dict) and not isinstance(inner.get(parent), dict | list):
            inner[parent] = {}
        inner = inner[_place(inner, parent, key)]
    inner[_place(inner, last, key)] = value


def _place(inner: Any, name: str, key: str) -> Any:
    if not isinstance(inner, list):
        return name
    if not name.isdigit() or int(name) >= len(inner):
        raise ValueError(f"{key}: {name!r} must be a place in the list, 0 to {len(inner) - 1}")
    return int(name)


# -- From settings to arguments ----------------------------------------------------------------------------------------


def keys_of(make: Callable[..., Any], without: Collection[str] = ()) -> dict[str, inspect.Parameter]:
    """Return the parameters of a function or class that are settings, by name.

    >>> list(keys_of(unknown, without=["what"]))
    ['name', 'known']
    """
    parameters = inspect.signature(make).parameters
    return {name: parameter for name, parameter in parameters.items() if name not in {*without, "model"}}


def arguments_of(
    make: Callable[..., Any],
    given: Mapping[str, Any],
    where: str,
    without: Collection[str] = (),
    objects: Collection[str] = (),
) -> dict[str, Any]:
    """Check settings against the signature of a function or class; return them as its arguments.

    Args:
        make: what is to be called.
        given: the settings.
        where: their section, for messages.
        without: parameters that the caller fills in, which are no settings.
        objects: settings that the caller makes something of, which are not checked.

    Raises:
        ValueError: an unknown or missing setting, or a value of the wrong type.

    >>> arguments_of(keys_of, {"without": "x"}, "toy", objects=["make"])
    Traceback (most recent call last):
    ValueError: toy.make is missing: keys_of takes no default for it
    """
    from jsonargparse import ArgumentError, ArgumentParser

    keys = keys_of(make, without)
    for name in given:
        if name not in keys:
            raise ValueError(f"{where}: {unknown(f'setting of {make.__name__}', name, keys)}")
    for name, parameter in keys.items():
        if parameter.default is parameter.empty and name not in given:
            raise ValueError(f"{where}.{name} is missing: {make.__name__} takes no default for it")
    skipped: Any = {*without, *objects, "model"} & set(inspect.signature(make).parameters)
    parser = ArgumentParser(exit_on_error=False, add_help=False)
    add = parser.add_class_arguments if isinstance(make, type) else parser.add_function_arguments
    add(make, None, skip=skipped, fail_untyped=False)
    checked = {name: value for name, value in given.items() if name in objects}
    try:
        parsed = parser.parse_object({name: value for name, value in given.items() if name not in objects})
    except ArgumentError as error:
        found = re.search(r'Parser key "([^"]+)"', str(error))
        name = found[1].split(".")[0] if found else ""
        if name not in given:
            raise ValueError(f"{where}: {error}") from error
        value = given[name]
        expected = keys[name].annotation
        raise ValueError(f"{where}.{name} must be {expected}, got {value!r} of type {type(value).__name__}") from error
    values = parsed.as_dict()
    return checked | {name: values[name] for name in given if name not in objects}


def choose(name: Any, kinds: Mapping[str, Any], where: str) -> Any:
    """Return what is called `name`, or say what comes nearest to it.

    >>> choose("CosentLoss", {"CoSENTLoss": 1}, "loss.name")
    Traceback (most recent call last):
    ValueError: unknown loss.name 'CosentLoss'; the nearest is 'CoSENTLoss'
    """
    if name is None:
        raise ValueError(f"{where} is missing; it is one of {', '.join(kinds)}")
    if not isinstance(name, str) or name not in kinds:
        raise ValueError(unknown(where, str(name), kinds))
    return kinds[name]


# -- Help --------------------------------------------------------------------------------------------------------------


def recipes() -> dict[str, str]:
    """Return the packaged recipes and the first line of each."""
    texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted(RECIPES.glob("*.yaml"))}
    return {name: text.partition("\n")[0].lstrip("# ") for name, text in texts.items()}


def described(make: Callable[..., Any], prefix: str, without: Collection[str] = ()) -> str:
    """Return the settings of a function or class: key, type, default and what the docstring says of it."""
    docs = documented(make)
    lines = []
    for name, parameter in keys_of(make, without).items():
        default = parameter.default
        shown = "" if default is parameter.empty else f" = {getattr(default, '__name__', repr(default))}"
        lines.append(f"  {prefix}{name}: {parameter.annotation}{shown}")
        lines += textwrap.wrap(docs.get(name, ""), 110, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return "\n".join(lines)


def listed(kinds: Mapping[str, Iterable[str]]) -> str:
    """Return one entry a class, with the names of its settings.

    >>> print(listed({"CoSENTLoss": ["scale", "similarity_fct"]}))
      CoSENTLoss: scale, similarity_fct
    """
    entries = [f"{name}: {', '.join(keys)}" for name, keys in kinds.items()]
    return "\n".join(textwrap.fill(entry, 118, initial_indent="  ", subsequent_indent=" " * 8) for entry in entries)


def documented(make: Callable[..., Any]) -> dict[str, str]:
    """Return what the section Args of a docstring says of each parameter.

    >>> documented(choose), documented(keys_of)
    ({}, {})
    >>> documented(read_settings)["sections"]
    'the names of every section.'
    """
    section = re.search(r"^Args:\n((?:    .*\n?|\n)+)", inspect.getdoc(make) or "", re.MULTILINE)
    found: dict[str, str] = {}
    for entry in re.split(r"^    (?=\S)", section[1] if section else "", flags=re.MULTILINE)[1:]:
        names, _, text = entry.partition(":")
        found |= dict.fromkeys(names.split(", "), " ".join(text.split()))
    return found
