"""Alerts: weights that are not finite, and weights that training does not reach.

A weight stands still when none of its sampled numbers and not its norm has changed between two checks, although updates
were made with a learning rate that would have shown. It only decays when all of its sampled numbers have shrunk by the
same factor: weight decay moves it, no gradient does. Both are signs of a part that is cut off from the loss, of a
learning rate below what the numbers' type can hold, or of weights that were meant to be frozen.

A check gathers every weight once (see `lexalcm.train.monitor.weight_statistics`). It also gives, for each layer, the
norm of its weights and how much of it they have moved since the check before: about 1e-3 an update is usual at full
learning rate.
"""

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from lexalcm.train.checkpoint.format import TrainState
from lexalcm.train.engines.protocol import Engine
from lexalcm.train.monitor.run_monitor import Monitor
from lexalcm.train.monitor.weight_statistics import WeightStatistics, weight_statistics

logger = logging.getLogger(__name__)

MIN_UPDATES = 10  # between two checks that are compared: gates that begin at zero open layer by layer in the first ones
MIN_TRAVEL = 1e-5  # sum of the learning rates between them
MAX_NAMED = 8
EPSILON = float(torch.finfo(torch.float32).eps)


class WeightWatch:
    """Checks all weights; see the module's text."""

    def __init__(
        self,
        engine: Engine,
        monitor: Monitor,
        learning_rate: Callable[[int], float],
        every: int | None,
        state: TrainState,
    ) -> None:
        """Check for the first time; every process must do so.

        Args:
            engine: the model in training.
            monitor: where norms of layers and alerts go.
            learning_rate: of the update that is step `n`, from 0.
            every: steps between checks; none: at validations.
            state: where the run starts or resumes.
        """
        self._engine = engine
        self._monitor = monitor
        self._learning_rate = learning_rate
        self._every = every
        self._before = weight_statistics(engine)
        self._began = state
        self._reported: list[str] = []

    def should_run(self, step: int, validating: bool) -> bool:
        """See `Callback.should_run`."""
        return validating if self._every is None else step % self._every == 0

    def run(self, state: TrainState) -> dict[str, Any]:
        """See `Callback.run`; alerts are given, and shown, when they differ from those of the check before."""
        now = weight_statistics(self._engine)
        alerts = [_sentence("not finite", _not_finite(now), "stop, and resume from an earlier checkpoint")]
        updates = state.updates - self._began.updates
        travel = sum(self._learning_rate(step) for step in range(self._began.step, state.step))
        if updates >= MIN_UPDATES and travel >= MIN_TRAVEL:
            still = {name for name, one in now.items() if _is_still(self._before[name], one)}
            decays = {
                name
                for name, one in now.items()
                if name not in still and _only_decays(self._before[name], one, updates)
            }
            advice = "the loss does not reach these weights; train.freeze marks this as intended"
            alerts += [
                _sentence(f"not moved in {updates} updates", still, advice),
                _sentence(f"moved by weight decay alone in {updates} updates", decays, advice),
            ]
            self._monitor.scalars(state.step, dict(_layers(self._before, now, updates)))
            self._before, self._began = now, state
        found = [alert for alert in alerts if alert]
        new = [alert for alert in found if alert not in self._reported]
        self._reported = found
        for alert in new:
            self._monitor.alert(state.step, alert)
        return {"alerts": new} if new else {}


def _sentence(what: str, names: set[str], advice: str) -> str:
    if not names:
        return ""
    shown = sorted(names)[:MAX_NAMED]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return f"weights {what}: {', '.join(shown)}{more} ({advice})"


def _not_finite(now: Mapping[str, WeightStatistics]) -> set[str]:
    return {name for name, one in now.items() if not math.isfinite(one.norm)}


def _is_still(before: WeightStatistics, now: WeightStatistics) -> bool:
    return before.norm == now.norm and torch.equal(before.sample, now.sample)


def _only_decays(before: WeightStatistics, now: WeightStatistics, updates: int) -> bool:
    """Whether a weight is what it was times a number below one, but for the rounding of `updates` multiplications.

    It must have shrunk by far more than what rounding does, or a weight that moves slowly would seem to do so.
    """
    tolerance = 4 * EPSILON * math.sqrt(updates)
    length = float(before.sample.norm())
    if not (math.isfinite(now.norm) and length > 0 and len(now.sample) > 1):
        return False
    factor = now.norm / before.norm
    if factor > 1 - 10 * tolerance:
        return False
    return float((now.sample - factor * before.sample).norm()) <= tolerance * length


def _layers(
    before: Mapping[str, WeightStatistics], now: Mapping[str, WeightStatistics], updates: int
) -> Iterator[tuple[str, float]]:
    """Norm of each layer's weights, and how far an update has moved them on average, relative to it."""
    groups: dict[str, list[str]] = {}
    for name in now:
        groups.setdefault(layer_of(name), []).append(name)
    for layer, names in groups.items():
        norm = math.hypot(*(now[name].norm for name in names))
        moved = math.sqrt(sum(_moved(before[name], now[name]) for name in names))
        yield f"weight_norm/{layer}", norm
        yield f"update_ratio/{layer}", moved / (norm * updates) if norm else math.nan


def _moved(before: WeightStatistics, now: WeightStatistics) -> float:
    """The squared distance between two states of a weight, as far as the sampled numbers tell."""
    return float((now.sample - before.sample).double().square().mean()) * now.numel


def layer_of(name: str) -> str:
    """The layer that a parameter is in: `denoiser.layers.3` of `denoiser.layers.3.ffn.up.weight`, else its module."""
    parts = name.split(".")
    number = next((place for place, part in enumerate(parts) if part.isdigit()), None)
    return ".".join(parts[: number + 1]) if number is not None else ".".join(parts[:-1]) or name
