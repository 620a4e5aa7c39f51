"""Where a run's metrics go: `metrics.jsonl`, TensorBoard, Weights & Biases where asked for, a log, and the display.

Reporting must not end a run: what cannot be written, on a disk that is full, is noted once and left out.

Only the main process has a monitor that writes; the others have one without files, and a log of their own. A line is
written every `log_every` steps and after a validation, never two for a step. `loss` is the mean over the targets of all
steps since the line before; a checkpoint holds what has gathered for the next line, so that a resumed run writes the
lines of one never stopped.
"""

import errno
import json
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from typing_extensions import Self

from lexalcm.train.run.folder import RunFolder

logger = logging.getLogger(__name__)

Metrics = Mapping[str, Any]
"""Numbers by name; a list has a number for each bucket of timesteps; `alerts` are sentences."""


class Display(Protocol):
    """Shows a run to the one who started it."""

    def begin(self, step: int, steps: int) -> None:
        """The steps begin, of which `step` are done already."""

    def advance(self, metrics: Metrics) -> None:
        """A step is done: `step`, `loss`, `lr`, `concepts_per_s` and, where known, `mfu` of this step alone."""

    def line(self, metrics: Metrics) -> None:
        """A line of metrics has been written."""

    def note(self, text: str) -> None:
        """Something that is not an error but should be known."""

    def end(self) -> None:
        """The steps are over."""


class NullDisplay:
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


def output_is_closed(error: OSError) -> bool:
    """Whether a write failed because the terminal is closed, or the process that read it has ended."""
    return isinstance(error, BrokenPipeError) or error.errno == errno.EIO


class LoggingDisplay:
    """Another display, whose notes are also logged; when it is closed, nothing is shown and the run goes on.

    It is closed when its terminal is, or the process that read it has ended: a Ctrl-C also ends the `tee` of
    `lcm train | tee`, while the run still has to save.
    """

    def __init__(self, display: Display) -> None:
        self._display = display

    def begin(self, step: int, steps: int) -> None:
        """Show it."""
        with self._while_open():
            self._display.begin(step, steps)

    def advance(self, metrics: Metrics) -> None:
        """Show it."""
        with self._while_open():
            self._display.advance(metrics)

    def line(self, metrics: Metrics) -> None:
        """Show it."""
        with self._while_open():
            self._display.line(metrics)

    def note(self, text: str) -> None:
        """Log it and show it."""
        logger.info(text)
        with self._while_open():
            self._display.note(text)

    def end(self) -> None:
        """Show it."""
        with self._while_open():
            self._display.end()

    @contextmanager
    def _while_open(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not output_is_closed(error):
                raise
            self._display = NullDisplay()
            logger.warning("the output is closed: the run continues")


class MetricsWriter(Protocol):
    """Writes metrics, beside `metrics.jsonl`."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of a step."""

    def text(self, step: int, name: str, text: str) -> None:
        """A Markdown text of a step."""

    def close(self) -> None:
        """No more comes."""


class Monitor:
    """Writes metrics to the run's folder and passes them on to the display."""

    def __init__(
        self,
        run: RunFolder | None,
        display: Display,
        step: int = 0,
        *,
        buckets: Sequence[str] = (),
        writers: Sequence[MetricsWriter] = (),
    ) -> None:
        """Open the files; without a run folder there are none.

        Args:
            run: where to write.
            display: shows the run.
            step: steps done; what TensorBoard holds beyond them is hidden.
            buckets: names of the buckets of timesteps.
            writers: of metrics, beside the files.
        """
        self.display = display
        self._file = None
        self._failed: set[str] = set()
        self._buckets = buckets
        self._writers = list(writers)
        if run is not None:
            from lexalcm.train.monitor.tensorboard import TensorBoard  # half a second, for the main process alone

            self._file = run.metrics.open("a", encoding="utf-8")
            self._writers.append(TensorBoard(run.tensorboard, step))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._going_on("closing metrics"):
            if self._file is not None:
                self._file.close()
        for writer in self._writers:
            with self._going_on("closing metrics"):
                writer.close()

    def write(self, metrics: Metrics) -> None:
        """Write one line; `metrics` has `step` in it."""
        if self._file is not None:
            text = json.dumps(_finite(dict(metrics)))
            with self._going_on("metrics.jsonl"):
                if not os.fstat(self._file.fileno()).st_nlink:  # it was removed; the folder may be there again
                    self._file = Path(self._file.name).open("a", encoding="utf-8")  # noqa: SIM115  closed at the end
                self._file.write(text + "\n")
                self._file.flush()
            logger.info(text)
        self.scalars(metrics["step"], dict(self._scalars(metrics)))
        self.display.line(metrics)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers that are too many for a line of metrics."""
        for writer in self._writers:
            with self._going_on(type(writer).__name__):
                writer.scalars(step, values)

    def text(self, step: int, name: str, text: str) -> None:
        """A Markdown text for those who can show one."""
        for writer in self._writers:
            with self._going_on(type(writer).__name__):
                writer.text(step, name, text)

    def alert(self, step: int, text: str) -> None:
        """Something that looks wrong."""
        self.display.note(f"step {step}: {text}")
        self.text(step, "alerts", text)

    @contextmanager
    def _going_on(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if what not in self._failed:
                self._failed.add(what)
                self.display.note(f"cannot write {what}, the run continues: {error}")

    def _scalars(self, metrics: Metrics) -> Iterator[tuple[str, float]]:
        for name, value in metrics.items():
            if name.endswith("by_timestep"):
                yield from ((f"{name}/{bucket}", one) for bucket, one in zip(self._buckets, value, strict=True))
            elif name not in ("step", "alerts"):
                yield name, value


def _finite(value: Any) -> Any:
    """The same without NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
