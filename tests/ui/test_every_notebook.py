"""Every notebook in JupyterLab: the kernel is restarted, all cells run, and every widget stands on the page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PATHS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))

WIDGETS = """() => [...window.jupyterapp.shell.currentWidget.content.model.cells]
  .filter(cell => cell.type === 'code').flatMap(cell => cell.outputs.toJSON())
  .filter(output => 'application/vnd.jupyter.widget-view+json' in (output.data ?? {})).length"""


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_after_a_restart_all_cells_run_and_all_widgets_stand(path: Path, notebook: Callable[..., Any]) -> None:
    book = notebook(path, run=False)
    book.python("left_over = 1")
    book.restart_and_run_all(patience=900)
    assert book.python("print('left_over' in globals())") == "False"
    counts = book.page.evaluate(
        "() => [...window.jupyterapp.shell.currentWidget.content.model.cells]"
        ".filter(cell => cell.type === 'code').map(cell => cell.executionCount)"
    )
    assert counts == list(range(1, len(counts) + 1))
    book.all_in_view()
    views = book.page.locator("[data-mime-type='application/vnd.jupyter.widget-view+json']:has(.jupyter-widgets)")
    assert views.count() == book.page.evaluate(WIDGETS)
    said = book.page.locator("body").inner_text()
    assert "Error displaying widget" not in said
    assert "Loading widget" not in said
    book.shot(path.stem)
