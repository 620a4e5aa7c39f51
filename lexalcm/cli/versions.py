"""What `lcm --version` says, found without importing anything heavy: torch alone would take seconds."""

import platform
import re
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from lexalcm import __version__
from lexalcm.registries import CODECS

CODEC_PACKAGES = {"lsa": "scikit-learn", "sonar-hf": "transformers", "sonar-space": "sonar-space"}
"""What the project's own codecs compute with."""

DRIVER_FILE = Path("/proc/driver/nvidia/version")


def versions() -> Iterator[str]:
    """A line each: the project, Python, torch, CUDA, DeepSpeed, and every installed codec."""
    yield f"lexalcm {__version__}"
    yield f"Python {platform.python_version()}"
    yield f"torch {_version('torch')}"
    yield f"CUDA {_cuda()}"
    yield f"DeepSpeed {_version('deepspeed')}"
    for name in CODECS.names():
        parts = [" ".join(CODECS.origin(name)).strip()]
        if name in CODEC_PACKAGES:
            package = CODEC_PACKAGES[name]
            parts.append(f"{package} {_version(package)}")
        yield f"codec {name}: {', '.join(parts)}"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _cuda() -> str:
    """The version that torch was built for, from a file of it, and the driver's if there is one."""
    spec = find_spec("torch")
    folders = [] if spec is None else spec.submodule_search_locations or []
    files = [Path(folder) / "version.py" for folder in folders]
    written = "".join(file.read_text(encoding="utf-8") for file in files if file.is_file())
    built = re.search(r"^cuda\b.*= *'([^']+)'", written, re.MULTILINE)
    driver = re.search(r"Kernel Module.*?\s(\d+(?:\.\d+)+)\s", _driver())
    return (built[1] if built else "none (torch computes on the CPU)") + (f", driver {driver[1]}" if driver else "")


def _driver() -> str:
    try:
        return DRIVER_FILE.read_text(encoding="utf-8")
    except OSError:
        return ""
