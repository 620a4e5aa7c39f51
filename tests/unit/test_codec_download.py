"""Downloads over a server of our own: they appear whole, and go on where they broke off."""

import hashlib
import http.server
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lexalcm.errors import UserError
from lexalcm.io import download as module
from lexalcm.io.download import DownloadError, download

CONTENT = bytes(range(256)) * 20_000  # 5 MB


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT; the server's attributes say how badly."""

    def do_GET(self) -> None:
        server = self.server
        server.requests.append(dict(self.headers))
        if server.status != 200:
            self.send_error(server.status)
            return
        start = 0
        wanted = self.headers.get("Range")
        if wanted and server.ranges and self.headers.get("If-Range") == server.tag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start > len(server.content):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(server.content) - start))
        self.send_header("ETag", server.tag)
        self.end_headers()
        end = start + server.breaks_after if server.breaks_after else None
        self.wfile.write(server.content[start:end])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[http.server.ThreadingHTTPServer]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.content, server.tag, server.ranges, server.status, server.breaks_after = CONTENT, '"1"', True, 200, 0
    server.requests = []
    server.handle_error = lambda *_: None  # a client that goes away is meant
    server.url = f"http://127.0.0.1:{server.server_address[1]}/weights.pt"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_size_and_hash_are_shown(server, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    seen = []
    with caplog.at_level(logging.WARNING):
        found = download(server.url, tmp_path / "sub" / "weights.pt", lambda done, total: seen.append((done, total)))
    assert found.path.read_bytes() == CONTENT
    assert found.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert f"{len(CONTENT):,} bytes, sha256 {found.sha256}" in caplog.text
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [path.name for path in found.path.parent.iterdir() if not path.name.endswith(".lock")] == ["weights.pt"]


def test_what_is_there_is_not_fetched_again(server, tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(b"here")
    assert download(server.url, tmp_path / "weights.pt").size == 4
    assert server.requests == []


def break_off(server, path: Path) -> None:
    server.breaks_after = 3_000_000
    with pytest.raises(DownloadError, match=r"3,000,000 of 5,120,000 bytes: try again|cannot be downloaded"):
        download(server.url, path)
    assert not path.exists()
    server.breaks_after = 0
    server.requests.clear()


def test_an_interrupted_download_goes_on(server, tmp_path: Path) -> None:
    break_off(server, tmp_path / "weights.pt")
    assert download(server.url, tmp_path / "weights.pt").path.read_bytes() == CONTENT
    assert int(server.requests[0]["Range"].removeprefix("bytes=").removesuffix("-")) > 1_000_000


def test_another_file_at_the_address_is_fetched_from_its_start(server, tmp_path: Path) -> None:
    break_off(server, tmp_path / "weights.pt")
    server.content, server.tag = CONTENT[::-1], '"2"'
    assert download(server.url, tmp_path / "weights.pt").path.read_bytes() == CONTENT[::-1]


def test_a_server_without_ranges_is_fetched_from_the_start(server, tmp_path: Path) -> None:
    break_off(server, tmp_path / "weights.pt")
    server.ranges = False
    assert download(server.url, tmp_path / "weights.pt").path.read_bytes() == CONTENT


def test_more_than_the_server_has_is_thrown_away(server, tmp_path: Path) -> None:
    (tmp_path / ".weights.pt.part").write_bytes(CONTENT * 2)
    (tmp_path / ".weights.pt.tag").write_text('"1"')
    assert download(server.url, tmp_path / "weights.pt").path.read_bytes() == CONTENT


def test_a_server_that_refuses(server, tmp_path: Path) -> None:
    server.status = 403
    with pytest.raises(DownloadError, match="the server says 403"):
        download(server.url, tmp_path / "weights.pt")


def test_no_server(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="cannot be downloaded"):
        download("http://127.0.0.1:9/weights.pt", tmp_path / "weights.pt")


def test_no_room(server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(UserError, match="LEXALCM_CACHE"):
        download(server.url, tmp_path / "weights.pt")


@pytest.mark.parametrize(
    ("page", "words"),
    [
        (b"<html>Please log in</html>", "<html>Please log in</html>"),
        (b"\xef\xbb\xbf\r\n <!DOCTYPE html>\n<html>" + b"x" * 500, "<!DOCTYPE html> <html>xxx"),
        (b'{"error": "quota"}', '{"error": "quota"}'),
        (b"", "nothing"),
    ],
)
def test_a_page_is_no_file(server, tmp_path: Path, page: bytes, words: str) -> None:
    path = tmp_path / "weights.pt"
    server.content = page
    with pytest.raises(DownloadError, match="not a file of weights") as raised:
        download(server.url, path)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)
    assert [file.name for file in tmp_path.iterdir() if not file.name.endswith(".lock")] == []
    server.content = CONTENT
    assert download(server.url, path).path.read_bytes() == CONTENT


def test_a_page_that_is_there_under_the_files_name_is_replaced(server, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(b"<html>Please log in</html>")
    assert download(server.url, path).path.read_bytes() == CONTENT
