"""`TrainingMonitor` in a real browser: its buttons reach a running cell, by mouse and by keyboard."""

from pathlib import Path

import nbformat

CONFTEST = Path(__file__).parents[1] / "conftest.py"

SETUP = f"""
import importlib.util, time
from torch.utils.data import DataLoader
from sbertlab import InputExample, SentenceTransformer, losses, models
from sbertlab.widgets.training_monitor import TrainingMonitor

spec = importlib.util.spec_from_file_location("shared", {str(CONFTEST)!r})
shared = importlib.util.module_from_spec(spec)
spec.loader.exec_module(shared)
words = "cat dog bird fish man woman child house garden street city river sea sun rain snow music guitar".split()
pairs = [InputExample(texts=[f"the {{word}} sleeps", f"a {{word}} is there"]) for word in words]
model = SentenceTransformer(modules=[shared.tiny_transformer(0), models.Pooling(32, "mean")], device="cpu")
objective = DataLoader(pairs, batch_size=4, shuffle=True), losses.MultipleNegativesRankingLoss(model)
slowly = lambda event: time.sleep(0.2)
"""

FIT = """
monitor = TrainingMonitor([pair.texts[0] for pair in pairs], words)
history = model.fit([objective], epochs=50, show_progress_bar=False, callbacks=[monitor, slowly])
"""

STEP = """([words, atLeast]) => {
  const said = document.querySelector('.sbertlab-panel [role=status]')?.textContent ?? '';
  const step = Number(said.match(/step (\\d+)/)?.[1] ?? 0);
  return said.startsWith(words) && step >= atLeast && step;
}"""


def test_pause_and_stop_reach_a_running_cell(notebook):
    book = notebook(SETUP, FIT, run=False)
    page, keys = book.page, book.page.keyboard

    def step(words, at_least=0):
        """Wait for a status of a step; the kernel cannot be asked while the cell runs."""
        found = page.wait_for_function(STEP, arg=[words, at_least])
        return int(found.json_value())

    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }")
    step("Training", 3)
    page.get_by_role("button", name="Pause", exact=True).click()
    held = step("Paused")
    assert "[*]:" in page.locator(".jp-InputPrompt").all_inner_texts(), "the cell runs"
    page.wait_for_timeout(2000)
    assert step("Paused") == held, "no step while it is paused"
    assert page.locator(".sbertlab-panel img").count() == 2, "curves and the map"
    book.shot("training_monitor_paused")
    page.get_by_role("button", name="Resume", exact=True).focus()
    keys.press("Space")
    step("Training", held + 2)
    assert page.evaluate("() => document.activeElement.textContent") == "Pause", "the focus has stayed"
    keys.press("Tab")
    keys.press("Enter")  # "Stop"
    book.wait_until_idle()
    page.wait_for_function("() => document.querySelectorAll('.jp-RenderedImage img').length >= 2")
    book.shot("training_monitor_stopped")
    assert page.locator(".sbertlab-panel").count() == 0, "the picture has taken its place"
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    saved = nbformat.read(next(book.folder.glob("test_pause_and_stop*.ipynb")), as_version=4)
    kinds = [set(output.get("data", {})) for output in saved.cells[1].outputs]
    assert [kind for kind in kinds if "image/png" in kind], "an export shows the picture"
    assert not [kind for kind in kinds if "application/vnd.jupyter.widget-view+json" in kind]
    assert book.python("print(history.attrs['interrupted'], monitor.state)") == "True ended"
    assert held + 2 <= int(book.python("print(history['step'].iloc[-1])")) < 250
