"""The notebooks as they are committed, what they show when they run, and the tool that runs them."""

import ast
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

sys.path.insert(0, str(Path(__file__).parent))
import notebooks as tool

PATHS = tool.notebook_paths()
every_notebook = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def read(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def code_of(notebook):
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def text_of(notebook):
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def outputs_of(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


@every_notebook
def test_committed_outputs_belong_to_the_code(path):
    notebook = read(path)
    assert notebook.metadata["sbertlab"]["code_sha256"] == tool.code_sha256(notebook), (
        f"the code of {path.name} has changed since its outputs were made: python tests/notebooks.py {path.stem}"
    )


@every_notebook
def test_committed_outputs_show_pictures_and_tables_and_no_errors(path):
    notebook = read(path)
    outputs = outputs_of(notebook)
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    kinds = [kind for output in outputs for kind in output.get("data", {})]
    assert kinds.count("image/png") >= 3
    assert kinds.count("text/html") >= 1
    assert tool.WIDGET_VIEW not in kinds, "a live widget shows nothing in a committed notebook"
    assert "widgets" not in notebook.metadata
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1)), "run it from top to bottom in a fresh kernel"
    assert path.stat().st_size <= 1_000_000
    assert notebook.metadata.kernelspec.name == "python3"


@every_notebook
def test_a_notebook_begins_with_title_question_what_you_will_see_and_time(path):
    first = read(path).cells[0]
    assert first.cell_type == "markdown"
    assert re.match(r"# \S", first.source)
    assert first.source.count("**Question.**") == 1
    question = first.source.split("**Question.**")[1].split("\n\n")[0]
    assert question.strip().endswith("?")
    assert question.count("?") == 1
    assert "**You will see**" in first.source
    assert re.search(r"\*\*Time\*\* .*\d+ (s|seconds|minutes?).* 2 cores", first.source)


@every_notebook
def test_a_notebook_has_one_parameters_cell_and_ends_with_what_we_saw_and_asserts(path):
    cells = read(path).cells
    (parameters,) = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    assert "SBERTLAB_FAST" in parameters.source
    *_, summary, last = cells
    assert summary.source.startswith("## What we saw")
    statements = ast.parse(last.source).body
    assert len(statements) >= 4
    for statement in statements:
        assert isinstance(statement, ast.Assert)
        assert not isinstance(statement.test, ast.Constant)


@every_notebook
def test_code_cells_are_short_and_import_nothing_by_star_and_install_nothing(path):
    sources = code_of(read(path))
    lengths = sorted(len(source.splitlines()) for source in sources[:-1])
    assert lengths[-1] <= 14
    assert lengths[len(lengths) // 2] <= 6, "cells of about four lines"
    for source in sources:
        assert not re.search(r"^\s*[!%]|\bpip install\b", source, flags=re.MULTILINE)
        imports = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]
        assert all(alias.name != "*" for node in imports for alias in node.names)
    assert any("sbertlab" in source for source in sources)


@every_notebook
def test_no_path_or_address_of_a_machine_is_in_a_notebook(path):
    notebook = read(path)
    shown = [output.get("text", "") for output in outputs_of(notebook)]
    shown += [
        value for output in outputs_of(notebook) for kind, value in output.get("data", {}).items() if "text" in kind
    ]
    for text in [*code_of(notebook), text_of(notebook), *shown]:
        assert tool.without_machine(text) == text
        assert not re.search(r"[A-Z]:\\|file://", text)


def small_notebook():
    html = "<svg></svg>"
    view = {tool.WIDGET_VIEW: {"model_id": "1"}, "text/plain": "Widget()"}
    outputs = [
        new_output("stream", name="stdout", text="saved to /home/ann/work/model.zip\n"),
        new_output("stream", name="stderr", text="Encoding:  50%|█████ | 1/2\nUserWarning: 3 texts were cut\n"),
        new_output("display_data", data=dict(view)),
        new_output("execute_result", data={**view, "text/html": html}, metadata={"isolated": True}, execution_count=2),
        new_output("execute_result", data={"text/plain": "<Model at 0x7f00ab>"}, execution_count=2),
    ]
    timing = {"execution": {"iopub.status.busy": "2026-01-01T00:00:00Z"}, "tags": ["parameters"]}
    return new_notebook(
        cells=[new_markdown_cell("# Title"), new_code_cell("1 + 1", outputs=outputs, metadata=timing)],
        metadata={"widgets": {"state": {}}, "language_info": {"name": "python", "version": "3.11.9"}},
    )


def test_normalising_keeps_only_what_is_the_same_everywhere():
    notebook = small_notebook()
    said = tool.normalise(notebook)
    stream, fallback, plain = outputs_of(notebook)
    assert said == ["UserWarning: 3 texts were cut"]
    assert stream.text == "saved to model.zip\n"
    assert dict(fallback.data) == {"text/plain": "Widget()", "text/html": "<svg></svg>"}
    assert plain.data["text/plain"] == "<Model>"
    assert notebook.cells[1].metadata == {"tags": ["parameters"]}
    assert notebook.metadata.kernelspec.name == "python3"
    assert "widgets" not in notebook.metadata
    assert notebook.metadata.language_info == {"name": "python"}
    nbformat.validate(notebook)


def test_the_hash_follows_the_code_and_nothing_else():
    notebook = small_notebook()
    before = tool.code_sha256(notebook)
    tool.normalise(notebook)
    notebook.cells[0].source = "# Another title"
    assert tool.code_sha256(notebook) == before
    notebook.cells[1].source = "1 + 2"
    assert tool.code_sha256(notebook) != before
    parted = new_notebook(cells=[new_code_cell("1"), new_code_cell("2")])
    assert tool.code_sha256(new_notebook(cells=[new_code_cell("1\n2")])) != tool.code_sha256(parted)


@pytest.mark.slow
def test_the_tool_executes_in_the_folder_of_the_notebook_and_says_whether_the_pass_is_quick(tmp_path):
    source = 'import os, sys\nprint(os.environ["SBERTLAB_FAST"], os.getcwd(), sys.executable, sep="\\n")'
    path = tmp_path / "09_small.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell(source)]), path)
    (shown,) = outputs_of(tool.execute(path, fast=True))
    assert shown.text.splitlines() == ["1", str(tmp_path), sys.executable]
