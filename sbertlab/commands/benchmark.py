"""`python -m sbertlab benchmark`: measure, then draw what was measured."""

from __future__ import annotations

import argparse
from typing import Any

from sbertlab.analysis.ranks import VARIANTS
from sbertlab.benchmark.local_tasks import DATA_VARIABLE
from sbertlab.benchmark.presets import OUTPUT, PRESETS, SEEDS, check, run
from sbertlab.benchmark.results import read, report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add = parser.add_argument
    add("--preset", choices=list(PRESETS), default="offline", help="what is compared (default: offline)")
    add("--models", nargs="+", metavar="NAME", help="models of a preset, or any others (default: the preset's)")
    add("--tasks", nargs="+", metavar="NAME", help=f"tasks, or sets of {DATA_VARIABLE} (default: the preset's)")
    add("--seeds", type=int, metavar="N", help=f"fine-tunings of each model (default: {SEEDS}; with --check 1)")
    add("--output", metavar="DIR", help=f"folder of the results (default: {OUTPUT}, for whole presets only)")
    add("--fresh", action="store_true", help="compute finished cells again")
    add("--skip-missing", action="store_true", help="if something is missing, measure the rest")
    add("--workers", type=int, default=1, metavar="N", help="processes at a time (default: 1)")
    add("--engine", choices=["processes", "ray"], default="processes", help="where jobs run (default: processes)")
    add("--check", action="store_true", help="compute untuned cells of the table again and compare")
    add("--tuned", action="store_true", help="with --check: fine-tuned cells too")


def run_benchmark(
    models: list[str] | None,
    tasks: list[str] | None,
    seeds: int | None,
    output: str | None,
    *,
    tuned: bool = False,
    preset: str = "offline",
    **options: Any,
) -> None:
    """Run the benchmark, draw the results and print the page; or, with `check`, compare cells with the table.

    Raises:
        SystemExit: cells failed, or differ from the table; the message says how many.
    """
    folder = output or OUTPUT
    if options.pop("check", False):
        found = check(models, tasks, 1 if seeds is None else seeds, folder, preset, VARIANTS if tuned else VARIANTS[:1])
        print(found.to_string(index=False))
        if not found["same"].all():
            raise SystemExit(f"{(~found['same']).sum()} of {len(found)} cells differ from the table")
        return
    table = run(models, tasks, SEEDS if seeds is None else seeds, output, preset=preset, **options)
    from sbertlab.commands.figures import draw_benchmark

    draw_benchmark(folder)
    every, pairs, _ = read(folder)
    print(f"\n{report(every[every['preset'] == preset], pairs)}\nWritten to {folder}")
    failed = int((table["tag"] == "failed").sum())
    if failed:
        raise SystemExit(f"{failed} of {len(table)} cells failed; benchmark.csv has their errors")
