"""What a device can do."""

import shutil
from functools import cache
from importlib.util import find_spec

import torch


def can_compile(device: torch.device) -> bool:
    """Whether kernels for a GPU can be made here: by Triton, which needs a C compiler."""
    return device.type == "cuda" and _has_compiler()


@cache
def _has_compiler() -> bool:
    return find_spec("triton") is not None and any(map(shutil.which, ("cc", "gcc", "clang")))
