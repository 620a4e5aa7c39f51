"""A real browser for pages: each measures itself, in frames of the widths that are asked for, and posts what it found.

Pages are waited for by the clock, until each has answered: a browser's own virtual time can run out while it still
decodes pictures.
"""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WITHOUT = "needs Chromium to open pages in: apt-get install chromium"
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--enable-logging=stderr",
)
LONGEST_S = 180


def measure_pages(
    folder: Path, pages: Mapping[str, str], widths: Sequence[int], measure: str, *options: str
) -> tuple[dict[tuple[str, int], dict[str, Any]], str]:
    """Open each page at each width.

    Args:
        folder: an empty one to work in.
        pages: HTML by name.
        widths: of frames, in CSS pixels.
        measure: JavaScript, the body of an async function that returns an object of what it finds in its page.
        options: more options of the browser.

    Returns:
        What each found by (name, width), and the browser's log.
    """
    frames = ""
    for name, page in pages.items():
        for width in widths:
            script = f"""<script>addEventListener("load", async () => {{
              const found = await (async () => {{ {measure} }})();
              fetch("/found", {{method: "POST", body: JSON.stringify([{json.dumps(name)}, {width}, found])}});
            }});</script></body>"""
            (folder / f"{name}-{width}.html").write_text(page.replace("</body>", script), encoding="utf-8")
            frames += f'<iframe src="{name}-{width}.html" style="width:{width}px;height:900px;border:0"></iframe>'
    head = '<!doctype html><meta charset="utf-8"><meta name="color-scheme" content="light dark">'
    (folder / "frames.html").write_text(head + frames, encoding="utf-8")
    answers: Queue[tuple[str, int, dict[str, Any]]] = Queue()
    found = {}
    log = folder / "browser.log"
    with _served(folder, answers) as address, _browser(f"{address}/frames.html", folder, log, *options) as browser:
        latest = time.monotonic() + LONGEST_S
        while len(found) < len(pages) * len(widths) and browser.poll() is None and time.monotonic() < latest:
            try:
                name, width, one = answers.get(timeout=0.2)
            except Empty:
                continue
            found[name, width] = one
    return found, log.read_text(encoding="utf-8", errors="replace")


@contextmanager
def _served(folder: Path, answers: "Queue[tuple[str, int, dict[str, Any]]]") -> Iterator[str]:
    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/favicon.ico":
                self.send_response(204)
                self.end_headers()
            else:
                super().do_GET()

        def do_POST(self) -> None:
            answers.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def _browser(address: str, folder: Path, log: Path, *options: str) -> "Iterator[subprocess.Popen[bytes]]":
    command = [str(CHROMIUM), *OPTIONS, f"--user-data-dir={folder / 'profile'}", *options, address]
    with log.open("wb") as output:
        browser = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        try:
            yield browser
        finally:
            os.killpg(browser.pid, signal.SIGKILL)
            browser.wait()
