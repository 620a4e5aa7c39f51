"""Where SONAR's files are: a folder, a hub repository, or the published files in the cache, downloaded if need be.

published files, looked for in this order: the folder of LEXALCM_SONAR, CACHE/sonar, their public addresses
CACHE           LEXALCM_CACHE, else $XDG_CACHE_HOME/lexalcm, else ~/.cache/lexalcm
CACHE/converted weights as safetensors under one naming, which open at once; may be deleted at any time
"""

import hashlib
import json
import logging
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lexalcm.codec.sonar.checkpoint import (
    Side,
    SonarSizes,
    SonarWeights,
    holds_decoder,
    read_weights,
    weights_digest,
)
from lexalcm.errors import CodecError
from lexalcm.io.atomic import atomic_file
from lexalcm.io.download import DownloadError, download, page_instead
from lexalcm.io.file_lock import FileLock
from lexalcm.io.folders import entries, files_below
from lexalcm.io.progress import Progress
from lexalcm.json_text import parse_json

logger = logging.getLogger(__name__)

Part = Literal["encoder", "decoder", "tokenizer"]

ADDRESS = "https://dl.fbaipublicfiles.com/SONAR"
PUBLISHED: dict[Part, str] = {
    "encoder": "sonar_text_encoder.pt",
    "decoder": "sonar_text_decoder.pt",
    "tokenizer": "sentencepiece.source.256000.model",
}
FOLDER_VARIABLE = "LEXALCM_SONAR"
ADDRESS_VARIABLE = "LEXALCM_SONAR_URL"

_NAMES: dict[Part, tuple[str, ...]] = {
    "encoder": (
        PUBLISHED["encoder"],
        "encoder.pt",
        "encoder.safetensors",
        "encoder/model.safetensors",
        "model.safetensors",
        "pytorch_model.bin",
    ),
    "decoder": (PUBLISHED["decoder"], "decoder.pt", "decoder.safetensors", "decoder/model.safetensors"),
    "tokenizer": (PUBLISHED["tokenizer"], "sentencepiece.model", "sentencepiece.bpe.model"),
}
"""What the files are called in folders that people have."""

_WEIGHTS = (
    ["config.json", "*.model", "*.safetensors"],
    ["config.json", "*.model", "pytorch_model.bin"],  # only where there is no safetensors file
)
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_CONVERSION = 1
"""Counts up when converted files change, so that older ones are not taken for them."""


class WeightsNotFoundError(CodecError):
    """No file, folder or repository where weights should be."""


@dataclass(frozen=True)
class SonarFile:
    """A file, and what the config beside it says."""

    path: Path
    heads: int | None = None


@dataclass(frozen=True)
class OpenedWeights:
    """Weights, with what identifies them."""

    weights: SonarWeights
    digest: str  # of an encoder; see weights_digest
    heads: int | None


def cache_folder() -> Path:
    """The folder for downloads and converted weights."""
    if given := os.environ.get("LEXALCM_CACHE"):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lexalcm"


def find_part(part: Part, source: str | None, progress: Progress) -> SonarFile:
    """Find a file, downloading it if it is not on this machine.

    Args:
        part: which.
        source: a folder, a file or a hub repository; none: the published files.
        progress: opens a report of a download.

    Raises:
        WeightsNotFoundError: the source is not there, or holds no encoder.
        CodecError: it cannot be downloaded; says what to fetch and where to put it.
        DownloadError: a download that broke off.
    """
    if source is None:
        return _published(part, progress)
    path = Path(source).expanduser()
    if path.is_file():
        return _with_config(path, part)
    found = _in_folder(path, part) if path.is_dir() else _in_folder(_from_hub(source, _WEIGHTS), part)
    if found is None and part == "encoder":
        raise WeightsNotFoundError(f"{source} holds no SONAR text encoder: it should be called {PUBLISHED['encoder']}")
    # a repository of the encoder alone: the published decoder and tokenizer belong to it
    return found or _published(part, progress)


