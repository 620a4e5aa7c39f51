"""A page of runs that follows them: a small server on this machine that draws again when a run has written more.

It listens on the loopback address alone, and answers only to that address's own names: a foreign page whose name leads
here (DNS rebinding) must not read it. Nothing is drawn unless a browser asks, and never twice for the same lines,
because the training beside it needs the machine. The page keeps the reader's place: its script asks for a new one and
puts that in its place.
"""

import re
import sys
import threading
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from lexalcm.errors import LexaError, UserError
from lexalcm.pages.page import draw_figures
from lexalcm.pages.run_metrics import find_metrics, read_runs
from lexalcm.pages.run_report import figure_specs, render_runs
from lexalcm.pages.style import Format

HOST = "127.0.0.1"
OWN_NAMES = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d+)?")
"""With any port: one may have been forwarded from another machine."""


class LivePage:
    """The page of some runs, drawn when it is asked for and its runs have written since."""

    def __init__(self, paths: Sequence[Path | str], by_time: bool, format: Format, seconds: float) -> None:
        self._paths = paths
        self._by_time = by_time
        self._format = format
        self._seconds = seconds
        self._files = [find_metrics(path) for path in paths]
        self._lock = threading.Lock()  # matplotlib's settings belong to the whole process
        self._version, self._page = "", b""

    def newest(self) -> tuple[str, bytes]:
        """The page's version and the page."""
        with self._lock:
            version = self._stamp()
            if version != self._version:
                runs = read_runs(self._paths)
                drawn = draw_figures(figure_specs(runs, self._by_time), self._format)
                page = render_runs(runs, drawn, reload_seconds=self._seconds)
                self._version, self._page = version, page.encode()
            return self._version, self._page

    def _stamp(self) -> str:
        """What changes when a run writes."""
        found = [file.stat() if file.exists() else None for file in self._files]
        return '"' + ".".join("-" if stat is None else f"{stat.st_mtime_ns}.{stat.st_size}" for stat in found) + '"'


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that disconnects in the middle of a page is ignored; anything else is reported."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def serve_runs(
    paths: Sequence[Path | str],
    *,
    port: int,
    by_time: bool = False,
    format: Format = "png",
    seconds: float = 5.0,
    ready: Callable[[ThreadingHTTPServer, str], None],
) -> None:
    """Serve the page of runs until interrupted.

    Args:
        paths: folders of runs; one that has not written yet is waited for.
        port: on the loopback address; 0 takes a free one.
        by_time: draw over the time of training instead of steps.
        format: of the pictures.
        seconds: how often an open page asks for a new one.
        ready: is given the server and its address, once it listens.

    Raises:
        UserError: a path is not a run, or the port is taken.
    """
    page = LivePage(paths, by_time, format, seconds)
    try:
        server = _Server((HOST, port), _handler(page))
    except OSError as error:
        raise UserError(f"port {port} cannot be used ({error.strerror}): choose another with --port") from error
    with server:
        ready(server, f"http://localhost:{server.server_port}/")
        server.serve_forever(poll_interval=0.2)


def _handler(page: LivePage) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not OWN_NAMES.fullmatch(self.headers.get("Host", "").lower()):
                self.send_error(HTTPStatus.MISDIRECTED_REQUEST, explain="this page is at localhost")
                return
            if self.path.split("?")[0] not in ("/", "/page"):
                self.send_error(HTTPStatus.NOT_FOUND)
                return
            try:
                version, content = page.newest()
            except LexaError as error:  # a run that was moved away, say
                self.send_error(HTTPStatus.SERVICE_UNAVAILABLE, explain=str(error))
                return
            if self.headers.get("If-None-Match") == version:
                self.send_response(HTTPStatus.NOT_MODIFIED)
                self.end_headers()
                return
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("ETag", version)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: a line every few seconds would hide what matters."""

    return Handler
