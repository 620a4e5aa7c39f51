"""Whether the plan of a GPU's memory was right: said once, after a run's first steps, where it was not."""

from typing import Any

import torch

from lexalcm.train.checkpoint.format import Progress
from lexalcm.train.memory.peak import peak_bytes
from lexalcm.train.monitor.run_monitor import Monitor

STEPS = 2  # after which all that training allocates has been there
TOLERANCE = 0.15
GIB = 2**30
LEAST = GIB // 2  # a difference that matters; libraries' workspaces, which are not planned, take some tens of MiB


class MemoryWatch:
    """Compares the peak with the plan; see `lexalcm.train.monitor.training_metrics.Look`."""

    def __init__(self, planned: int, device: torch.device, first_step: int, monitor: Monitor) -> None:
        """Take the plan.

        Args:
            planned: bytes.
            device: the process's GPU.
            first_step: where the run begins or goes on.
            monitor: where it is said.
        """
        self._planned, self._device, self._monitor = planned, device, monitor
        self._due = first_step + STEPS

    def due(self, step: int, validating: bool) -> bool:
        """See `Look.due`."""
        return step == self._due

    def look(self, progress: Progress) -> dict[str, Any]:
        """See `Look.look`."""
        peak = peak_bytes(self._device)
        if abs(peak - self._planned) > max(LEAST, TOLERANCE * self._planned):
            self._monitor.display.note(
                f"the GPU's memory peaks at {peak / GIB:.1f} GiB, where {self._planned / GIB:.1f} GiB were planned: "
                "do not rely on lcm train --plan for this run"
            )
        return {}
