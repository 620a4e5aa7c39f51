"""Servers to read from in tests: HTTP with faults on demand, and a stand-in for S3."""

import http.server
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class WebServer(http.server.ThreadingHTTPServer):
    """Serves a folder, honours ranges, counts what it sends, and fails when told to."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.ranges = True
        self.failures = 0
        """Requests that are still to be answered with 503."""
        self.status: dict[str, int] = {}
        """Answers to give instead, by path."""
        self.asked: list[tuple[str, str]] = []
        """(path, range) of each GET that was answered."""
        self.sent = 0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def asked_for(self, ending: str) -> list[tuple[str, str]]:
        return [(path, part) for path, part in self.asked if path.endswith(ending)]


class _Handler(http.server.BaseHTTPRequestHandler):
    server: WebServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_HEAD(self) -> None:
        self.answer(with_content=False)

    def do_GET(self) -> None:
        self.answer(with_content=True)

    def answer(self, with_content: bool) -> None:
        file = self.server.folder / self.path.lstrip("/")
        status = self.server.status.get(self.path)
        if self.server.failures > 0:
            self.server.failures -= 1
            status = 503
        if status is None and not file.is_file():
            status = 404
        if status is not None:
            self.respond(status, b"", with_content)
            return
        content = file.read_bytes()
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")) if self.server.ranges else None
        if part is None:
            code = 200
        else:
            start = int(part[1])
            if start >= len(content):
                self.respond(416, b"", with_content)
                return
            content = content[start : int(part[2]) + 1 if part[2] else None]
            code = 206
        if with_content:
            self.server.asked.append((self.path, self.headers.get("Range", "")))
            self.server.sent += len(content)
        self.respond(code, content, with_content)

    def respond(self, code: int, content: bytes, with_content: bool) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_content:
            self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def serve(folder: Path) -> Iterator[WebServer]:
    server = WebServer(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
