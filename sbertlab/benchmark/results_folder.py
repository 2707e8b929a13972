"""The folder of a benchmark's results: the tables, the manifest that vouches for them, and all that is drawn from them.

| file | holds |
| --- | --- |
| benchmark.csv | a row a cell, with `results.COLUMNS`; all presets share it |
| comparisons.csv | a row a pair of models and a task, with `PAIR_FILE` |
| environment.json | how and where each preset was measured, and the SHA-256 of the two tables |
| benchmark.md, pictures | what `commands.figures.draw_benchmark` makes of them |
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from sbertlab.analysis.ranks import VARIANTS
from sbertlab.benchmark.comparisons import COLUMNS as PAIR_COLUMNS
from sbertlab.benchmark.comparisons import MEAN, with_mean
from sbertlab.benchmark.published import PUBLISHED
from sbertlab.benchmark.published_table import published_cells, with_averages
from sbertlab.benchmark.results import COLUMNS, PRESETS, rows_of
from sbertlab.storage.files import sha256_of

TOLERANCES = dict(zip(VARIANTS, (0.05, 1.0), strict=True))
"""Points by which a cell may differ when it is computed again: the same model gives the same number but for rounding; a
fine-tuning on another processor rounds differently at every step."""

PAIR_FILE = ["preset", *PAIR_COLUMNS]
PAIR_DIGITS = dict.fromkeys(["difference", "error", "seed_error"], 4) | dict.fromkeys(["low", "high"], 2)
PAIR_DIGITS |= {"freedom": 1, "seed_freedom": 1, "p": 6}


def check_output(folder: Path) -> None:
    """Refuse a folder that the results could not be put into; it is not made yet.

    Raises:
        OSError: it is a file, or cannot be written.
        ValueError: its tables are not those that its manifest was written with.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryDirectory(dir=there):
            read(folder)
    except OSError as error:
        raise OSError(f"output {str(folder)!r} cannot be written: {error}; name another folder (--output)") from error


def check_part(folder: Path, preset: str, about: dict[str, Any], contenders: set[tuple[str, str, int]]) -> None:
    """Refuse tasks that cannot stand beside those which the folder holds of the preset.

    Args:
        folder: of the results.
        preset: its name.
        about: what the manifest is to say of the tasks.
        contenders: model, variant and seed of each that is to be measured on them.

    Raises:
        ValueError: other tasks were measured of other models or seeds, of other weights, or by another recipe.
    """
    table, _, manifest = read(folder)
    held = rows_of(table, preset)
    beside = held[~held["task"].isin(about["tasks"])]
    if beside.empty:
        return
    known, new = manifest["presets"][preset], json.loads(json.dumps(about))
    told = ("recipe", "learning_rates")
    whose = ({model for model, *_ in contenders} | {"training data"}) & known["sha256"].keys() & new["sha256"].keys()
    differ = {
        "models or seeds": set(beside[["model", "variant", "seed"]].itertuples(index=False, name=None)) != contenders,
        "recipe or learning rates": any(known[name] != new[name] for name in told),
        "weights or training data": any(known["sha256"][name] != new["sha256"][name] for name in whose),
    }
    if any(differ.values()):
        what = ", other ".join(name for name, other in differ.items() if other)
        raise ValueError(
            f"{folder} holds {beside['task'].nunique()} other tasks of the preset {preset!r}, which were measured with "
            f"other {what} than this run; measure all of them (name no tasks), or give the run a folder of its own "
            "(--output)"
        )


