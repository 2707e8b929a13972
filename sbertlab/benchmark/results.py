"""The results of a benchmark: their folder, and the page in Markdown.

| file | holds |
| --- | --- |
| benchmark.csv | one row per cell, with `COLUMNS`, of all presets and of the published figures |
| comparisons.csv | one row per pair of models and task, with `PAIR_FILE` |
| environment.json | how and where each preset was measured, and the SHA-256 of the two tables |
"""

import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sbertlab.analysis.intervals import group_letters, joined, smallest_difference
from sbertlab.analysis.ranks import KEY, OVER_SEEDS, VARIANTS, distinguishable, mean_of, seed_scores, standings
from sbertlab.benchmark.comparisons import ALPHA, MEAN
from sbertlab.benchmark.comparisons import COLUMNS as PAIR_COLUMNS
from sbertlab.benchmark.published import published_cells
from sbertlab.storage.files import sha256_of, write_whole

COLUMNS = [
    *("preset", "model", "revision", "variant", "recipe", "seed", "task", "family", "metric"),
    *("value", "low", "high", "n", "seconds", "tag", "error"),
]
"""Of the table of cells: `value` is the metric times 100, `low` and `high` its 95 % interval over the `n` examples,
`seconds` the time of the cell with the texts that no earlier task had encoded, `tag` the origin of the number (a key of
`TAGS`), `error` what went wrong."""

FILES = ("benchmark.csv", "comparisons.csv", "environment.json")
"""Written in this order, so that the manifest verifies the tables."""

PAIR_FILE = ["preset", *PAIR_COLUMNS]
PAIR_DIGITS = dict.fromkeys(["difference", "error", "seed_error"], 4) | dict.fromkeys(["low", "high"], 2)
PAIR_DIGITS |= {"freedom": 1, "seed_freedom": 1, "p": 6}

TAGS = {
    "proxy": "measured here, on the packaged corpus",
    "measured": "measured here, on public data sets",
    "edition": "measured here, on another edition of the data set than the published figures of that task",
    "published": "a figure from a document; nothing was computed",
    "failed": "an error instead of a number",
}
"""Where a number comes from."""

PRESETS = {
    "offline": "The packaged corpus",
    "local": "Public sets from a local folder",
    "published": "The fourteen tasks of the Training Overview",
}
"""Titles, in the order of the page."""


