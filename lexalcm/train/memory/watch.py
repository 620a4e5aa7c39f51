"""Whether the plan of a GPU's memory was right: noted once, after a run's first steps, where it was not."""

from typing import Any

import torch

from lexalcm.train.checkpoint.format import TrainState
from lexalcm.train.memory.peak import peak_bytes
from lexalcm.train.monitor.run_monitor import Monitor

STEPS = 2  # after which all that training allocates has been there
TOLERANCE = 0.15
GIB = 2**30
LEAST = GIB // 2  # a difference that matters; libraries' workspaces, which are not planned, take some tens of MiB


class MemoryWatch:
    """Compares the peak with the plan; see `lexalcm.train.monitor.training_metrics.Callback`."""

    def __init__(self, planned: int, device: torch.device, first_step: int, monitor: Monitor) -> None:
        """Compare with a plan.

        Args:
            planned: bytes.
            device: the process's GPU.
            first_step: where the run starts or resumes.
            monitor: shows the note.
        """
        self._planned, self._device, self._monitor = planned, device, monitor
        self._check_at = first_step + STEPS

    def should_run(self, step: int, validating: bool) -> bool:
        """See `Callback.should_run`."""
        return step == self._check_at

    def run(self, state: TrainState) -> dict[str, Any]:
        """See `Callback.run`."""
        peak = peak_bytes(self._device)
        if abs(peak - self._planned) > max(LEAST, TOLERANCE * self._planned):
            self._monitor.display.note(
                f"the GPU's memory peaks at {peak / GIB:.1f} GiB, where {self._planned / GIB:.1f} GiB were planned: "
                "do not rely on lcm train --plan for this run"
            )
        return {}