def save(
    folder: Path, table: pd.DataFrame, pairs: pd.DataFrame, preset: str, about: dict[str, Any], *, part: bool = False
) -> None:
    """Put the rows of a preset into the tables of the folder, in place of those it had, and the published figures.

    The tables are written beside those that are there, then the manifest, which makes them count, then they take their
    places; `read` does the last where a process was killed before it could.

    Args:
        folder: made when missing.
        table: cells of the preset.
        pairs: its comparisons.
        preset: its name.
        about: what the manifest says of it.
        part: only the rows of the same tasks make way; those of the preset's other tasks stay, and the means are taken
            over all of them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    old, old_pairs, known = read(folder)
    held = rows_of(old, preset)
    if part and not set(held["task"]) <= set(about["tasks"]):
        its = old_pairs[old_pairs["preset"] == preset]
        table, pairs, about = _beside(held, its, known["presets"][preset], table, pairs, about)
    pairs = pairs.assign(preset=preset)[PAIR_FILE].round(PAIR_DIGITS)
    kept = old[(old["preset"] != preset) & (old["tag"] != "published")]
    order = [name for name in PRESETS if name in {*kept["preset"], preset}]
    parts = [table if name == preset else kept[kept["preset"] == name] for name in order]
    tables = {"benchmark.csv": pd.concat([*parts, published_cells()[COLUMNS]])}
    kept_pairs = old_pairs[old_pairs["preset"] != preset]
    parts = [pairs if name == preset else kept_pairs[kept_pairs["preset"] == name] for name in order]
    tables["comparisons.csv"] = pd.concat(parts)
    for name, rows in tables.items():
        write_csv(folder / f"{name}{NEW}", rows)
    digests = {name: sha256_of(folder / f"{name}{NEW}") for name in tables}
    manifest = {"presets": known.get("presets", {}) | {preset: about}, "sha256": digests}
    write(folder / "environment.json", json.dumps(manifest, indent=2) + "\n")
    for name in tables:
        (folder / f"{name}{NEW}").replace(folder / name)


def _beside(
    old: pd.DataFrame,
    old_pairs: pd.DataFrame,
    known: dict[str, Any],
    table: pd.DataFrame,
    pairs: pd.DataFrame,
    about: dict[str, Any],
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """Tables and description of a preset of which some tasks were measured anew: the cells as one run leaves them."""
    anew = list(about["tasks"])
    tasks = list(dict.fromkeys([*old["task"], *anew]))
    who = ["model", "variant", "seed"]
    cells = pd.concat([old[~old["task"].isin(anew)], table]).set_index([*who, "task"])
    contenders = table[who].drop_duplicates().itertuples(index=False, name=None)
    cells = cells.loc[[(*one, task) for one in contenders for task in tasks]].reset_index()[COLUMNS]
    both = pd.concat([old_pairs[~old_pairs["task"].isin([MEAN, *anew])], pairs[pairs["task"] != MEAN]])
    both = both.sort_values("task", key=lambda names: names.map(tasks.index), kind="stable")[PAIR_COLUMNS]
    about = about | {name: known[name] | about[name] for name in ("tasks", "sha256", "models")}
    about["commands"] = list(dict.fromkeys([*known["commands"], *about["commands"]]))
    stay = [
        one | {"cells": {task: n for task, n in one["cells"].items() if task not in anew}} for one in known["measured"]
    ]
    about["measured"] = environments([*stay, *about["measured"]])
    return cells, with_mean(both, cells), about


def environments(parts: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return each environment once, with the cells that were measured in it; without those that measured none.

    Args:
        parts: environments, each with "cells": how many of each task.

    >>> environments([{"cores": cores, "cells": {task: 1}} for task, cores in [("a", 2), ("a", 8), ("a", 2)]])
    [{'cores': 2, 'cells': {'a': 2}}, {'cores': 8, 'cells': {'a': 1}}]
    """
    found: dict[str, dict[str, Any]] = {}
    for part in parts:
        where = {name: value for name, value in part.items() if name != "cells"}
        counts = found.setdefault(json.dumps(where, sort_keys=True), where | {"cells": {}})["cells"]
        for task, number in part["cells"].items():
            counts[task] = counts.get(task, 0) + number
    return [one for one in found.values() if one["cells"]]


NEW = ".new"
"""How the name of a table ends before the manifest says that it counts."""


def read(folder: str | os.PathLike[str]) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """Return the cells, the comparisons and the manifest of a folder; empty ones where there are none.

    Raises:
        ValueError: a table is not the one that the manifest was written with, or one of the three files is missing.
    """
    place = Path(folder)
    paths = {name: place / name for name in ("environment.json", "benchmark.csv", "comparisons.csv")}
    if not any(path.exists() for path in paths.values()):
        return pd.DataFrame(columns=COLUMNS), pd.DataFrame(columns=PAIR_FILE), {}
    remedy = "restore it, or run the benchmark into another folder"
    if not paths["environment.json"].exists():
        raise ValueError(f"{paths['environment.json']} is missing, without which nothing tells the tables; {remedy}")
    manifest = json.loads(paths["environment.json"].read_text(encoding="utf-8"))
    for name, expected in manifest["sha256"].items():
        new = place / f"{name}{NEW}"
        if new.exists() and sha256_of(new) == expected:  # the process that wrote it was killed
            new.replace(paths[name])
        if not paths[name].exists():
            raise ValueError(f"{paths[name]} is missing, of which environment.json tells; {remedy}")
        if sha256_of(paths[name]) != expected:
            raise ValueError(
                f"{paths[name]} was changed since it was measured (its SHA-256 is not that of environment.json); "
                f"{remedy}"
            )
    texts: dict[str, Any] = {
        "keep_default_na": False,
        "na_values": {name: [""] for name in ("value", "low", "high", "seed")},
    }
    table = pd.read_csv(place / "benchmark.csv", dtype={"revision": str}, **texts)
    return table, pd.read_csv(place / "comparisons.csv"), manifest


def check_table(folder: Path) -> None:
    """Raise a FileNotFoundError where there is no benchmark.csv."""
    if not (folder / "benchmark.csv").exists():
        raise FileNotFoundError(f"{folder / 'benchmark.csv'} is missing; `python -m sbertlab benchmark` makes it")


def under_published_names(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The published cells, and the measured ones with their averages, local sets under the names of those they are."""
    names = {task.local: name for name, task in PUBLISHED.items() if task.local and not task.edition}
    published = table[table["tag"] == "published"]
    return published, with_averages(table[table["tag"] == "measured"].replace({"task": names}))


BLOCK = re.compile(r"(<!-- benchmark -->\n).*?(<!-- /benchmark -->)", re.DOTALL)


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV, whole or not at all."""
    write(path, table.to_csv(index=False, lineterminator="\n"))


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    unfinished = path.with_name(f"{path.name}.partial")
    unfinished.write_text(text, encoding="utf-8", newline="\n")
    unfinished.replace(path)
