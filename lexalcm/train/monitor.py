"""What a run tells: `metrics.jsonl`, TensorBoard, and whoever watches.

Only the main process has a monitor; the others have a silent one. A line is written every `log_every` steps and after
a validation, never two for a step. `loss` is the mean over the targets of all steps since the line before; a
checkpoint holds what has gathered for the next line, so that a resumed run writes the lines of one never stopped.
"""

import json
import math
from collections.abc import Mapping
from types import TracebackType
from typing import Protocol

from typing_extensions import Self

from lexalcm.train.run_folder import RunFolder

Metrics = Mapping[str, float | int]


class Display(Protocol):
    """Shows a run to the one who started it."""

    def begin(self, step: int, steps: int) -> None:
        """The steps begin, so many being done already."""

    def advance(self, metrics: Metrics) -> None:
        """A step is done: `step`, `loss`, `lr`, `concepts_per_s` of this step alone."""

    def line(self, metrics: Metrics) -> None:
        """A line of metrics has been written."""

    def note(self, text: str) -> None:
        """Something that is no error, but that should be known."""

    def end(self) -> None:
        """The steps are over."""


class Silent:
    """Shows nothing."""

    def begin(self, step: int, steps: int) -> None:
        """Nothing."""

    def advance(self, metrics: Metrics) -> None:
        """Nothing."""

    def line(self, metrics: Metrics) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""


class Monitor:
    """Writes metrics to the run's folder and passes them on to the display."""

    def __init__(self, run: RunFolder | None, display: Display, step: int = 0) -> None:
        """Open the files; without a run folder there are none.

        Args:
            run: where to write.
            display: who watches.
            step: steps done; what TensorBoard holds beyond them is hidden.
        """
        self.display = display
        self._file = None
        self._writer = None
        if run is not None:
            from torch.utils.tensorboard import SummaryWriter  # half a second, for the main process alone

            self._file = run.metrics.open("a", encoding="utf-8")
            self._writer = SummaryWriter(str(run.tensorboard), purge_step=step + 1 if step else None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
        if self._writer is not None:
            self._writer.close()

    def write(self, metrics: Metrics) -> None:
        """Write one line; `metrics` has `step` in it."""
        if self._file is not None:
            # JSON has no NaN and no infinity
            finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
            self._file.write(json.dumps(finite) + "\n")
            self._file.flush()
        if self._writer is not None:
            for name, value in metrics.items():
                if name != "step":
                    self._writer.add_scalar(name, value, metrics["step"])
        self.display.line(metrics)
