"""A real JupyterLab on loopback, a real Chromium, and notebooks made on the fly, see the fixture `notebook`.

Screenshots go to the folder SBERTLAB_SHOTS, or to one of pytest's.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

PATIENCE = 300
"""Seconds to wait for the server, a page or a cell: a busy machine of two cores starts them slowly."""

HARMLESS = (
    "Could not restore the debugger state",  # JupyterLab, when a kernel is restarted
    "Ignoring draw call",  # jupyter-scatter, when points change while it draws: widgets.scatter sends them again
)
"""What other programs write into the console though nothing is wrong."""

QUIET = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
QUIET += " --disable-component-update --disable-sync"

EXECUTE = """async code => {
  const session = window.jupyterapp.shell.currentWidget.sessionContext.session;
  const future = session.kernel.requestExecute({code, store_history: false});
  let text = '';
  future.onIOPub = ({header, content}) => {
    if (header.msg_type === 'stream') text += content.text;
    if (header.msg_type === 'error') text += content.ename + ': ' + content.evalue;
  };
  await future.done;
  return text;
}"""


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.ui)


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    """Address and folder of a JupyterLab with its own settings, which sees nothing of the user's."""
    if os.environ.get("CI") != "true":  # there the browser tests must run
        for needed in ("jupyterlab", "playwright"):
            pytest.importorskip(needed)
        if CHROMIUM is None:
            pytest.skip("no chromium on the PATH: apt-get install chromium")
    home = tmp_path_factory.mktemp("lab")
    folder = home / "notebooks"
    settings = home / "config" / "labconfig" / "default_setting_overrides.json"
    for path in (folder, settings.parent, home / "data", home / "runtime"):
        path.mkdir(parents=True)
    (home / "figures").symlink_to(ROOT / "figures")  # notebooks read ../figures
    quiet = {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True}
    settings.write_text(json.dumps({"@jupyterlab/apputils-extension:notification": quiet}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--ServerApp.port={port}"]
    command += ["--IdentityProvider.token=", "--ServerApp.disable_check_xsrf=True", "--ServerApp.port_retries=0"]
    command += ["--LabApp.expose_app_in_browser=True", f"--ServerApp.root_dir={folder}", "--allow-root"]
    own = {f"JUPYTER_{kind.upper()}_DIR": str(home / kind) for kind in ("config", "data", "runtime")}
    own |= {"IPYTHONDIR": str(home / "ipython"), "JUPYTER_PREFER_ENV_PATH": "1", "SBERTLAB_FAST": "1"}
    own["HF_HUB_OFFLINE"] = "1"  # no notebook needs a model hub
    log = home / "lab.log"
    with log.open("w") as out:
        server = subprocess.Popen(command, cwd=folder, env={**os.environ, **own}, stdout=out, stderr=subprocess.STDOUT)
    try:
        end = time.monotonic() + PATIENCE
        while not answers(url):
            if server.poll() is not None or time.monotonic() > end:
                pytest.fail(f"JupyterLab did not start:\n{log.read_text()[-3000:]}")
            time.sleep(0.5)
        yield url, folder
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def answers(url):
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/api", timeout=5):
        return True
    return False


@pytest.fixture(scope="session")
def browser(lab):
    """A headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET.split(), timeout=1000 * PATIENCE)
        yield started
        started.close()


class Notebook:
    """A notebook open in the browser: Playwright's page, addresses that it asked for, errors in its console."""

    def __init__(self, browser, url, folder, shots):
        self.url, self.folder, self.shots = url, folder, shots
        self.page = browser.new_page(viewport={"width": 1300, "height": 1000})
        self.page.set_default_timeout(1000 * PATIENCE)
        self.requests = []
        self.complaints = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("websocket", lambda websocket: self.requests.append(websocket.url))
        self.page.on("console", lambda said: self._complain(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self._complain(str(error)))

    def _complain(self, words):
        if not words.startswith(HARMLESS):
            self.complaints.append(words)

    def open(self, path):
        """Open a notebook in the server's folder and wait for its kernel."""
        self.page.goto(f"{self.url}/lab/tree/{path.name}?reset")
        # the page shows "idle" before a kernel is connected, and cells run then only raise a dialog
        self.page.wait_for_function(
            "() => { const context = window.jupyterapp?.shell.currentWidget?.sessionContext;"
            " return context?.isReady && context.kernelDisplayStatus === 'idle'; }"
        )

    def restart_and_run_all(self, patience=PATIENCE):
        """Take all outputs away, restart the kernel, confirm that, run all cells and wait so many seconds for them."""
        self.page.evaluate("() => window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")
        self.page.evaluate("() => { window.jupyterapp.commands.execute('notebook:restart-run-all'); }")
        self.page.get_by_role("dialog").get_by_role("button", name="Confirm Kernel Restart").click()
        self.wait_until_idle(patience)

    def wait_until_idle(self, patience=PATIENCE):
        """Wait until every code cell has run; an error in one fails the test in its words."""
        said = self.page.wait_for_function(
            "() => { const { content, sessionContext } = window.jupyterapp.shell.currentWidget;"
            " const cells = [...content.model.cells].filter(cell => cell.type === 'code');"
            " const wrong = cells.flatMap(cell => cell.outputs.toJSON()).find(one => one.output_type === 'error');"
            " if (wrong) return `${wrong.ename}: ${wrong.evalue}`;"
            " const idle = sessionContext.session?.kernel?.status === 'idle';"
            " return idle && cells.every(cell => cell.executionCount) && 'all ran'; }",
            timeout=1000 * patience,
        )
        assert said.json_value() == "all ran"

    def pages(self):
        """Scroll through the notebook from its top to its end, window by window."""
        self.page.set_viewport_size({"width": 1300, "height": 2000})
        end = "box => box.scrollTop + box.clientHeight >= box.scrollHeight - 2"
        box = self.page.locator(".jp-NotebookPanel .jp-WindowedPanel-outer").first
        box.evaluate("box => { box.scrollTop = 0; }")
        for number in range(40):
            self.page.wait_for_timeout(700)
            yield number
            if box.evaluate(end):
                return
            box.evaluate("box => { box.scrollTop += box.clientHeight - 60; }")

    def python(self, code):
        """What the kernel of this notebook prints when it runs the code; an error is "Name: words"."""
        return self.page.evaluate(EXECUTE, code).strip()

    def wait_for_python(self, expression, wanted):
        """Wait until an expression in the kernel is printed as `wanted`: messages of widgets take their time."""
        end = time.monotonic() + PATIENCE / 4
        while (got := self.python(f"print({expression})")) != str(wanted):
            assert time.monotonic() < end, f"{expression} is {got}, expected {wanted}"
            self.page.wait_for_timeout(200)

    def shot(self, name):
        """Save a screenshot to look at."""
        self.page.screenshot(path=self.shots / f"{name}.png")

    def outside(self):
        """Addresses beyond loopback that the page asked for."""
        asked = [address for address in self.requests if address.startswith(("http", "ws"))]
        return [address for address in asked if urlsplit(address).hostname not in ("127.0.0.1", "localhost")]


@pytest.fixture
def notebook(lab, browser, request, tmp_path_factory):
    """Factory of open notebooks: `notebook("import x", "panel = ...; panel")` writes the cells, opens and runs them.

    When the test has passed: nothing left loopback, no error in the console. Its kernels are ended.
    """
    url, folder = lab
    named = os.environ.get("SBERTLAB_SHOTS")
    shots = Path(named) if named else tmp_path_factory.mktemp("shots")
    shots.mkdir(parents=True, exist_ok=True)
    opened = []

    def make(*cells, run=True):
        path = folder / f"{request.node.name.split('[')[0]}_{len(opened)}.ipynb"
        if isinstance(cells[0], Path):
            shutil.copy(cells[0], path)
        else:
            content = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
            content.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
            nbformat.write(content, path)
        book = Notebook(browser, url, folder, shots)
        opened.append(book)
        book.open(path)
        if run:
            book.page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }")
            book.wait_until_idle()
        return book

    yield make
    outside = [address for book in opened for address in book.outside()]
    complaints = [words for book in opened for words in book.complaints]
    for book in opened:
        book.page.close()
    with contextlib.suppress(OSError):  # an interrupted run has no server any more
        for kernel in json.load(urllib.request.urlopen(f"{url}/api/kernels")):
            ended = urllib.request.Request(f"{url}/api/kernels/{kernel['id']}", method="DELETE")
            urllib.request.urlopen(ended).close()
    assert not outside, f"requests left loopback: {outside}"
    assert not complaints, f"errors in the console: {complaints}"
