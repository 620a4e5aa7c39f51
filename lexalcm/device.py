"""Devices: which one a name means, and what it can do."""

import shutil
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

from lexalcm.errors import UserError

if TYPE_CHECKING:
    import torch


def choose_device(name: str | None, option: str = "--device ") -> "torch.device":
    """The device of a name; none or `"auto"`: the current GPU, or the CPU where there is none.

    Args:
        name: cpu, cuda, cuda:1, ...
        option: what says so, for the advice in the message.

    Raises:
        UserError: torch does not know it or cannot use it here.
    """
    import torch

    if name in (None, "auto"):
        return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # AssertionError: torch without CUDA
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"the device {name!r} cannot be used: {reason}; say {option}cpu") from error
    return device


def can_compile(device: "torch.device") -> bool:
    """Whether kernels for a GPU can be made here: by Triton, which needs a C compiler."""
    return device.type == "cuda" and _has_compiler()


@cache
def _has_compiler() -> bool:
    return find_spec("triton") is not None and any(map(shutil.which, ("cc", "gcc", "clang")))