def find_beside(part: Part, weights: str, progress: Progress) -> SonarFile:
    """Find what belongs to an encoder: in its file, folder or repository, else the published one.

    Raises:
        CodecError, DownloadError: as `find_part`.
    """
    file = Path(weights).expanduser()
    if part == "encoder" or not file.is_file() or (part == "decoder" and holds_decoder(file)):
        return find_part(part, weights, progress)
    return _in_folder(file.parent, part) or _published(part, progress)


def find_here(part: Part) -> SonarFile | None:
    """The published file, or the one of LEXALCM_SONAR, if it is on this machine.

    Raises:
        CodecError: the folder of LEXALCM_SONAR does not exist.
    """
    if own := os.environ.get(FOLDER_VARIABLE):
        folder = Path(own).expanduser()
        if not folder.is_dir():
            raise CodecError(f"the folder {own} of {FOLDER_VARIABLE} does not exist: set it to one with SONAR's files")
        if found := _in_folder(folder, part):
            return found
    published = cache_folder() / "sonar" / PUBLISHED[part]
    is_here = published.is_file() and not page_instead(published)
    return _with_config(published, part) if is_here else None


def encoder_heads(source: str | None) -> int | None:
    """Attention heads that the config beside an encoder notes. Its weights are not opened for that, nor downloaded.

    Args:
        source: as for `find_part`.

    Raises:
        WeightsNotFoundError: there is no such folder, file or repository.
    """
    if source is None:
        here = find_here("encoder")
        return here.heads if here else None
    path = Path(source).expanduser()
    if path.is_file():
        return _with_config(path, "encoder").heads
    found = _in_folder(path, "encoder") if path.is_dir() else None
    if found:
        return found.heads
    folder = path if path.is_dir() else _from_hub(source, (["config.json"],))
    return _with_config(folder / "model.safetensors", "encoder").heads


def open_weights(file: SonarFile, side: Side) -> OpenedWeights:
    """Weights of a file in the common layout, from the cache where they were converted before.

    Raises:
        CodecError: as `read_weights`.
    """
    try:
        status = file.path.stat()
    except OSError as error:
        raise CodecError(f"cannot read the weights {file.path}: {error.strerror}") from error
    identity = json.dumps([_CONVERSION, side, str(file.path.resolve()), status.st_size, status.st_mtime_ns])
    key = hashlib.sha256(identity.encode()).hexdigest()[:16]
    kept = cache_folder() / "converted" / f"{file.path.stem}-{key}.safetensors"
    if opened := _open_kept(kept, side, file.heads):
        return opened
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(kept.with_name(f".{kept.name}.lock")):  # of many workers one converts, the others wait
            return _open_kept(kept, side, file.heads) or _convert(file, side, kept)
    except (OSError, SafetensorError) as error:
        logger.warning("cannot keep the converted weights, so the next start takes as long: %s", error)
        weights = read_weights(file.path, side)
        return OpenedWeights(weights, weights_digest(weights), file.heads)


def _convert(file: SonarFile, side: Side, kept: Path) -> OpenedWeights:
    weights = read_weights(file.path, side)
    digest = weights_digest(weights)
    with atomic_file(kept) as temporary:
        metadata = {"digest": digest, "source": str(file.path), **_as_text(weights.sizes)}
        save_file({name: tensor.contiguous() for name, tensor in weights.tensors.items()}, temporary, metadata)
    return _open_kept(kept, side, file.heads) or OpenedWeights(weights, digest, file.heads)


