"""Which numbers a model is multiplied in: float32, or bfloat16 with everything that adds up kept in float32."""

from contextlib import AbstractContextManager, nullcontext

import torch


def best_precision(device: torch.device) -> str:
    """What `auto` means: bf16 on GPUs that have it, fp32 elsewhere."""
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Multiply matrices in this precision; torch keeps norms, softmax and sums in float32."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()
