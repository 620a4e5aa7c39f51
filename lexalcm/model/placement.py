"""Where a model computes, and in which numbers."""

import torch

from lexalcm.device import choose_device
from lexalcm.errors import UserError
from lexalcm.model.lcm import LCM

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def to_device(model: LCM, device: str = "auto", dtype: str = "auto") -> LCM:
    """Move a model to a device and a number type; its normalizer stays float32.

    Args:
        model: is changed.
        device: cpu, cuda, cuda:1, ..., or auto: a GPU if there is one.
        dtype: fp32, bf16, or auto: as its weights are.

    Raises:
        UserError: no such device here, or no such type.
    """
    if dtype not in ("auto", *DTYPES):
        raise UserError(f"unknown number type {dtype}: known are auto, {', '.join(DTYPES)}")
    return model.to(choose_device(device), DTYPES.get(dtype))
