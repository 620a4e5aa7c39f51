"""Which numbers a model is multiplied in: float32, or bfloat16 with everything that adds up kept in float32."""

import torch

from lexalcm.train.settings import TrainSettings


def best_precision(device: torch.device) -> str:
    """What `auto` means: bf16 on GPUs that have it, fp32 elsewhere."""
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"


def chosen_precision(settings: TrainSettings, best: str) -> str:
    """What the settings say; `auto` means the best."""
    return best if settings.precision == "auto" else settings.precision
