"""Which numbers a model is multiplied in: float32, or bfloat16 with everything that adds up kept in float32."""

import torch


def best_precision(device: torch.device) -> str:
    """What `auto` means: bf16 on GPUs that have it, fp32 elsewhere."""
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
