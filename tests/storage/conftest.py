"""Empty caches, a stand-in for the Hub and for a server of zips on loopback, and a package index that is one folder."""

import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants

from tests.storage.models import digest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SILENT = 599  # the status of a page that is not answered


class Server:
    """Answers GET and HEAD from `pages` (path -> body or status) and remembers what was asked."""

    def __init__(self):
        self.pages = {}
        self.headers = {}
        self.asked = []
        self.tokens = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                path = self.path.partition("?")[0]
                outer.asked.append(f"{self.command} {path}")
                outer.tokens.append(self.headers["Authorization"])
                page = outer.pages.get(path, 404)
                if page == SILENT:
                    time.sleep(15)
                body, status = (page, 200) if isinstance(page, bytes) else (b"", page)
                self.send_response(status)
                for name, value in {**outer.headers.get(path, {}), "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body if self.command == "GET" else b"")

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def add_repository(self, repository, files, revision="main"):
        """Serve as much of the Hub's interface as a snapshot needs."""
        info = {"id": repository, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
        hashes = {name: digest(text.encode())[:40] for name, text in files.items()}
        tree = [{"type": "file", "path": name, "size": len(files[name]), "oid": hashes[name]} for name in files]
        for page in (f"/api/models/{repository}", f"/api/models/{repository}/revision/{revision}"):
            self.pages[page] = json.dumps(info).encode()
        self.pages[f"/api/models/{repository}/tree/{COMMIT}"] = json.dumps(tree).encode()
        for name, text in files.items():
            page = f"/{repository}/resolve/{COMMIT}/{name}"
            self.pages[page], self.headers[page] = text.encode(), {"ETag": f'"{hashes[name]}"', "X-Repo-Commit": COMMIT}

    def downloaded(self):
        files = [line.partition(f"/resolve/{COMMIT}/")[2] for line in self.asked if line.startswith("GET")]
        return {file for file in files if file}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    (tmp_path / "index").mkdir()
    pip = {"NO_INDEX": "1", "FIND_LINKS": str(tmp_path / "index"), "CONFIG_FILE": os.devnull, "NO_CACHE_DIR": "1"}
    variables = {"SBERTLAB_CACHE": str(tmp_path / "cache"), "no_proxy": "127.0.0.1"}
    for name, value in (variables | {f"PIP_{name}": value for name, value in pip.items()}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


@pytest.fixture
def server():
    server = Server()
    threading.Thread(target=server.http.serve_forever, args=(0.05,), daemon=True).start()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def hub(server, monkeypatch):
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    for name, value in ("ENDPOINT", server.url), ("HUGGINGFACE_CO_URL_TEMPLATE", template), ("HF_HUB_OFFLINE", False):
        monkeypatch.setattr(constants, name, value)
    return server
