"""Every notebook in JupyterLab, without a model hub: the kernel is restarted, all cells run, every widget stands."""

import json
from pathlib import Path

import pytest

PATHS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))

CELLS = "[...window.jupyterapp.shell.currentWidget.content.model.cells].filter(cell => cell.type === 'code')"

SHOWN = f"""() => {CELLS}.flatMap(cell => cell.outputs.toJSON())
  .map(output => output.data?.['application/vnd.jupyter.widget-view+json']?.model_id).filter(Boolean)"""

ALIVE = "import json, ipywidgets; print(json.dumps(list(ipywidgets.widgets.widget._instances)))"


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_after_a_restart_all_cells_run_and_all_widgets_stand(path, notebook):
    book = notebook(path, run=False)
    book.python("left_over = 1")
    book.restart_and_run_all(patience=900)
    assert book.python("print('left_over' in globals())") == "False"
    counts = book.page.evaluate(f"() => {CELLS}.map(cell => cell.executionCount)")
    assert counts == list(range(1, len(counts) + 1))
    outputs = book.page.evaluate(f"() => {CELLS}.flatMap(cell => cell.outputs.toJSON())")
    assert not [output for output in outputs if "Traceback" in str(output.get("text", ""))]
    alive = set(book.page.evaluate(SHOWN)) & set(json.loads(book.python(ALIVE)))  # progress bars have closed
    standing = 0
    for number in book.pages():
        book.shot(f"{path.stem}_{number}")
        said = book.page.locator(".jp-NotebookPanel").inner_text()
        assert "Error displaying widget" not in said
        standing = max(standing, book.page.locator(".jp-OutputArea-output:has(> .jupyter-widgets)").count())
    assert standing == len(alive)
