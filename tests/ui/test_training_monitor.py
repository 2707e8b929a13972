"""`TrainingMonitor` in a real browser: its buttons reach a running cell, by mouse and by keyboard."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat

CONFTEST = Path(__file__).parents[1] / "conftest.py"

SETUP = f"""
import importlib.util, time, torch
from torch.utils.data import DataLoader
from sbertlab import InputExample, SentenceTransformer, losses, models
from sbertlab.training.checkpoint import verify
from sbertlab.widgets.training_monitor import TrainingMonitor

spec = importlib.util.spec_from_file_location("shared", {str(CONFTEST)!r})
shared = importlib.util.module_from_spec(spec)
spec.loader.exec_module(shared)
words = "cat dog bird fish man woman child house garden street city river sea sun rain snow music guitar".split()
pairs = [InputExample(texts=[f"the {{word}} sleeps", f"a {{word}} is there"]) for word in words]

def tiny():
    pooling = models.Pooling(32, "mean")
    return SentenceTransformer(modules=[shared.tiny_transformer(0, dropout=0.1), pooling], device="cpu")

def run(model, **how):
    objectives = [(DataLoader(pairs, batch_size=4, shuffle=True), losses.MultipleNegativesRankingLoss(model))]
    settings = dict(epochs=30, warmup_steps=2, optimizer_params={{"lr": 1e-3}}, show_progress_bar=False)
    return model.fit(objectives, **{{**settings, **how}})

slowly = lambda event: time.sleep(0.2)
whole = tiny()
expected = run(whole)
"""

FIT = """
monitor, stopped = TrainingMonitor([pair.texts[0] for pair in pairs], words), tiny()
history = run(stopped, callbacks=[monitor, slowly], checkpoint_path="points")
"""

RESUME = """
again = tiny()
history = run(again, callbacks=[monitor], checkpoint_path="points", resume=True)
"""


class Watched:
    """A monitor on the page while its cell runs; the kernel cannot be asked then."""

    def __init__(self, book: Any) -> None:
        self.page = book.page
        self.page.locator(".sbertlab-panel [role=status]").last.wait_for()

    def button(self, name: str) -> Any:
        return self.page.get_by_role("button", name=name, exact=True)

    def step(self) -> int:
        """The step that the monitor shows."""
        found = re.search(r"step ([\d,]+)", self.page.locator(".sbertlab-panel").last.inner_text())
        return int(found[1].replace(",", "")) if found else 0

    def wait_for(self, words: str) -> int:
        """Wait for a status, and return the step."""
        self.page.locator(".sbertlab-panel [role=status]", has_text=words).last.wait_for()
        return self.step()

    def wait_for_step(self, step: int) -> None:
        for _ in range(300):
            if self.step() >= step:
                return
            self.page.wait_for_timeout(200)
        raise AssertionError(f"step {step} was not reached, only {self.step()}")

    def running(self) -> bool:
        """Whether the cell runs, which JupyterLab marks with a star."""
        return "[*]:" in self.page.locator(".jp-InputPrompt").all_inner_texts()


def start(book: Any, cell: int) -> None:
    """Run a cell and do not wait for it."""
    book.page.evaluate(f"() => {{ window.jupyterapp.shell.currentWidget.content.activeCellIndex = {cell}; }}")
    book.page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-cell'); }")


def test_pause_and_stop_reach_a_running_cell_and_it_resumes_to_the_same_weights(notebook: Callable[..., Any]) -> None:
    book = notebook(SETUP, FIT, RESUME, run=False)
    page, keys = book.page, book.page.keyboard
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-cell')")
    start(book, 1)
    monitor = Watched(book)
    monitor.wait_for_step(3)
    monitor.button("Pause").click()
    held = monitor.wait_for("Paused after step")
    assert monitor.running()
    page.wait_for_timeout(2000)
    assert monitor.step() == held, "no step while it is paused"
    assert f"Paused after step {held}." in page.locator(".sbertlab-panel").last.inner_text()
    assert page.locator(".sbertlab-panel img").count() == 2, "curves and the map"
    book.shot("training_monitor_paused")
    monitor.button("Resume").focus()
    keys.press("Space")
    monitor.wait_for_step(held + 2)
    assert page.evaluate("() => document.activeElement.textContent") == "Pause", "the focus has stayed"
    keys.press("Tab")
    keys.press("Enter")  # "Stop"
    page.wait_for_function("() => document.querySelectorAll('.jp-RenderedImage img').length >= 2")
    page.wait_for_function("() => !document.body.innerText.includes('[*]:')")
    book.shot("training_monitor_stopped")
    assert page.locator(".sbertlab-panel").count() == 0, "the picture has taken its place"
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    saved = nbformat.read(next(book.folder.glob("test_pause_and_stop*.ipynb")), as_version=4)
    kinds = [set(output.get("data", {})) for output in saved.cells[1].outputs]
    assert [kind for kind in kinds if "image/png" in kind], "an export shows the picture"
    assert not [kind for kind in kinds if "application/vnd.jupyter.widget-view+json" in kind]

    assert book.python("print(history.attrs['interrupted'], monitor.state)") == "True ended"
    last = int(book.python("print(history['step'].iloc[-1])"))
    assert held + 2 <= last < 150
    assert book.python(f"print(verify(__import__('pathlib').Path('points/{last}')))") == "None"
    assert f"Stopped after step {last}." in book.python("print(monitor.status)")
    start(book, 2)
    book.wait_until_idle()
    book.wait_for_python("(len(history), history.attrs['interrupted'])", (150, False))
    equal = "all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values()))"
    assert book.python(f"print({equal})") == "True"
    assert book.python("print(monitor.history['loss'].tolist() == history['loss'].tolist())") == "True"