def _open_kept(kept: Path, side: Side, heads: int | None) -> OpenedWeights | None:
    if not kept.exists():
        return None
    try:
        with safe_open(kept, framework="pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  safe_open has no iterator
        sizes = SonarSizes(**{name: int(metadata[name]) for name in SonarSizes.__dataclass_fields__})
        return OpenedWeights(SonarWeights(side, sizes, tensors), metadata["digest"], heads)
    except (SafetensorError, KeyError, TypeError, ValueError, OSError):
        logger.warning("%s is damaged: the weights are converted again", kept)
        return None


def _as_text(sizes: SonarSizes) -> dict[str, str]:
    return {name: str(value) for name, value in vars(sizes).items()}


def _published(part: Part, progress: Progress) -> SonarFile:
    if here := find_here(part):
        return here
    name = PUBLISHED[part]
    goal = cache_folder() / "sonar" / name
    address = f"{_address()}/{name}"
    if os.environ.get("HF_HUB_OFFLINE", "0").lower() not in ("", "0", "false"):
        raise CodecError(f"HF_HUB_OFFLINE forbids downloading {address}: {_by_hand(goal.parent)}")
    try:
        with progress(f"downloading {name}", "bytes") as report:
            return _with_config(download(address, goal, report).path, part)
    except DownloadError as error:
        raise CodecError(f"{error}; {_by_hand(goal.parent)}") from error


def _address() -> str:
    """Where the published files are, without a slash at the end."""
    given = os.environ.get(ADDRESS_VARIABLE) or ADDRESS
    if not given.lower().startswith(("http://", "https://")):
        raise CodecError(f"{ADDRESS_VARIABLE} is {given}, which is not an address: write it like {ADDRESS}")
    return given.rstrip("/")


def _by_hand(folder: Path) -> str:
    return (
        f"fetch {', '.join(PUBLISHED.values())} from {ADDRESS}/ elsewhere and put them into {folder}, "
        f"or into a folder that the environment variable {FOLDER_VARIABLE} names"
    )


def _in_folder(folder: Path, part: Part) -> SonarFile | None:
    for name in _NAMES[part]:
        if (folder / name).is_file():
            return _with_config(folder / name, part)
    whole = folder / "model.safetensors"
    if part == "decoder" and whole.is_file() and holds_decoder(whole):
        return _with_config(whole, part)
    if part == "tokenizer":
        models = [file for file in entries(folder) if file.suffix == ".model"]
        if len(models) == 1:
            return SonarFile(models[0])
    return None


def _with_config(path: Path, part: Part) -> SonarFile:
    heads = _config_beside(path).get(f"{part}_attention_heads") if part != "tokenizer" else None
    return SonarFile(path, heads)


def _config_beside(path: Path) -> dict[str, Any]:
    try:
        config = parse_json((path.parent / "config.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def _from_hub(source: str, wanted: Iterable[list[str]]) -> Path:
    """The folder of a hub repository's files: those of the first patterns that bring weights, else of the last."""
    if not _HUB_ID.fullmatch(source) or source.startswith("."):
        raise WeightsNotFoundError(f"there are no SONAR weights in {source}: give a folder, a file or a hub repository")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    unreadable: tuple[type[Exception], ...] = (
        HFValidationError,
        LocalEntryNotFoundError,
        HfHubHTTPError,
        OSError,
        *_client_errors(),
    )
    try:
        for patterns in wanted:
            folder = Path(snapshot_download(source, allow_patterns=patterns))
            if any(file.suffix == ".safetensors" for file in files_below(folder)):
                break
    except unreadable as error:
        raise WeightsNotFoundError(
            f"there is no folder {source}, and no hub repository of that name can be read: "
            f"check the name and the network, or {_by_hand_hub(source)}"
        ) from error
    return folder


def _client_errors() -> tuple[type[Exception], ...]:
    """What the hub's HTTP client raises that is not an OSError: a proxy that refuses, an answer that breaks off.

    Which client that is, httpx, httpx2 or requests, depends on the version of the hub's package: its own error says it.
    """
    from huggingface_hub.errors import HfHubHTTPError

    client = sys.modules[HfHubHTTPError.__bases__[0].__module__]
    return (client.HTTPError, client.InvalidURL)


def _by_hand_hub(repository: str) -> str:
    return f"fetch it elsewhere with `hf download {repository} --local-dir FOLDER` and give that folder as weights"
