"""The machine and its Python environment, as training and generation will find them.

A problem is what keeps the project from working at all: a package that is missing or does not fit, a folder that
cannot be written, a codec that does not load. A mere limitation (no GPU, no DeepSpeed) is a note with advice.
DeepSpeed is asked for its version without importing it, which takes seconds and starts its own compilers.
"""

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import torch
from packaging.requirements import Requirement

from lexalcm import __version__
from lexalcm.device import can_compile
from lexalcm.registries import CODECS
from lexalcm.verify.checks import Check

GIB = 2**30
LEAST_DISK = 1 * GIB
ROOMY_DISK = 10 * GIB


def verify_env(folder: Path) -> list[Check]:
    """Look at the machine, the Python packages and the folder that work would be done in."""
    return [
        Check("LexaLCM", "ok", __version__),
        _python(),
        Check("platform", "ok", platform.platform()),
        _processor(),
        _memory(),
        _disk(folder),
        _torch(),
        *_devices(),
        _bf16(),
        _kernels(),
        _compiler(),
        _offloading(),
        *_packages(),
        *_codecs(),
    ]


def _python() -> Check:
    value = f"{platform.python_implementation()} {platform.python_version()} ({sys.executable})"
    return Check("Python", "ok", value)


def _processor() -> Check:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Check(
        "CPU", "ok", f"{usable} of {os.cpu_count()} cores usable, torch computes with {torch.get_num_threads()}"
    )


def _memory() -> Check:
    page = os.sysconf("SC_PAGE_SIZE")
    total, free = os.sysconf("SC_PHYS_PAGES") * page, os.sysconf("SC_AVPHYS_PAGES") * page
    return Check("memory", "ok", f"{total / GIB:.1f} GiB, {free / GIB:.1f} GiB of it unused now")


def _disk(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free
    value = f"{free / GIB:,.1f} GiB free in {folder.resolve()}"
    if not os.access(folder, os.W_OK):
        return Check("disk", "problem", value, "no permission to write here: work in another folder")
    if free < LEAST_DISK:
        return Check("disk", "problem", value, "nearly full: checkpoints will fail; free some space")
    if free < ROOMY_DISK:
        return Check("disk", "note", value, "a checkpoint takes about 16 bytes per parameter: keep few of them")
    return Check("disk", "ok", value)


def _torch() -> Check:
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    if torch.version.hip:
        build = f"ROCm {torch.version.hip}"
    value = f"{torch.__version__} ({build})"
    if torch.cuda.is_available():
        return Check("PyTorch", "ok", value)
    if shutil.which("nvidia-smi") and not torch.version.cuda:
        return Check(
            "PyTorch", "note", value, "there is an NVIDIA driver: install a CUDA build of torch to use the GPU"
        )
    if torch.version.cuda:
        return Check("PyTorch", "note", value, "no GPU can be used: check the driver with nvidia-smi")
    return Check("PyTorch", "ok", value)


def _devices() -> Iterator[Check]:
    if not torch.cuda.is_available():
        yield Check("GPU", "note", "none", "everything runs on the CPU: fine for the tiny and small presets")
        return
    for number in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(number)
        free, total = torch.cuda.mem_get_info(number)
        capability = f"compute capability {device.major}.{device.minor}"
        yield Check(
            f"GPU {number}", "ok", f"{device.name}, {total / GIB:.1f} GiB, {free / GIB:.1f} GiB free, {capability}"
        )


def _bf16() -> Check:
    if not torch.cuda.is_available():
        return Check("bf16", "note", "not used on a CPU", "precision auto trains in fp32 here")
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return Check("bf16", "ok", "supported, used by precision auto")
    return Check("bf16", "note", "not supported by this GPU", "precision auto trains in fp32 here")


def _kernels() -> Check:
    """Whether layers and attention can be compiled for the GPU."""
    name = "GPU kernels"
    if not torch.cuda.is_available():
        return Check(name, "note", "not compiled on a CPU", "train.compile=true compiles layers here too")
    if can_compile(torch.device("cuda")):
        return Check(name, "ok", f"Triton {metadata.version('triton')}, compiled by the first step of a training")
    advice = "training takes 50% longer: pip install triton, and install gcc"
    return Check(name, "note", "Triton or a C compiler is missing", advice)


def _compiler() -> Check:
    found = next((path for name in ("c++", "g++", "clang++") if (path := shutil.which(name))), None)
    if found is None:
        advice = "train.compile on a CPU and offloading to NVMe need one: install g++"
        return Check("C++ compiler", "note", "none", advice)
    return Check("C++ compiler", "ok", found)


def _offloading() -> Check:
    """What updates weights in the CPU's memory, and whether NVMe can be read."""
    in_memory = "in CPU memory: torch's fused AdamW"
    if (Path(sys.prefix) / "include/libaio.h").exists() or Path("/usr/include/libaio.h").exists():
        return Check("offloading", "ok", f"{in_memory}; NVMe: libaio is installed")
    advice = "to offload to NVMe, install libaio-dev (libaio-devel)"
    return Check("offloading", "note", f"{in_memory}; NVMe: no libaio", advice)


def _packages() -> Iterator[Check]:
    requirements = [Requirement(text) for text in metadata.requires("lexalcm") or ()]
    base = [one for one in requirements if one.marker is None or one.marker.evaluate({"extra": ""})]
    wrong = [problem for one in base if (problem := _version_problem(one))]
    if wrong:
        yield Check("packages", "problem", "; ".join(wrong), "install them: pip install lexalcm")
    else:
        yield Check("packages", "ok", f"all {len(base)} required ones, in supported versions")
        yield Check("TensorBoard", "ok", metadata.version("tensorboard"))
    for extra in sorted(metadata.metadata("lexalcm").get_all("Provides-Extra") or ()):
        wanted = [
            one
            for one in requirements
            if one not in base and one.marker is not None and one.marker.evaluate({"extra": extra})
        ]
        missing = [problem for one in wanted if (problem := _version_problem(one))]
        if missing:
            yield Check(f"extra {extra}", "note", "; ".join(missing), f"if you need it: pip install 'lexalcm[{extra}]'")
        else:
            versions = ", ".join(f"{one.name} {metadata.version(one.name)}" for one in wanted)
            yield Check(f"extra {extra}", "ok", versions)


def _version_problem(requirement: Requirement) -> str | None:
    """What is wrong with a required package, or None."""
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return f"{requirement.name} is not installed"
    if not requirement.specifier.contains(version, prereleases=True):
        return f"{requirement.name} {version} does not satisfy {requirement.specifier}"
    return None


def _codecs() -> Iterator[Check]:
    for name in CODECS.names():
        package, _ = CODECS.origin(name)
        try:
            CODECS.load(name)
        except Exception as error:  # noqa: BLE001  whatever a third party's module raises is what is reported
            value = f"{type(error).__name__}: {error}"
            yield Check(f"codec {name}", "problem", value, f"reinstall {package} or remove it")
        else:
            yield Check(f"codec {name}", "ok", f"from {package}")
