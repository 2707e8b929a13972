"""`make notebooks`: execute the notebooks from top to bottom, clean their outputs and stamp them with the code's hash.

    python tests/notebooks.py                    all of them, in full; each file is rewritten with its outputs
    python tests/notebooks.py 01 07_maps         only those whose names begin so
    SBERTLAB_FAST=1 python tests/notebooks.py    the quick pass: smaller parameters, nothing is written

Outputs are committed, because readers look before they run. The stamp, `metadata.sbertlab.code_sha256`, tells outputs
that belong to the code from outputs that do not; `tests/test_notebooks.py` compares.
"""

import argparse
import base64
import hashlib
import io
import json
import os
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "notebooks"

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
"""Output type that points to a live kernel, and so to nothing once the notebook is closed."""

PROGRESS = re.compile(r"\d+%\||\d+it \[|\r")
"""What a progress bar leaves on stderr."""

MACHINE_PATH = re.compile(r"(?<![\w.:/~])/(?:home|root|tmp|work|usr|opt|mnt|var|Users|private)/[\w.+-][^\s'\"<>,;:)]*")
"""A path that exists on one machine only."""


def notebook_paths(names=(), folder=FOLDER):
    """Return the notebooks whose file names begin with one of `names`, all when none is given, in order."""
    return [path for path in sorted(folder.glob("*.ipynb")) if path.name.startswith(tuple(names) or "")]


def code_sha256(notebook):
    """Return the SHA-256 of the code cells' sources, in order; text and outputs do not count."""
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256(json.dumps(sources, ensure_ascii=False).encode()).hexdigest()


def execute(path, *, fast, timeout=900):
    """Run a notebook in a kernel of its own, in its folder, with the quick or the full parameters, and return it.

    A cell that raises an error, or takes more than `timeout` seconds, raises one here.
    """
    notebook = nbformat.read(path, as_version=4)
    environment = {**os.environ, "SBERTLAB_FAST": "1" if fast else "0", "PYTHONWARNINGS": "ignore::DeprecationWarning"}
    place = {"metadata": {"path": str(path.parent)}}
    how = {"record_timing": False, "coalesce_streams": True, "store_widget_state": False}
    client = NotebookClient(notebook, timeout=timeout, kernel_name="python3", resources=place, **how)
    return client.execute(env=environment)


def normalise(notebook):
    """Leave in a notebook only what is the same in every run on every machine; return what cells wrote to stderr.

    Widgets keep their static form (an output without one goes), stderr goes, paths and addresses of this machine go,
    and the metadata are reduced to the kernel and the cells' tags.
    """
    said = []
    kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    notebook.metadata = nbformat.from_dict({"kernelspec": kernel, "language_info": {"name": "python"}})
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({key: value for key, value in cell.metadata.items() if key == "tags"})
        if cell.cell_type == "code":
            said += [output.text for output in cell.outputs if output.get("name") == "stderr"]
            cell.outputs = [clean for output in cell.outputs if (clean := clean_output(output)) is not None]
    return [line for text in said for line in text.splitlines() if line.strip() and not PROGRESS.search(line)]


def clean_output(output):
    """Return an output without what belongs to one run or one machine; None when nothing is left."""
    if output.output_type == "stream":
        if output.name == "stderr":
            return None
        output.text = without_machine(output.text)
    if "data" in output:
        if WIDGET_VIEW in output.data:
            del output.data[WIDGET_VIEW]
            if set(output.data) == {"text/plain"}:
                return None
        for kind, value in output.data.items():
            if kind == "image/png":
                output.data[kind] = smaller_png(value)
            elif isinstance(value, str):
                output.data[kind] = without_machine(value)
        output.metadata = nbformat.from_dict({})
    return output


def smaller_png(encoded):
    """Return a picture (PNG in base64) with at most 256 colours: a third of the size, and drawings look the same."""
    picture, smaller = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB"), io.BytesIO()
    picture.quantize(256, dither=Image.Dither.NONE).save(smaller, "png", optimize=True)
    return base64.b64encode(smaller.getvalue()).decode()


def without_machine(text):
    """Return the text with paths shortened to their last part, and without addresses in memory.

    >>> without_machine("<Model at 0x7f00ab> in /home/ann/work/model.zip, half of 1/2")
    '<Model> in model.zip, half of 1/2'
    """
    shorter = MACHINE_PATH.sub(lambda match: match[0].rstrip("/").rpartition("/")[2], text)
    return re.sub(r" at 0x[0-9a-f]+", "", shorter)


def main(arguments=None):
    """Execute the notebooks that are named, one after the other."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="beginnings of file names, such as 01; all when none")
    parser.add_argument("--timeout", type=float, default=900, help="seconds a cell may take (default: %(default)s)")
    given = parser.parse_args(arguments)
    fast = os.environ.get("SBERTLAB_FAST") == "1"
    for path in notebook_paths(given.names):
        start = time.perf_counter()
        notebook = execute(path, fast=fast, timeout=given.timeout)
        for line in normalise(notebook):
            print(f"{path.stem}: stderr: {line}", file=sys.stderr)
        if not fast:
            notebook.metadata["sbertlab"] = {"code_sha256": code_sha256(notebook)}
            nbformat.write(notebook, path)
        size = len(nbformat.writes(notebook).encode()) / 1e6
        kept = "nothing written" if fast else f"{size:.2f} MB written"
        print(f"{path.stem}: {time.perf_counter() - start:.0f} s, {kept}", flush=True)


if __name__ == "__main__":
    main()
