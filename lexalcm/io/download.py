"""Files of many gigabytes over HTTP: an interrupted download resumes where it stopped, and a file appears whole.

What has come lies in `.NAME.part` beside the goal, with the server's tag for it in `.NAME.tag`. The next try asks for
the rest only, and starts over if the server's file is another by now. A page instead of the file, such as the login
page of a network, never gets the file's name.
"""

import http.client
import logging
import os
import shutil
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from lexalcm import __version__
from lexalcm.errors import LexaError, UserError
from lexalcm.io.atomic import fsync_path
from lexalcm.io.file_lock import FileLock
from lexalcm.io.hashing import file_sha256
from lexalcm.io.progress import ReportProgress

logger = logging.getLogger(__name__)

CHUNK = 1 << 20
SHOWN = 80  # bytes of what a server answers with instead
TIMEOUT = 60.0


class DownloadError(LexaError):
    """A file that could not be fetched; what has come of it is kept for the next try."""


@dataclass(frozen=True)
class Downloaded:
    """A file that was fetched."""

    path: Path
    size: int
    sha256: str


def download(url: str, path: Path, report: ReportProgress | None = None) -> Downloaded:
    """Fetch a file; processes that want the same one wait for the first.

    Args:
        url: its address.
        path: where it goes; the folder is made.
        report: called with (bytes here, bytes in all or None).

    Raises:
        DownloadError: no connection, an error of the server, a page instead of the file, or fewer bytes than announced.
        UserError: no room on the disk, or no folder that can be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            if not path.exists() or page_instead(path):
                _fetch(url, path, report or (lambda _done, _total: None))
    except PermissionError as error:
        raise UserError(f"no permission to write in {path.parent}: set LEXALCM_CACHE to another folder") from error
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot write in {path.parent} ({reason}): set LEXALCM_CACHE to another folder") from error
    found = Downloaded(path, path.stat().st_size, file_sha256(path))
    logger.warning("%s: %s bytes, sha256 %s", path, f"{found.size:,}", found.sha256)
    return found


def _fetch(url: str, path: Path, report: ReportProgress) -> None:
    part, tag_file = path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}.tag")
    have = part.stat().st_size if part.exists() and tag_file.exists() else 0
    try:
        request = urllib.request.Request(url, headers={"User-Agent": f"lexalcm/{__version__}"})
        if have:
            request.add_header("Range", f"bytes={have}-")
            request.add_header("If-Range", tag_file.read_text())
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            if response.status != http.HTTPStatus.PARTIAL_CONTENT:
                have = 0
            announced = response.headers.get("Content-Length")
            total = have + int(announced) if announced is not None else None
            _check_room(path.parent, url, None if total is None else total - have)
            tag = response.headers.get("ETag") or response.headers.get("Last-Modified")
            if tag and not tag.startswith("W/"):  # a weak tag cannot vouch for single bytes
                tag_file.write_text(tag)
            else:
                tag_file.unlink(missing_ok=True)
            logger.warning(
                "downloading %s%s to %s", url, "" if total is None else f" ({total / 1e9:.2f} GB)", path.parent
            )
            _copy(response, part, have, total, report)
    except urllib.error.HTTPError as error:
        if (
            error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
        ):  # what is here is not the beginning of the file
            part.unlink()
            return _fetch(url, path, report)
        raise DownloadError(f"{url} cannot be downloaded: the server says {error.code} {error.reason}") from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise DownloadError(f"{url} cannot be downloaded: {reason}") from error
    size = part.stat().st_size
    if total is not None and size != total:
        raise DownloadError(f"{url} ended after {size:,} of {total:,} bytes: try again, it resumes from there")
    if words := page_instead(part):
        part.unlink()
        tag_file.unlink(missing_ok=True)
        raise DownloadError(
            f"{url} cannot be downloaded: the server's answer is not a file of weights ({words}): log in to the "
            "network, or use another one"
        )
    fsync_path(part)
    part.replace(path)
    fsync_path(path.parent)
    tag_file.unlink(missing_ok=True)
    return None


def page_instead(file: Path) -> str:
    """How a file begins that is text for people, such as HTML, or has nothing in it; no words for any other."""
    with file.open("rb") as content:
        begin = content.read(SHOWN)
    if begin and begin.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] not in (b"<", b"{"):
        return ""
    return " ".join(begin.decode(errors="replace").split()) or "nothing"


def _copy(response: http.client.HTTPResponse, part: Path, have: int, total: int | None, report: ReportProgress) -> None:
    with part.open("r+b" if have else "wb") as file:
        file.seek(have)
        file.truncate()
        while chunk := response.read(CHUNK):
            file.write(chunk)
            have += len(chunk)
            report(have, total)
        file.flush()
        os.fsync(file.fileno())


def _check_room(folder: Path, url: str, needed: int | None) -> None:
    free = shutil.disk_usage(folder).free
    if needed is not None and needed > free:
        raise UserError(
            f"{url} needs {needed / 1e9:.1f} GB, {folder} has {free / 1e9:.1f} GB free: make room, "
            "or set LEXALCM_CACHE to a folder on another disk"
        )
