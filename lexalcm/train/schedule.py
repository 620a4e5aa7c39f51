"""The learning rate as a pure function of the step: it needs no state, so a resumed run has the same one.

Linear warm-up to `lr`, then down to `min_lr_ratio * lr` along a cosine or a line, or constant.
"""

import math

from lexalcm.config import TrainSettings


def learning_rate(step: int, settings: TrainSettings) -> float:
    """The learning rate of the update that step number `step` makes, the first step being 0."""
    if step < settings.warmup_steps:
        return settings.lr * (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return settings.lr
    progress = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    remaining = 1 - progress if settings.schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return settings.lr * (settings.min_lr_ratio + (1 - settings.min_lr_ratio) * remaining)
