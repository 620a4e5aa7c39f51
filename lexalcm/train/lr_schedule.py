"""The learning rate as a pure function of the step: it needs no state, so a resumed run has the same one.

Linear warm-up to `lr`, then down to `min_lr_ratio * lr` along a cosine or a line; or constant; or constant until the
last steps, in which it falls along a line (warmup-stable-decay, arXiv 2404.06395, section 4): then a run can be made
longer from any checkpoint of its constant part, because that part does not depend on the number of steps.
"""

import math

from lexalcm.train.settings import TrainSettings

DECAY_SHARE = 0.1
"""Of the steps, the part in which warmup-stable-decay falls where the settings do not say."""


def learning_rate(step: int, settings: TrainSettings) -> float:
    """The learning rate of the update that step number `step` makes, the first step being 0."""
    if step < settings.warmup_steps:
        return settings.lr * (step + 1) / settings.warmup_steps
    return settings.lr * (settings.min_lr_ratio + (1 - settings.min_lr_ratio) * _height(step, settings))


def _height(step: int, settings: TrainSettings) -> float:
    """How far the rate is from its lowest (0) to its highest (1) after the warm-up."""
    if settings.schedule == "constant":
        return 1.0
    if settings.schedule == "warmup-stable-decay":
        decay_steps = settings.decay_steps or max(1, round(DECAY_SHARE * settings.steps))
        return min(1.0, (settings.steps - step) / decay_steps)
    progress = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return 1 - progress if settings.schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2
