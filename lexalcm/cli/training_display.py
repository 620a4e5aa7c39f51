"""How a training shows itself: a live line in a terminal, a plain line now and then elsewhere."""

import time
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lexalcm.cli.console import err

if TYPE_CHECKING:
    from lexalcm.train.monitor import Display, Metrics


def training_display() -> "Display":
    """The display that suits standard error."""
    return LiveDisplay() if err.is_terminal else LineDisplay()


class LiveDisplay:
    """A progress bar with loss, learning rate, concepts per second and time left; validations stay as lines."""

    def __init__(self) -> None:
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.3f}"),
            TextColumn("lr {task.fields[lr]:.2e}"),
            TextColumn("{task.fields[concepts_per_s]:,.0f} concepts/s"),
            TimeRemainingColumn(),
            console=err,
        )

    def begin(self, step: int, steps: int) -> None:
        """Show the bar."""
        self._bar.start()
        self._task = self._bar.add_task("", completed=step, total=steps, loss=0.0, lr=0.0, concepts_per_s=0.0)

    def advance(self, metrics: "Metrics") -> None:
        """Move the bar."""
        self._bar.update(
            self._task,
            completed=metrics["step"],
            loss=metrics["loss"],
            lr=metrics["lr"],
            concepts_per_s=metrics["concepts_per_s"],
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
        err.print(text, markup=False)

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
            f"loss {metrics['loss']:.4f}",
            f"lr {metrics['lr']:.2e}",
            f"{metrics['concepts_per_s']:,.0f} concepts/s",
            f"{left:.0f} s left",
        ]
        if "validation_loss" in metrics:
            parts.insert(2, f"validation loss {metrics['validation_loss']:.4f}")
        if metrics["skipped_steps"]:
            parts.append(f"{metrics['skipped_steps']} steps skipped")
        err.print("  ".join(parts))

    def note(self, text: str) -> None:
        """Print it."""
        err.print(text, markup=False)

    def end(self) -> None:
        """Nothing is left to clear."""