def save(folder: Path, table: pd.DataFrame, pairs: pd.DataFrame, preset: str, about: dict[str, Any]) -> None:
    """Write the cells, comparisons and description of a preset; they replace its rows and leave those of others."""
    old, old_pairs, manifest = earlier(folder)
    pairs = pairs.assign(preset=preset)[PAIR_FILE].round(PAIR_DIGITS)
    cells = [table if name == preset else rows_of(old, name) for name in PRESETS]
    compared = [pairs if name == preset else old_pairs[old_pairs["preset"] == name] for name in PRESETS]
    tables = {FILES[0]: _joined([*cells, published_cells()])[COLUMNS], FILES[1]: _joined(compared)}
    with ExitStack() as stack:
        files = {name: stack.enter_context(write_whole(folder / name)) for name in reversed(FILES)}
        for name, rows in tables.items():
            rows.to_csv(files[name], index=False, lineterminator="\n")
        digests = {name: sha256_of(files[name]) for name in tables}
        manifest = {"presets": manifest.get("presets", {}) | {preset: about}, "sha256": digests}
        files[FILES[2]].write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _joined(tables: list[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat([table for table in tables if len(table)] or tables)


def earlier(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """Return what `read` returns; empty tables if the folder has none."""
    if any((folder / name).exists() for name in FILES):
        return read(folder)
    return pd.DataFrame(columns=COLUMNS), pd.DataFrame(columns=PAIR_FILE), {}


def read(folder: str | os.PathLike[str]) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """Return the cells, the comparisons and the manifest of a folder; a changed table is refused with a ValueError."""
    paths = [Path(folder) / name for name in FILES]
    if missing := [path for path in paths if not path.exists()]:
        raise FileNotFoundError(f"{missing[0]} is missing; create it with `python -m sbertlab benchmark`")
    manifest = json.loads(paths[2].read_text(encoding="utf-8"))
    for path in paths[:2]:
        if sha256_of(path) != manifest["sha256"][path.name]:
            raise ValueError(f"{path} was changed after it was measured: restore it, or write into another folder")
    numbers = {name: [""] for name in ("value", "low", "high", "seed")}
    table = pd.read_csv(paths[0], dtype={"revision": str}, keep_default_na=False, na_values=numbers)
    return table, pd.read_csv(paths[1]), manifest


def rows_of(table: pd.DataFrame, preset: str) -> pd.DataFrame:
    """Return the cells of a preset that were measured or failed."""
    return table[(table["preset"] == preset) & (table["tag"] != "published")]


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Return mean and spread (standard deviation) over the seeds of each model, variant and task, first their mean."""
    seeds = seed_scores(table).groupby(level=KEY, sort=False)
    tables = {name: seeds.agg(over) for name, over in OVER_SEEDS.items()}
    return pd.DataFrame({name: table.stack(future_stack=True) for name, table in tables.items()})  # noqa: PD013


def ranking(part: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """Return `standings` with the groups: models that share a letter do not differ significantly (mean missing: "")."""
    order = standings(part)
    placed = order.index[order["mean"].notna()]
    letters = pd.Series(group_letters(distinguishable(pairs, placed)), placed, dtype=object)
    return order.assign(group=letters.reindex(order.index).fillna("")).reset_index()


def table_resolution(pairs: pd.DataFrame) -> float:
    """Return the difference of two means, in points, that the table would detect with a probability of 80 %.

    That of the median pair, at Bonferroni's level, which is a little stricter than Holm's; NaN without a pair.
    """
    means = pairs[pairs["task"] == MEAN]
    sizes = []
    for row in means[["error", "freedom", "seed_error", "seed_freedom"]].to_numpy(dtype=float).tolist():
        error, freedom = joined([(row[0] ** 2, row[1]), (row[2] ** 2, row[3])])
        sizes.append(smallest_difference(error, alpha=ALPHA / len(means), freedom=freedom))
    return float(np.median(sizes)) if sizes else float("nan")


def report(table: pd.DataFrame, pairs: pd.DataFrame) -> str:
    """Return the tables as a page in Markdown, with a section per preset; arguments as `read` returns them."""
    lines = [
        "# Benchmark",
        "",
        "Metrics times 100, higher is better. `python -m sbertlab figures` makes this page from `benchmark.csv` and "
        "`comparisons.csv`; `environment.json` describes where and how they were measured.",
        "",
        *(f"- **{tag}**: {meaning}." for tag, meaning in TAGS.items() if tag in set(table["tag"])),
    ]
    for preset, title in PRESETS.items():
        part = rows_of(table, preset)
        if part["value"].notna().any():
            lines += ["", f"## {title}", "", *_measured(part, pairs[pairs["preset"] == preset])]
        failed = part.loc[part["tag"] == "failed", ["model", "variant", "seed", "task", "error"]]
        if len(failed):
            lines += ["", f"Failed cells of {preset}:", "", markdown_table(failed)]
    known = table[table["tag"] == "published"]
    if len(known):
        cells = known.assign(value=known["value"].map("{:.2f}".format))
        lines += ["", "## Published figures", "", markdown_table(cells[["model", "recipe", "task", "metric", "value"]])]
    return "\n".join(lines) + "\n"


def readme_block(table: pd.DataFrame, pairs: pd.DataFrame) -> str:
    """Return the rankings of the measured presets as Markdown for the README."""
    blocks = []
    for preset, title in PRESETS.items():
        part = rows_of(table, preset)
        if part["value"].notna().any():
            order = ranking(part, pairs[pairs["preset"] == preset])
            shown = order.assign(score=_scores(order))[["model", "variant", "score", "group"]]
            means = mean_of(part).lower()
            blocks.append(f"{title}, {means} (± standard deviation over seeds):\n\n{markdown_table(shown)}\n")
    return "\n".join(blocks)


def _measured(part: pd.DataFrame, pairs: pd.DataFrame) -> list[str]:
    """Return the lines of the ranking and of the tasks of a preset."""
    order, resolution = ranking(part, pairs), table_resolution(pairs)
    wide: Any = _scores(summarise(part)).unstack("task", sort=False)  # noqa: PD010 (nothing to aggregate)
    wide = wide.loc[pd.MultiIndex.from_frame(order[KEY])].reset_index()
    wide.insert(2, "group", order["group"])
    lines = [
        "Mean ± standard deviation over seeds, if there are several. Models that share a letter are statistically "
        "indistinguishable."
    ]
    if np.isfinite(resolution):
        lines.append(f"For the median pair of models, a difference of {resolution:.1f} is detected four times in five.")
    if (order["variant"].eq(VARIANTS[1]) & order["seeds"].eq(1)).any():
        lines.append("Models fine-tuned with one seed: the verdicts leave out the variation between seeds.")
    tasks = part[part["tag"] != "failed"].drop_duplicates("task")[["task", "family", "metric", "n", "tag"]]
    return [*lines, "", markdown_table(wide), "", markdown_table(tasks)]


def _scores(means: pd.DataFrame) -> pd.Series:
    """Return mean ± spread as text, "-" if there is no mean."""
    spread = means["spread"].map(" ± {:.1f}".format).where(means["spread"].notna(), "")
    return (means["mean"].map("{:.1f}".format) + spread).where(means["mean"].notna(), "-")


def markdown_table(frame: pd.DataFrame) -> str:
    """Return a table in Markdown with aligned columns."""
    columns = [[str(name), *(str(cell).replace("|", "\\|") for cell in frame[name])] for name in frame.columns]
    widths = [max(map(len, column)) for column in columns]
    rows = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in zip(*columns, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
