"""A stand-in for the Hub, and for a server of zips; it listens on loopback only."""

import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.storage.models import digest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Server:
    """Answers GET and HEAD from `pages` (path -> body, status or function) and remembers what was asked."""

    def __init__(self) -> None:
        self.pages: dict[str, bytes | int | Callable[[BaseHTTPRequestHandler], None]] = {}
        self.headers: dict[str, dict[str, str]] = {}
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                outer.asked.append(f"{self.command} {path}")
                page = outer.pages.get(path, 404)
                if callable(page):
                    page(self)
                    return
                body = page if isinstance(page, bytes) else b""
                self.send_response(200 if isinstance(page, bytes) else page)
                for name, value in outer.headers.get(path, {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def add_repository(self, repository: str, files: dict[str, str], revision: str = "main") -> None:
        """Serve as much of the Hub's interface as a snapshot needs."""
        info = {"id": repository, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
        tree = [{"type": "file", "path": n, "size": len(t), "oid": digest(t.encode())[:40]} for n, t in files.items()]
        for page in (f"/api/models/{repository}", f"/api/models/{repository}/revision/{revision}"):
            self.pages[page] = json.dumps(info).encode()
        self.pages[f"/api/models/{repository}/tree/{COMMIT}"] = json.dumps(tree).encode()
        for name, text in files.items():
            page = f"/{repository}/resolve/{COMMIT}/{name}"
            self.pages[page] = text.encode()
            self.headers[page] = {"ETag": f'"{digest(text.encode())[:40]}"', "X-Repo-Commit": COMMIT}

    def downloaded(self) -> set[str]:
        files = [line.partition(f"/resolve/{COMMIT}/")[2] for line in self.asked if line.startswith("GET")]
        return {file for file in files if file}
