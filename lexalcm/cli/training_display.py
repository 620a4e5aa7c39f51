"""What `lcm train` shows while it runs: a progress bar in a terminal, elsewhere a line for every line of metrics."""

import time
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lexalcm.cli.console import err, is_live_terminal

if TYPE_CHECKING:
    from lexalcm.train.monitor.run_monitor import Display, Metrics


def training_display() -> "Display":
    """The display that suits standard error."""
    return LiveDisplay() if is_live_terminal() else LineDisplay()


class LiveDisplay:
    """A progress bar with loss, learning rate, concepts per second and time left; validations stay as lines."""

    def __init__(self) -> None:
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.3f}"),
            TextColumn("lr {task.fields[lr]:.2e}"),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
            console=err,
        )

    def begin(self, step: int, steps: int) -> None:
        """Show the bar."""
        self._bar.start()
        self._task = self._bar.add_task("", completed=step, total=steps, loss=0.0, lr=0.0, speed="")

    def advance(self, metrics: "Metrics") -> None:
        """Move the bar."""
        self._bar.update(
            self._task,
            completed=metrics["step"],
            loss=metrics["loss"],
            lr=metrics["lr"],
            speed=_speed(metrics),
        )

    def line(self, metrics: "Metrics") -> None:
        """Print a validation above the bar."""
        if "validation_loss" in metrics:
            err.print(
                f"step {metrics['step']}: train loss {metrics['loss']:.4f}, "
                f"validation loss {metrics['validation_loss']:.4f}"
            )

    def note(self, text: str) -> None:
        """Print above the bar."""
        err.print(text)

    def end(self) -> None:
        """Leave the bar as it is."""
        self._bar.stop()


class LineDisplay:
    """A line for every line of metrics."""

    def begin(self, step: int, steps: int) -> None:
        """Remember where the steps end."""
        self._first, self._steps, self._began = step, steps, time.monotonic()

    def advance(self, metrics: "Metrics") -> None:
        """Nothing between lines."""

    def line(self, metrics: "Metrics") -> None:
        """Print the line."""
        step = int(metrics["step"])
        left = (time.monotonic() - self._began) / (step - self._first) * (self._steps - step)
        parts = [
            f"step {step}/{self._steps}",
            f"loss {metrics['loss']:.5g}",
            f"lr {metrics['lr']:.2e}",
            _speed(metrics),
            _memory(metrics["peak_memory_gb"]),
            f"{_time(left)} left",
        ]
        if "validation_loss" in metrics:
            parts.insert(2, f"validation {metrics['validation_loss']:.5g}")
        if metrics["skipped_steps"]:
            parts.append(f"{metrics['skipped_steps']} skipped")
        err.print("  ".join(parts))

    def note(self, text: str) -> None:
        """Print it."""
        err.print(text)

    def end(self) -> None:
        """Nothing is left to clear."""


def _speed(metrics: "Metrics") -> str:
    mfu = f", MFU {metrics['mfu']:.0%}" if "mfu" in metrics else ""
    return f"{metrics['concepts_per_s']:,.0f} concepts/s{mfu}"


def _memory(gigabytes: float) -> str:
    return f"{gigabytes:.1f} GB" if gigabytes < 10 else f"{gigabytes:.0f} GB"


def _time(seconds: float) -> str:
    """In the units that fit: `8 s`, `12 min`, `5.2 h`."""
    if seconds < 600:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
